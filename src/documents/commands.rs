//! A sample of each failure of commands, of `doctor`, of the admin port and of streams that stop.

use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use super::{at, text};
use crate::admin::AdminError;
use crate::admin::denial::Denial;
use crate::cli::error::{
    CheckpointError, CommandError, DeadLettersError, DemoError, DoctorError, HealthError, KeygenError, LeftLetter,
    ReconcileError, SimulateError, TailError,
};
use crate::cli::service_error::{ServiceError, SnapshotError};
use crate::doctor::fault::CheckError;
use crate::failure::{Exit, Failure};
use crate::identity::{ReplayId, TopicName};
use crate::pipeline::ledger::GapCause;
use crate::pipeline::stop::StreamError;
use crate::position::EventKey;
use crate::salesforce::rest::RestError;
use crate::simulator::SimulatorError;
use crate::status::{RefusedComparison, RefusedSnapshot};

/// A heading of the page, what stands below it, and the failures.
type Section = (&'static str, &'static str, Vec<Failure>);

fn topic() -> TopicName {
    "/data/CaseChangeEvent".parse().expect("a topic")
}

fn channel() -> TopicName {
    "/data/Support__chn".parse().expect("a topic")
}

fn file() -> PathBuf {
    PathBuf::from("FILE")
}

fn refused() -> Error {
    Error::from(ErrorKind::PermissionDenied)
}

fn address() -> std::net::SocketAddr {
    "127.0.0.1:8686".parse().expect("an address")
}

/// What any command may say.
pub fn any_command() -> Vec<Failure> {
    failures_of![
        CommandError::Runtime(_) => [CommandError::Runtime(Error::other("REASON"))],
        CommandError::LogFilter { .. } => [CommandError::LogFilter { filter: text("FILTER"), reason: text("REASON") }],
        CommandError::Faults { .. } => [CommandError::Faults { count: 2, lines: text("\n  - FAULT\n  - FAULT") }],
        CommandError::NoTopic(_) => [CommandError::NoTopic(text("TOPIC"))],
        CommandError::AdminPort(_) => [CommandError::AdminPort(text("REASON"))],
        CommandError::Manual { .. } => [CommandError::Manual { directory: PathBuf::from("DIR"), error: refused() }],
    ]
}

/// The commands, by name.
pub fn commands() -> Vec<Section> {
    vec![
        (
            "casewire snapshot",
            "Beside what [the admin port](#admin-port) and [streams](#streams-that-stop) say.",
            snapshot(),
        ),
        (
            "Asking the service",
            "`casewire snapshot`, and `casewire reconcile` for messages, beside what [the admin port](#admin-port) says.",
            service(),
        ),
        ("casewire checkpoint", "`set` and `reset`.", checkpoint()),
        (
            "casewire dead-letters",
            "The first four end the command; the others stand beside a letter that `redrive` leaves as it is.",
            letters(),
        ),
        ("casewire reconcile", "Beside [what keeps it from comparing](#comparison-with-the-org).", reconcile()),
        (
            "casewire tail",
            "Beside what the parts below say.",
            failures_of![
                TailError::Refused { .. } => [TailError::Refused { replay_id: "00000000001790560000".parse().expect("an id"), message: text("MESSAGE") }],
                TailError::Ended(_) => [TailError::Ended(text("REASON"))],
            ],
        ),
        ("casewire health", "The container's own check.", health()),
        (
            "casewire keygen",
            "`keygen` and `keygen show`; of `show` also what [doctor](#casewire-doctor) says of a certificate.",
            keygen(),
        ),
        (
            "casewire doctor",
            "What its checks say on their own account; everything else in it is what `run` would end with. The last two are its end. Its warnings say themselves what to do.",
            doctor(),
        ),
        ("casewire simulate and demo", "Nothing of it is about a real org.", simulated()),
    ]
}

fn service() -> Vec<Failure> {
    let (entity, address) = (text("Case"), text("http://HOST:8686"));
    failures_of![
        ServiceError::NoService(_) => [ServiceError::NoService(address.clone())],
        ServiceError::Nobody => [ServiceError::Nobody],
        ServiceError::NoToken(_) => [ServiceError::NoToken(address.clone())],
        ServiceError::NoAnswer { .. } => [ServiceError::NoAnswer { address, reason: text("REASON") }],
        // In the words of the service, which stand where they come from.
        ServiceError::Refused { .. } => [],
        ServiceError::NotNow { .. } => [],
        ServiceError::Forbidden { .. } => [],
        ServiceError::Beside { .. } => [ServiceError::Beside {
            host: text("HOST"), run_id: text("RUN"), topic: topic(), seconds: 30, objects: entity,
        }],
    ]
}

