//! The pages of `docs/` that are made of the code: `troubleshooting.md` of the tables of errors, `configuration.md` of the
//! commented example. Each is compared with what it has to be; `UPDATE_DOCS=1 cargo test --features failpoints --lib documents` writes them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tonic::{Code, Status};

use crate::change::{DecodeError, DecodeFault, SchemaError};
use crate::config::{ConfigError, Fault};
use crate::failure::{Exit, Failure};
use crate::kafka::{Finding, KafkaError, Severity, topic_samples, topic_that_went_back};
use crate::pipeline::policy_check::PolicyError;
use crate::pipeline::reconcile::Unable;
use crate::pipeline::{job_setbacks, message_setbacks, notices};
use crate::salesforce::bulk::BulkError;
use crate::salesforce::call_fault::CallFault;
use crate::salesforce::grant::InvalidKey;
use crate::salesforce::intake::Placeless;
use crate::salesforce::pubsub::InvalidChannel;
use crate::salesforce::reachability::Unreached;
use crate::salesforce::rest::RestError;
use crate::salesforce::session_error::SessionError;
use crate::salesforce::tls;
use crate::salesforce::verdict::CallError;
use crate::telemetry::{CollectorError, CollectorSetting};

/// The failures of an enum of errors. The patterns are a match without a wildcard: a new variant does not compile before a
/// sample of it stands here.
macro_rules! failures_of {
    ($($variant:pat => [$($sample:expr),* $(,)?]),* $(,)?) => {{
        let samples = vec![$($($sample,)*)*];
        for sample in &samples {
            match sample { $($variant => {}),* }
        }
        samples.iter().map(|error| error.failure()).collect::<Vec<Failure>>()
    }};
}

mod commands;

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).expect("a time")
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn sign_in() -> Vec<Failure> {
    const CODES: [(&str, &str); 30] = [
        ("invalid_grant", "user hasn't approved this consumer"),
        ("invalid_grant", "audience is invalid"),
        ("invalid_grant", "ip restricted"),
        ("invalid_grant", "inactive user"),
        ("invalid_grant", "invalid assertion"),
        ("invalid_grant", "authentication failure"),
        ("invalid_grant", "expired authorization code"),
        ("invalid_client_id", ""),
        ("invalid_client", ""),
        ("app_not_found", ""),
        ("invalid_app_access", ""),
        ("access_denied", ""),
        ("oauth_policy_not_found", ""),
        ("app_blocked", ""),
        ("installation_error", ""),
        ("invalid_distribution_state", ""),
        ("oauth_flow_disabled", ""),
        ("unsupported_grant_type", ""),
        ("invalid_scope", ""),
        ("invalid_assertion_type", ""),
        ("inactive_user", ""),
        ("login_error", ""),
        ("inactive_org", ""),
        ("invalid_session_level", ""),
        ("invalid_dpop_proof", ""),
        ("rate_limit_exceeded", ""),
        ("server_error", ""),
        ("invalid_request", ""),
        ("redirect_uri_mismatch", ""),
        ("another_code", ""),
    ];
    let authority = tls::authorities(Some("no certificate")).expect_err("it holds none");
    let answer = |status, reason: &str| SessionError::Answer { host: text("HOST"), status, reason: text(reason) };
    let mut failures = failures_of![
        SessionError::Key(InvalidKey::Encrypted) => [SessionError::Key(InvalidKey::Encrypted)],
        SessionError::Key(InvalidKey::NotRsa) => [SessionError::Key(InvalidKey::NotRsa)],
        SessionError::Key(InvalidKey::Certificate(_)) => [SessionError::Key(InvalidKey::Certificate(text("REASON")))],
        SessionError::Key(InvalidKey::Mismatch { .. }) => [SessionError::Key(InvalidKey::Mismatch { subject: text("SUBJECT") })],
        SessionError::Key(InvalidKey::NotValidNow { .. }) => [SessionError::Key(InvalidKey::NotValidNow {
            subject: text("SUBJECT"), from: text("DAY"), to: text("DAY"),
        })],
        SessionError::Authority(_) => [SessionError::Authority(authority.clone())],
        SessionError::Settings(_) => [SessionError::Settings(text("REASON"))],
        SessionError::Unreachable { .. } => [SessionError::Unreachable { host: text("HOST"), reason: text("REASON") }],
        SessionError::Answer { .. } => [answer(503, "REASON"), answer(404, "REASON")],
        SessionError::WrongOrg { .. } => [SessionError::WrongOrg {
            expected: "00D8d00000AbCdEEAV".parse().expect("an org"), actual: "00D8d00000AbCdFEAV".parse().expect("an org"),
        }],
        SessionError::Refused { .. } => [],
    ];
    failures.extend(CODES.iter().map(|(code, description)| {
        SessionError::Refused { code: text(code), description: text(description) }.failure()
    }));
    failures
}

