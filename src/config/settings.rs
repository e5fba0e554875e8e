//! Each section of the configuration: its keys, their defaults and limits.
//!
//! `config/casewire.toml` is the commented example of all of this; a test reads it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::config::completion::CompletionConfig;
use crate::config::gaps::GapsConfig;
use crate::config::messages::{DataApiConfig, MessagesConfig};
use crate::config::policy::PoliciesConfig;
use crate::config::poll::{PollConfig, read_polls};
use crate::config::reader::{Effective, Findings, SecretFile, Section};
use crate::config::reconcile::ReconcileConfig;
use crate::config::snapshot::SnapshotConfig;
use crate::config::stream::{StreamConfig, read_streams};
use crate::config::telemetry::TelemetryConfig;
use crate::identity::OrgId;

/// Stands for a URL that could not be read, until the fault it left ends the loading.
static NOWHERE: LazyLock<Url> = LazyLock::new(|| Url::parse("http://invalid").expect("a constant URL parses"));

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Everything that casewire can be told.
#[derive(Debug)]
pub struct Config {
    /// How to reach and sign in to Salesforce.
    pub salesforce: SalesforceConfig,
    /// The topics to carry.
    pub streams: Vec<StreamConfig>,
    /// Objects without events that are read where they changed.
    pub polls: Vec<PollConfig>,
    /// Which fields are kept from readers.
    pub policies: PoliciesConfig,
    /// When a transaction is full.
    pub batch: BatchConfig,
    /// How much may be under way between Salesforce and Kafka.
    pub buffer: BufferConfig,
    /// Reading full records.
    pub completion: CompletionConfig,
    /// How gaps are healed.
    pub gaps: GapsConfig,
    /// How the messages of conversations are fetched.
    pub messages: MessagesConfig,
    /// The app that signs in to the Conversation Data API, where messages are fetched over that.
    pub data_api: Option<DataApiConfig>,
    /// Which objects are read from beginning to end.
    pub snapshot: SnapshotConfig,
    /// How the records in Kafka are compared with those of the org.
    pub reconcile: ReconcileConfig,
    /// Where to write.
    pub kafka: KafkaConfig,
    /// The HTTP port for operators.
    pub admin: AdminConfig,
    /// How to log.
    pub log: LogConfig,
    /// Traces; none where no collector is named.
    pub telemetry: Option<TelemetryConfig>,
    /// How long an orderly end may take before the process ends anyway.
    pub shutdown_timeout: Duration,
    /// The files that hold secrets.
    pub secret_files: Vec<SecretFile>,
    /// Every key with its effective value, secrets replaced.
    pub(in crate::config) effective: Vec<Effective>,
}

/// `[salesforce]`
#[derive(Debug)]
pub struct SalesforceConfig {
    /// How to sign in.
    pub grant: Grant,
    /// Where to sign in.
    pub login_url: Url,
    /// The organisation that must answer; any when absent.
    pub org_id: Option<OrgId>,
    /// The REST API version, such as `66.0`.
    pub api_version: String,
    /// A further certificate authority (PEM) for the login and REST hosts.
    pub certificate_authority: Option<String>,
    /// The age at which a token is renewed although nobody refused it.
    pub token_maximum_age: Duration,
    /// The Pub/Sub API.
    pub pubsub: PubSubConfig,
}

/// The OAuth 2.0 flow, and its secrets, which no debug print shows.
#[derive(Debug, Clone)]
pub enum Grant {
    /// JWT bearer (RFC 7523): a signed assertion for a pre-authorised user.
    JwtBearer {
        /// The integration user's name.
        username: String,
        /// The consumer key of the External Client App.
        client_id: String,
        /// An RSA key as PEM, PKCS#1 or PKCS#8, unencrypted.
        private_key: SecretString,
        /// The certificate uploaded to the app (PEM), to be checked against the key.
        certificate: Option<String>,
    },
    /// Client credentials; Salesforce takes them at a My Domain host only, and the user is the one set as
    /// "run as" in the app.
    ClientCredentials {
        /// The consumer key.
        client_id: String,
        /// The consumer secret.
        client_secret: SecretString,
    },
}

