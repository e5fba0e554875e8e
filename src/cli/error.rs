//! What commands fail with on their own account: one table for what they print and for docs/troubleshooting.md.
//!
//! What the rooms fail with has tables of its own there. A command composes no failure beside these, which
//! `tests/suite/architecture.rs` holds.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::failure::{Exit, Failure};
use crate::identity::{ReplayId, TopicName};
use crate::simulator::SimulatorError;

/// Gives errors their failure: each has a table, `advice`, that says how the process ends and what mends it.
macro_rules! with_failure {
    ($($error:ty),* $(,)?) => {$(
        impl $error {
            /// What an operator has to know and do.
            pub fn failure(&self) -> Failure {
                let (exit, remedy) = self.advice();
                Failure::new(exit, self.to_string(), remedy)
            }
        }

        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                error.failure()
            }
        }
    )*};
}

with_failure!(
    CommandError,
    CheckpointError,
    DeadLettersError,
    LeftLetter,
    DemoError,
    DoctorError,
    HealthError,
    KeygenError,
    ReconcileError,
    SimulateError,
    TailError,
);

pub(super) use with_failure;

pub(super) const REPORT: &str = "please report it with the log";

/// What any command may fail with.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No threads.
    #[error("The runtime cannot be started: {0}")]
    Runtime(std::io::Error),
    /// `RUST_LOG` or `log.filter`.
    #[error("The log filter \"{filter}\" is not valid: {reason}")]
    LogFilter { filter: String, reason: String },
    /// Several parts can make nothing of their values; each says so in a line.
    #[error("The configuration has {count} faults:{lines}")]
    Faults { count: usize, lines: String },
    /// An empty list would read as good news where the prefix or the cluster is the wrong one.
    #[error("There is no topic `{0}` on this cluster")]
    NoTopic(String),
    /// The listener ended under `run`.
    #[error("The admin port failed: {0}")]
    AdminPort(String),
    /// `man` could not write.
    #[error("The manual pages cannot be written to {}: {error}", directory.display())]
    Manual { directory: PathBuf, error: std::io::Error },
}

impl CommandError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Runtime(_) => (Exit::Unavailable, "check the limits on threads"),
            Self::LogFilter { .. } => {
                (Exit::Configuration, "set log.filter to something like \"info\" or \"casewire=debug\"")
            }
            Self::Faults { .. } => (Exit::Configuration, "correct each as it says"),
            Self::NoTopic(_) => (
                Exit::Unavailable,
                "no stream with this kafka.topic_prefix has run on this cluster yet, or kafka.topic_prefix or kafka.brokers is \
                 not that of the service, or the principal lacks the permissions Describe and Read on the topic, without which \
                 it is not shown",
            ),
            Self::AdminPort(_) => (Exit::Software, REPORT),
            Self::Manual { .. } => (Exit::Unavailable, "name a directory that may be written to"),
        }
    }
}

/// `casewire checkpoint`.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A misspelt topic would get a checkpoint of its own.
    #[error("The configuration has no stream of {topic}; its streams are {known}")]
    NoStream { topic: TopicName, known: String },
    /// Neither a terminal nor `--yes`.
    #[error("Nobody can be asked: this is not a terminal")]
    NobodyAsked,
    /// `--at` lies before everything that the output shows.
    #[error("The output topics hold no event of {topic} within 7 days before {}", seconds(before))]
    NoEventBefore { topic: TopicName, before: DateTime<Utc> },
}

impl CheckpointError {
    fn advice(&self) -> (Exit, &str) {
        let remedy = match self {
            Self::NoStream { .. } => "correct --topic, or give the configuration that has the stream",
            Self::NobodyAsked => "add --yes, or --dry-run to see what would be done",
            Self::NoEventBefore { .. } => "take a later time, or --start earliest",
        };
        (Exit::Usage, remedy)
    }
}

