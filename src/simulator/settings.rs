//! The simulator's configuration: its own type, TOML, every field with a default.
//! `config/simulator.toml` shows all of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// What the org in the box is like. [`Default`] is what `casewire simulate` starts with;
/// tests take [`SimulatorConfig::on_free_ports`].
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// The organisation, 18 characters with a right checksum.
    pub org_id: String,
    /// Where keys and certificates are written, so that any client can sign in.
    pub directory: Option<PathBuf>,
    /// The ledger file, begun anew at each start; none is kept without a path.
    pub ledger: Option<PathBuf>,
    /// Who may sign in, and how.
    pub sign_in: SignIn,
    /// Addresses and TLS.
    pub listen: Listen,
    /// How the Pub/Sub API behaves.
    pub pubsub: PubSub,
    /// How the REST and Bulk APIs behave.
    pub rest: Rest,
    /// What is published.
    pub traffic: Traffic,
    /// Custom channels besides `/data/ChangeEvents`.
    pub channels: Vec<Channel>,
    /// Faults from the seed.
    pub random_faults: RandomFaults,
}

/// Who may sign in, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignIn {
    /// The integration user.
    pub username: String,
    /// The consumer key of the external client app.
    pub client_id: String,
    /// Its secret, for the client credentials flow.
    pub client_secret: String,
    /// The consumer key of a second app, which has the scope `sfap_api` and no other …
    pub data_client_id: String,
    /// … and its secret.
    pub data_client_secret: String,
    /// Certificate or public key (PEM) that assertions are checked against. Without one, a key pair is generated.
    pub certificate_file: Option<PathBuf>,
    /// The same, inline.
    pub certificate: Option<String>,
    /// Audiences accepted beside the simulator's own address, without a path.
    pub audiences: Vec<String>,
    /// The furthest `exp` accepted. Salesforce documents three minutes; clients in use send five.
    #[serde(with = "humantime_serde")]
    pub longest_assertion: Duration,
    /// A token not used for this long expires.
    #[serde(with = "humantime_serde")]
    pub token_idle_timeout: Duration,
    /// Whether the client credentials flow is enabled for the app.
    pub client_credentials: bool,
    /// Seconds by which the org's clock is ahead of this machine's; negative = behind.
    pub clock_offset_seconds: i64,
}

/// Addresses and TLS. Port 0 takes a free one.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Login host: OAuth, and REST unless `instance` is given.
    pub http: SocketAddr,
    /// A host of its own for the instance, so that `instance_url` differs from the login URL.
    pub instance: Option<SocketAddr>,
    /// The Pub/Sub API.
    pub pubsub: SocketAddr,
    /// The control port; keep it on a loopback address.
    pub control: SocketAddr,
    /// TLS on the Pub/Sub port, from an own CA.
    pub tls: bool,
    /// TLS on the login and instance ports, from the same CA.
    pub http_tls: bool,
}

/// How the Pub/Sub API behaves; durations as Salesforce documents or shows them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PubSub {
    /// Empty response after this long without one. Observed: 120 s; promised: within 270 s.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// A subscription without credit ends after this long.
    #[serde(with = "humantime_serde")]
    pub idle_close: Duration,
    /// A PublishStream call ends after this long without a request. The API's own description says 70 s, its list of errors 30 min.
    #[serde(with = "humantime_serde")]
    pub publish_idle_close: Duration,
    /// How long events can be replayed.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Events published this soon after a LATEST subscription began never reach it.
    #[serde(with = "humantime_serde")]
    pub latest_race: Duration,
    /// Events that may be delivered in 24 hours, to all subscribers together.
    pub delivery_allocation: u64,
    /// The answer to a bad token takes this long.
    #[serde(with = "humantime_serde")]
    pub bad_token_delay: Duration,
    /// Entities that the user may not see.
    pub no_permission: Vec<String>,
}