/// `[salesforce.pubsub]`
#[derive(Debug)]
pub struct PubSubConfig {
    /// `https://` for TLS, `http://` for plaintext.
    pub endpoint: Url,
    /// A further certificate authority (PEM).
    pub certificate_authority: Option<String>,
    /// Between HTTP/2 pings.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered.
    pub ping_timeout: Duration,
    /// To open a connection.
    pub connect_timeout: Duration,
    /// For one unary call.
    pub call_timeout: Duration,
    /// Without a message while events are owed, after which a call is taken for dead.
    /// Salesforce promises a keepalive within 270 s.
    pub silence_limit: Duration,
}

/// `[batch]`
#[derive(Debug, Clone, Copy)]
pub struct BatchConfig {
    /// Records in one transaction, at most (an event with more record ids is never split).
    pub max_records: usize,
    /// Bytes in one transaction, at most (save for a single larger record).
    pub max_bytes: usize,
    /// Bytes of all records of one event, at most; an event that would become more is a dead letter.
    pub max_event_bytes: usize,
    /// How long a transaction that is not full may wait for more.
    pub max_age: Duration,
}

/// `[buffer]`
#[derive(Debug, Clone, Copy)]
pub struct BufferConfig {
    /// Events of one stream that are received and not yet committed, at most.
    pub max_events: usize,
    /// Their bytes; exceeded by at most one credit of 100 events.
    pub max_bytes: usize,
}

/// `[kafka]`
#[derive(Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// The first part of every topic name.
    pub topic_prefix: String,
    /// After which the broker aborts a transaction.
    pub transaction_timeout: Duration,
    /// For one call to Kafka.
    pub call_timeout: Duration,
    /// How long another writer must be silent before a fenced stream takes over again.
    pub takeover_after: Duration,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// Whether the settings of existing topics are checked.
    pub check_topics: bool,
    /// For created topics; 0 leaves it to the broker.
    pub partitions: u64,
    /// For created topics; 0 leaves it to the broker.
    pub replication_factor: u64,
    /// Handed to librdkafka as they are.
    pub properties: BTreeMap<String, String>,
}

/// `[admin]`
#[derive(Debug)]
pub struct AdminConfig {
    /// Where to listen; nothing is served when absent.
    pub listen: Option<SocketAddr>,
    /// What whoever wants something done has to show; nothing is done for anybody when absent.
    pub token: Option<SecretString>,
    /// Names beside those of loopback by which a port that listens on loopback is asked for, as behind a proxy.
    pub hosts: Vec<String>,
}

/// An address, or a port alone, which is one of loopback.
struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = || text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = text.parse().ok().or_else(port);
        address
            .map(Self)
            .ok_or("an address with a port such as 127.0.0.1:8686 is expected, or a port alone, for loopback")
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable on a terminal, JSON elsewhere.
    Auto,
    /// Readable.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug)]
pub struct LogConfig {
    /// A `tracing` filter, such as `info` or `casewire=debug`.
    pub filter: String,
    /// The form.
    pub format: LogFormat,
}

impl Config {
    /// Reads every section. `None` only together with faults.
    pub(in crate::config) fn read(mut root: Section, findings: &mut Findings) -> Option<Self> {
        let salesforce = SalesforceConfig::read(root.section("salesforce", findings), findings);
        let streams = read_streams(root.sections("stream", findings), findings);
        let polls = read_polls(root.sections("poll", findings), &streams, findings);
        let policies = PoliciesConfig::read(&mut root, findings);
        let batch = BatchConfig::read(root.section("batch", findings), findings);
        let buffer = BufferConfig::read(root.section("buffer", findings), findings);
        let completion = CompletionConfig::read(root.section("completion", findings), findings);
        let gaps = GapsConfig::read(root.section("gaps", findings), findings);
        let (messages, data_api) = MessagesConfig::read(root.section("messages", findings), findings);
        let snapshot = SnapshotConfig::read(root.section("snapshot", findings), findings);
        let reconcile = ReconcileConfig::read(root.section("reconcile", findings), findings);
        let kafka = KafkaConfig::read(root.section("kafka", findings), findings);
        let admin = AdminConfig::read(root.section("admin", findings), findings);
        let log = LogConfig::read(root.section("log", findings), findings);
        let telemetry = TelemetryConfig::read(root.section("telemetry", findings), findings);
        let shutdown_timeout = root.duration("shutdown_timeout", 30 * SECOND, (SECOND, HOUR), findings);
        root.finish(findings);
        Some(Self {
            salesforce: salesforce?,
            streams,
            polls,
            policies,
            batch,
            buffer,
            completion,
            gaps,
            messages,
            data_api,
            snapshot,
            reconcile,
            kafka,
            admin,
            log,
            telemetry,
            shutdown_timeout,
            secret_files: std::mem::take(&mut findings.secret_files),
            effective: std::mem::take(&mut findings.effective),
        })
    }
}