fn pubsub() -> Vec<Failure> {
    const CODES: [(Code, &str); 20] = [
        (Code::NotFound, "topic.not.found"),
        (Code::PermissionDenied, "subscription.topic.cannot.subscribe"),
        (Code::Unauthenticated, "service.auth.error"),
        (Code::InvalidArgument, "service.auth.headers.invalid"),
        (Code::PermissionDenied, "service.tenant.license"),
        (Code::ResourceExhausted, "subscription.limit.exceeded"),
        (Code::ResourceExhausted, "concurrent.client.limit.exceeded"),
        (Code::ResourceExhausted, "service.protection.triggered"),
        (Code::Unavailable, "service.unavailable"),
        (Code::InvalidArgument, "fetch.replayid.validation.failed"),
        (Code::InvalidArgument, "schema.validation.failed"),
        (Code::Unimplemented, ""),
        (Code::NotFound, ""),
        (Code::FailedPrecondition, ""),
        (Code::OutOfRange, ""),
        (Code::InvalidArgument, ""),
        (Code::ResourceExhausted, ""),
        (Code::Unavailable, ""),
        (Code::Unauthenticated, ""),
        (Code::Unknown, ""),
    ];
    let status = |(code, error_code): &(Code, &'static str)| {
        let mut status = Status::new(*code, "MESSAGE");
        if !error_code.is_empty() {
            let name = format!("sfdc.platform.eventbus.grpc.{error_code}");
            status.metadata_mut().insert("error-code", name.parse().expect("a header"));
        }
        CallError::from(status).failure()
    };
    let topic = || "/data/CaseChangeEvent".parse().expect("a topic");
    let mut failures: Vec<Failure> = CODES.iter().map(status).collect();
    failures.extend(failures_of![
        CallFault::MayNotSubscribe(_) => [CallFault::MayNotSubscribe(topic())],
        // What follows is the stream's to decide, and stands there.
        CallFault::PositionRefused(_) => [],
        CallFault::Placeless { .. } => [CallFault::Placeless { topic: topic(), reason: Placeless::NoReplayId }],
        CallFault::Silence(_) => [CallFault::Silence(Duration::from_secs(300))],
        CallFault::Overrun(_) => [CallFault::Overrun(100)],
    ]);
    failures.extend(failures_of![
        InvalidChannel::Endpoint { .. } => [InvalidChannel::Endpoint { endpoint: text("ENDPOINT"), reason: text("REASON") }],
        // In the words of signing in.
        InvalidChannel::Authority(_) => [],
        InvalidChannel::Proxy(_) => [],
    ]);
    failures
}

fn network() -> Vec<Failure> {
    let (host, reason, issuer) = (text("HOST"), text("REASON"), text("ISSUER"));
    failures_of![
        Unreached::Settings(_) => [Unreached::Settings(reason.clone())],
        Unreached::Name { .. } => [Unreached::Name { host: host.clone(), reason: reason.clone() }],
        Unreached::Refused { .. } => [Unreached::Refused { host: host.clone(), address: ([192, 0, 2, 1], 443).into() }],
        Unreached::TimedOut { .. } => [Unreached::TimedOut {
            host: host.clone(), step: "to connect", patience: Duration::from_secs(5),
        }],
        Unreached::Network { .. } => [Unreached::Network { host: host.clone(), reason: reason.clone() }],
        Unreached::Proxy { .. } => [Unreached::Proxy { proxy: text("PROXY"), host: host.clone(), reason: reason.clone() }],
        Unreached::UnknownAuthority { .. } => [Unreached::UnknownAuthority { host: host.clone(), issuer: issuer.clone() }],
        Unreached::Certificate { .. } => [Unreached::Certificate { host: host.clone(), issuer, reason: reason.clone() }],
        Unreached::Handshake { .. } => [Unreached::Handshake { host, reason }],
    ]
}

