//! What has to be known to reach a cluster, and the configuration of the clients made from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;

use crate::kafka::batch_size;
use crate::kafka::connection::ConnectionContext;
use crate::kafka::error::KafkaError;

/// The batch in bytes that every topic has to take unless `batch.size` says otherwise: half of what a topic takes by default,
/// since its `max.message.bytes` counts batches. Where all topics take more, batches are larger (`batch_size`).
pub const LEAST_BATCH_BYTES: usize = 500_000;

/// The largest single record, uncompressed, that is handed to a broker unless `message.max.bytes` says otherwise.
/// It lies above the brokers' default of 1 MiB because they count compressed bytes.
pub const DEFAULT_RECORD_BYTES: usize = 4 * 1024 * 1024;

/// How Kafka is reached and what is written there. Its debug form leaves the values of properties out: one is a password.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port` pairs separated by commas.
    pub brokers: String,
    /// What every topic name begins with; `salesforce` gives `salesforce.Case`.
    pub topic_prefix: String,
    /// Further librdkafka properties, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
    /// After how long the brokers abort a transaction that its producer left open.
    pub transaction_timeout: Duration,
    /// The longest that one call may take: opening, a commit, a question to the cluster.
    pub call_timeout: Duration,
    /// How missing topics are made.
    pub topics: TopicDefaults,
}

/// How missing topics are made and whether present ones are checked.
#[derive(Debug, Clone)]
pub struct TopicDefaults {
    /// Create topics that do not exist.
    pub create: bool,
    /// Ask for the settings of topics and check them.
    pub check: bool,
    /// Partitions of a new topic; a checkpoint topic always has one.
    pub partitions: i32,
    /// Copies of each partition; -1 leaves it to the cluster's default.
    pub replication: i32,
}

/// The properties that a configuration may not set, with the reason for each.
///
/// Everything here would break exactly-once delivery, the place of a key among the partitions,
/// or the way in which casewire itself drives the client.
pub const GUARDED_PROPERTIES: &[(&str, &str)] = &[
    ("acks", "a record counts as written only when all in-sync replicas have it"),
    (
        "allow.auto.create.topics",
        "a topic that was deleted would come back with the brokers' retention, and nobody would be told",
    ),
    ("auto.offset.reset", "a read that cannot go on must fail, not start elsewhere"),
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("delivery.timeout.ms", "it follows the transaction's timeout"),
    ("enable.auto.commit", "positions are committed with the records, not to a consumer group"),
    ("enable.auto.offset.store", "positions are committed with the records, not to a consumer group"),
    ("enable.gapless.guarantee", "it turns failures that recovery handles into the end of the client"),
    ("enable.idempotence", "transactions need it"),
    ("enable.partition.eof", "reading to the end of a topic relies on it"),
    ("group.id", "casewire is no member of a consumer group"),
    ("group.instance.id", "casewire is no member of a consumer group"),
    ("isolation.level", "a checkpoint of an aborted transaction must never be read"),
    ("max.in.flight", "the order of records depends on it"),
    ("max.in.flight.requests.per.connection", "the order of records depends on it"),
    ("message.send.max.retries", "a record is retried until its transaction ends"),
    ("message.timeout.ms", "it follows the transaction's timeout"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("partitioner", "keys have to land where Java's clients put them"),
    ("request.required.acks", "a record counts as written only when all in-sync replicas have it"),
    ("retries", "a record is retried until its transaction ends"),
    ("test.mock.num.brokers", "a simulated broker keeps nothing"),
    ("transaction.timeout.ms", "set kafka.transaction_timeout instead"),
    ("transactional.id", "it is what fences a second instance, and follows from what is written"),
];

/// The faults of a property table, each naming its property. Empty when all may be set.
///
/// Whether a property exists at all and takes the value is librdkafka's to say, so a client's
/// configuration is built and thrown away.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Vec<String> {
    let faults: Vec<String> = properties.iter().filter_map(|(name, value)| property_fault(name, value)).collect();
    if faults.is_empty() { fault_together(properties).into_iter().collect() } else { faults }
}

/// What shows only when a client is made of all properties: a certificate or key that cannot be read, a pair that does
/// not belong together, a mechanism that needs more. The client is thrown away and connects to nobody.
fn fault_together(properties: &BTreeMap<String, String>) -> Option<String> {
    let mut config: ClientConfig = properties.clone().into_iter().collect();
    config.set_log_level(RDKafkaLogLevel::Emerg);
    let made: Result<BaseConsumer<ConnectionContext>, _> = config.create_with_context(ConnectionContext::default());
    let fault = configuration_fault(&made.err()?);
    // OpenSSL says that a file cannot be read, but not which one.
    let files = properties.iter().filter(|(name, _)| name.ends_with(".location") && fault.contains(name.as_str()));
    Some(files.fold(fault.clone(), |told, (_, file)| format!("{told} (`{file}`)")))
}