fn snapshot() -> Vec<Failure> {
    let entity = text("Case");
    let mut failures = failures_of![
        SnapshotError::Ended(_) => [SnapshotError::Ended(text("REASON"))],
        SnapshotError::Unread { .. } => [SnapshotError::Unread { records: 3, entity: entity.clone() }],
        SnapshotError::Lost(_) => [SnapshotError::Lost(entity)],
    ];
    failures.push(RefusedSnapshot::UnderWay(text("JOB")).failure("Case"));
    failures
}

fn checkpoint() -> Vec<Failure> {
    failures_of![
        CheckpointError::NoStream { .. } => [CheckpointError::NoStream { topic: topic(), known: text("TOPICS") }],
        CheckpointError::NobodyAsked => [CheckpointError::NobodyAsked],
        CheckpointError::NoEventBefore { .. } => [CheckpointError::NoEventBefore { topic: topic(), before: at() }],
    ]
}

fn letters() -> Vec<Failure> {
    let mut failures = failures_of![
        DeadLettersError::NoLetter { .. } => [DeadLettersError::NoLetter { id: text("ID"), topic: text("TOPIC") }],
        DeadLettersError::NotWritten { .. } => [DeadLettersError::NotWritten { file: file(), error: refused() }],
        DeadLettersError::Left { .. } => [DeadLettersError::Left { left: 2, all: 5 }],
        DeadLettersError::NoSchema(_) => [DeadLettersError::NoSchema(30)],
    ];
    failures.extend(failures_of![
        LeftLetter::OtherOrg { .. } => [LeftLetter::OtherOrg { of: text("ORG"), this: text("ORG") }],
        LeftLetter::NoStream(_) => [LeftLetter::NoStream(text("TOPIC"))],
        LeftLetter::WithheldEvent { .. } => [LeftLetter::WithheldEvent { replay_id: text("REPLAY-ID") }],
        LeftLetter::WithheldRecords(_) => [LeftLetter::WithheldRecords(text("Case"))],
        LeftLetter::WithheldObject => [LeftLetter::WithheldObject],
        LeftLetter::PlatformEvent(_) => [LeftLetter::PlatformEvent(text("REASON"))],
        LeftLetter::ChangeEvent { .. } => [LeftLetter::ChangeEvent { reason: text("REASON"), object: text("Case") }],
        LeftLetter::OnChannel(_) => [LeftLetter::OnChannel(text("REASON"))],
    ]);
    failures
}

fn reconcile() -> Vec<Failure> {
    let mut failures = failures_of![
        ReconcileError::NotCarried(_) => [ReconcileError::NotCarried(text("OBJECT"))],
        ReconcileError::Nothing => [ReconcileError::Nothing],
        ReconcileError::Differ(_) => [ReconcileError::Differ(text("2 missing"))],
        ReconcileError::Repaired(_) => [ReconcileError::Repaired(text("2 missing"))],
        ReconcileError::Unseen(_) => [ReconcileError::Unseen(text("2 unseen"))],
        ReconcileError::Interrupted => [ReconcileError::Interrupted],
        ReconcileError::MessagesInterrupted => [ReconcileError::MessagesInterrupted],
        ReconcileError::MessagesApart => [ReconcileError::MessagesApart],
        ReconcileError::MessagesDiffer(_) => [ReconcileError::MessagesDiffer(text("2 missing"))],
        ReconcileError::MessagesRepaired(_) => [ReconcileError::MessagesRepaired(text("2 missing"))],
        ReconcileError::MessagesGone(_) => [ReconcileError::MessagesGone(text("2 gone"))],
        ReconcileError::UnreadableConversations(_) => [ReconcileError::UnreadableConversations(3)],
        ReconcileError::Cancelled => [ReconcileError::Cancelled],
        ReconcileError::Lost => [ReconcileError::Lost],
        ReconcileError::NoOrg => [ReconcileError::NoOrg],
    ];
    failures.extend(failures_of![
        RefusedComparison::UnderWay(_) => [RefusedComparison::UnderWay(text("ID"))],
        RefusedComparison::NoneUnderWay => [RefusedComparison::NoneUnderWay],
        // In the words of the admin port.
        RefusedComparison::Failed(_) => [],
    ]);
    failures
}

fn health() -> Vec<Failure> {
    failures_of![
        HealthError::Silent { .. } => [HealthError::Silent { url: text("URL"), reason: text("REASON") }],
        HealthError::Not { .. } => [HealthError::Not {
            address: address(), wanted: "ready", status: text("503 Service Unavailable"), reasons: text("REASONS"),
        }],
    ]
}

fn keygen() -> Vec<Failure> {
    failures_of![
        KeygenError::Exists(_) => [KeygenError::Exists(file())],
        KeygenError::NotWritten { .. } => [KeygenError::NotWritten { path: file(), error: refused() }],
        KeygenError::NotMade(_) => [KeygenError::NotMade(text("REASON"))],
        KeygenError::Unreadable { .. } => [KeygenError::Unreadable { path: file(), error: Error::from(ErrorKind::NotFound) }],
        KeygenError::NoCertificate { .. } => [KeygenError::NoCertificate { path: file(), reason: text("REASON") }],
    ]
}