/// `casewire dead-letters`.
#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// There is none of that id.
    #[error("There is no letter `{id}` in {topic}")]
    NoLetter { id: String, topic: String },
    /// `--raw` names what cannot be made.
    #[error("The bytes cannot be written to {}: {error}", file.display())]
    NotWritten { file: PathBuf, error: std::io::Error },
    /// Some were not redriven; each is told with a [`LeftLetter`].
    #[error("{left} of {all} letters were left as they are")]
    Left { left: usize, all: usize },
    /// Nobody can say what is in a letter without it.
    #[error("Salesforce gave no schema within {0} s")]
    NoSchema(u64),
}

impl DeadLettersError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::NoLetter { .. } => (Exit::Usage, "`casewire dead-letters list` prints the ids of all letters"),
            Self::NotWritten { .. } => {
                (Exit::Usage, "name a file that does not exist, in a folder that may be written to")
            }
            Self::Left { .. } => (Exit::Unavailable, "each says why; `casewire dead-letters show ID` tells more"),
            Self::NoSchema(_) => (Exit::Temporary, "try again; nothing was changed"),
        }
    }
}

/// Why `casewire dead-letters redrive` leaves a letter as it is.
#[derive(Debug, thiserror::Error)]
pub enum LeftLetter {
    /// The configuration signs in to another one.
    #[error("it is of the organisation {of}, and this is {this}")]
    OtherOrg { of: String, this: String },
    /// Nobody would write what it holds.
    #[error("the configuration has no stream of {0}")]
    NoStream(String),
    /// A platform event cannot be read from anywhere.
    #[error("a field policy kept its bytes back, and a platform event cannot be read (its replay id is {replay_id})")]
    WithheldEvent { replay_id: String },
    /// No bytes and no record ids.
    #[error("a field policy kept its bytes back, and it named no record")]
    WithheldRecords(String),
    /// No bytes, no record ids, and a channel of many objects.
    #[error("a field policy kept its bytes back, and nobody knows which object of the channel it concerns")]
    WithheldObject,
    /// As on the day on which it became a letter.
    #[error("cannot be decoded: {0}")]
    PlatformEvent(String),
    /// The same of a change event.
    #[error("cannot be decoded: {reason}")]
    ChangeEvent { reason: String, object: String },
    /// The same on a channel.
    #[error("cannot be decoded: {0}; nobody knows which object of the channel it concerns")]
    OnChannel(String),
}

impl LeftLetter {
    fn advice(&self) -> (Exit, String) {
        let remedy = match self {
            Self::OtherOrg { .. } => "give the configuration that signs in to that organisation",
            Self::NoStream(_) => "give the configuration that has the stream",
            Self::WithheldEvent { .. } => {
                "for three days `casewire checkpoint set --replay-id` to a position before it has it delivered again"
            }
            Self::WithheldRecords(object) | Self::ChangeEvent { object, .. } => {
                return (Exit::Unavailable, format!("--whole reads all records of {object}"));
            }
            Self::WithheldObject | Self::OnChannel(_) => {
                "`casewire snapshot` of each object of the channel brings all records as they are now"
            }
            Self::PlatformEvent(_) => {
                "try a newer casewire, or report it with the bytes that `casewire dead-letters show ID --raw FILE` saves"
            }
        };
        (Exit::Unavailable, remedy.to_owned())
    }
}

/// `casewire demo`.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// In the words of the admin port.
    #[error("{0}")]
    AdminPort(String),
    /// The org cannot be started.
    #[error("{0}")]
    Simulator(SimulatorError),
    /// What the demo itself wrote.
    #[error("The demo's configuration is not TOML: {0}")]
    Configuration(String),
    /// Neither a real broker nor the other.
    #[error("The demo's stand-in broker cannot be started: {0}")]
    StandIn(String),
}

impl DemoError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::AdminPort(_) => (Exit::Unavailable, "give another address, such as --admin 127.0.0.1:0"),
            Self::Simulator(_) => (Exit::Unavailable, "end what uses the ports, or see `casewire simulate --help`"),
            Self::Configuration(_) => (Exit::Software, REPORT),
            Self::StandIn(_) => (Exit::Unavailable, "install Java 17 for a real one"),
        }
    }
}

/// `casewire doctor`, at its end.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The exit code is that of the first check that failed.
    #[error("Not all is in order: {summary}")]
    Failed { summary: String, exit: Exit },
    /// Nothing worse.
    #[error("Not all is in order: {0}")]
    Warnings(String),
}

