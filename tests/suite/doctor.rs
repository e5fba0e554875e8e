//! `casewire keygen` and `casewire doctor`: each fault made for real, and the line that tells it.

use casewire::config::{Config, ConfigError};
use casewire::doctor::{Finding, Outcome, Report, examine};
use casewire::failure::Exit;
use casewire::kafka::list_topics;
use casewire::pipeline::settings;
use casewire::salesforce::key_pair::{KeyBits, SignInKeyPair};
use casewire::simulator::{Fault, Mix, Simulator, SimulatorConfig};
use chrono::{TimeDelta, Utc};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::suite::binary::casewire;
use crate::suite::collector::{Collector, Manner};
use crate::suite::deployment::{Deployment, brokers};
use crate::suite::main_job::{CASES, SESSIONS, passed};

/// Nothing listens there, and nobody waits for it long.
const NO_BROKER: &str = "KAFKA__BROKERS = 127.0.0.1:1\nKAFKA__CALL_TIMEOUT = 1s";

/// What an examination finds.
pub async fn findings(config: Result<Config, ConfigError>) -> Vec<Finding> {
    let mut tell = |_: &Finding| {};
    let mut report = Report::new(&mut tell);
    examine(config, &mut report).await;
    report.findings().to_vec()
}

/// The finding of a check.
#[track_caller]
pub fn finding<'a>(findings: &'a [Finding], check: &str) -> &'a Outcome {
    match findings.iter().find(|finding| finding.check == check) {
        Some(finding) => &finding.outcome,
        None => panic!("no check `{check}` in {findings:#?}"),
    }
}

/// Holds that a check failed with an exit code, and what its two lines say.
#[track_caller]
pub fn failed(findings: &[Finding], check: &str, exit: Exit, what: &str, remedy: &str) {
    let Outcome::Failed(failure) = finding(findings, check) else { panic!("`{check}` did not fail: {findings:#?}") };
    assert_eq!(failure.exit, exit, "{failure}");
    assert!(failure.what.contains(what), "`{what}` is not in {}", failure.what);
    assert!(failure.remedy.contains(remedy), "`{remedy}` is not in {}", failure.remedy);
}

#[track_caller]
fn warned(findings: &[Finding], check: &str, what: &str, remedy: &str) {
    let outcome = finding(findings, check);
    assert_eq!(outcome.word(), "warning", "{check}: {outcome:?}");
    assert!(outcome.what().contains(what), "`{what}` is not in {}", outcome.what());
    assert!(outcome.remedy().contains(remedy), "`{remedy}` is not in {}", outcome.remedy());
}

#[track_caller]
fn skipped(findings: &[Finding], check: &str, because: &str) {
    let outcome = finding(findings, check);
    assert_eq!((outcome.word(), outcome.what()), ("skipped", because), "{check}");
}