fn doctor() -> Vec<Failure> {
    let (subject, object) = (text("SUBJECT"), text("Case"));
    let error =
        RestError::Refused { status: 404, code: text("NOT_FOUND"), message: text("MESSAGE"), retry_after: None };
    let mut failures = failures_of![
        CheckError::NoAnswer { .. } => [CheckError::NoAnswer { who: "The instance", seconds: 10 }],
        CheckError::Certificate(_) => [CheckError::Certificate(text("REASON"))],
        CheckError::Expired { .. } => [CheckError::Expired { subject: subject.clone(), on: at() }],
        CheckError::NotYet { .. } => [CheckError::NotYet { subject: subject.clone(), before: at() }],
        CheckError::NoHttp2(_) => [CheckError::NoHttp2(text("URL"))],
        CheckError::NoDeliveriesLeft(_) => [CheckError::NoDeliveriesLeft(text("NUMBERS"))],
        CheckError::ApiVersion { .. } => [CheckError::ApiVersion {
            configured: text("VERSION"), oldest: text("VERSION"), newest: text("VERSION"),
        }],
        CheckError::NotPollable(_) => [CheckError::NotPollable(object.clone())],
        CheckError::Unreadable { .. } => [CheckError::Unreadable { object: object.clone(), error: error.clone() }],
        CheckError::Schema { .. } => [CheckError::Schema { id: text("ID"), reason: text("REASON") }],
        CheckError::Topic { .. } => [CheckError::Topic { what: text("WHAT"), remedy: text("as it says") }],
        CheckError::PositionLost { .. } => [CheckError::PositionLost { age: text("80 h 0 min"), who: text("WHO") }],
    ];
    failures.extend(failures_of![
        DoctorError::Failed { .. } => [DoctorError::Failed { summary: text("COUNTS"), exit: Exit::NoPermission }],
        DoctorError::Warnings(_) => [DoctorError::Warnings(text("COUNTS"))],
    ]);
    failures
}

fn simulated() -> Vec<Failure> {
    let start = SimulateError::Start;
    let mut failures = failures_of![
        SimulateError::Unreadable { .. } => [SimulateError::Unreadable { path: file(), error: Error::from(ErrorKind::NotFound) }],
        SimulateError::Configuration { .. } => [SimulateError::Configuration { path: file(), what: text("`KEY`: WHAT") }],
        SimulateError::Start(SimulatorError::Setting { .. }) => [start(SimulatorError::Setting {
            key: "KEY", value: text("VALUE"), allowed: "WHAT IS ALLOWED",
        })],
        SimulateError::Start(SimulatorError::Listen { .. }) => [start(SimulatorError::Listen {
            address: address(), error: Error::from(ErrorKind::AddrInUse),
        })],
        SimulateError::Start(SimulatorError::File { .. }) => [start(SimulatorError::File { path: file(), error: refused() })],
        SimulateError::Start(SimulatorError::Certificate(_)) => [start(SimulatorError::Certificate(text("REASON")))],
        // Both have one remedy, and no words of casewire's own.
        SimulateError::Start(SimulatorError::Generate(_) | SimulatorError::Tls(_)) => [
            start(SimulatorError::Tls(rustls::Error::General(text("REASON")))),
        ],
        SimulateError::Start(SimulatorError::Publisher(_)) => [start(SimulatorError::Publisher(text("REASON")))],
    ];
    failures.extend(failures_of![
        DemoError::AdminPort(_) => [DemoError::AdminPort(text("The admin port ADDRESS cannot be opened: REASON"))],
        DemoError::Simulator(_) => [DemoError::Simulator(SimulatorError::Publisher(text("REASON")))],
        DemoError::Configuration(_) => [DemoError::Configuration(text("REASON"))],
        DemoError::StandIn(_) => [DemoError::StandIn(text("REASON"))],
    ]);
    failures
}

