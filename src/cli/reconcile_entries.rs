//! `casewire reconcile --entity ConversationEntry`: messages compared with the org, by the service that fetches them, and what is
//! printed of that.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::admin::{WantedComparison, ask_to_compare, no_messages};
use crate::cli::checkpoint_show::{reachable_kafka, time_text};
use crate::cli::error::ReconcileError;
use crate::cli::reconcile::ReconcileArguments;
use crate::cli::service::Service;
use crate::cli::service_error::ServiceError;
use crate::cli::snapshot::{LOOK, refuse_beside_another, run_until, running};
use crate::cli::{say, table};
use crate::config::{CONVERSATION_ENTRY, Config};
use crate::failure::Failure;
use crate::identity::{OrgId, TopicName};
use crate::kafka::StreamIdentity;
use crate::pipeline::messages::{EntryDifference, EntryFinding, findings_of};
use crate::pipeline::process::Process;
use crate::status::{Board, RefusedComparison};

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(10);

/// So often in a row it may not be shown before it is not waited for any more: a service that begins again shows nothing for a while.
const PATIENCE: u32 = 1_200;

/// What a comparison came to, and whose messages they were.
struct Compared {
    /// `messages.comparison` of `/status`.
    status: Value,
    org: OrgId,
}

/// Has the messages compared, by the service or as one, and prints what was found.
///
/// # Errors
/// [`ReconcileError::MessagesDiffer`] and its like when the two sides differ; others when they cannot be compared.
pub async fn run(arguments: &ReconcileArguments, config: Config, stop: CancellationToken) -> Result<(), Failure> {
    let stream = config.streams.iter().find(|stream| stream.messages).ok_or_else(no_messages)?;
    let topic = stream.topic.clone();
    let kafka = reachable_kafka(&config).await?;
    let history = TimeDelta::from_std(config.messages.history).unwrap_or(TimeDelta::days(7));
    let since = Utc::now().checked_sub_signed(arguments.since.unwrap_or(history)).filter(|_| !arguments.full);
    let (entity, cancel) = (CONVERSATION_ENTRY.to_owned(), arguments.cancel);
    let wanted = WantedComparison { entity, since: since.filter(|_| !cancel), repair: arguments.repair, cancel };
    let topics = [topic.to_string()];
    let compared = match Service::find(arguments.service.as_deref(), &config, &topics).await? {
        Some(service) if cancel => {
            let answer = ask(&service, &config, &wanted).await?;
            say(format_args!("{} is cancelled", answer.id));
            return Ok(());
        }
        None if cancel => return Err(ServiceError::Nobody.into()),
        Some(service) => ask_and_watch(service, &config, &topic, &wanted, stop).await?,
        None => {
            if !arguments.take_over {
                let objects = [(CONVERSATION_ENTRY.to_owned(), topic.clone())];
                refuse_beside_another(&config, &objects).await?;
            }
            note("no service runs here: this command carries the streams until the messages are compared");
            let process = Process::new(config)?;
            let board = process.board().clone();
            run_until(process, watch(&board, &topic, &wanted), stop).await?
        }
    };
    let Compared { status, org } = compared.ok_or(ReconcileError::MessagesInterrupted)?;
    let identity = StreamIdentity { prefix: kafka.topic_prefix.clone(), org, topic };
    let id = status.get("id").and_then(Value::as_str).unwrap_or_default();
    let findings = findings_of(&kafka, &identity, id).await.map_err(|error| error.failure())?;
    let report = Report { topic: identity.topic, status, findings };
    if arguments.json {
        say(format_args!("{:#}", report.as_json()));
    } else {
        for line in report.as_text(arguments.show) {
            say(line);
        }
    }
    report.verdict()
}

/// What is said beside the report.
fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What the service answers.
struct Answer {
    /// The name of the comparison.
    id: String,
    /// Whether it had begun before.
    known: bool,
}

/// Asks the service. One that is under way already is an answer, but to whoever wants to end it.
async fn ask(service: &Service, config: &Config, wanted: &WantedComparison) -> Result<Answer, Failure> {
    let (code, answer) = service.ask(config, "/comparisons", wanted).await?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (id, known) = (text("comparison"), code.as_u16() == 409);
    if code.is_success() || (known && !id.is_empty()) {
        return Ok(Answer { id, known });
    }
    Err(ServiceError::refused(code, text("reason"), text("remedy")).into())
}

async fn ask_and_watch(
    mut service: Service,
    config: &Config,
    topic: &TopicName,
    wanted: &WantedComparison,
    stop: CancellationToken,
) -> Result<Option<Compared>, Failure> {
    let Answer { id, known } = ask(&service, config, wanted).await?;
    let topics = [topic.to_string()];
    let mut progress = Progress::new(id, known);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK) => {}
        }
        let status = service.follow(&topics).await;
        if let Some(compared) = progress.show(status.as_ref(), topic)? {
            return Ok(Some(compared));
        }
    }
}