/// A key pair made by the program, the org that knows its certificate, and a configuration that goes with both.
#[tokio::test(flavor = "multi_thread")]
async fn what_keygen_makes_signs_in_and_a_sound_installation_is_found_in_order_before_and_beside_a_run() {
    const TEST: &str = "what_keygen_makes_signs_in_and_a_sound_installation_is_found_in_order_before_and_beside_a_run";
    let Some(brokers) = brokers(TEST) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (client, user) = ("3MVG9casewireSimulator", "integration@example.com");
    let keygen = format!("keygen --client-id {client} --username {user} --directory {}", at("keys"));
    let told = casewire(&format!("{keygen} --write {}", at("casewire.toml"))).await.succeeded();
    assert!(told.contains("External Client App Manager") && told.contains("casewire doctor --config"), "{told}");
    let key = std::fs::read_to_string(at("keys/casewire.key")).expect("a key");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(at("keys/casewire.key")).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    casewire(&keygen).await.failed_with(64, &["casewire.key exists", "not overwritten"]);
    let other = keygen.replace("/keys", "/other");
    casewire(&format!("{other} --write {}", at("casewire.toml"))).await.failed_with(64, &["casewire.toml exists"]);
    assert!(!directory.path().join("other/casewire.key").exists(), "half a pair is in the way");
    assert_eq!(std::fs::read_to_string(at("keys/casewire.key")).expect("a key"), key);
    casewire("keygen").await.failed_with(64, &["--client-id", "--username"]);
    let shown = casewire(&format!("keygen show {}", at("keys/casewire.crt"))).await.succeeded();
    assert!(shown.contains("CN=casewire integration@example.com") && shown.contains("days left    36"), "{shown}");
    casewire(&format!("keygen show {}", at("keys/casewire.key"))).await.failed_with(78, &["is no certificate"]);

    let mut org = SimulatorConfig::on_free_ports();
    org.sign_in.certificate_file = Some(at("keys/casewire.crt").into());
    (org.traffic.mix, org.traffic.entities) = (Mix::plain(), vec!["Case".to_owned()]);
    let deployment = Deployment::new(brokers, org).await;
    let mut text = std::fs::read_to_string(at("casewire.toml")).expect("the section");
    text.push_str(&format!(
        "login_url = '{}'\n[salesforce.pubsub]\nendpoint = '{}'\n[[stream]]\ntopic = '{CASES}'\nstart = 'earliest'\n\
         record = 'never'\n[kafka]\nbrokers = '{}'\ntopic_prefix = '{}'\n",
        deployment.simulator.login_url(),
        deployment.simulator.pubsub_endpoint(),
        deployment.brokers,
        deployment.prefix,
    ));
    let collector = Collector::start(Manner::Takes).await;
    text.push_str(&format!("[telemetry]\notlp_endpoint = '{}'\n", collector.address));
    std::fs::write(at("casewire.toml"), text).expect("written");
    let doctor = format!("doctor --config {}", at("casewire.toml"));
    let told = casewire(&doctor).await.succeeded();
    assert!(told.contains(" 0 warning, 0 failed, "), "{told}");
    assert!(told.contains("the certificate belongs to it") && told.contains("Unlimited Edition"), "{told}");
    assert!(told.contains("can be read, all of them, with"), "{told}");
    assert!(told.contains("no checkpoint: the first start begins with the oldest event"), "{told}");
    assert!(told.contains("is not there yet; casewire may make it"), "{told}");
    assert!(told.contains("everything that leaves this machine is encrypted"), "{told}");
    assert!(told.contains("takes spans; 0.01 of the events are traced"), "{told}");
    let config = |environment| Config::load(at("casewire.toml").as_ref(), &environment);
    let kafka = settings::kafka(&config([].into()).expect("valid").kafka).expect("settings");
    let topics = list_topics(&kafka).await.expect("a list");
    assert!(topics.iter().all(|topic| !topic.name.starts_with(&deployment.prefix)), "it made {topics:?}");

    let lines = deployment.control().generate(30).await.expect("generated");
    let running = Deployment::run_configured(config([].into()).expect("valid"));
    passed(&running, &lines, CASES).await;
    let told = casewire(&format!("{doctor} --json")).await.succeeded();
    let report: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((report["outcome"].as_str(), report["exit_code"].as_u64()), (Some("ok"), Some(0)), "{told}");
    let made = report["findings"].as_array().expect("a list");
    let of = |check: String| {
        let found = made.iter().find(|finding| finding["check"] == check.as_str());
        found.unwrap_or_else(|| panic!("no {check}: {told}"))["what"].as_str().unwrap_or_default().to_owned()
    };
    assert!(of(format!("position of {CASES}")).contains("writes it now"), "{told}");
    assert!(!of("arrivals of Case".to_owned()).starts_with("0 records"), "{told}");
    assert_eq!(of(format!("write {}.Case", deployment.prefix)), "a record was written and taken back");
    // The stream is not fenced by any of this, and nothing was left in its topics.
    let lines = [lines, deployment.control().generate(10).await.expect("generated")].concat();
    passed(&running, &lines, CASES).await;
    let status = running.board.snapshot().streams[0].clone();
    assert!(status.fenced == 0 && status.last_error.is_none(), "{status:?}");
    running.stop().await.expect("an orderly end");

    // Other credentials under the same prefix: the words with which the run would stop.
    let mut refreshed = SimulatorConfig::on_free_ports();
    refreshed.org_id = "00D8d00000AbCdFEAV".to_owned();
    refreshed.sign_in.certificate_file = Some(at("keys/casewire.crt").into());
    let refreshed = Simulator::start(refreshed).await.expect("another organisation");
    let elsewhere = [
        ("CASEWIRE__SALESFORCE__LOGIN_URL".to_owned(), refreshed.login_url()),
        ("CASEWIRE__SALESFORCE__PUBSUB__ENDPOINT".to_owned(), refreshed.pubsub_endpoint()),
    ];
    let found = findings(config(elsewhere.into())).await;
    let check = format!("position of {CASES}");
    failed(&found, &check, Exit::Configuration, "no checkpoint of the organisation", "casewire checkpoint set");
    deployment.delete_topic(&format!("checkpoints.{}.data.CaseChangeEvent", deployment.simulator.org_id())).await;
    let found = findings(config([].into())).await;
    failed(&found, &check, Exit::Configuration, "already holds records of this organisation", "--at TIME");
    let keys: Vec<String> = deployment.output("Case").await.into_iter().map(|record| record.key).collect();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("500")), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_salesforce_refuses_is_told_with_its_own_words_and_what_mends_it() {
    let deployment = Deployment::new("127.0.0.1:1".to_owned(), SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    control.generate(5).await.expect("generated");
    let config = |topics: &[&str], more: &str| -> Result<Config, ConfigError> {
        Ok(deployment.config(topics, &format!("{NO_BROKER}\n{more}")))
    };

    // A wrong client id, a collector that is not there, a user that is not approved.
    let more = "SALESFORCE__CLIENT_ID = 1A2B3C\nTELEMETRY__OTLP_ENDPOINT = http://127.0.0.1:1";
    let found = findings(config(&[CASES], more)).await;
    warned(&found, "trace collector", "127.0.0.1:1 cannot be reached", "OTLP over gRPC has port 4317");
    warned(&found, "client id", "does not look like a consumer key", "Consumer Key and Secret");
    failed(&found, "sign-in", Exit::Configuration, "invalid_client_id: client identifier invalid", "Consumer Key");
    skipped(&found, &format!("topic {CASES}"), "nobody is signed in");
    skipped(&found, "rest api", "the sign-in failed");
    failed(&found, "brokers", Exit::Unavailable, "did not answer", "kafka.brokers");
    skipped(&found, &format!("write {}.Case", deployment.prefix), "no broker answers");
    let refuse = |error: &str, description: &str| Fault::RefuseSignIn {
        error: error.to_owned(),
        description: description.to_owned(),
        status: 400,
        times: 1,
    };
    let unapproved = refuse("invalid_app_access", "user is not admin approved to access this app");
    control.inflict(unapproved).await.expect("inflicted");
    let found = findings(config(&[CASES], "")).await;
    failed(&found, "sign-in", Exit::NoPermission, "user is not admin approved", "Permitted Users");

    // The words are those with which a run ends.
    let wrong = || config(&[CASES], "SALESFORCE__USERNAME = Nobody@example.com");
    let run = Deployment::run_configured(wrong().expect("valid"));
    let found = findings(wrong()).await;
    assert_eq!(finding(&found, "sign-in"), &Outcome::Failed(run.ended().await.expect_err("refused")));
    warned(&found, "user name", "capital letters", "Setup > Users");

    // A policy that names no field, a channel whose members nobody may list, messages that may not be fetched.
    let policy = "POLICY__0__ENTITY = Case\nPOLICY__0__DROP = Description,Descripton";
    let run = Deployment::run_configured(config(&[CASES], policy).expect("valid"));
    let found = findings(config(&[CASES], policy)).await;
    assert_eq!(finding(&found, "policy of Case"), &Outcome::Failed(run.ended().await.expect_err("refused")));
    failed(&found, "policy of Case", Exit::Configuration, "does not have: Descripton", "Fields & Relationships");
    let more = "POLICY__0__ENTITY = Case\nPOLICY__0__DROP = Description\nSTREAM__0__MESSAGES = true";
    let found = findings(config(&[SESSIONS, CASES], more)).await;
    assert_eq!(finding(&found, "policy of Case").what(), "1 dropped");
    assert_eq!(finding(&found, "messages").word(), "ok", "{found:#?}");
    let found = findings(config(&["/data/ChangeEvents"], "")).await;
    assert!(finding(&found, "members of /data/ChangeEvents").what().starts_with("CaseChangeEvent, "), "{found:#?}");
    for entity in ["PlatformEventChannelMember", "ConversationEntry"] {
        control.inflict(Fault::Deny { entity: entity.into() }).await.expect("inflicted");
    }
    let found = findings(config(&["/data/ChangeEvents"], "")).await;
    let members = finding(&found, "members of /data/ChangeEvents");
    assert!(members.word() == "skipped" && members.what().contains("View Setup and Configuration"), "{members:?}");
    let found = findings(config(&[SESSIONS], "STREAM__0__MESSAGES = true")).await;
    failed(&found, "messages", Exit::NoPermission, "Messages cannot be read", "Access Conversation Entries");

    // Signed in; then the permission to one topic, a field, the clock and an allowance.
    control.inflict(Fault::Deny { entity: "MessagingSession".into() }).await.expect("inflicted");
    control
        .inflict(Fault::HideField { entity: "Case".into(), field: "SuppliedEmail".into() })
        .await
        .expect("inflicted");
    control.inflict(Fault::ShiftClock { seconds: 600 }).await.expect("inflicted");
    control.inflict(Fault::Allocation { left: 10_000 }).await.expect("inflicted");
    let found = findings(config(&[CASES, SESSIONS], "SALESFORCE__API_VERSION = 99.0")).await;
    warned(&found, "clock", "s behind Salesforce's", "timedatectl");
    failed(&found, "api version", Exit::Configuration, "no API version 99.0", "api_version = \"67.0\"");
    let found =
        findings(config(&[CASES, SESSIONS, "/data/InvoiceChangeEvent"], "STREAM__0__FIELDS = Subject,Statsu")).await;
    let denied = format!("topic {SESSIONS}");
    failed(&found, &denied, Exit::NoPermission, "may not subscribe to /data/MessagingSession", "View All Records");
    failed(
        &found,
        "records of MessagingSession",
        Exit::NoPermission,
        "NOT_FOUND",
        "Object Settings > MessagingSession",
    );
    failed(&found, "topic /data/InvoiceChangeEvent", Exit::NoPermission, "", "Setup > Change Data Capture");
    warned(&found, "fields of Case", "2 fields of Case are hidden", "Field Permissions");
    assert!(finding(&found, "fields of Case").what().ends_with(": SuppliedEmail, Statsu"));
    warned(&found, "delivered events", "start from the oldest event may not fit", "start = \"latest\"");
    assert_eq!(finding(&found, &format!("topic {CASES}")).word(), "ok");

    control.inflict(Fault::Allocation { left: 0 }).await.expect("inflicted");
    control.inflict(Fault::ApiAllowance { left: 2 }).await.expect("inflicted");
    let found = findings(config(&[CASES], "")).await;
    failed(&found, "delivered events", Exit::Unavailable, "used up: 50000 of 50000", "DailyDeliveredPlatformEvents");
    warned(&found, "api requests", "99999 of 100000 used", "Company Information");
    let found = findings(config(&[CASES], "")).await;
    failed(&found, "rest api", Exit::Unavailable, "TotalRequests Limit exceeded", "Company Information");
    let disabled = Fault::FailRest {
        path: "limits".into(),
        status: 403,
        error_code: "API_DISABLED_FOR_ORG".into(),
        message: "The REST API is not enabled for this Organization.".into(),
        retry_after: None,
        times: 1,
    };
    control.inflict(disabled).await.expect("inflicted");
    let found = findings(config(&[CASES], "")).await;
    failed(&found, "rest api", Exit::NoPermission, "The REST API is not enabled", "API Enabled");
    skipped(&found, "organization", "the REST API does not answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_certificates_and_the_way_to_the_hosts_are_told_apart() {
    let mut settings = SimulatorConfig::on_free_ports();
    (settings.listen.tls, settings.listen.http_tls) = (true, true);
    let deployment = Deployment::new("127.0.0.1:1".to_owned(), settings).await;
    let config = |more: &str| Ok(deployment.config(&[CASES], &format!("{NO_BROKER}\n{more}")));
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    // TLS that nobody public stands behind, with and without the authority in the configuration.
    let found = findings(config("")).await;
    failed(&found, "login host", Exit::Unavailable, "which is no public authority", "ca_file");
    failed(&found, "pub/sub api", Exit::Unavailable, "casewire simulator", "[salesforce.pubsub]");
    skipped(&found, "sign-in", "the login host cannot be reached");
    let ca = write("ca.pem", deployment.simulator.ca_pem().expect("an authority"));
    let trusted = format!("SALESFORCE__CA_FILE = {ca}\nSALESFORCE__PUBSUB__CA_FILE = {ca}");
    let found = findings(config(&trusted)).await;
    assert_eq!(finding(&found, "sign-in").word(), "ok", "{found:#?}");
    assert!(finding(&found, "pub/sub api").what().contains("TLS is opened on the way, or the host is your own"));
    assert_eq!(finding(&found, &format!("topic {CASES}")).word(), "ok");
    // HTTP/1.1 where gRPC should be, and nobody at all.
    let http = format!("{trusted}\nSALESFORCE__PUBSUB__ENDPOINT = {}", deployment.simulator.login_url());
    let found = findings(config(&http)).await;
    failed(&found, "pub/sub api", Exit::Configuration, "without HTTP/2", "does not pass HTTP/2");
    skipped(&found, &format!("topic {CASES}"), "the Pub/Sub API cannot be reached");
    let nobody = format!(
        "{trusted}\nSALESFORCE__LOGIN_URL = http://127.0.0.1:1\nSALESFORCE__PUBSUB__ENDPOINT = http://nobody.invalid:443"
    );
    let found = findings(config(&nobody)).await;
    failed(&found, "login host", Exit::Unavailable, "refuses the connection", "HTTPS_PROXY");
    failed(&found, "pub/sub api", Exit::Unavailable, "nobody.invalid has no address", "DNS");

    // Another key than the one that was uploaded; a certificate of another key; one whose time is over.
    let made = |days, ago: i64| {
        let begin = Utc::now() - TimeDelta::days(ago);
        SignInKeyPair::generate("integration@example.com", KeyBits::Bits2048, begin, days).expect("made")
    };
    let (pair, expired, soon) = (made(365, 0), made(10, 20), made(30, 20));
    // A key in a file: the one of the simulator stands in the configuration itself.
    let with = |pair: &SignInKeyPair, certificate: &str| {
        let key = write("key.pem", pair.private_key.expose_secret());
        let certificate = write("certificate.pem", certificate);
        let mut text = deployment.config_file(&[CASES]);
        let (from, to) = (text.find("private_key = '''").expect("inline"), text.find("login_url").expect("behind it"));
        text.replace_range(from..to, &format!("private_key_file = '{key}'\ncertificate_file = '{certificate}'\n"));
        let environment = format!("{NO_BROKER}\n{trusted}");
        let overrides = environment.lines().filter_map(|line| line.split_once(" = "));
        let overrides = overrides.map(|(key, value)| (format!("CASEWIRE__{key}"), value.to_owned())).collect();
        Config::from_table(text.parse().expect("TOML"), &overrides)
    };
    let found = findings(with(&pair, &pair.certificate)).await;
    failed(&found, "sign-in", Exit::Configuration, "invalid assertion", "Upload the certificate of this private key");
    warned(&found, "secret files", "key.pem (salesforce.private_key_file)", "chmod o=");
    let found = findings(with(&pair, &expired.certificate)).await;
    failed(&found, "key", Exit::Configuration, "does not belong to the private key", "made together");
    failed(&found, "certificate", Exit::Configuration, "expired on", "casewire keygen");
    skipped(&found, "sign-in", "the key cannot be used");
    let found = findings(with(&expired, &expired.certificate)).await;
    failed(&found, "key", Exit::Configuration, "is valid from", "Make a new key and certificate");
    warned(&findings(with(&soon, &soon.certificate)).await, "certificate", "expires soon: 9 days", "casewire keygen");
    let old = write("old.crt", &expired.certificate);
    casewire(&format!("keygen show {old}")).await.failed_with(78, &["expired on"]);

    // A configuration that cannot be read is a finding too, and the exit code is that of the first failure.
    let wrong = write("wrong.toml", "surprise = 1\n");
    let told = casewire(&format!("doctor --json --config {wrong}")).await;
    told.failed_with(78, &["1 failed"]);
    let report: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(report["exit_code"], 78);
    assert!(report["findings"][0]["what"].as_str().is_some_and(|what| what.contains("surprise")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_kafka_is_told_before_a_stream_meets_it() {
    let Some(brokers) = brokers("what_is_wrong_in_kafka_is_told_before_a_stream_meets_it") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    deployment.create_topic("Case", &[("cleanup.policy", "compact"), ("max.message.bytes", "1000")]).await;
    deployment.create_topic("MessagingSession", &[("retention.ms", "3600000")]).await;
    deployment.create_topic("gaps", &[("cleanup.policy", "compact")]).await;
    let checkpoints = format!("checkpoints.{}.data.CaseChangeEvent", deployment.simulator.org_id());
    deployment.create_topic(&checkpoints, &[("cleanup.policy", "delete")]).await;

    let found = findings(Ok(deployment.config(&[CASES, SESSIONS], "KAFKA__REPLICATION_FACTOR = 7"))).await;
    let name = |topic: &str| format!("topic {}.{topic}", deployment.prefix);
    failed(&found, &name("Case"), Exit::Configuration, "is compacted", "cleanup.policy=delete");
    failed(&found, &name("Case"), Exit::Configuration, "takes batches of 1000 bytes", "max.message.bytes");
    skipped(&found, &format!("write {}.Case", deployment.prefix), "the topic is not as it has to be");
    warned(&found, &name("MessagingSession"), "deletes records", "retention.ms=-1");
    assert_eq!(finding(&found, &format!("write {}.MessagingSession", deployment.prefix)).word(), "ok");
    assert_eq!(finding(&found, &name("gaps")).word(), "ok");
    failed(&found, &name("dead-letters"), Exit::Configuration, "replication 7", "kafka.replication_factor");
    failed(&found, &name(&checkpoints), Exit::Configuration, "lose its place", "cleanup.policy=compact");
    assert_eq!(finding(&found, "transactions").word(), "ok");

    // Nothing was made on the way, and a topic that may not be made is a failure with the command that makes it.
    let found = findings(Ok(deployment.config(&[CASES], "KAFKA__CREATE_TOPICS = false"))).await;
    failed(&found, &name("dead-letters"), Exit::Configuration, "does not exist", "kafka-topics.sh");
    let encrypted = "KAFKA__PROPERTIES__SECURITY_PROTOCOL = SSL\nKAFKA__CALL_TIMEOUT = 2s";
    let found = findings(Ok(deployment.config(&[CASES], encrypted))).await;
    failed(&found, "brokers", Exit::Unavailable, "did not answer", "security.protocol");
    skipped(&found, "transactions", "no broker answers");
    skipped(&found, &format!("position of {CASES}"), "no broker answers");
}
