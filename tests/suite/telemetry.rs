//! Traces over OTLP, and the header that names them: a real collector, a simulated org, a real broker.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use casewire::config::{Config, TelemetryConfig};
use casewire::position::EventKey;
use casewire::simulator::{EventOrder, Fault, LedgerLine, SimulatorConfig};
use casewire::status::{Board, Snapshot, TelemetryStatus};
use casewire::telemetry::{Exporter, Sending, StreamTracer};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Identity;
use tracing_subscriber::fmt::MakeWriter;

use crate::suite::collector::{Collector, Manner, Seen};
use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::main_job::{CASES, arrived, expected, identities, passed, sorted};

/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(90);

/// Traces of every event, and the header.
fn traced(collector: &Collector) -> String {
    format!(
        "TELEMETRY__OTLP_ENDPOINT = {}\nTELEMETRY__SAMPLE = 1\nTELEMETRY__TRACEPARENT = true\n\
         TELEMETRY__HEADERS__AUTHORIZATION = Bearer s3cret-of-the-collector\n",
        collector.address
    )
}

/// Trace and span of the header, which is exactly that of the W3C and marked as sampled.
fn named(record: &Output) -> (String, String) {
    let header = record.headers.get("traceparent").unwrap_or_else(|| panic!("no header: {record:?}"));
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("{header}") };
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    assert!(version == "00" && flags == "01" && hex(trace, 32) && hex(span, 16), "{header}");
    (trace.to_owned(), span.to_owned())
}

fn roots(seen: &[Seen]) -> BTreeMap<&str, Vec<&Seen>> {
    let mut roots: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for root in seen.iter().filter(|span| span.parent.is_empty()) {
        roots.entry(&root.trace).or_default().push(root);
    }
    roots
}

/// The chain that a record's header leads to: the span it names, and the children of the whole by their names.
fn chain<'a>(seen: &'a [Seen], record: &Output) -> (&'a Seen, &'a Seen, BTreeMap<&'a str, &'a Seen>) {
    let (trace, span) = named(record);
    let sent: Vec<_> = seen.iter().filter(|one| one.id == span).collect();
    let [sent] = sent[..] else { panic!("the span of {record:?} came {} times", sent.len()) };
    assert_eq!(sent.trace, trace);
    let root = seen.iter().find(|one| one.id == sent.parent).expect("the span has a parent that came too");
    let children = seen.iter().filter(|one| one.parent == root.id);
    (sent, root, children.map(|child| (child.name.split(' ').next().expect("a word"), child)).collect())
}

