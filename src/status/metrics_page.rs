//! `docs/metrics.md`, made from the metrics themselves, and whether what watches them names only such as there are.
//!
//! `UPDATE_DOCS=1 cargo test --features failpoints --lib metrics_page` writes the page anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use chrono::Utc;

use crate::status::{
    Allowance, Board, CompletionStatus, EntityAgreement, EntitySilence, JobStatus, MessagesStatus, Metrics,
};

/// What an operator should know of a metric beside its help text, by its name without the prefix.
const NOTES: &[(&str, &str)] = &[
    ("transaction", "those of keepalives and signs of life among them"),
    ("data_loss_seconds", "the first thing to watch; see [operating.md](operating.md#seconds-until-data-loss)"),
    ("stream_running", "whether or not a call is open; `casewire_last_message_age_seconds` tells that"),
    ("stream_standby", "see [operating.md](operating.md#two-instances)"),
    (
        "stream_paused",
        "see [operating.md](operating.md#pausing-a-stream). `casewire_stream_running` is 0 then, and its alert leaves such a stream out",
    ),
    ("stream_dead", "`/live` answers 503 then"),
    (
        "last_message_age_seconds",
        "Salesforce promises one every 270 s, and by default casewire opens a silent call anew after 300 s",
    ),
    (
        "last_event_age_seconds",
        "by Salesforce's clock. Large on a quiet topic, so not an alarm by itself. Not there before this run has committed one",
    ),
    ("events_in_flight", "up to a second old. `buffer.max_events` and `buffer.max_bytes` bound it"),
    ("gaps_open", "not there for a cause that has none; see [operating.md](operating.md#gaps)"),
    ("gaps_given_up", "some of their records could not be read"),
    ("gap_jobs_waiting", "`jobs` in `/status` says why and what mends it"),
    ("snapshot_records", "not there while none is under way"),
    ("snapshot_records_expected", "once that is known"),
    (
        "reconcile_findings",
        "of those on a schedule; `finding` is `missing`, `stale`, `deleted`, `extra` or `unseen` ([operating.md](operating.md#reconciliation))",
    ),
    ("poll_age_seconds", "not there before the first. Alarming above some ten times the `every` of its `[[poll]]`"),
    ("poll_waiting", "`polls` in `/status` says why; a snapshot of the object is a reason too"),
    ("reconcile_age_seconds", "not there before the first. Alarming above twice `reconcile.every`"),
    ("entity_silent", "not there while nothing can be said; see [operating.md](operating.md#silent-objects)"),
    ("fenced", "two instances that should not both run, if it happens often"),
    ("reconnects", "[operating.md](operating.md#metrics-and-alerts) lists the values of `reason`"),
    ("events_already_written", "or after `checkpoint set --start earliest`"),
    ("records_committed", "checkpoints not counted"),
    ("batches_committed", "what it sent together; a transaction with records holds one or more"),
    ("transactions_committed", "those without records among them"),
    (
        "completion_level",
        "not there with `record = \"never\"`; see [operating.md](operating.md#full-records-and-the-orgs-api-requests)",
    ),
    ("completion_unavailable", "not there with `record = \"never\"`"),
    (
        "completion_reads",
        "a read is one call for up to 2,000 records of an object, and a few more where records are not found",
    ),
    ("records_completed", "refreshed ones, and those found deleted, among them"),
    ("records_unread", "each stands in an entry of the ledger"),
    ("messages_oldest_trigger_age_seconds", "this and the others of messages are there with `messages = true`"),
    ("messages_unavailable", "`messages` in `/status` says why and what mends it"),
    ("messages_active", "`messages.max_active` bounds it"),
    ("messages_given_up", "the gap ledger names them"),
    (
        "kafka_reachable",
        "the last thing heard from Kafka was good. A fence or a missing permission leaves it as it was; a standby shows 1 while it can read the checkpoint",
    ),
    ("delivered_events_left", "of all subscribers of the org together, from `/limits`, asked for every 5 min"),
    ("spans_exported", "with `[telemetry]` only; see [operating.md](operating.md#traces)"),
    ("spans_dropped", "with `[telemetry]` only. `telemetry` in `/status` says why; records are not concerned"),
    ("api_requests_left", "of all clients of the org together"),
    ("clock_offset_seconds", "casewire corrects for it; its accuracy is about a second"),
];

