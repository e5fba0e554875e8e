//! Kafka behind TLS: what is right works from end to end, and what is wrong is said instead of tried for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use casewire::failure::Exit;
use casewire::kafka::{KafkaError, KafkaSettings, TopicDefaults, Verdict, ping};
use casewire::simulator::SimulatorConfig;

use crate::suite::deployment::Deployment;
use crate::suite::main_job::{CASES, passed};
use crate::suite::outages::each_once_in_order;

/// The listeners with TLS of the suite's broker, and what belongs to them.
struct Listeners {
    /// Nobody is asked for anything here, and nothing is encrypted.
    plaintext: String,
    /// Asks for a password.
    sasl: String,
    /// Asks for a certificate.
    mutual: String,
    /// The folder of the certificates.
    directory: String,
}

/// Where there are none the test says so and ends.
fn listeners(test: &str) -> Option<Listeners> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let found = || {
        Some(Listeners {
            plaintext: variable("KAFKA_BOOTSTRAP")?,
            sasl: variable("KAFKA_SASL_SSL_BOOTSTRAP")?,
            mutual: variable("KAFKA_SSL_BOOTSTRAP")?,
            directory: variable("KAFKA_TLS_DIRECTORY")?,
        })
    };
    let found = found();
    if found.is_none() {
        eprintln!(
            "NOT RUN: {test}: no broker with TLS (KAFKA_BOOTSTRAP, KAFKA_SASL_SSL_BOOTSTRAP, KAFKA_SSL_BOOTSTRAP and \
             KAFKA_TLS_DIRECTORY, as scripts/kafka start --tls prints them)"
        );
    }
    found
}

impl Listeners {
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    fn scram(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", "casewire".to_owned()),
            ("sasl.password", "casewire-secret".to_owned()),
            ("ssl.ca.location", self.file("ca.pem")),
        ])
    }

    fn certificate(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("security.protocol", "SSL".to_owned()),
            ("ssl.ca.location", self.file("ca.pem")),
            ("ssl.certificate.location", self.file("client.pem")),
            ("ssl.key.location", self.file("client.key")),
        ])
    }
}

/// What a question to the cluster is answered with.
async fn refused(brokers: &str, properties: &BTreeMap<&'static str, String>) -> KafkaError {
    let settings = KafkaSettings {
        brokers: brokers.to_owned(),
        topic_prefix: "unused".to_owned(),
        properties: properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        transaction_timeout: Duration::from_secs(10),
        // A wait would be seen: nothing here may be tried until this is over.
        call_timeout: Duration::from_secs(600),
        topics: TopicDefaults { create: true, check: true, partitions: 1, replication: -1 },
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), ping(&settings)).await;
    answer.expect("an answer long before the time of the call is over").expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_through_tls_with_a_password_and_with_a_certificate() {
    let Some(listeners) = listeners("events_arrive_through_tls_with_a_password_and_with_a_certificate") else { return };
    for (brokers, properties) in [(&listeners.sasl, listeners.scram()), (&listeners.mutual, listeners.certificate())] {
        let mut deployment = Deployment::new(brokers.clone(), SimulatorConfig::on_free_ports()).await;
        let settings: Vec<String> = properties
            .iter()
            .map(|(name, value)| format!("KAFKA__PROPERTIES__{} = {value}", name.replace('.', "_").to_uppercase()))
            .collect();
        let lines = deployment.control().generate(80).await.expect("generated");
        let running = deployment.run(&[CASES], &settings.join("\n"));
        passed(&running, &lines, CASES).await;
        running.stop().await.expect("an orderly end");
        deployment.brokers.clone_from(&listeners.plaintext);
        each_once_in_order(&deployment.output("Case").await, &lines, "Case");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_or_password_that_is_wrong_is_an_answer_and_not_a_wait() {
    let Some(listeners) = listeners("a_certificate_or_password_that_is_wrong_is_an_answer_and_not_a_wait") else {
        return;
    };
    let scram = |name: &'static str, value: &str| {
        let mut properties = listeners.scram();
        properties.insert(name, value.to_owned());
        properties
    };
    let mut anonymous = listeners.certificate();
    anonymous.retain(|name, _| ["security.protocol", "ssl.ca.location"].contains(name));
    // The certificate is for the address and not for this name of it.
    let by_name = listeners.sasl.replace("127.0.0.1", "localhost");
    let own_file = listeners.file("client.pem");
    let table = [
        ("password", &listeners.sasl, scram("sasl.password", "wrong-secret"), "invalid credentials", "sasl.password"),
        ("authority", &listeners.sasl, scram("ssl.ca.location", &own_file), "is not trusted", "ssl.ca.location"),
        ("host name", &by_name, listeners.scram(), "is not trusted", "-verify_hostname"),
        ("no certificate", &listeners.mutual, anonymous, "alert bad certificate", "client certificate"),
    ];
    let asked = table.map(async |(what, brokers, properties, words, remedy)| {
        let error = refused(brokers, &properties).await;
        let Verdict::Stop(failure) = error.verdict() else { panic!("{what} does not mend itself: {error:?}") };
        assert_eq!(failure.exit, Exit::NoPermission, "{what}: {failure}");
        assert!(failure.what.contains(words) && failure.remedy.contains(remedy), "{what}: {failure}");
        assert!(!failure.to_string().contains("wrong-secret"), "{what}: {failure}");
    });
    let [password, authority, host_name, no_certificate] = asked;
    tokio::join!(password, authority, host_name, no_certificate);

    // And the whole process, which has no position yet, ends with it.
    let deployment = Deployment::new(by_name.clone(), SimulatorConfig::on_free_ports()).await;
    let properties = listeners.scram();
    let mut config = deployment.config(&[CASES], "");
    config.kafka.properties = properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let failure = Deployment::run_configured(config).ended().await.expect_err("refused");
    assert!(failure.exit == Exit::NoPermission && failure.what.contains("is not trusted"), "{failure}");
}