/// Asks the stream of this process, and returns when the comparison has ended.
async fn watch(board: &Board, topic: &TopicName, wanted: &WantedComparison) -> Result<Compared, Failure> {
    running(board, topic).await;
    let (id, known) = match ask_to_compare(board, topic, wanted).await {
        Ok(opened) => (opened.id, false),
        // Of an earlier run that was ended in the middle; this one goes on with it.
        Err(RefusedComparison::UnderWay(id)) => (id, true),
        Err(refused) => return Err(refused.failure()),
    };
    let mut progress = Progress::new(id, known);
    loop {
        if let Some(compared) = progress.show(Some(&json!({ "process": board.snapshot() })), topic)? {
            return Ok(compared);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far it is: a bar on a terminal, lines elsewhere, both beside the report.
struct Progress {
    id: String,
    bar: ProgressBar,
    terminal: bool,
    said: Instant,
    told: bool,
    unseen: u32,
}

impl Progress {
    /// Of the comparison `id`, which had begun before it was asked for if it is `known`.
    fn new(id: String, known: bool) -> Self {
        if known {
            note("going on with the comparison that is under way; what is asked for now is not asked again");
        }
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} conversations {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(CONVERSATION_ENTRY);
        Self { id, bar, terminal, said: Instant::now(), told: false, unseen: 0 }
    }

    /// Shows what `/status` says, if anybody does; what it came to when it has ended.
    ///
    /// # Errors
    /// When nobody knows how it ended, or who would know has been gone for long.
    fn show(&mut self, status: Option<&Value>, topic: &TopicName) -> Result<Option<Compared>, Failure> {
        let status = status.unwrap_or(&Value::Null);
        let streams = status.pointer("/process/streams").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let stream = streams.iter().find(|stream| stream.get("topic").and_then(Value::as_str) == Some(topic.as_str()));
        let messages = stream.and_then(|stream| stream.get("messages")).unwrap_or(&Value::Null);
        let comparison = messages.get("comparison").filter(|comparison| comparison.is_object());
        let Some(comparison) = comparison.filter(|one| one.get("id").and_then(Value::as_str) == Some(self.id.as_str()))
        else {
            self.unseen += 1;
            if self.unseen < PATIENCE && comparison.is_none() {
                return Ok(None);
            }
            return Err(ReconcileError::Lost.into());
        };
        self.unseen = 0;
        let number = |name: &str| comparison.get(name).and_then(Value::as_u64);
        let done = number("conversations_done").unwrap_or_default();
        if let Some(all) = number("conversations") {
            let pace = number("conversations_per_hour").unwrap_or_default();
            let left = Duration::from_secs(number("seconds_left").unwrap_or_default());
            if !std::mem::replace(&mut self.told, true) {
                note(format_args!(
                    "{CONVERSATION_ENTRY}: {all} conversations to look at, {done} of them done, at most {pace} an hour when nothing else is to be fetched: {} or more",
                    humantime::format_duration(left)
                ));
            }
            let waits = [comparison, messages].into_iter().find_map(|one| one.get("waits_for")?.as_str());
            let waits = waits.map(|waits| format!("; waits: {waits}")).unwrap_or_default();
            let calls = number("calls").unwrap_or_default();
            let message = format!("{calls} calls, {} left{waits}", humantime::format_duration(left));
            self.bar.set_length(all);
            self.bar.set_position(done);
            self.bar.set_message(message.clone());
            if !self.terminal && self.said.elapsed() >= LINES {
                self.said = Instant::now();
                note(format_args!("{CONVERSATION_ENTRY}: {done} of {all} conversations, {message}"));
            }
        }
        if comparison.get("ended_at").is_none_or(Value::is_null) {
            return Ok(None);
        }
        self.bar.finish_and_clear();
        let org = status.pointer("/process/org").and_then(Value::as_str).unwrap_or_default();
        let org = org.parse().map_err(|_| ReconcileError::NoOrg)?;
        Ok(Some(Compared { status: comparison.clone(), org }))
    }
}

/// What was found.
struct Report {
    topic: TopicName,
    status: Value,
    findings: Vec<EntryFinding>,
}

impl Report {
    fn number(&self, name: &str) -> u64 {
        self.status.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    fn count(&self, kind: EntryDifference) -> u64 {
        self.status.get("findings").and_then(|all| all.get(kind.name())?.as_u64()).unwrap_or_default()
    }

    fn all(&self) -> u64 {
        EntryDifference::ALL.into_iter().map(|kind| self.count(kind)).sum()
    }

    fn repairs(&self) -> bool {
        self.status.get("repair").and_then(Value::as_bool).unwrap_or_default()
    }

    fn is_cancelled(&self) -> bool {
        self.status.get("cancelled").and_then(Value::as_bool).unwrap_or_default()
    }

    /// In the form of the other objects.
    fn as_json(&self) -> Value {
        let counts: serde_json::Map<String, Value> =
            EntryDifference::ALL.into_iter().map(|kind| (kind.name().to_owned(), json!(self.count(kind)))).collect();
        let unreadable = self.number("conversations_unreadable");
        let entity = json!({
            "entity": CONVERSATION_ENTRY,
            "cancelled": self.is_cancelled(),
            "full": self.status.get("since").is_none_or(Value::is_null),
            "from": self.status.get("since"),
            "judged": self.number("judged"),
            "young": self.number("young"),
            "settled": self.number("settled"),
            "conversations": self.number("conversations_done"),
            "under_way": self.number("conversations_under_way"),
            "unreadable": unreadable,
            "calls": self.number("calls"),
            "counts": counts,
            "findings": self.findings,
        });
        let repair = json!({ "written": self.number("entries_written"), "ordered": self.number("entries_ordered") });
        let stream = json!({
            "topic": self.topic, "entities": [entity], "unable": [],
            "repair": if self.repairs() { repair } else { Value::Null },
        });
        let agree = self.all() == 0 && unreadable == 0 && !self.is_cancelled();
        json!({ "agree": agree, "findings": self.all(), "streams": [stream] })
    }

    /// For a terminal; at most `show` findings.
    fn as_text(&self, show: usize) -> Vec<String> {
        let outcome = match self.all() {
            0 => "agree".to_owned(),
            1 => "1 differs".to_owned(),
            count => format!("{count} differ"),
        };
        let since =
            self.status.get("since").and_then(Value::as_str).and_then(|since| since.parse::<DateTime<Utc>>().ok());
        let since = since.map(|since| format!(" since {}", time_text(since))).unwrap_or_default();
        let mut lines = vec![format!(
            "{CONVERSATION_ENTRY}: {outcome}, of {} entries in {} conversations{since}; {} are younger and were not judged",
            self.number("judged"),
            self.number("conversations_done"),
            self.number("young")
        )];
        if self.is_cancelled() {
            lines.push("cancelled before it was done: of the other conversations nothing is said".to_owned());
        }
        for (name, what) in [
            ("conversations_under_way", "conversations were left to the fetch that is to come anyway"),
            ("conversations_unreadable", "conversations cannot be read, and nothing is said of them"),
        ] {
            let count = self.number(name);
            lines.extend((count > 0).then(|| format!("{count} {what}")));
        }
        lines.extend(self.findings_as_text(show));
        if self.count(EntryDifference::Gone) > 0 {
            lines.push("gone: deleted in the org, or only not shown any more, which no answer tells; nothing is written for it".to_owned());
        }
        if self.repairs() {
            lines.push(format!(
                "{} entries written, {} left to fetches that were ordered with it",
                self.number("entries_written"),
                self.number("entries_ordered")
            ));
        }
        lines
    }

    fn findings_as_text(&self, show: usize) -> Vec<String> {
        if self.all() == 0 {
            return Vec::new();
        }
        let mut sorted: Vec<&EntryFinding> = self.findings.iter().collect();
        sorted.sort_by_key(|finding| finding.finding);
        let row = |finding: &&EntryFinding| {
            let said = finding.server_time.map_or_else(|| "-".to_owned(), time_text);
            [finding.finding.name().to_owned(), finding.conversation.clone(), finding.id.clone(), said]
        };
        let rows: Vec<[String; 4]> = sorted.iter().take(show).map(row).collect();
        let mut lines = table::lines(["finding", "conversation", "id", "said"], &rows);
        let (more, shown) = (sorted.len().saturating_sub(rows.len()), u64::try_from(sorted.len()).unwrap_or(u64::MAX));
        if more > 0 {
            lines.push(format!("and {more} more; --json has all"));
        }
        let unkept = self.all().saturating_sub(shown);
        if unkept > 0 {
            lines.push(format!("and {unkept} that are only counted"));
        }
        for kind in EntryDifference::ALL {
            let count = self.count(kind);
            lines.extend((count > 0).then(|| format!("{count:>6}  {}", kind.name())));
        }
        lines
    }

    /// How the command ends.
    fn verdict(&self) -> Result<(), Failure> {
        let told =
            EntryDifference::ALL.into_iter().map(|kind| (self.count(kind), kind)).filter(|(count, _)| *count > 0);
        let told: Vec<String> = told.map(|(count, kind)| format!("{count} {}", kind.name())).collect();
        let unreadable = self.number("conversations_unreadable");
        if told.is_empty() {
            if self.is_cancelled() {
                return Err(ReconcileError::Cancelled.into());
            }
            return match unreadable {
                0 => Ok(()),
                some => Err(ReconcileError::UnreadableConversations(some).into()),
            };
        }
        let told = told.join(", ");
        let mendable = self.all() > self.count(EntryDifference::Gone);
        Err(match (mendable, self.repairs()) {
            (false, _) => ReconcileError::MessagesGone(told),
            (true, false) => ReconcileError::MessagesDiffer(told),
            (true, true) => ReconcileError::MessagesRepaired(told),
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn report(found: [u64; 3], repair: bool) -> Report {
        let finding = |(number, finding)| EntryFinding {
            finding,
            conversation: "c".to_owned(),
            id: format!("e{number}"),
            server_time: DateTime::from_timestamp(1_790_000_000, 0),
        };
        let kinds = EntryDifference::ALL.into_iter().zip(found);
        let all = kinds.flat_map(|(kind, count)| (0..count).map(move |_| kind));
        let findings = json!({"missing": found[0], "changed": found[1], "gone": found[2]});
        let status = json!({
            "id": "comparison-1", "since": "2026-11-16T10:00:00Z", "repair": repair, "conversations_done": 3, "conversations": 3,
            "judged": 12, "young": 1, "findings": findings, "entries_written": 1, "ended_at": "2026-11-23T10:00:00Z",
        });
        let topic = "/data/MessagingSessionChangeEvent".parse().expect("a topic");
        Report { topic, status, findings: all.enumerate().map(finding).collect() }
    }

    #[test]
    fn findings_are_shown_up_to_a_number_and_counted_by_kind() {
        let found = report([2, 1, 1], false);
        let lines = found.as_text(3);
        let head = "ConversationEntry: 4 differ, of 12 entries in 3 conversations since 2026-11-16T10:00:00Z; 1 are younger and were not judged";
        assert_eq!(lines[0], head);
        assert!(lines[2].starts_with("missing") && lines[4].starts_with("changed"), "{lines:?}");
        assert_eq!(lines[5..9], ["and 1 more; --json has all", "     2  missing", "     1  changed", "     1  gone"]);
        let failure = found.verdict().expect_err("they differ");
        let said = (failure.exit, failure.what.as_str());
        assert_eq!(said, (Exit::Findings, "Kafka and the org differ on messages: 2 missing, 1 changed, 1 gone"));
        assert!(
            failure.remedy.contains("--repair")
                && !report([1, 0, 0], true).verdict().expect_err("so").remedy.contains("--repair")
        );
        assert!(report([0, 0, 1], true).verdict().expect_err("so").remedy.contains("look in the org"));
        let mut cancelled = report([0; 3], false);
        cancelled.status["cancelled"] = json!(true);
        assert_eq!(cancelled.verdict().expect_err("not all of it").exit, Exit::Temporary);
        assert_eq!(cancelled.as_json()["agree"], false);
        let said = found.as_json();
        assert_eq!(
            (&said["agree"], &said["streams"][0]["entities"][0]["counts"]["missing"]),
            (&json!(false), &json!(2))
        );
        assert_eq!(
            (report([0; 3], false).as_json()["agree"].clone(), report([0; 3], false).verdict()),
            (json!(true), Ok(()))
        );
    }

    #[test]
    fn a_comparison_is_waited_for_until_it_has_ended_and_never_taken_for_another() {
        let topic: TopicName = "/data/MessagingSessionChangeEvent".parse().expect("a topic");
        let shown = |id: &str, ended: Value| {
            let comparison =
                json!({"id": id, "conversations": 9, "conversations_done": 4, "seconds_left": 60, "ended_at": ended});
            let streams = json!([{"topic": topic, "messages": {"comparison": comparison}}]);
            json!({"process": {"org": "00D8d00000AbCdEEAV", "streams": streams}})
        };
        let mut progress = Progress::new("one".to_owned(), false);
        assert!(progress.show(Some(&json!({})), &topic).is_ok_and(|ended| ended.is_none()), "the service begins again");
        assert!(progress.show(Some(&shown("one", Value::Null)), &topic).is_ok_and(|ended| ended.is_none()));
        let ended = progress.show(Some(&shown("one", json!("2026-11-23T10:00:00Z"))), &topic);
        assert!(ended.is_ok_and(|ended| ended.is_some_and(|compared| compared.status["conversations_done"] == 4)));
        let mut progress = Progress::new("one".to_owned(), false);
        assert!(progress.show(Some(&shown("other", Value::Null)), &topic).is_err());
        let mut progress = Progress::new("one".to_owned(), false);
        for _ in 1..PATIENCE {
            assert!(progress.show(None, &topic).is_ok_and(|ended| ended.is_none()), "the service begins again");
        }
        assert!(
            progress.show(None, &topic).is_err_and(|failure| failure.exit == Exit::Temporary),
            "it is gone for good"
        );
    }
}