/// A metric as a scrape shows it.
#[derive(Debug)]
struct Shown {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// Every metric by its name, from a board on which everything has a value.
fn metrics() -> BTreeMap<String, Shown> {
    let board = Board::new();
    let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
    stream.update(|status| {
        let now = Some(Utc::now());
        (status.position_time, status.last_message_at, status.last_event_committed_at) = (now, now, now);
        status.completion = Some(CompletionStatus::default());
        status.messages = Some(MessagesStatus::default());
        status.reconnects.insert("silence", 2);
        status.gaps_open.insert("gap_event".to_owned(), 1);
        status.jobs.push(snapshot());
        status.poll("CaseComment").read_to = now;
        status.reconcile.last_run_at = now;
        let findings = BTreeMap::from([("missing", 1)]);
        let agreement =
            EntityAgreement { at: Utc::now(), full: false, judged: 1, young: 0, settled: 0, findings, entries: 0 };
        status.reconcile.entities.insert("Case".to_owned(), agreement);
        status.reconcile.silence.insert("Case".to_owned(), EntitySilence::default());
    });
    let allowance = Allowance { maximum: 10, remaining: 4 };
    board.set_allowances(Some(allowance), Some(allowance));
    board.trace_to("http://127.0.0.1:4317");
    let metrics = Metrics::new(board);
    metrics.transaction("/data/CaseChangeEvent", Duration::from_millis(4));
    shown(&metrics.render().expect("rendered"))
}

fn snapshot() -> JobStatus {
    JobStatus {
        job: "snapshot-1".to_owned(),
        entity: Some("Case".to_owned()),
        heals: 0,
        opened_at: Utc::now(),
        whole: true,
        snapshot: true,
        over_bulk: true,
        records_expected: Some(9),
        after: None,
        records_listed: 4,
        records_left: 0,
        rows_reread: 4,
        deletes_found: 0,
        waits_for: None,
        remedy: None,
        next_attempt_at: None,
    }
}

/// The metrics of a scrape.
fn shown(text: &str) -> BTreeMap<String, Shown> {
    let mut found: BTreeMap<String, Shown> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            family = name.to_owned();
            let help = help.trim_end_matches('.').to_owned();
            found.insert(family.clone(), Shown { kind: String::new(), help, labels: Vec::new() });
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            found.get_mut(name).expect("help comes first").kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let (labels, _) = labels.rsplit_once('}').expect("closed");
            let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            let shown = found.get_mut(&family).expect("samples come after their description");
            shown.labels = names.filter(|name| name != "le").collect();
        }
    }
    found
}

/// The names that queries use for a metric.
fn samples(name: &str, kind: &str) -> Vec<String> {
    match kind {
        "counter" => vec![format!("{name}_total")],
        "histogram" => ["bucket", "count", "sum"].iter().map(|suffix| format!("{name}_{suffix}")).collect(),
        _ => vec![name.to_owned()],
    }
}

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_default()
}

/// The words of a text that are names of metrics.
fn named(text: &str) -> BTreeSet<String> {
    let word = |letter: char| !letter.is_ascii_lowercase() && !letter.is_ascii_digit() && letter != '_';
    text.split(word).filter(|word| word.starts_with("casewire_")).map(str::to_owned).collect()
}

/// The alerts of the rules by the names of what they look at.
fn alerts() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in file("deploy/alerts.yaml").split("- alert: ").skip(1) {
        let (alert, rest) = rule.split_once('\n').expect("a rule has lines");
        let (query, _) = rest.split_once("annotations:").expect("a rule says what it means");
        for name in named(query) {
            found.entry(name).or_default().insert(alert.trim().to_owned());
        }
    }
    found
}