fn rest() -> Vec<Failure> {
    let refused = |status, code: &str| RestError::Refused {
        status,
        code: text(code),
        message: text("MESSAGE"),
        retry_after: None,
    };
    failures_of![
        RestError::Session(_) => [],
        RestError::Path(_) => [RestError::Path(text("PATH"))],
        RestError::Unreachable(_) => [RestError::Unreachable(text("REASON"))],
        RestError::Page(_) => [RestError::Page(200)],
        RestError::TooLong(_) => [RestError::TooLong(67_108_864)],
        RestError::Unexpected(_) => [RestError::Unexpected(text("REASON"))],
        RestError::Paused(_) => [RestError::Paused(at())],
        RestError::Refused { .. } => [
            refused(403, "REQUEST_LIMIT_EXCEEDED"), refused(403, "API_DISABLED_FOR_ORG"), refused(400, "INVALID_TYPE"),
            refused(400, "INVALID_FIELD"), refused(401, "INVALID_SESSION_ID"), refused(403, "INSUFFICIENT_ACCESS"),
            refused(404, "NOT_FOUND"), refused(503, "SERVER_UNAVAILABLE"), refused(400, "ANOTHER_CODE"),
        ],
    ]
}

fn bulk() -> Vec<Failure> {
    failures_of![
        BulkError::Rest(_) => [],
        BulkError::NotForBulk(_) => [BulkError::NotForBulk(text("REASON"))],
        BulkError::UsedUp(_) => [BulkError::UsedUp(text("REASON"))],
        BulkError::Failed(_) => [BulkError::Failed(text("REASON"))],
        BulkError::Gone(_) => [BulkError::Gone(text("REASON"))],
        BulkError::NotWhole(_) => [BulkError::NotWhole(text("REASON"))],
    ]
}

fn kafka() -> Vec<Failure> {
    let (call, reason, topic) = ("CALL", text("REASON"), text("TOPIC"));
    failures_of![
        KafkaError::Fenced => [KafkaError::Fenced],
        KafkaError::TooLarge { .. } => [KafkaError::TooLarge { index: 0, topic: topic.clone(), size: 2_000_000, limit: 1_000_000 }],
        KafkaError::Unavailable { .. } => [KafkaError::Unavailable { call, reason: reason.clone() }],
        KafkaError::NotEnoughReplicas { .. } => [KafkaError::NotEnoughReplicas {
            topic: topic.clone(), partition: 0, in_sync: 1, replicas: 3, needed: 2,
        }],
        KafkaError::Rebuild { .. } => [KafkaError::Rebuild { call, reason: reason.clone() }],
        KafkaError::Unauthorized { .. } => [KafkaError::Unauthorized { call, reason: reason.clone() }],
        KafkaError::Credentials { .. } => [KafkaError::Credentials { reason: reason.clone() }],
        KafkaError::Untrusted { .. } => [KafkaError::Untrusted { reason: reason.clone() }],
        KafkaError::TopicMissing { .. } => [KafkaError::TopicMissing { topic: topic.clone(), command: text("COMMAND") }],
        KafkaError::Topic { .. } => [
            KafkaError::not_created("TOPIC", (6, 3), "REASON", "COMMAND"), KafkaError::small_batches("TOPIC", 100_000, 500_000),
            KafkaError::large_checkpoint("TOPIC", 2_000_000), topic_that_went_back(),
        ],
        KafkaError::Stalled { .. } => [KafkaError::Stalled { call, after: Duration::from_secs(90) }],
        KafkaError::CheckpointInvalid { .. } => [KafkaError::CheckpointInvalid { what: text("WHAT") }],
        KafkaError::Configuration { .. } => [KafkaError::Configuration { what: text("WHAT") }],
        KafkaError::Misuse { .. } => [KafkaError::Misuse { call, reason: reason.clone() }],
    ]
}

/// What is told of streams that go on, as rows.
fn told() -> Vec<(String, String, String)> {
    notices().into_iter().map(|(what, remedy)| (what, remedy, text("–"))).collect()
}