/// What the admin port says no with.
pub fn admin_port() -> Vec<Failure> {
    let entity = text("Case");
    let mut failures = vec![AdminError { address: address(), error: Error::from(ErrorKind::AddrInUse) }.failure()];
    failures.extend(failures_of![
        Denial::ForeignName => [Denial::ForeignName],
        Denial::ForeignPage => [Denial::ForeignPage],
        Denial::NotJson => [Denial::NotJson],
        Denial::NoToken => [Denial::NoToken],
        Denial::WrongToken => [Denial::WrongToken],
        Denial::Full(_) => [Denial::Full(24)],
        Denial::PauseBody(_) => [Denial::PauseBody(text("REASON"))],
        Denial::NoStream { .. } => [Denial::NoStream { topic: text("TOPIC"), known: text("TOPICS") }],
        Denial::StandsBy(_) => [Denial::StandsBy(topic())],
        Denial::SnapshotBody(_) => [Denial::SnapshotBody(text("REASON"))],
        Denial::ComparisonBody(_) => [Denial::ComparisonBody(text("REASON"))],
        Denial::ComparedByCommand(_) => [Denial::ComparedByCommand(entity.clone())],
        Denial::NoMessages => [Denial::NoMessages],
        Denial::MessagesElsewhere(_) => [Denial::MessagesElsewhere(topic())],
        Denial::Paused(_) => [Denial::Paused(topic())],
        Denial::NotComparing { .. } => [Denial::NotComparing { topic: topic(), state: text("recovering") }],
        Denial::NoTurnToCompare { .. } => [Denial::NoTurnToCompare { topic: topic(), patience: std::time::Duration::from_secs(150) }],
        Denial::NothingToRead => [Denial::NothingToRead],
        Denial::NoWriter(_) => [Denial::NoWriter(entity.clone())],
        Denial::NotThere(_) => [Denial::NotThere(topic())],
        Denial::NotRunning { .. } => [Denial::NotRunning { topic: topic(), state: text("standby"), entity: entity.clone() }],
        Denial::BeganAgain(_) => [Denial::BeganAgain(topic())],
        Denial::NoTurn { .. } => [Denial::NoTurn { topic: topic(), patience: std::time::Duration::from_secs(150) }],
    ]);
    failures
}

/// Why streams stop, and what beside them cannot go on.
pub fn streams() -> Vec<Failure> {
    let (org, other) = ("00D8d00000AbCdEEAV".parse().expect("an org"), "00D8d00000AbCdFEAV".parse().expect("an org"));
    let (entity, name, reason) = (text("Case"), text("TOPIC"), text("REASON"));
    let replay_id: ReplayId = "00000000001790560000".parse().expect("an id");
    let event = EventKey::new(replay_id.clone(), "EVENT-ID", b"");
    failures_of![
        StreamError::LeftRetention { .. } => [StreamError::LeftRetention { topic: topic(), detail: text("DETAIL") }],
        StreamError::PositionRefused { .. } => [StreamError::PositionRefused {
            topic: topic(), replay_id, cause: GapCause::Refused, message: text("MESSAGE"),
        }],
        StreamError::OutputWithoutCheckpoint { .. } => [StreamError::OutputWithoutCheckpoint {
            topic: topic(), output: name.clone(), checkpoint_topic: name.clone(),
        }],
        StreamError::OtherOrg { .. } => [StreamError::OtherOrg { topic: topic(), org, other }],
        StreamError::CheckpointLost { .. } => [StreamError::CheckpointLost {
            topic: topic(), committed: 17, checkpoint_topic: name.clone(), held: text("it holds none now"), after: None,
        }],
        StreamError::TopicDeleted { .. } => [StreamError::TopicDeleted { name, command: text("COMMAND") }],
        // The words are those of the topic's check, which stand under Kafka.
        StreamError::TopicUnfit { .. } => [],
        StreamError::BrokerAway(_) => [StreamError::BrokerAway(reason.clone())],
        StreamError::Polled { .. } => [StreamError::Polled { topic: channel(), entity: text("CaseComment") }],
        StreamError::Claimed { .. } => [StreamError::Claimed { topic: channel(), entity: entity.clone(), owner: topic() }],
        StreamError::Undecodable { .. } => [StreamError::Undecodable { topic: topic(), event, reason: reason.clone() }],
        StreamError::Flood { .. } => [StreamError::Flood { many: text("20 events in a row"), reason: reason.clone() }],
        StreamError::EndTooLong(_) => [StreamError::EndTooLong(std::time::Duration::from_secs(30))],
        StreamError::StreamEnded(_) => [StreamError::StreamEnded(reason.clone())],
        StreamError::StationEnded(_) => [StreamError::StationEnded(reason.clone())],
        StreamError::BesideEnded { .. } => [StreamError::BesideEnded { what: "heals gaps", why: reason.clone() }],
        StreamError::ComparisonEnded(_) => [StreamError::ComparisonEnded(reason.clone())],
        StreamError::Properties(_) => [StreamError::Properties(reason)],
        StreamError::NoRoomToPoll(_) => [StreamError::NoRoomToPoll(entity.clone())],
        StreamError::NoRoomForSnapshot(_) => [StreamError::NoRoomForSnapshot(entity.clone())],
        StreamError::NoSnapshot { .. } => [StreamError::NoSnapshot { entity: entity.clone(), what: text("WHAT"), remedy: None }],
        StreamError::TooManyUnread { .. } => [StreamError::TooManyUnread { most: 5_000, entity }],
    ]
}