/// The page.
fn page() -> String {
    let mut text = String::from(
        "# Metrics\n\nEverything that `/metrics` serves (OpenMetrics). The names change only with a major version. All but the histogram are read from the same\n\
         snapshot as `/status`. A value that is not known is left out. `topic` is the Salesforce topic.\n\n\
         [deploy/alerts.yaml](../deploy/alerts.yaml) has the alert rules, with [tests](../deploy/alerts.test.yaml); \
         [deploy/grafana-dashboard.json](../deploy/grafana-dashboard.json) shows the metrics.\n\
         [operating.md](operating.md#metrics-and-alerts) says what to do about them.\n\n\
         This page is made from the code; `UPDATE_DOCS=1 cargo test --features failpoints --lib metrics_page` makes it anew.\n\n\
         | metric | kind | is | alerts |\n|---|---|---|---|\n",
    );
    let alerts = alerts();
    for (name, shown) in metrics() {
        let samples = samples(&name, &shown.kind);
        let labels = if shown.labels.is_empty() { String::new() } else { format!("{{{}}}", shown.labels.join(",")) };
        let of: BTreeSet<&String> = samples.iter().filter_map(|sample| alerts.get(sample)).flatten().collect();
        let of = of.into_iter().map(|alert| format!("`{alert}`")).collect::<Vec<_>>().join(", ");
        let of = if of.is_empty() { "–".to_owned() } else { of };
        let written = if shown.kind == "histogram" { &name } else { &samples[0] };
        let short = name.strip_prefix("casewire_").expect("all have it").trim_end_matches("_seconds");
        let noted = |key: &&(&str, &str)| key.0 == short || name.strip_prefix("casewire_") == Some(key.0);
        let note = NOTES.iter().find(noted).map_or(String::new(), |(_, note)| format!("; {note}"));
        writeln!(text, "| `{written}{labels}` | {} | {}{note} | {of} |", shown.kind, shown.help)
            .expect("a String takes it");
    }
    text
}

#[test]
fn the_page_of_metrics_is_what_the_code_has() {
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md"), &page).expect("written");
    }
    let found = file("docs/metrics.md");
    let differs = page.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    assert!(
        page == found,
        "docs/metrics.md is not what the code has; make it anew with\n  UPDATE_DOCS=1 cargo test --features failpoints --lib metrics_page\nfirst difference: {differs:#?}"
    );
    let all = metrics();
    for (name, _) in NOTES {
        let known = [format!("casewire_{name}"), format!("casewire_{name}_seconds")];
        assert!(
            known.iter().any(|known| all.contains_key(known)),
            "there is a note about {name}, which does not exist"
        );
    }
}

#[test]
fn what_watches_the_metrics_names_only_such_as_there_are() {
    let all = metrics();
    let known: BTreeSet<String> = all.iter().flat_map(|(name, shown)| samples(name, &shown.kind)).collect();
    for watching in ["deploy/alerts.yaml", "deploy/alerts.test.yaml", "deploy/grafana-dashboard.json"] {
        let names = named(&file(watching));
        assert!(names.len() > 10, "{watching} names {} metrics only", names.len());
        let unknown: Vec<_> = names.difference(&known).collect();
        assert!(unknown.is_empty(), "{watching} names metrics that do not exist: {unknown:?}");
    }
    // Prose may speak of a family.
    let families: BTreeSet<String> = all.keys().cloned().collect();
    for page in ["docs/operating.md", "README.md"] {
        let names = named(&file(page));
        let unknown: Vec<_> = names.iter().filter(|name| !known.contains(*name) && !families.contains(*name)).collect();
        assert!(unknown.is_empty(), "{page} names metrics that do not exist: {unknown:?}");
    }
}

#[test]
fn a_scrape_is_read_with_its_labels_and_a_name_that_does_not_exist_is_noticed() {
    let text =
        "# HELP casewire_x Things.\n# TYPE casewire_x counter\ncasewire_x_total{topic=\"/data/A\",reason=\"a,b\"} 1\n";
    let read = shown(text);
    assert_eq!(read["casewire_x"].labels, ["topic", "reason"]);
    assert_eq!((read["casewire_x"].kind.as_str(), read["casewire_x"].help.as_str()), ("counter", "Things"));
    assert_eq!(named("rate(casewire_x_total[5m])"), BTreeSet::from(["casewire_x_total".to_owned()]));
    assert!(!samples("casewire_x", "counter").contains(&"casewire_x".to_owned()));
}