/// What `run` and `doctor` find of topics that are there. A warning ends nothing.
fn topics() -> Vec<(String, String, String)> {
    let row = |finding: Finding| {
        let exit =
            if finding.severity == Severity::Refusal { (Exit::Configuration as u8).to_string() } else { text("–") };
        (finding.what, finding.remedy, exit)
    };
    topic_samples().into_iter().map(row).collect()
}

fn policies() -> Vec<Failure> {
    let entity = text("Case");
    failures_of![
        PolicyError::UnknownFields { .. } => [PolicyError::UnknownFields {
            entity: entity.clone(), fields: vec![text("description (it is Description)")],
        }],
        PolicyError::UnknownEntity { .. } => [PolicyError::UnknownEntity { entity: text("case") }],
        PolicyError::Component { .. } => [PolicyError::Component {
            entity: entity.clone(), field: text("FIELD"), compound: text("COMPOUND"),
        }],
        PolicyError::Unanswered { .. } => [PolicyError::Unanswered {
            entity: entity.clone(), error: RestError::Unreachable(text("REASON")),
        }],
    ]
}

fn comparison() -> Vec<Failure> {
    let topic = || "/data/CaseChangeEvent".parse().expect("a topic");
    failures_of![
        Unable::Rest(_) => [],
        Unable::Bulk(_) => [],
        Unable::Kafka(_) => [],
        Unable::NoPosition(_) => [Unable::NoPosition(topic())],
        Unable::Behind { .. } => [Unable::Behind { topic: topic(), position: at() }],
        Unable::Share { .. } => [Unable::Share { used: 80 }],
        Unable::LostAccess { .. } => [Unable::LostAccess { entity: text("Case"), absent: 900, held: 1_000 }],
    ]
}

fn events() -> Vec<Failure> {
    let mut failures = failures_of![
        SchemaError::Invalid(_) => [SchemaError::Invalid(text("REASON"))],
        SchemaError::NotARecord => [SchemaError::NotARecord],
        SchemaError::Header { .. } => [SchemaError::Header { schema: text("SCHEMA"), reason: text("REASON") }],
        SchemaError::Unsupported(_) => [SchemaError::Unsupported(text("TYPE"))],
    ];
    failures.push(DecodeError { fault: DecodeFault::EndOfPayload, field: Some(text("FIELD")), offset: 17 }.failure());
    failures
}

fn traces() -> Vec<Failure> {
    let endpoint = || text("ENDPOINT");
    let refused = |code| CollectorError::Refused { endpoint: endpoint(), code, reason: text("REASON") };
    let unusable = |setting| CollectorError::Unusable { endpoint: endpoint(), reason: text("REASON"), setting };
    failures_of![
        CollectorError::Unreachable { .. } => [CollectorError::Unreachable { endpoint: endpoint(), reason: text("REASON") }],
        CollectorError::TimedOut { .. } => [CollectorError::TimedOut { endpoint: endpoint(), after: Duration::from_secs(10) }],
        CollectorError::Refused { .. } => [
            refused(Code::Unauthenticated), refused(Code::Unimplemented), refused(Code::ResourceExhausted), refused(Code::Internal),
        ],
        CollectorError::Rejected { .. } => [CollectorError::Rejected { endpoint: endpoint(), spans: 7, reason: text("REASON") }],
        CollectorError::Slow { .. } => [CollectorError::Slow { endpoint: endpoint() }],
        CollectorError::Unusable { .. } => [
            unusable(CollectorSetting::Endpoint), unusable(CollectorSetting::Authority), unusable(CollectorSetting::Proxy),
            unusable(CollectorSetting::Header),
        ],
    ]
}

fn configuration() -> Vec<Failure> {
    let errors = [
        ConfigError::Unreadable { path: text("FILE"), error: std::io::Error::from(std::io::ErrorKind::NotFound) },
        ConfigError::Faults(vec![Fault { path: text("stream[0].start"), problem: text("is missing: …") }]),
    ];
    errors.into_iter().map(Failure::from).collect()
}