impl DoctorError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Failed { exit, .. } => (
                *exit,
                "mend the first check that failed and run it again: what failed after it may be its consequence",
            ),
            Self::Warnings(_) => (Exit::Findings, "nothing failed; each warning says what to do"),
        }
    }
}

/// `casewire health`.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No answer, in the words of the HTTP client.
    #[error("Nobody answers at {url}: {reason}")]
    Silent { url: String, reason: String },
    /// An answer, and a bad one.
    #[error("casewire at {address} is not {wanted} ({status}): {reasons}")]
    Not { address: SocketAddr, wanted: &'static str, status: String, reasons: String },
}

impl HealthError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Silent { .. } => (
                Exit::Unavailable,
                "give --address as admin.listen of the configuration has it, and see the log of the service",
            ),
            Self::Not { .. } => (Exit::Findings, "`last_error` in /status names what mends it"),
        }
    }
}

/// `casewire keygen`.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// It may be in use.
    #[error("{} exists, and is not overwritten: a key that is in use must not be lost", .0.display())]
    Exists(PathBuf),
    /// A file or directory that cannot be made.
    #[error("{} cannot be written: {error}", path.display())]
    NotWritten { path: PathBuf, error: std::io::Error },
    /// In the words of the library that makes keys.
    #[error("{0}")]
    NotMade(String),
    /// `show` of a file that is not there.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    /// `show` of something else.
    #[error("{} is no certificate: {reason}", path.display())]
    NoCertificate { path: PathBuf, reason: String },
}

impl KeygenError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Exists(_) => (
                Exit::Usage,
                "Give another place (--directory, --write), or move the old file away once nothing uses it.",
            ),
            Self::NotWritten { .. } => (Exit::Usage, "Give a directory that this user may write to."),
            Self::NotMade(_) => (Exit::Software, "Try again; report it if it stays."),
            Self::Unreadable { .. } | Self::NoCertificate { .. } => {
                (Exit::Configuration, "Give the PEM file of a certificate.")
            }
        }
    }
}

/// `casewire reconcile`, beside what keeps it from comparing ([`crate::pipeline::reconcile::Unable`]).
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// `--entity` names an object that no topic holds.
    #[error("No stream of the configuration carries {0}, as far as its topics tell")]
    NotCarried(String),
    /// Only platform events.
    #[error("There is nothing to compare: no stream carries the records of an object")]
    Nothing,
    /// The two sides differ.
    #[error("Kafka and the org differ: {0}")]
    Differ(String),
    /// They differ, and it is in the ledger.
    #[error("Kafka and the org differ: {0}")]
    Repaired(String),
    /// Some may only be hidden.
    #[error("Kafka and the org differ: {0}")]
    Unseen(String),
    /// Told to end.
    #[error("The comparison was interrupted")]
    Interrupted,
    /// The same, and who compares goes on.
    #[error("The comparison of messages was left before it was done")]
    MessagesInterrupted,
    /// `--entity ConversationEntry` beside another.
    #[error("Messages are compared for themselves")]
    MessagesApart,
    /// Messages differ.
    #[error("Kafka and the org differ on messages: {0}")]
    MessagesDiffer(String),
    /// They differ, and what is missing is written or ordered.
    #[error("Kafka and the org differ on messages: {0}")]
    MessagesRepaired(String),
    /// There is nothing that could be written.
    #[error("Kafka and the org differ on messages: {0}")]
    MessagesGone(String),
    /// Of some conversations nothing is known.
    #[error("{0} conversations cannot be read, so nothing is said of them")]
    UnreadableConversations(u64),
    /// Somebody ended it.
    #[error("The comparison was cancelled before it was done, and had found nothing by then")]
    Cancelled,
    /// It was under way, and then it was nowhere.
    #[error("It is not known how the comparison ended: it is not shown any more")]
    Lost,
    /// Or it would not be known whose findings they are.
    #[error("The service does not say which org it reads")]
    NoOrg,
}