impl SalesforceConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Option<Self> {
        let grant = Grant::read(&mut section, findings);
        let sandbox = section.flag("sandbox", false, findings);
        let host = if sandbox { "https://test.salesforce.com" } else { "https://login.salesforce.com" };
        let login_url = read_url(&mut section, "login_url", host, findings);
        let standard =
            login_url.host_str().is_some_and(|host| matches!(host, "login.salesforce.com" | "test.salesforce.com"));
        if standard && matches!(grant, Some(Grant::ClientCredentials { .. })) {
            let problem = "must be the My Domain URL (https://<name>.my.salesforce.com) with client_secret: \
                           Salesforce takes client credentials nowhere else";
            findings.fault(section.path_of("login_url"), problem);
        }
        let api_version = section.text_or("api_version", "66.0", findings);
        let plain = api_version
            .split_once('.')
            .is_some_and(|(major, minor)| minor == "0" && major.parse::<u16>().is_ok_and(|major| major >= 58));
        if !plain {
            let problem = format!("is \"{api_version}\", but a version from \"58.0\" on is expected, such as \"66.0\"");
            findings.fault(section.path_of("api_version"), problem);
        }
        // Everything is read before anything is given up, so that every fault is found.
        let org_id = section.parsed("org_id", findings);
        let certificate_authority = read_pem(&mut section, "ca_file", findings);
        let token_maximum_age = section.duration("token_maximum_age", HOUR, (MINUTE, 24 * HOUR), findings);
        let pubsub = PubSubConfig::read(section.section("pubsub", findings), findings);
        section.finish(findings);
        Some(Self { grant: grant?, login_url, org_id, api_version, certificate_authority, token_maximum_age, pubsub })
    }
}

impl Grant {
    fn read(section: &mut Section, findings: &mut Findings) -> Option<Self> {
        let client_id = section.required("client_id", "the consumer key of the External Client App", findings);
        let username = section.text("username", findings);
        let private_key = section.secret("private_key", findings);
        let client_secret = section.secret("client_secret", findings);
        let certificate = read_pem(section, "certificate_file", findings).or_else(|| {
            // One file often holds both, as `openssl req -newkey` and most key stores write them.
            let both = private_key.as_ref().map(|key| key.expose_secret().to_owned());
            both.filter(|pem| pem.contains("-----BEGIN CERTIFICATE-----"))
        });
        match (private_key, client_secret) {
            (Some(private_key), None) => {
                if username.is_none() {
                    let problem = "is missing: the integration user that the JWT bearer flow signs in";
                    findings.fault(section.path_of("username"), problem);
                }
                Some(Self::JwtBearer { username: username?, client_id: client_id?, private_key, certificate })
            }
            (None, Some(client_secret)) => Some(Self::ClientCredentials { client_id: client_id?, client_secret }),
            (Some(_), Some(_)) => {
                let problem = "is set, and so is private_key: the first means client credentials, the second \
                               JWT bearer; keep one of the two";
                findings.fault(section.path_of("client_secret"), problem);
                None
            }
            (None, None) => {
                let named = |fault: &crate::config::Fault| {
                    fault.path.contains("private_key") || fault.path.contains("client_secret")
                };
                if !findings.faults.iter().any(named) {
                    let problem = "is missing: the PEM private key whose certificate is uploaded to the External \
                                   Client App (or private_key, or client_secret for client credentials)";
                    findings.fault(section.path_of("private_key_file"), problem);
                }
                None
            }
        }
    }
}

impl PubSubConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Self {
        let endpoint = read_url(&mut section, "endpoint", "https://api.pubsub.salesforce.com:443", findings);
        let config = Self {
            certificate_authority: read_pem(&mut section, "ca_file", findings),
            ping_interval: section.duration("ping_interval", 30 * SECOND, (SECOND, HOUR), findings),
            ping_timeout: section.duration("ping_timeout", 15 * SECOND, (SECOND, 10 * MINUTE), findings),
            connect_timeout: section.duration("connect_timeout", 10 * SECOND, (SECOND, 10 * MINUTE), findings),
            call_timeout: section.duration("call_timeout", 30 * SECOND, (SECOND, 10 * MINUTE), findings),
            silence_limit: section.duration("silence_limit", 5 * MINUTE, (SECOND, HOUR), findings),
            // A wrong endpoint is a fault already; the rest is read all the same, to find its faults too.
            endpoint,
        };
        section.finish(findings);
        config
    }
}