/// A text as a cell of a table has it.
fn cell(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

fn troubleshooting() -> String {
    let sections = vec![
        ("Configuration", "Before anything is called.", configuration()),
        ("Any command", "On their own account; what they pass on stands below.", commands::any_command()),
        (
            "Admin port",
            "What it answers as `reason` and `remedy`; `casewire snapshot` says the same.",
            commands::admin_port(),
        ),
        ("The way to a host", "In `doctor`, for the login host and the Pub/Sub API.", network()),
        ("Signing in", "The text of Salesforce in parentheses: `error`, then `error_description`.", sign_in()),
        ("Field policies", "At the start of `run` and `tail`, and in `doctor`.", policies()),
        ("Pub/Sub API", "MESSAGE is Salesforce's own; the log has the `rpc_id` for Salesforce Support.", pubsub()),
        ("REST API", "Completion, healing, snapshots, comparison, messages.", rest()),
        ("Bulk API", "Snapshots and large objects.", bulk()),
        (
            "Kafka",
            "REASON is librdkafka's or the broker's. What is found of a topic that is there stands at the end; without an exit code it is a warning.",
            kafka(),
        ),
        ("Events", "Such an event becomes a [dead letter](operating.md#dead-letters), or stops the stream.", events()),
        ("Jobs that wait", "Shown with the job in `/status`; its gap stays open.", job_setbacks()),
        ("Messages that wait", "Shown with the stream in `/status`; nothing is lost meanwhile.", message_setbacks()),
        ("Comparison with the org", "`casewire reconcile`, by hand or on a schedule.", comparison()),
        (
            "Streams that stop",
            "In `/status` as `what` of a stream that is `stopped`, or with the job or the request that cannot go on.",
            commands::streams(),
        ),
        (
            "Streams that go on",
            "In `/status` as `last_error`, the last one under `reconcile.silence`; nothing has stopped.",
            Vec::new(),
        ),
        (
            "Traces",
            "In the log, and under `telemetry` in `/status`. Only traces are concerned; nothing ends by it.",
            traces(),
        ),
    ];
    let sections: Vec<_> = sections.into_iter().chain(commands::commands()).collect();
    let mut page = text(
        "# Troubleshooting\n\n\
         <!-- Made of the tables of errors in src/. UPDATE_DOCS=1 cargo test --features failpoints --lib documents writes it anew. -->\n\n\
         Every error of casewire, with what to do: first those of its parts, then those of single commands. casewire says the same with each: on stderr, in the log (`error`, `remedy`), in `/status` (`last_error`) and in `casewire doctor`. Words in\n\
         capital letters stand for what differs. The number is the [exit code](operating.md#exit-codes) if the process ends by it.\n\n\
         Begin with `casewire doctor --config casewire.toml`: it makes all checks in order, and the first that fails is the one to mend. What is wrong with a command line (64) is said with its `--help`. Set-up, step by step: [salesforce-setup.md](salesforce-setup.md). States, gaps and dead letters: [operating.md](operating.md).\n\n",
    );
    for (name, ..) in &sections {
        let _ = writeln!(page, "- [{name}](#{})", name.to_lowercase().replace(' ', "-").replace('/', ""));
    }
    for (name, intro, mut failures) in sections {
        let mut seen = std::collections::HashSet::new();
        failures.retain(|failure| seen.insert((failure.what.clone(), failure.remedy.clone())));
        let _ = writeln!(page, "\n## {name}\n\n{intro}\n\n| it says | what to do | exit |\n|---|---|---|");
        let mut rows: Vec<_> =
            failures.into_iter().map(|one| (one.what, one.remedy, (one.exit as u8).to_string())).collect();
        match name {
            "Kafka" => rows.extend(topics()),
            "Streams that go on" => rows.extend(told()),
            _ => {}
        }
        for (what, remedy, exit) in rows {
            let remedy = if remedy.is_empty() { text("nothing: it goes on by itself") } else { remedy };
            let _ = writeln!(page, "| {} | {} | {exit} |", cell(&what), cell(&remedy));
        }
    }
    page
}

/// One key of the example, or the head of a section.
enum Line {
    Section(String),
    Key { key: String, value: String, set: bool },
    Comment(String),
}

/// What a line of the example is. A commented line is a key where it could be one: `# key = value`.
fn line_of(line: &str) -> Option<Line> {
    let (bare, set) = match line.strip_prefix("# ") {
        Some(rest) => (rest, false),
        None => (line, true),
    };
    if bare.starts_with('[') && bare.ends_with(']') {
        return Some(Line::Section(bare.to_owned()));
    }
    if let Some((key, value)) = bare.split_once(" = ") {
        let name = key.trim_matches('"');
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte)) {
            return Some(Line::Key { key: name.to_owned(), value: value.trim().to_owned(), set });
        }
    }
    match line {
        "" => None,
        "#" => Some(Line::Comment(String::new())),
        comment => Some(Line::Comment(comment.trim_start_matches('#').trim().to_owned())),
    }
}