impl ReconcileError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::NotCarried(_) => (
                Exit::Usage,
                "correct --entity: it is the object's API name, such as Case; a channel is known to carry what it has delivered",
            ),
            Self::Nothing => (Exit::Usage, "platform events are in no table of the org"),
            Self::Differ(_) => {
                (Exit::Findings, "--repair puts them into the gap ledger, from which the service reads them again")
            }
            Self::Repaired(_) => (Exit::Findings, "`casewire gaps --open` shows what is still to be healed"),
            Self::Interrupted => {
                (Exit::Temporary, "nothing was compared to the end; what --repair put into the gap ledger stands there")
            }
            Self::MessagesInterrupted => (
                Exit::Temporary,
                "it goes on where it is, in the service or with its next start: `messages.comparison` in /status shows it, and so does the same \
                 command again",
            ),
            Self::MessagesApart => {
                (Exit::Usage, "give --entity ConversationEntry alone, and the other objects to a second call")
            }
            Self::MessagesDiffer(_) => (Exit::Findings, "--repair writes what is missing or changed"),
            Self::MessagesRepaired(_) => {
                (Exit::Findings, "compare once more in a quarter of an hour: what was written is not judged before")
            }
            Self::MessagesGone(_) => (Exit::Findings, "look in the org why it shows them no more; Kafka keeps them"),
            Self::UnreadableConversations(_) => (
                Exit::NoPermission,
                "they were deleted, belong to a channel that keeps no entries, or are hidden from the user: Setup > Permission Sets > the \
                 integration user's set: \"Access Conversation Entries\"",
            ),
            Self::Cancelled => (Exit::Temporary, "compare again"),
            Self::Lost => (Exit::Temporary, "the service's log says so; compare again"),
            Self::NoOrg => (Exit::Software, "please report it"),
            Self::Unseen(_) => (
                Exit::Findings,
                "unseen records are gone or hidden: grant \"View All Records\" on the object (Setup > Permission Sets > the integration user's \
                 set > Object Settings) and \"View Setup and Configuration\", by which casewire sees that it is granted; then compare again",
            ),
        }
    }
}

/// `casewire simulate`.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// `--config`.
    #[error("The configuration {} cannot be read: {error}.", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    /// A key of it.
    #[error("{}: {what}", path.display())]
    Configuration { path: PathBuf, what: String },
    /// The org cannot begin.
    #[error("{0}.")]
    Start(#[from] SimulatorError),
}

impl SimulateError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Unreadable { .. } => (Exit::Configuration, "Name a file that exists, or leave --config out."),
            Self::Configuration { .. } => {
                (Exit::Configuration, "Compare it with config/simulator.toml, which shows every key.")
            }
            Self::Start(SimulatorError::Setting { .. }) => {
                (Exit::Configuration, "Correct the key; config/simulator.toml shows what is allowed.")
            }
            Self::Start(SimulatorError::Listen { .. }) => (
                Exit::Unavailable,
                "Stop what uses the port, or set another one under [listen] in the file given to --config.",
            ),
            Self::Start(SimulatorError::File { .. }) => {
                (Exit::Configuration, "Make the path readable and writable, or give another --directory or --ledger.")
            }
            Self::Start(SimulatorError::Certificate(_)) => (
                Exit::Configuration,
                "Set sign_in.certificate_file to the PEM certificate that belongs to the client's private key.",
            ),
            Self::Start(SimulatorError::Generate(_) | SimulatorError::Tls(_)) => {
                (Exit::Software, "Remove key.pem, certificate.pem and ca.pem from the directory and start again.")
            }
            Self::Start(SimulatorError::Publisher(_)) => {
                (Exit::Configuration, "Check traffic.mix and traffic.entities, and the room left for the ledger.")
            }
        }
    }
}

/// `casewire tail`.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// `--after`.
    #[error("Salesforce refused the replay id {replay_id}: {message}")]
    Refused { replay_id: ReplayId, message: String },
    /// A panic.
    #[error("The subscription ended unexpectedly: {0}")]
    Ended(String),
}

impl TailError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Refused { .. } => {
                (Exit::Usage, "it is older than 72 h or not of this organisation; try --start earliest")
            }
            Self::Ended(_) => (Exit::Software, REPORT),
        }
    }
}

fn seconds(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