fn property_fault(name: &str, value: &str) -> Option<String> {
    if let Some((_, why)) = GUARDED_PROPERTIES.iter().find(|(guarded, _)| *guarded == name) {
        return Some(format!("`{name}` may not be set: {why}"));
    }
    if let Some(fault) = unverified(name, value) {
        return Some(fault);
    }
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => None,
        Err(error) => Some(configuration_fault(&error)),
    }
}

/// Properties with which a connection is encrypted and nobody knows to whom. There is no use for them that `ssl.ca.location`
/// does not serve, and one who stands between would read every record and the password.
fn unverified(name: &str, value: &str) -> Option<String> {
    let value = value.trim().to_ascii_lowercase();
    let off = match name {
        "enable.ssl.certificate.verification" => !matches!(value.as_str(), "true" | "t" | "1"),
        "ssl.endpoint.identification.algorithm" => value != "https",
        // Suites without a certificate, or without encryption.
        "ssl.cipher.suites" => ["null", "adh", "aecdh"].iter().any(|suite| value.contains(suite)),
        _ => false,
    };
    off.then(|| {
        format!(
            "`{name}` would leave the brokers' certificates unverified: name the authority that signed them in `ssl.ca.location`, \
             and the brokers in `kafka.brokers` as their certificates do"
        )
    })
}

/// librdkafka's words for a property it does not take. The value is left out: it may be a password.
pub(crate) fn configuration_fault(error: &rdkafka::error::KafkaError) -> String {
    match error {
        rdkafka::error::KafkaError::ClientConfig(_, text, name, _) => format!("`{name}`: {text}"),
        other => other.to_string(),
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("properties", &self.properties.keys())
            .field("transaction_timeout", &self.transaction_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("topics", &self.topics)
            .finish()
    }
}

impl KafkaSettings {
    /// The largest single record, uncompressed, in bytes.
    pub fn record_limit(&self) -> usize {
        self.number("message.max.bytes").unwrap_or(DEFAULT_RECORD_BYTES)
    }

    /// The batch of records in bytes that a topic has to take.
    pub fn batch_limit(&self) -> usize {
        self.number(batch_size::PROPERTY).unwrap_or(LEAST_BATCH_BYTES)
    }

    fn number(&self, property: &str) -> Option<usize> {
        self.properties.get(property).and_then(|value| value.parse().ok())
    }

    /// What all clients share. The given properties come last where they are allowed to win.
    fn client(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "casewire");
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        // An OpenSSL that is linked statically looks for authorities where it was built, not where this machine has them.
        if cfg!(feature = "self-contained") && !self.properties.keys().any(|name| name.starts_with("ssl.ca.")) {
            config.set("ssl.ca.location", "probe");
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        // Producers ask for it with each metadata request unless told otherwise, and Kafka's brokers do it by default.
        config.set("allow.auto.create.topics", "false");
        // librdkafka's own debugging is asked for by its property `debug` and comes at this level.
        let debug = self.properties.contains_key("debug");
        config.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config
    }

    /// A producer whose transactions carry `transactional_id`. Public so that what casewire is measured beside is set no
    /// differently.
    pub fn producer(&self, transactional_id: &str) -> ClientConfig {
        let mut config = self.client(&[
            ("compression.type", "lz4"),
            // A transaction is sent as a whole: waiting for more records would only delay its commit.
            ("linger.ms", "0"),
            ("message.max.bytes", &DEFAULT_RECORD_BYTES.to_string()),
            (batch_size::PROPERTY, &LEAST_BATCH_BYTES.to_string()),
            // More than two of the largest transactions, so that a full queue is the exception.
            ("queue.buffering.max.messages", "100000"),
            ("queue.buffering.max.kbytes", "65536"),
            // Tells whether any broker is connected while nothing is being written.
            ("statistics.interval.ms", "5000"),
        ]);
        config.set("transactional.id", transactional_id);
        config.set("transaction.timeout.ms", self.transaction_timeout.as_millis().to_string());
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set("partitioner", "murmur2_random");
        config
    }

    /// A producer without transactions, for records that carry neither data nor a position.
    pub(crate) fn appender(&self) -> ClientConfig {
        let mut config = self.client(&[
            ("compression.type", "lz4"),
            ("linger.ms", "0"),
            ("message.max.bytes", &DEFAULT_RECORD_BYTES.to_string()),
        ]);
        config.set("message.timeout.ms", self.call_timeout.as_millis().to_string());
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set("partitioner", "murmur2_random");
        config
    }

    /// A consumer that assigns its partitions itself.
    pub fn consumer(&self, isolation: Isolation) -> ClientConfig {
        let mut config = self.client(&[
            // The broker's half second would be spent at the end of every read.
            ("fetch.wait.max.ms", "10"),
            ("check.crcs", "true"),
            // A read goes through whole topics, and each stream has one of its own. librdkafka would hold 64 MiB ready for
            // each and several times as much in buffers; with less it would wait a second whenever that is reached.
            ("queued.max.messages.kbytes", "1024"),
            ("fetch.message.max.bytes", "262144"),
            ("fetch.queue.backoff.ms", "10"),
        ]);
        // librdkafka assigns partitions only with a group name; nothing is ever committed to it.
        config.set("group.id", "casewire-reader");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        config.set(
            "isolation.level",
            match isolation {
                Isolation::ReadCommitted => "read_committed",
                Isolation::ReadUncommitted => "read_uncommitted",
            },
        );
        config
    }
}

/// Which records a consumer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Records of committed transactions, up to the first open one.
    ReadCommitted,
    /// All. Its high watermark is the true end of the partition.
    ReadUncommitted,
}