/// How the REST and Bulk APIs behave.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rest {
    /// Whether answers are compressed for clients that take it. Salesforce does so as a rule, and need not.
    pub compress: bool,
    /// Calls that may be made in 24 hours.
    pub daily_requests: u64,
    /// Fields that the user may not see, as `Case.SuppliedEmail`.
    pub hidden_fields: Vec<String>,
    /// The rest of a long answer to a query can be fetched until it was not asked for so long.
    #[serde(with = "humantime_serde")]
    pub query_locator_idle: Duration,
    /// Bulk query jobs that may be created in 24 hours.
    pub bulk_jobs: u64,
    /// How long a Bulk query job takes.
    #[serde(with = "humantime_serde")]
    pub bulk_job_time: Duration,
    /// Rows of a page of results when the client does not say how many.
    pub bulk_page_rows: usize,
    /// The form of date-times in Bulk results: what is known of it is contradictory.
    pub bulk_date_time: BulkDateTime,
    /// Calls for conversation entries in `conversation_calls_window`.
    pub conversation_calls: usize,
    /// An hour, unless a test cannot wait for it.
    #[serde(with = "humantime_serde")]
    pub conversation_calls_window: Duration,
    /// Calls of the Conversation Data API that may be made in a minute.
    pub conversation_data_calls: usize,
    /// Conversations that may be active at a time; each call makes its conversation active for half an hour.
    pub active_conversations: usize,
    /// Whether the time bounds of a call for entries belong to what is meant: nothing is known of it.
    pub conversation_bounds: TimeBounds,
    /// Whether an answer with entries that leaves some out has a `nextPageToken`. Salesforce documents none.
    pub conversation_page_tokens: bool,
    /// Of a hundred entries of an answer, so many stand in it twice.
    pub repeated_entries: u8,
}

/// Whether the bounds of a time belong to what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeBounds {
    /// They do.
    Inclusive,
    /// They do not.
    Exclusive,
}

/// How Bulk results write a date-time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum BulkDateTime {
    /// `2026-02-17T04:03:15.000Z`.
    #[serde(rename = "Z")]
    Zulu,
    /// `2026-02-17T04:03:15.000+0000`, as REST does.
    #[serde(rename = "+0000")]
    Offset,
}

/// What is published.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// Events a second; 0 publishes only what is ordered over the control port.
    pub rate: f64,
    /// Messages a second, in sessions that are open; each is told by an event or not.
    pub messages: f64,
    /// Events to be there at the start.
    pub backlog: u64,
    /// Over how long before the start the backlog is spread.
    #[serde(with = "humantime_serde")]
    pub backlog_span: Duration,
    /// Where event time starts. Without it, it is the wall clock; with it, a seed gives the same stamps always.
    pub start_time: Option<DateTime<Utc>>,
    /// `Case`, `MessagingSession`, `MessagingEndUser`, `Installation__c`, `Case_Escalation__e`, and `CaseComment`, of which no
    /// event tells.
    pub entities: Vec<String>,
    /// Shares of the kinds of transactions.
    pub mix: Mix,
    /// The most record ids in one merged event.
    pub most_merged: usize,
    /// How many records of each object are remembered.
    pub most_records: usize,
    /// The position of the bus before the first event.
    pub first_replay_id: u64,
    /// Salesforce's are beyond 2^31.
    pub first_commit_number: i64,
}

/// Weights of the kinds of transactions; they need not add up to anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// One record created.
    pub create: u32,
    /// One record updated.
    pub update: u32,
    /// The same change to many records in one event.
    pub merged: u32,
    /// One record updated twice in a transaction.
    pub double_update: u32,
    /// Several records created in a transaction, with holes in the sequence numbers.
    pub several: u32,
    /// A system update of address components only.
    pub geocode: u32,
    /// One record deleted.
    pub delete: u32,
    /// One record restored.
    pub undelete: u32,
    /// `GAP_CREATE`, `GAP_UPDATE` or `GAP_DELETE`.
    pub gap: u32,
    /// `GAP_OVERFLOW`.
    pub overflow: u32,
    /// A wildcard record id, `500*`.
    pub wildcard: u32,
    /// The reserved change type `SNAPSHOT`.
    pub snapshot: u32,
    /// A change type that appears with a schema change.
    pub future_change_type: u32,
    /// One platform event.
    pub platform_event: u32,
}

impl Mix {
    pub(crate) const UPDATE: usize = 1;
    pub(crate) const MERGED: usize = 2;
    pub(crate) const DOUBLE_UPDATE: usize = 3;
    pub(crate) const SEVERAL: usize = 4;
    pub(crate) const GEOCODE: usize = 5;
    pub(crate) const DELETE: usize = 6;
    pub(crate) const UNDELETE: usize = 7;
    pub(crate) const GAP: usize = 8;
    pub(crate) const OVERFLOW: usize = 9;
    pub(crate) const WILDCARD: usize = 10;
    pub(crate) const SNAPSHOT: usize = 11;
    pub(crate) const FUTURE_CHANGE_TYPE: usize = 12;
    pub(crate) const PLATFORM_EVENT: usize = 13;

    /// The weights in the order of the constants above; 0 is `create`.
    pub(crate) fn weights(&self) -> [u32; 14] {
        [
            self.create,
            self.update,
            self.merged,
            self.double_update,
            self.several,
            self.geocode,
            self.delete,
            self.undelete,
            self.gap,
            self.overflow,
            self.wildcard,
            self.snapshot,
            self.future_change_type,
            self.platform_event,
        ]
    }

    /// Creates and updates only, each with all values: nothing that needs a second look.
    pub fn plain() -> Self {
        Self { create: 30, update: 70, ..Self::none() }
    }