async fn until_traces(running: &Running, what: &str, wanted: impl Fn(&TelemetryStatus) -> bool) -> TelemetryStatus {
    let is = |snapshot: &Snapshot| snapshot.telemetry.as_ref().is_some_and(&wanted);
    running.until_all(what, is).await.telemetry.expect("waited for")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_of_a_record_names_a_span_that_the_collector_has_and_an_event_has_one_trace_for_ever() {
    let Some(brokers) =
        brokers("the_header_of_a_record_names_a_span_that_the_collector_has_and_an_event_has_one_trace_for_ever")
    else {
        return;
    };
    let collector = Collector::start(Manner::Takes).await;
    let mut deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(60).await.expect("generated");
    control.inflict(Fault::Poison { events: 1 }).await.expect("inflicted");
    let poisoned = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    lines.extend(control.publish(EventOrder::new("Case", "CREATE")).await.expect("published"));
    let settings = format!("{}STREAM__0__RECORD = always", traced(&collector));
    let running = deployment.run(&[CASES], &settings);
    arrived(&running, &lines, CASES).await;
    // What comes again is dropped, and has no second trace.
    control.inflict(Fault::Redeliver { events: 30 }).await.expect("inflicted");
    control.inflict(Fault::CutStreams).await.expect("inflicted");
    lines.extend(control.generate(20).await.expect("generated"));
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");

    let seen = collector.seen();
    let records = deployment.output("Case").await;
    assert_eq!(sorted(identities(&records)), expected(&lines, "Case"), "tracing changes nothing of what is written");
    let destination = format!("send {}.Case", deployment.prefix);
    for record in &records {
        let (sent, root, children) = chain(&seen, record);
        assert_eq!(sent.trace, record.headers["event_id"].replace('-', ""), "whoever has the event finds its trace");
        assert_eq!((sent.name.as_str(), sent.kind), (destination.as_str(), SpanKind::Producer));
        assert_eq!((root.name.as_str(), root.kind), ("process /data/CaseChangeEvent", SpanKind::Consumer));
        assert_eq!(root.parent, "");
        assert_eq!(children["decode"].kind, SpanKind::Internal);
        let mut times = vec![root.times.0, children["decode"].times.0, children["decode"].times.1];
        if let Some(read) = children.get("read") {
            assert_eq!((read.name.as_str(), read.kind), ("read Case", SpanKind::Client));
            times.extend([read.times.0, read.times.1]);
        }
        let has_record = !record.json()["record"].is_null();
        assert!(!has_record || children.contains_key("read"), "{record:?}");
        times.extend([sent.times.0, sent.times.1]);
        assert!(times.is_sorted() && sent.times.1 == root.times.1, "{times:?}");
        for (key, value) in [
            ("messaging.system", "salesforce"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", CASES),
            ("messaging.message.id", &record.headers["event_id"]),
            ("casewire.replay_id", &record.headers["replay_id"]),
            ("casewire.entity", "Case"),
            ("casewire.org", &record.headers["org"]),
        ] {
            assert_eq!(root.attributes[key], value, "{key}");
        }
        assert_eq!(sent.attributes["messaging.system"], "kafka");
        assert_eq!(sent.attributes["messaging.operation.type"], "send");
        let count = sent.attributes.get("messaging.batch.message_count").map_or("1", String::as_str);
        let key = sent.attributes.get("messaging.kafka.message.key");
        assert!(key == Some(&record.key) || (key.is_none() && count != "1"), "{sent:?}");
        assert!(!root.failed && !sent.failed && !children["decode"].failed);
        assert_eq!(root.service["service.name"], "casewire");
    }
    assert!(records.iter().any(|record| chain(&seen, record).2.contains_key("read")), "full records were read");
    let letters = deployment.output("dead-letters").await;
    let (letter, _, children) = chain(&seen, &letters[0]);
    assert_eq!(letter.trace, poisoned[0].event_id.replace('-', ""));
    assert!(children["decode"].failed && !letter.failed, "{children:?}");
    let roots_of = roots(&seen);
    let doubled: Vec<_> = roots_of.values().filter(|roots| roots.len() != 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    let on_topic = |line: &&LedgerLine| line.topics.iter().any(|topic| topic == CASES);
    let events: BTreeSet<String> =
        lines.iter().chain(&poisoned).filter(on_topic).map(|line| line.event_id.replace('-', "")).collect();
    assert!(roots_of.keys().copied().eq(events.iter().map(String::as_str)), "every event has a trace, whatever it is");
    holds_nothing_of_the_records(&seen, &records);
    assert!(collector.authorizations().iter().all(|sent| sent == "Bearer s3cret-of-the-collector"));

    // Another start that has no position handles the same events once more, as after a crash before the first commit.
    deployment.prefix = format!("{}b", deployment.prefix);
    let running = deployment.run(&[CASES], &settings);
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let by_event = |records: &[Output]| -> BTreeMap<String, (String, String)> {
        records.iter().map(|record| (record.headers["event_id"].clone(), named(record))).collect()
    };
    let (first, again) = (by_event(&records), by_event(&deployment.output("Case").await));
    assert_eq!(first.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    for (event, (trace, span)) in &first {
        assert_eq!(*trace, again[event].0, "{event}");
        assert_ne!(*span, again[event].1, "{event}");
    }
}

/// No text of a field is in any attribute.
fn holds_nothing_of_the_records(seen: &[Seen], records: &[Output]) {
    let mut texts = BTreeSet::new();
    for record in records {
        let changed = record.json()["changed"].as_object().expect("an object");
        let text = |name: &str| changed.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        texts
            .extend(["Subject", "Description", "Status", "SuppliedEmail", "SuppliedName"].into_iter().filter_map(text));
    }
    assert!(texts.len() > 5, "{texts:?}");
    for span in seen {
        let told = || span.attributes.values().chain([&span.name]);
        let leaked = texts.iter().find(|text| told().any(|value| value.contains(text.as_str())));
        assert_eq!(leaked, None, "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_refuses_holds_nothing_up_and_what_is_lost_is_counted_and_shown() {
    let Some(brokers) =
        brokers("a_collector_that_hangs_or_refuses_holds_nothing_up_and_what_is_lost_is_counted_and_shown")
    else {
        return;
    };
    let collector = Collector::start(Manner::Hangs).await;
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(150).await.expect("generated");
    let running = deployment.run(&[CASES], &traced(&collector));
    arrived(&running, &lines, CASES).await;
    collector.until_asked().await;
    lines.extend(control.generate(50).await.expect("generated"));
    arrived(&running, &lines, CASES).await;
    let telemetry = running.board.snapshot().telemetry.expect("configured");
    assert_eq!((telemetry.spans_exported, telemetry.spans_dropped > 0 || telemetry.spans_waiting > 0), (0, true));
    running.stop().await.expect("the end does not wait for it");

    collector.set(Manner::Refuses(Code::Unauthenticated));
    let running = deployment.run(&[CASES], &traced(&collector));
    lines.extend(control.generate(50).await.expect("generated"));
    arrived(&running, &lines, CASES).await;
    let lost = |traces: &TelemetryStatus| traces.spans_dropped > 0 && traces.failing_since.is_some();
    let error = until_traces(&running, "the refusal", lost).await.last_error.expect("an error");
    assert!(error.what.contains("Unauthenticated"), "{error:?}");
    assert!(error.remedy.contains("[telemetry.headers]") && !error.what.contains("s3cret"), "{error:?}");
    let told = running.board.journal(0);
    let told: Vec<_> = told.iter().filter(|entry| entry.part == "telemetry").collect();
    assert!(told.len() == 1 && told[0].what.contains("not exported"), "{told:?}");
    assert_eq!(running.board.snapshot().not_ready(), [], "it is ready all the same");
    running.stop().await.expect("an orderly end");
    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&lines, "Case"));
    assert!(collector.authorizations().len() >= 2, "it was asked while it hung and while it refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fits_only_without_the_header_is_written_without() {
    let Some(brokers) = brokers("a_record_that_fits_only_without_the_header_is_written_without") else { return };
    let collector = Collector::start(Manner::Takes).await;
    let mut deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let large = EventOrder::new("Case", "CREATE").with("Description", "x".repeat(40_000));
    let mut lines = control.publish(large).await.expect("published");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let plain = deployment.output("Case").await.remove(0);
    assert!(!plain.headers.contains_key("traceparent"), "nothing is traced unless that is asked for");
    // As `OutputRecord::size` counts.
    let headers: usize = plain.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
    let size = 97 + plain.key.len() + plain.raw.len() + headers;

    deployment.prefix = format!("{}b", deployment.prefix);
    lines.extend(control.publish(EventOrder::new("Case", "CREATE")).await.expect("published"));
    let limited = format!("{}KAFKA__PROPERTIES__MESSAGE_MAX_BYTES = {size}", traced(&collector));
    let running = deployment.run(&[CASES], &limited);
    passed(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let records = deployment.output("Case").await;
    assert_eq!(records.len(), 2, "no event became a dead letter for want of 66 bytes");
    assert_eq!((records[0].raw.clone(), records[0].headers.clone()), (plain.raw, plain.headers));
    named(&records[1]);
    let seen = collector.seen();
    let trace = records[0].headers["event_id"].replace('-', "");
    let failed: Vec<_> = seen.iter().filter(|span| span.trace == trace && span.failed).collect();
    assert_eq!(failed.len(), 2, "the attempt with the header is told as what it was: {failed:?}");
    assert!(failed.iter().all(|span| span.attributes["error.type"] == "too_large"), "{failed:?}");
}

/// Everything that is logged, as one text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self, with: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned();
        text.lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
    }

    /// Of this thread, until what it returns is dropped.
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_writer(self.clone()).with_ansi(false).finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn configured(more: &str) -> TelemetryConfig {
    let text = format!(
        "[salesforce]\nusername = 'a@b.example'\nclient_id = '3MVG9'\nprivate_key = 'k'\n[[stream]]\ntopic = '{CASES}'\n\
         start = 'latest'\n[kafka]\nbrokers = '127.0.0.1:1'\n[telemetry]\nsample = 1.0\n{more}"
    );
    let config = Config::from_table(text.parse().expect("TOML"), &[].into()).expect("valid");
    config.telemetry.expect("a collector")
}

/// An exporter that does not run yet, with a tracer of the stream of cases.
fn exporter(config: &TelemetryConfig, board: &Board) -> (Exporter, StreamTracer) {
    let (exporter, tracer) = Exporter::new(config, board).expect("usable");
    (exporter, tracer.of_stream(&CASES.parse().expect("a topic"), &"00D8d00000AbCdEEAV".parse().expect("an org")))
}

/// Hands over what three spans are made of, for each of so many events.
fn offer(tracer: &StreamTracer, events: usize) {
    for _ in 0..events {
        let id = uuid::Uuid::new_v4().to_string();
        let event = EventKey::new(Bytes::from_static(&[0, 7]).into(), &id, b"");
        let trace = tracer.begin(&event, 100, Instant::now()).expect("sampled").decoded(0);
        tracer.ended(vec![Sending { records: 1, ..Sending::nothing_yet(trace) }], Instant::now(), 1, Ok(1));
    }
}

async fn until(board: &Board, what: &str, wanted: impl Fn(&TelemetryStatus) -> bool) -> TelemetryStatus {
    let mut changes = board.changes();
    loop {
        let telemetry = board.snapshot().telemetry.expect("configured");
        if wanted(&telemetry) {
            return telemetry;
        }
        let change = tokio::time::timeout(PATIENCE, changes.changed()).await;
        change.unwrap_or_else(|_| panic!("in vain for {what}: {telemetry:?}")).expect("the board lives");
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_costs_a_queue_and_is_told_once_in_an_hour() {
    let (log, board) = (Log::default(), Board::new());
    let _guard = log.begin();
    // Connections are accepted by the system, and nobody ever reads from them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let (exporter, tracer) = exporter(&configured(&format!("otlp_endpoint = 'http://{address}'")), &board);
    offer(&tracer, 5_000);
    let telemetry = board.snapshot().telemetry.expect("configured");
    assert_eq!(telemetry.spans_dropped, 3 * (5_000 - 2_048), "the queue has its bound");
    let begun = Instant::now();
    let exporting = exporter.begin();
    let given_up = |traces: &TelemetryStatus| traces.spans_waiting == 0;
    let mut changes = board.changes();
    while !board.snapshot().telemetry.as_ref().is_some_and(given_up) {
        changes.changed().await.expect("the board lives");
    }
    let telemetry = board.snapshot().telemetry.expect("configured");
    assert_eq!((telemetry.spans_exported, telemetry.spans_dropped), (0, 15_000));
    assert!(begun.elapsed() > Duration::from_secs(60), "it was tried for some time: {:?}", begun.elapsed());
    assert_eq!(log.lines("spans are not exported").len(), 1, "{:?}", log.lines(""));
    offer(&tracer, 1);
    exporting.end(Duration::from_secs(30)).await;
    assert_eq!(log.lines("spans were not exported before the end").len(), 1);
}

#[tokio::test]
async fn spans_that_are_refused_are_counted_and_that_they_are_taken_again_is_told_once() {
    let (log, board) = (Log::default(), Board::new());
    let _guard = log.begin();
    let collector = Collector::start(Manner::Refuses(Code::InvalidArgument)).await;
    let more = format!("otlp_endpoint = '{}'\nservice_name = 'cases'", collector.address);
    let (exporter, tracer) = exporter(&configured(&more), &board);
    let exporting = exporter.begin();
    offer(&tracer, 4);
    until(&board, "the refusal", |traces| traces.spans_dropped == 12).await;
    collector.set(Manner::Rejects(2));
    offer(&tracer, 4);
    let telemetry = until(&board, "the rejection", |traces| traces.spans_exported == 10).await;
    assert_eq!(telemetry.spans_dropped, 14);
    assert!(telemetry.last_error.expect("told").what.contains("rejected 2 spans: too old"));
    collector.set(Manner::Takes);
    offer(&tracer, 4);
    let telemetry = until(&board, "the export", |traces| traces.spans_exported == 22).await;
    assert!(telemetry.failing_since.is_some(), "the spell is not over with the first success");
    assert_eq!(collector.seen()[0].service["service.name"], "cases");
    tokio::time::pause();
    until(&board, "the end of the spell", |traces| traces.failing_since.is_none()).await;
    assert_eq!(log.lines("spans are not exported").len(), 1);
    let again = log.lines("spans are exported again");
    assert!(again.len() == 1 && again[0].contains("spans=14"), "{again:?}");
    tokio::time::resume();
    offer(&tracer, 2);
    exporting.end(Duration::from_secs(30)).await;
    assert_eq!(collector.seen().len(), 24 + 6, "what is in the queue at the end is exported");
}

#[tokio::test]
async fn a_collector_behind_tls_has_to_have_a_certificate_that_is_trusted() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate =
        rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).and_then(|params| params.self_signed(&key));
    let pem = certificate.expect("a certificate").pem();
    let collector = Collector::behind_tls(Identity::from_pem(&pem, key.serialize_pem())).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, &pem).expect("written");
    let endpoint = format!("otlp_endpoint = '{}'", collector.address);
    for (more, trusted) in [(String::new(), false), (format!("\nca_file = '{}'", file.display()), true)] {
        let board = Board::new();
        let (exporter, tracer) = exporter(&configured(&format!("{endpoint}{more}")), &board);
        let exporting = exporter.begin();
        offer(&tracer, 1);
        let told = |traces: &TelemetryStatus| traces.spans_exported == 3 || traces.failing_since.is_some();
        let telemetry = until(&board, "an answer", told).await;
        assert_eq!(telemetry.spans_exported == 3, trusted, "{telemetry:?}");
        if let Some(error) = telemetry.last_error {
            assert!(error.what.contains("cannot be reached") && error.what.contains("ertificate"), "{error:?}");
        }
        exporting.end(Duration::ZERO).await;
    }
    assert_eq!(collector.seen().len(), 3);
}