/// Creates a client; a property that librdkafka refuses is named.
pub(crate) fn create<T: FromClientConfigAndContext<ConnectionContext>>(
    config: &ClientConfig,
    context: ConnectionContext,
) -> Result<T, KafkaError> {
    config.create_with_context(context).map_err(|error| KafkaError::Configuration { what: configuration_fault(&error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, value: &str) -> Vec<String> {
        check_properties(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn properties_are_free_unless_they_break_the_guarantee() {
        for (name, value) in [("compression.type", "zstd"), ("security.protocol", "ssl"), ("linger.ms", "5")] {
            assert_eq!(faults(name, value), Vec::<String>::new());
        }
        for (name, _) in GUARDED_PROPERTIES {
            let found = faults(name, "1");
            assert!(found.len() == 1 && found[0].contains(name), "{found:?}");
        }
    }

    #[test]
    fn no_client_lets_brokers_make_topics() {
        let settings = KafkaSettings {
            brokers: "localhost:9092".to_owned(),
            topic_prefix: "salesforce".to_owned(),
            properties: BTreeMap::new(),
            transaction_timeout: Duration::from_secs(60),
            call_timeout: Duration::from_secs(30),
            topics: TopicDefaults { create: true, check: true, partitions: 1, replication: 1 },
        };
        for config in [settings.producer("id"), settings.appender(), settings.consumer(Isolation::ReadCommitted)] {
            assert_eq!(config.get("allow.auto.create.topics"), Some("false"));
        }
    }

    #[test]
    fn no_property_switches_the_verification_of_certificates_off() {
        for (name, value) in [
            ("enable.ssl.certificate.verification", "false"),
            ("enable.ssl.certificate.verification", "0"),
            ("enable.ssl.certificate.verification", "F"),
            ("ssl.endpoint.identification.algorithm", "none"),
            ("ssl.cipher.suites", "HIGH:aNULL"),
        ] {
            let found = faults(name, value);
            assert!(found.len() == 1 && found[0].contains("ssl.ca.location"), "{name}={value}: {found:?}");
        }
        assert!(faults("enable.ssl.certificate.verification", "true").is_empty());
        assert!(faults("ssl.endpoint.identification.algorithm", "https").is_empty());
    }

    #[test]
    fn what_only_shows_when_a_client_is_made_is_found_too() {
        let mut properties = BTreeMap::from([("security.protocol".to_owned(), "sasl_ssl".to_owned())]);
        let together = |properties: &BTreeMap<String, String>| check_properties(properties).join("; ");
        assert!(together(&properties).contains("GSSAPI"), "{}", together(&properties));
        for (name, value) in
            [("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.username", "me"), ("sasl.password", "hunter2")]
        {
            properties.insert(name.to_owned(), value.to_owned());
        }
        assert_eq!(together(&properties), "");
        properties.insert("ssl.ca.location".to_owned(), "/nowhere/ca.pem".to_owned());
        let missing = together(&properties);
        assert!(missing.contains("ssl.ca.location") && missing.contains("/nowhere/ca.pem"), "{missing}");
        assert!(!missing.contains("hunter2"), "{missing}");
    }

    fn settings(name: &str, value: &str) -> KafkaSettings {
        KafkaSettings {
            brokers: "b:9092".into(),
            topic_prefix: "salesforce".into(),
            properties: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            transaction_timeout: Duration::from_secs(60),
            call_timeout: Duration::from_secs(60),
            topics: TopicDefaults { create: true, check: true, partitions: 1, replication: -1 },
        }
    }

    #[test]
    fn what_a_reader_holds_ready_is_bounded_unless_an_operator_says_otherwise() {
        let held = |settings: KafkaSettings| {
            let consumer = settings.consumer(Isolation::ReadCommitted);
            consumer.get("queued.max.messages.kbytes").and_then(|kib| kib.parse::<u32>().ok())
        };
        assert!(held(settings("linger.ms", "5")).is_some_and(|kib| kib <= 1024));
        assert_eq!(held(settings("queued.max.messages.kbytes", "65536")), Some(65_536));
    }

    #[test]
    fn a_password_is_not_printed() {
        let settings = settings("sasl.password", "hunter2");
        let printed = format!("{settings:?}");
        assert!(printed.contains("sasl.password") && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn an_unknown_property_or_value_is_named_without_the_value() {
        let unknown = faults("compresion.type", "secret");
        assert!(unknown[0].contains("compresion.type") && !unknown[0].contains("secret"), "{unknown:?}");
        let value = faults("compression.type", "rar");
        assert!(value[0].contains("compression.type"), "{value:?}");
    }
}