impl BatchConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Self {
        let config = Self {
            max_records: size(section.number("max_records", 4_000, (1, 100_000), findings)),
            max_bytes: size(section.number("max_bytes", 6 * MIB, (KIB, 256 * MIB), findings)),
            max_event_bytes: size(section.number("max_event_bytes", 64 * MIB, (MIB, 4096 * MIB), findings)),
            max_age: section.duration("max_age", Duration::from_millis(2), (Duration::ZERO, 10 * SECOND), findings),
        };
        section.finish(findings);
        config
    }
}

impl BufferConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Self {
        let config = Self {
            max_events: size(section.number("max_events", 8_000, (100, 1_000_000), findings)),
            max_bytes: size(section.number("max_bytes", 16 * MIB, (KIB, 4096 * MIB), findings)),
        };
        section.finish(findings);
        config
    }
}

impl KafkaConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Self {
        let brokers = section.required("brokers", "the bootstrap servers, such as \"127.0.0.1:9092\"", findings);
        let prefix = section.text_or("topic_prefix", "salesforce", findings);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if prefix.len() > 80 || !prefix.bytes().all(legal) || prefix.starts_with('.') || prefix.ends_with('.') {
            let problem = format!("is \"{prefix}\", but at most 80 letters, digits, '.', '_' and '-' are allowed");
            findings.fault(section.path_of("topic_prefix"), problem);
        }
        let config = Self {
            topic_prefix: prefix,
            transaction_timeout: section.duration("transaction_timeout", MINUTE, (10 * SECOND, 15 * MINUTE), findings),
            call_timeout: section.duration("call_timeout", MINUTE, (SECOND, 15 * MINUTE), findings),
            // A live writer commits at least every 2 minutes, so anything near that would fence the living.
            takeover_after: section.duration("takeover_after", 10 * MINUTE, (3 * MINUTE, 24 * HOUR), findings),
            create_topics: section.flag("create_topics", true, findings),
            check_topics: section.flag("check_topics", true, findings),
            partitions: section.number("partitions", 0, (0, 10_000), findings),
            replication_factor: section.number("replication_factor", 0, (0, 100), findings),
            properties: section.section("properties", findings).properties(findings),
            brokers: brokers.unwrap_or_default(),
        };
        section.finish(findings);
        config
    }
}

impl AdminConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Self {
        let listen = section.parsed::<Listen>("listen", findings).map(|listen| listen.0);
        let token = section.secret("token", findings);
        let name =
            |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        let hosts =
            section.texts("hosts", name, "host names without ports, such as [\"casewire.example.com\"]", findings);
        let config = Self { listen, token, hosts };
        section.finish(findings);
        config
    }
}

impl LogConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Self {
        let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        let config = Self {
            filter: section.text_or("filter", "info", findings),
            format: section.choice("format", &formats, Some("auto"), findings).unwrap_or(LogFormat::Auto),
        };
        section.finish(findings);
        config
    }
}

/// An `http` or `https` URL with a host and nothing behind it.
pub(in crate::config) fn read_url(section: &mut Section, key: &str, default: &str, findings: &mut Findings) -> Url {
    let text = section.text_or(key, default, findings);
    let allowed = |url: &Url| {
        let address = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
        address && url.path() == "/" && url.query().is_none()
    };
    if let Some(url) = Url::parse(&text).ok().filter(allowed) {
        return url;
    }
    let problem = format!("is \"{text}\", but a URL of scheme, host and port is expected, such as \"{default}\"");
    findings.fault(section.path_of(key), problem);
    NOWHERE.clone()
}

/// The content of a PEM file of certificates.
pub(in crate::config) fn read_pem(section: &mut Section, key: &str, findings: &mut Findings) -> Option<String> {
    let path = section.text(key, findings)?;
    let pem = section.file(key, &path, findings)?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        return Some(pem);
    }
    findings.fault(section.path_of(key), format!("names {path}, which holds no PEM certificate"));
    None
}

/// The limits of each key keep its value within `usize`.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