fn configuration_page(example: &str) -> String {
    let mut page = text(
        "# Configuration\n\n\
         <!-- Made of config/casewire.toml. UPDATE_DOCS=1 cargo test --features failpoints --lib documents writes it anew. -->\n\n\
         Every key, in the order of [config/casewire.toml](../config/casewire.toml), which is the same as a file to begin with. \"Default\" is what holds without the key; a value in italics is an example, because there is no default.\n\n\
         - Each key can be overridden by a variable: `CASEWIRE__SECTION__KEY`, such as `CASEWIRE__KAFKA__BROKERS` or `CASEWIRE__STREAM__0__START`; under `kafka.properties` an underscore stands for a point.\n\
         - A secret can be given inline, by a variable, or as a file (`private_key_file`, `client_secret_file`, `policy_key_file`, `token_file`, `\"sasl.password_file\"`). None is ever shown.\n\
         - Durations: `\"250ms\"`, `\"30s\"`, `\"5min\"`, `\"2h\"`. Unknown keys are errors, and all faults are reported at once.\n\n\
         ```console\n\
         $ casewire config check --config casewire.toml    # every value; connects to nobody\n\
         $ casewire config print --config casewire.toml    # what is in effect, and who set it; no secrets\n\
         ```\n",
    );
    let (mut comment, mut table) = (Vec::new(), false);
    let body = example.split_once("\n\n").map_or(example, |(_, body)| body);
    page.push_str("\n## At the top of the file\n\n");
    for line in body.lines() {
        match line_of(line) {
            None => comment.clear(),
            Some(Line::Comment(words)) => comment.push(words),
            Some(Line::Section(name)) => {
                let _ = write!(page, "\n## {name}\n\n");
                let intro = std::mem::take(&mut comment).join(" ");
                if !intro.is_empty() {
                    let _ = write!(page, "{}\n\n", cell_text(&intro));
                }
                table = false;
            }
            Some(Line::Key { key, value, set }) => {
                if !table {
                    page.push_str("| key | default | is |\n|---|---|---|\n");
                    table = true;
                }
                // What is set in the example has to be, or is a choice; what is commented out is mostly the default.
                let example = set || NO_DEFAULT.contains(&key.as_str()) || key.contains('.');
                let value = value.split(" #").next().unwrap_or_default().trim().replace('|', "\\|");
                let shown = if example { format!("*`{value}`*") } else { format!("`{value}`") };
                let _ =
                    writeln!(page, "| `{key}` | {shown} | {} |", cell_text(&std::mem::take(&mut comment).join(" ")));
            }
        }
    }
    page
}

/// Commented out in the example, and without a default all the same.
const NO_DEFAULT: [&str; 15] = [
    "policy_key_file",
    "certificate_file",
    "login_url",
    "client_secret_file",
    "org_id",
    "ca_file",
    "fields",
    "exclude_fields",
    "entity",
    "drop",
    "hash",
    "mask",
    "token_file",
    "otlp_endpoint",
    "authorization_file",
];

/// Prose of the example as a cell has it: what it names in backticks or with brackets stays as it is.
fn cell_text(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace("[[", "\\[\\[").replace('*', "\\*")
}

/// Compares a page with what it has to be, or writes it.
fn held(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "docs/{name} is not what the code says, from line {} on: UPDATE_DOCS=1 cargo test --features failpoints --lib documents writes it",
        differs.unwrap_or_else(|| found.lines().count().min(expected.lines().count())) + 1
    );
}

#[test]
fn the_page_of_errors_says_what_the_program_says() {
    held("troubleshooting.md", &troubleshooting());
}

#[test]
fn the_page_of_keys_says_what_the_example_says() {
    let example = include_str!("../config/casewire.toml");
    let page = configuration_page(example);
    // The example names every key, which its own test holds; so does the page.
    let keys = example.lines().filter_map(|line| match line_of(line) {
        Some(Line::Key { key, .. }) => Some(key),
        _ => None,
    });
    for key in keys {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
    held("configuration.md", &page);
}