    fn none() -> Self {
        Self {
            create: 0,
            update: 0,
            merged: 0,
            double_update: 0,
            several: 0,
            geocode: 0,
            delete: 0,
            undelete: 0,
            gap: 0,
            overflow: 0,
            wildcard: 0,
            snapshot: 0,
            future_change_type: 0,
            platform_event: 0,
        }
    }
}

/// A custom channel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// `Support__chn`, or `Alerts__chn` for platform events.
    pub name: String,
    /// Its members.
    pub entities: Vec<String>,
    /// Fields that updates and deletes carry besides what changed, as `Case.Subject`.
    #[serde(default)]
    pub enriched: Vec<String>,
}

/// Faults drawn from the seed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomFaults {
    /// How many a minute; 0 is none.
    pub per_minute: f64,
    /// The table they are drawn from; empty = every kind that a client survives without a gap.
    pub table: Vec<crate::simulator::faults::Fault>,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            org_id: "00D8d00000AbCdEEAV".to_owned(),
            directory: None,
            ledger: None,
            sign_in: SignIn::default(),
            listen: Listen::default(),
            pubsub: PubSub::default(),
            rest: Rest::default(),
            traffic: Traffic::default(),
            channels: Vec::new(),
            random_faults: RandomFaults::default(),
        }
    }
}

impl SimulatorConfig {
    /// A quiet org for tests: free ports, no waiting where Salesforce makes one wait, no traffic of its own.
    pub fn on_free_ports() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Self::default();
        config.listen = Listen { http: free, pubsub: free, control: free, ..config.listen };
        config.pubsub.latest_race = Duration::ZERO;
        config.pubsub.bad_token_delay = Duration::ZERO;
        config.rest.bulk_job_time = Duration::ZERO;
        config.traffic.rate = 0.0;
        config.traffic.backlog = 0;
        config
    }
}

impl Default for SignIn {
    fn default() -> Self {
        Self {
            username: "integration@example.com".to_owned(),
            client_id: "3MVG9casewireSimulator".to_owned(),
            client_secret: "simulated-secret".to_owned(),
            data_client_id: "3MVG9conversationData".to_owned(),
            data_client_secret: "simulated-data-secret".to_owned(),
            certificate_file: None,
            certificate: None,
            audiences: vec!["https://login.salesforce.com".to_owned(), "https://test.salesforce.com".to_owned()],
            longest_assertion: Duration::from_secs(360),
            token_idle_timeout: Duration::from_secs(7_200),
            client_credentials: true,
            clock_offset_seconds: 0,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            http: local(8080),
            instance: None,
            pubsub: local(7443),
            control: local(8081),
            tls: false,
            http_tls: false,
        }
    }
}

impl Default for PubSub {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(120),
            idle_close: Duration::from_secs(60),
            publish_idle_close: Duration::from_secs(70),
            retention: Duration::from_secs(72 * 3_600),
            latest_race: Duration::from_secs(3),
            delivery_allocation: 50_000,
            bad_token_delay: Duration::from_secs(2),
            no_permission: Vec::new(),
        }
    }
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            compress: true,
            daily_requests: 100_000,
            hidden_fields: Vec::new(),
            query_locator_idle: Duration::from_secs(900),
            bulk_jobs: 10_000,
            bulk_job_time: Duration::from_secs(3),
            bulk_page_rows: 50_000,
            bulk_date_time: BulkDateTime::Zulu,
            conversation_calls: 1_000,
            conversation_calls_window: Duration::from_secs(3_600),
            conversation_data_calls: 90,
            active_conversations: 11_000,
            conversation_bounds: TimeBounds::Inclusive,
            conversation_page_tokens: false,
            repeated_entries: 0,
        }
    }
}

impl Default for Traffic {
    fn default() -> Self {
        let entities =
            ["Case", "MessagingSession", "MessagingEndUser", "Installation__c", "Case_Escalation__e", "CaseComment"];
        Self {
            rate: 5.0,
            messages: 0.0,
            backlog: 200,
            backlog_span: Duration::from_secs(6 * 3_600),
            start_time: None,
            entities: entities.map(str::to_owned).to_vec(),
            mix: Mix::default(),
            most_merged: 200,
            most_records: 5_000,
            first_replay_id: 1_544_000,
            first_commit_number: 12_279_648_331_868,
        }
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            create: 2_400,
            update: 5_200,
            merged: 400,
            double_update: 300,
            several: 400,
            geocode: 200,
            delete: 300,
            undelete: 100,
            gap: 60,
            overflow: 4,
            wildcard: 4,
            snapshot: 0,
            future_change_type: 0,
            platform_event: 600,
        }
    }
}
