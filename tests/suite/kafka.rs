//! The guarantee, held against a real broker, and the error classes, held against librdkafka's own mock cluster.
//!
//! The mock fences nobody and shows aborted records, so it proves nothing about exactly-once delivery; it is here
//! only for the errors that a healthy broker does not give on demand.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use casewire::failure::Exit;
use casewire::identity::OrgId;
use casewire::kafka::{
    Checkpoint, FencedBy, KafkaError, KafkaSettings, OutputRecord, ReadTo, RunIdentity, ScanFrom, ScannedRecord,
    Severity, StreamIdentity, TopicDefaults, TopicRole, TransactionalWriter, Verdict, WrittenTo, append,
    checkpoints_of_topic, ensure_topic, list_topics, ping, read_checkpoint, scan, scan_news, who_fenced,
};
use casewire::position::{Anchor, Position};
use chrono::{DateTime, Utc};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::net::TcpListener;

/// The real broker's address. Without one the test says so, loudly, and proves nothing.
fn broker(test: &str) -> Option<String> {
    let address = std::env::var("KAFKA_BOOTSTRAP").ok().filter(|address| !address.is_empty());
    if address.is_none() {
        eprintln!("NOT RUN: {test}: no broker (KAFKA_BOOTSTRAP)");
    }
    address
}

fn settings(brokers: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: brokers.to_owned(),
        topic_prefix: format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..10]),
        properties: BTreeMap::new(),
        transaction_timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(30),
        topics: TopicDefaults { create: true, check: true, partitions: 2, replication: -1 },
    }
}

fn stream_of(settings: &KafkaSettings, topic: &str) -> StreamIdentity {
    StreamIdentity {
        prefix: settings.topic_prefix.clone(),
        org: "00D8d00000AbCdEEAV".parse().expect("an org"),
        topic: topic.parse().expect("a topic"),
    }
}

fn cases(settings: &KafkaSettings) -> StreamIdentity {
    stream_of(settings, "/data/CaseChangeEvent")
}

fn checkpoint() -> Checkpoint {
    Checkpoint::at(Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH }))
}

fn record(topic: &str, key: &str, value: impl Into<Bytes>) -> OutputRecord {
    OutputRecord {
        topic: topic.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(value.into()),
        headers: vec![("casewire", Bytes::from_static(b"1"))],
    }
}

async fn open(settings: &KafkaSettings) -> (TransactionalWriter, RunIdentity, Option<u64>) {
    let run = RunIdentity::of_this_process();
    let (writer, stored) = TransactionalWriter::open(settings, &cases(settings), &run).await.expect("a writer");
    (writer, run, stored.map(|stored| stored.checkpoint.seq))
}

async fn entity_topic(settings: &KafkaSettings) -> String {
    let name = format!("{}.Case", settings.topic_prefix);
    let report = ensure_topic(settings, &name, TopicRole::Entity).await.expect("a topic");
    assert!(report.created);
    name
}

async fn read(settings: &KafkaSettings, topic: &str, from: ScanFrom) -> Vec<ScannedRecord> {
    let records = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&records);
    scan(settings, topic, from, move |record| {
        sink.lock().expect("no panic").push(record.clone());
        ControlFlow::Continue(())
    })
    .await
    .expect("a scan");
    let mut records = records.lock().expect("no panic");
    std::mem::take(&mut *records)
}

fn keys(records: &[ScannedRecord]) -> Vec<String> {
    let key = |record: &ScannedRecord| String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
    let mut keys: Vec<_> = records.iter().map(key).collect();
    keys.sort();
    keys
}

/// A producer that is not ours, for what ours would never do.
fn raw_producer(brokers: &str, transactional_id: &str, timeout: Duration) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", timeout.as_millis().to_string())
        .create()
        .expect("a producer");
    producer.init_transactions(Duration::from_secs(30)).expect("initialised");
    producer.begin_transaction().expect("begun");
    producer
}

fn send_raw(producer: &BaseProducer, topic: &str, key: &str, value: &[u8]) {
    producer.send(BaseRecord::to(topic).key(key).payload(value)).map_err(|(error, _)| error).expect("queued");
    producer.flush(Duration::from_secs(30)).expect("flushed");
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client")
}

async fn create_raw(brokers: &str, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    topic.config.extend(config);
    let made = admin(brokers).create_topics([&topic], &AdminOptions::new()).await.expect("an answer");
    assert!(made[0].is_ok(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_from_the_last_commit_and_sees_each_record_once() {
    let Some(brokers) = broker("a_restart_goes_on_from_the_last_commit") else { return };
    let settings = settings(&brokers);
    let topic = entity_topic(&settings).await;
    let (mut writer, run, stored) = open(&settings).await;
    assert_eq!(stored, None, "a first run has no checkpoint");
    for number in 1..=3_u64 {
        let mut checkpoint = checkpoint();
        checkpoint.event_count = number;
        let records = vec![record(&topic, &format!("k{number}"), "{}"), record(&topic, "same", number.to_string())];
        let committed = writer.commit(records, checkpoint).await.expect("committed");
        assert_eq!((committed.seq(), committed.records()), (number, 2));
        assert_eq!(committed.checkpoint().writer.run_id, run.run_id);
    }
    assert_eq!(writer.commit(Vec::new(), checkpoint()).await.expect("only a checkpoint").seq(), 4);
    writer.close().await.expect("closed");

    let (mut writer, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(4));
    let committed = writer.commit(vec![record(&topic, "k5", "{}")], checkpoint()).await.expect("committed");
    assert_eq!(committed.seq(), 5, "numbers go on densely over a restart");

    let records = read(&settings, &topic, ScanFrom::Beginning).await;
    assert_eq!(keys(&records), ["k1", "k2", "k3", "k5", "same", "same", "same"]);
    let order: Vec<_> = records.iter().filter(|record| record.key.as_deref() == Some(b"same")).collect();
    let values: Vec<_> = order.iter().filter_map(|record| record.value.as_deref()).collect();
    assert_eq!(values, [b"1", b"2", b"3"], "order per key");
    assert_eq!(records[0].header("casewire"), Some(&b"1"[..]));
    let checkpoints = read(&settings, &cases(&settings).checkpoint_topic(), ScanFrom::Beginning).await;
    assert_eq!(checkpoints.len(), 5);

    writer.erase(Vec::new()).await.expect("erased");
    writer.close().await.expect("closed");
    assert!(read_checkpoint(&settings, &cases(&settings)).await.expect("read").is_none());
    let (writer, _, stored) = open(&settings).await;
    assert_eq!((stored, writer.seq()), (None, 5), "a taken-away checkpoint is none, and its number is not used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_predecessor_left_open_is_never_seen() {
    let Some(brokers) = broker("what_a_killed_predecessor_left_open_is_never_seen") else { return };
    let settings = settings(&brokers);
    let (stream, topic) = (cases(&settings), entity_topic(&settings).await);
    let (mut writer, ..) = open(&settings).await;
    writer.commit(vec![record(&topic, "kept", "{}")], checkpoint()).await.expect("committed");
    writer.close().await.expect("closed");

    let mut uncommitted = checkpoint();
    uncommitted.seq = 2;
    let predecessor = raw_producer(&brokers, &stream.transactional_id(), Duration::from_secs(60));
    send_raw(&predecessor, &topic, "lost", b"{}");
    let value = uncommitted.to_json().expect("json");
    send_raw(&predecessor, &stream.checkpoint_topic(), &stream.checkpoint_key(), &value);
    // As after SIGKILL: the destructor would not commit either, but it must not tidy up.
    std::mem::forget(predecessor);

    let (mut writer, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(1), "the open transaction's checkpoint does not count");
    writer.commit(vec![record(&topic, "next", "{}")], checkpoint()).await.expect("committed");
    assert_eq!(keys(&read(&settings, &topic, ScanFrom::Beginning).await), ["kept", "next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_fences_the_first_which_learns_by_whom() {
    let Some(brokers) = broker("a_second_writer_fences_the_first") else { return };
    let settings = settings(&brokers);
    let (stream, topic) = (cases(&settings), entity_topic(&settings).await);
    let (mut first, first_run, _) = open(&settings).await;
    first.commit(vec![record(&topic, "a", "{}")], checkpoint()).await.expect("committed");
    let (mut second, second_run, stored) = open(&settings).await;
    assert_eq!(stored, Some(1));
    second.commit(Vec::new(), checkpoint()).await.expect("announced");

    let error = first.commit(vec![record(&topic, "zombie", "{}")], checkpoint()).await.expect_err("fenced");
    assert_eq!((&error, error.verdict()), (&KafkaError::Fenced, Verdict::DecideFenced));
    assert!(!first.is_usable());
    let by = who_fenced(&settings, &stream, &first_run).await.expect("an answer");
    let FencedBy::Other { writer, since } = by else { panic!("the second writer did it: {by:?}") };
    assert_eq!(writer.run_id, second_run.run_id);
    assert!(since <= Utc::now());

    second.commit(vec![record(&topic, "b", "{}")], checkpoint()).await.expect("the second goes on");
    assert_eq!(keys(&read(&settings, &topic, ScanFrom::Beginning).await), ["a", "b"]);
    let again = first.commit(Vec::new(), checkpoint()).await.expect_err("a fenced writer stays unusable");
    assert_eq!(again.verdict(), Verdict::Rebuild);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_fenced_by_nobody_learns_that_too() {
    let Some(brokers) = broker("a_writer_fenced_by_nobody_learns_that_too") else { return };
    let settings = settings(&brokers);
    let (stream, topic) = (cases(&settings), entity_topic(&settings).await);
    let (mut writer, run, _) = open(&settings).await;
    writer.commit(vec![record(&topic, "a", "{}")], checkpoint()).await.expect("committed");
    // The same that a broker's transaction time-out does: the epoch moves on, and no new writer appears.
    let bump = raw_producer(&brokers, &stream.transactional_id(), Duration::from_secs(10));
    drop(bump);
    let error = writer.commit(vec![record(&topic, "b", "{}")], checkpoint()).await.expect_err("fenced");
    assert_eq!(error, KafkaError::Fenced);
    assert_eq!(who_fenced(&settings, &stream, &run).await.expect("an answer"), FencedBy::OwnTimeout);
    let (mut writer, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(1));
    writer.commit(vec![record(&topic, "b", "{}")], checkpoint()).await.expect("rebuilt");
    assert_eq!(keys(&read(&settings, &topic, ScanFrom::Beginning).await), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_streams_open_transaction_does_not_hide_our_checkpoint() {
    let Some(brokers) = broker("another_streams_open_transaction_does_not_hide_our_checkpoint") else { return };
    let mut settings = settings(&brokers);
    let topic = entity_topic(&settings).await;
    let (mut writer, ..) = open(&settings).await;
    writer.commit(vec![record(&topic, "a", "{}")], checkpoint()).await.expect("committed");
    writer.close().await.expect("closed");
    let other = stream_of(&settings, "/data/ContactChangeEvent");
    let (other_writer, _) =
        TransactionalWriter::open(&settings, &other, &RunIdentity::of_this_process()).await.expect("a writer");
    other_writer.close().await.expect("closed");
    let open_elsewhere = raw_producer(&brokers, &other.transactional_id(), Duration::from_secs(60));
    send_raw(&open_elsewhere, &other.checkpoint_topic(), &other.checkpoint_key(), b"{}");
    let (_, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(1));

    // In the same partition it would: then the end cannot be reached, which is an error and never "no checkpoint".
    settings.call_timeout = Duration::from_secs(2);
    let error = read_checkpoint(&settings, &other).await.expect_err("the end is not reached");
    assert!(error.to_string().contains("a transaction is open"), "{error}");
    open_elsewhere.abort_transaction(Duration::from_secs(10)).expect("aborted");
    let topic = &other.topic;
    let orgs = checkpoints_of_topic(&settings, &settings.topic_prefix, topic).await.expect("a list");
    assert_eq!(orgs, ["00D8d00000AbCdEEAV".parse::<OrgId>().expect("an org")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_topic_that_holds_something_else_is_refused() {
    let Some(brokers) = broker("a_checkpoint_topic_that_holds_something_else_is_refused") else { return };
    for (value, words) in
        [(&br#"{"v":9}"#[..], "version 9"), (b"no json", "not a checkpoint"), (b"same", "follows number")]
    {
        let settings = settings(&brokers);
        let stream = cases(&settings);
        let (mut writer, ..) = open(&settings).await;
        writer.commit(Vec::new(), checkpoint()).await.expect("committed");
        writer.close().await.expect("closed");
        let mut repeated = checkpoint();
        repeated.seq = 1;
        let value = if value == b"same" { repeated.to_json().expect("json") } else { value.to_vec() };
        let foreign = raw_producer(&brokers, &stream.transactional_id(), Duration::from_secs(60));
        send_raw(&foreign, &stream.checkpoint_topic(), "a foreign key is skipped", b"whatever");
        send_raw(&foreign, &stream.checkpoint_topic(), &stream.checkpoint_key(), &value);
        foreign.commit_transaction(Duration::from_secs(10)).expect("committed");
        let error = TransactionalWriter::open(&settings, &stream, &RunIdentity::of_this_process())
            .await
            .map(|(_, stored)| stored)
            .expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
        assert!(matches!(error.verdict(), Verdict::Stop(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_named_by_its_place() {
    let Some(brokers) = broker("a_record_that_is_too_large_is_named_by_its_place") else { return };
    let mut settings = settings(&brokers);
    settings.properties.insert("message.max.bytes".into(), "200000".into());
    settings.properties.insert("compression.type".into(), "none".into());
    let topic = entity_topic(&settings).await;
    let small = format!("{}.Small", settings.topic_prefix);
    create_raw(&brokers, &small, 1, &[("max.message.bytes", "50000")]).await;
    let (mut writer, ..) = open(&settings).await;

    let records = vec![record(&topic, "a", "{}"), record(&topic, "b", vec![b'x'; 300_000])];
    let error = writer.commit(records, checkpoint()).await.expect_err("larger than the client takes");
    assert!(matches!(error, KafkaError::TooLarge { index: 1, limit: 200_000, .. }), "{error:?}");
    assert!(writer.is_usable(), "nothing was begun");
    writer.commit(vec![record(&topic, "a", "{}")], checkpoint()).await.expect("committed");

    let records = vec![record(&small, "a", "{}"), record(&small, "b", vec![b'x'; 60_000]), record(&small, "c", "{}")];
    let error = writer.commit(records, checkpoint()).await.expect_err("larger than the topic takes");
    assert!(matches!(error, KafkaError::TooLarge { index: 1, limit: 50_000, .. }), "{error:?}");
    assert!(!writer.is_usable());

    let (mut writer, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(1));
    let batch = (0..40).map(|number| record(&small, &number.to_string(), vec![b'x'; 10_000])).collect();
    let error = writer.commit(batch, checkpoint()).await.expect_err("each fits, the batch does not");
    let Verdict::Stop(failure) = error.verdict() else { panic!("no record is to blame: {error:?}") };
    assert!(failure.remedy.contains("batch.size"), "{failure}");
    let (_, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(1));
    assert!(read(&settings, &small, ScanFrom::Beginning).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_fit_the_topics_that_there_are_when_a_writer_opens_and_no_record_is_blamed_for_a_topic_that_came_later()
{
    let Some(brokers) = broker("batches_fit_the_topics_that_there_are_when_a_writer_opens") else { return };
    let settings = settings(&brokers);
    entity_topic(&settings).await;
    let (mut writer, ..) = open(&settings).await;
    let later = format!("{}.Later", settings.topic_prefix);
    create_raw(&brokers, &later, 1, &[("max.message.bytes", "600000")]).await;

    // 1.5 MB that cannot be compressed, and one record that is too large for the topic until it is.
    let noise = || (0..625).flat_map(|_| *uuid::Uuid::new_v4().as_bytes()).collect::<Vec<u8>>();
    let mut records: Vec<_> = (0..150).map(|number| record(&later, &number.to_string(), noise())).collect();
    records.insert(50, record(&later, "large", vec![b'x'; 700_000]));
    let error = writer.commit(records.clone(), checkpoint()).await.expect_err("a batch of two megabytes");
    assert_eq!(error.verdict(), Verdict::Rebuild, "{error:?}");
    assert!(error.to_string().contains(&later) && error.to_string().contains("600000"), "{error}");

    let (mut writer, _, stored) = open(&settings).await;
    assert_eq!(stored, None, "nothing was committed");
    writer.commit(records, checkpoint()).await.expect("smaller batches");
    assert_eq!(read(&settings, &later, ScanFrom::Beginning).await.len(), 151);

    // What no batch can help is the record's own fault.
    let records =
        vec![record(&later, "a", "{}"), record(&later, "b", (0..70).flat_map(|_| noise()).collect::<Vec<u8>>())];
    let error = writer.commit(records, checkpoint()).await.expect_err("too large, whatever is around it");
    assert!(matches!(error, KafkaError::TooLarge { index: 1, limit: 600_000, .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_checked_when_present() {
    let Some(brokers) = broker("topics_are_made_once_and_checked_when_present") else { return };
    let mut settings = settings(&brokers);
    let topic = entity_topic(&settings).await;
    let report = ensure_topic(&settings, &topic, TopicRole::Entity).await.expect("present");
    assert!(!report.created && report.findings.is_empty() && report.partitions == 2, "{report:?}");
    assert_eq!(report.max_message_bytes, Some(4_194_304), "so that batches can be large");

    let gone = format!("{}.Gone", settings.topic_prefix);
    settings.topics.create = false;
    let error = ensure_topic(&settings, &gone, TopicRole::Gaps).await.expect_err("missing");
    let Verdict::Stop(failure) = error.verdict() else { panic!("{error:?}") };
    assert!(failure.remedy.contains("kafka-topics.sh") && failure.remedy.contains("compact"), "{failure}");

    // Of several brokers not all know a new topic at once; creating it again is then no error.
    settings.topics.create = true;
    let week = format!("{}.Week", settings.topic_prefix);
    create_raw(&brokers, &week, 1, &[("retention.ms", "604800000")]).await;
    let report = ensure_topic(&settings, &week, TopicRole::Entity).await.expect("present");
    assert_eq!(report.findings.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Warning]);
    let stream = cases(&settings);
    create_raw(&brokers, &stream.checkpoint_topic(), 3, &[("cleanup.policy", "compact")]).await;
    let error =
        TransactionalWriter::open(&settings, &stream, &RunIdentity::of_this_process()).await.expect_err("three");
    assert!(error.to_string().contains("exactly one"), "{error}");

    let listed = list_topics(&settings).await.expect("a list");
    assert!(listed.iter().any(|listed| listed.name == topic && listed.partitions == 2));
    assert!(!ping(&settings).await.expect("an answer").brokers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_under_the_writer_is_named() {
    let Some(brokers) = broker("a_topic_that_is_deleted_under_the_writer_is_named") else { return };
    let mut settings = settings(&brokers);
    settings.transaction_timeout = Duration::from_secs(5);
    let topic = entity_topic(&settings).await;
    let (mut writer, ..) = open(&settings).await;
    writer.commit(vec![record(&topic, "a", "{}")], checkpoint()).await.expect("committed");
    let deleted = admin(&brokers).delete_topics(&[&topic], &AdminOptions::new()).await.expect("an answer");
    assert!(deleted[0].is_ok(), "{deleted:?}");
    let error = writer.commit(vec![record(&topic, "b", "{}")], checkpoint()).await.expect_err("it is gone");
    assert!(error.to_string().contains(&format!("`{topic}` does not exist any more")), "{error:?}");
    assert_eq!(error.verdict(), Verdict::Rebuild, "the next start tells what it means");
    let (_, _, stored) = open(&settings).await;
    assert_eq!(stored, Some(1), "the position did not move past what could not be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_somebody_deleted_and_made_again_is_not_written_to_as_if_it_were_the_same() {
    const TEST: &str = "a_topic_that_somebody_deleted_and_made_again_is_not_written_to_as_if_it_were_the_same";
    let Some(brokers) = broker(TEST) else { return };
    let mut settings = settings(&brokers);
    settings.topics.partitions = 1;
    let topic = entity_topic(&settings).await;
    let (stream, run, written_to) = (cases(&settings), RunIdentity::of_this_process(), Arc::new(WrittenTo::default()));
    let next = || TransactionalWriter::open_after(&settings, &stream, &run, written_to.clone());
    let (mut writer, _) = next().await.expect("open");
    writer.commit(vec![record(&topic, "a", "{}"), record(&topic, "b", "{}")], checkpoint()).await.expect("committed");
    // Once under the writer, and once between it and the next one of the process.
    for round in 1..=2_u64 {
        let deleted = admin(&brokers).delete_topics(&[&topic], &AdminOptions::new()).await.expect("an answer");
        assert!(deleted[0].is_ok(), "{deleted:?}");
        let again = NewTopic::new(&topic, 1, TopicReplication::Fixed(-1));
        // The brokers may still be busy deleting it.
        while admin(&brokers).create_topics([&again], &AdminOptions::new()).await.expect("an answer")[0].is_err() {
            tokio::task::yield_now().await;
        }
        if round == 2 {
            (writer, _) = next().await.expect("open");
        }
        let error = writer.commit(vec![record(&topic, "c", "{}")], checkpoint()).await.expect_err("it is another one");
        let Verdict::Stop(failure) = error.verdict() else { panic!("{error:?}") };
        assert!(error.to_string().contains("are gone") && failure.remedy.contains("reconcile"), "{failure}");
        let stored;
        (writer, stored) = next().await.expect("open");
        assert_eq!(stored.map(|stored| stored.checkpoint.seq), Some(round), "nothing was committed there");
        writer.commit(vec![record(&topic, "d", "{}")], checkpoint()).await.expect("whoever begins anew goes on");
        assert_eq!(keys(&read(&settings, &topic, ScanFrom::Beginning).await), ["d"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_sees_committed_records_from_where_it_was_asked_to() {
    let Some(brokers) = broker("a_scan_sees_committed_records_from_where_it_was_asked_to") else { return };
    let mut settings = settings(&brokers);
    settings.topics.partitions = 1;
    let topic = entity_topic(&settings).await;
    let (mut writer, ..) = open(&settings).await;
    writer.commit(vec![record(&topic, "early", "{}")], checkpoint()).await.expect("committed");
    let early = read(&settings, &topic, ScanFrom::Beginning).await[0].timestamp.expect("a timestamp");
    // Kafka's timestamps are milliseconds: the next record has to lie in a later one.
    while Utc::now().timestamp_millis() <= early.timestamp_millis() {
        tokio::task::yield_now().await;
    }
    let aborted = raw_producer(&brokers, &format!("{topic}.aborted"), Duration::from_secs(60));
    send_raw(&aborted, &topic, "aborted", b"{}");
    aborted.abort_transaction(Duration::from_secs(10)).expect("aborted");
    writer.commit(vec![record(&topic, "late", "{}")], checkpoint()).await.expect("committed");

    assert_eq!(keys(&read(&settings, &topic, ScanFrom::Beginning).await), ["early", "late"]);
    let after = ScanFrom::Timestamp(early + chrono::Duration::milliseconds(1));
    assert_eq!(keys(&read(&settings, &topic, after).await), ["late"]);
    let future = ScanFrom::Timestamp(Utc::now() + chrono::Duration::days(1));
    assert_eq!(keys(&read(&settings, &topic, future).await), [""; 0]);
    assert_eq!(keys(&read(&settings, &topic, ScanFrom::Tail(2)).await), ["late"], "a record and its marker");
    assert_eq!(keys(&read(&settings, "no-such-topic", ScanFrom::Beginning).await), [""; 0]);
}

/// No limit is asserted: the number is for people. The trap it shows is a flush that takes 100 ms a commit.
#[tokio::test(flavor = "multi_thread")]
async fn commits_do_not_wait_for_the_client_librarys_flush() {
    let Some(brokers) = broker("commits_do_not_wait_for_the_client_librarys_flush") else { return };
    let settings = settings(&brokers);
    let topic = entity_topic(&settings).await;
    let (mut writer, ..) = open(&settings).await;
    for size in [1, 100] {
        let mut durations = Vec::new();
        let started = Instant::now();
        for _ in 0..100 {
            let records = (0..size).map(|number| record(&topic, &number.to_string(), vec![b'x'; 1024])).collect();
            durations.push(writer.commit(records, checkpoint()).await.expect("committed").duration());
        }
        durations.sort();
        let rate = 100.0 / started.elapsed().as_secs_f64();
        eprintln!(
            "{size} records a transaction: {rate:.0} commits/s, p50 {:?}, p99 {:?}",
            durations[50], durations[98]
        );
        // One flush of 100 ms would be the median if it happened at all; a machine this slow is not the cause.
        assert!(durations[50] < Duration::from_millis(100), "every commit waits for a poll: p50 {:?}", durations[50]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_reads_as_one_and_a_right_one_opens() {
    const TEST: &str = "a_wrong_password_reads_as_one_and_a_right_one_opens";
    let Some(brokers) = std::env::var("KAFKA_SASL_BOOTSTRAP").ok().filter(|address| !address.is_empty()) else {
        eprintln!("NOT RUN: {TEST}: no broker that asks for a password (KAFKA_SASL_BOOTSTRAP, scripts/kafka --sasl)");
        return;
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let mut settings = settings(&brokers);
        for (name, value) in [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", mechanism),
            ("sasl.username", "casewire"),
            ("sasl.password", "wrong-secret"),
        ] {
            settings.properties.insert(name.into(), value.into());
        }
        let (stream, run) = (cases(&settings), RunIdentity::of_this_process());
        let opened = TransactionalWriter::open(&settings, &stream, &run).await.map(|_| ()).expect_err("refused");
        let read = read_checkpoint(&settings, &stream).await.map(|_| ()).expect_err("refused");
        let listed = list_topics(&settings).await.map(|_| ()).expect_err("refused");
        for error in [opened, read, listed] {
            let Verdict::Stop(failure) = error.verdict() else { panic!("{mechanism}: {error:?}") };
            assert_eq!(failure.exit, Exit::NoPermission, "{failure}");
            assert!(!failure.to_string().contains("wrong-secret"), "{failure}");
        }
        settings.properties.insert("sasl.password".into(), "casewire-secret".into());
        let (mut writer, ..) = open(&settings).await;
        writer.commit(Vec::new(), checkpoint()).await.expect("committed");
    }
}

/// A writer on a mock cluster, and the means to disturb it.
async fn on_mock() -> (MockCluster<'static, DefaultProducerContext>, KafkaSettings, TransactionalWriter) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let mut settings = settings(&cluster.bootstrap_servers());
    settings.call_timeout = Duration::from_secs(8);
    // The mock does not answer DescribeConfigs.
    settings.topics.check = false;
    let stream = cases(&settings);
    cluster.create_topic(&stream.checkpoint_topic(), 1, 1).expect("a topic");
    cluster.create_topic("output", 1, 1).expect("a topic");
    let run = RunIdentity::of_this_process();
    let (writer, stored) = TransactionalWriter::open(&settings, &stream, &run).await.expect("a writer");
    assert_eq!(stored, None);
    (cluster, settings, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_brokers_get_their_verdicts() {
    use RDKafkaApiKey::{AddPartitionsToTxn, EndTxn, Produce};
    use RDKafkaRespErr::*;
    #[derive(Debug, PartialEq)]
    enum Outcome {
        Committed,
        Rebuild,
        DecideFenced,
        NoPermission,
    }
    for (api, error, outcome) in [
        (EndTxn, RD_KAFKA_RESP_ERR_NOT_COORDINATOR, Outcome::Committed),
        (EndTxn, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, Outcome::Committed),
        (Produce, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, Outcome::Committed),
        (EndTxn, RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Outcome::DecideFenced),
        (EndTxn, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Outcome::DecideFenced),
        (EndTxn, RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, Outcome::Rebuild),
        (EndTxn, RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, Outcome::Rebuild),
        (EndTxn, RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Outcome::NoPermission),
        (Produce, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, Outcome::Rebuild),
        (Produce, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Outcome::NoPermission),
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Outcome::NoPermission),
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, Outcome::Rebuild),
    ] {
        let (cluster, _, mut writer) = on_mock().await;
        cluster.request_errors(api, &[error]);
        let found = match writer.commit(vec![record("output", "a", "{}")], checkpoint()).await {
            Ok(_) => Outcome::Committed,
            Err(failed) => match failed.verdict() {
                Verdict::Rebuild => Outcome::Rebuild,
                Verdict::DecideFenced => Outcome::DecideFenced,
                Verdict::Stop(failure) if failure.exit == Exit::NoPermission => Outcome::NoPermission,
                other => panic!("{api:?} {error:?}: {failed:?} {other:?}"),
            },
        };
        assert_eq!(found, outcome, "{api:?} {error:?}");
        assert_eq!(writer.is_usable(), outcome == Outcome::Committed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_in_time_is_waited_for() {
    let (cluster, _, mut writer) = on_mock().await;
    writer.commit(vec![record("output", "a", "{}")], checkpoint()).await.expect("committed");
    cluster.broker_down(1).expect("down");
    let connection = writer.connection();
    let commit = tokio::spawn(async move {
        let committed = writer.commit(vec![record("output", "b", "{}")], checkpoint()).await;
        (committed, writer)
    });
    while connection.is_reachable() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.broker_up(1).expect("up");
    let (committed, writer) = commit.await.expect("no panic");
    assert_eq!(committed.expect("committed after the outage").seq(), 2);
    assert!(writer.connection().is_reachable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stays_away_makes_the_writer_unusable_not_wrong() {
    let (cluster, mut settings, mut writer) = on_mock().await;
    cluster.broker_down(1).expect("down");
    let error = writer.commit(vec![record("output", "a", "{}")], checkpoint()).await.expect_err("nobody answers");
    assert!(matches!(error, KafkaError::Unavailable { .. }), "{error:?}");
    assert_eq!(error.verdict(), Verdict::Rebuild);
    assert!(!writer.is_usable());
    settings.call_timeout = Duration::from_secs(1);
    let stream = cases(&settings);
    let run = RunIdentity::of_this_process();
    let error = TransactionalWriter::open(&settings, &stream, &run).await.expect_err("nobody answers");
    assert_eq!((error.verdict(), error.failure().exit), (Verdict::Rebuild, Exit::Unavailable));
    assert!(matches!(ping(&settings).await, Err(KafkaError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_its_caller_gave_up_makes_the_writer_unusable() {
    let (cluster, _, mut writer) = on_mock().await;
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).expect("slow");
    let records = vec![record("output", "a", "{}")];
    let given_up = tokio::time::timeout(Duration::from_millis(20), writer.commit(records, checkpoint())).await;
    assert!(given_up.is_err());
    let error = writer.commit(Vec::new(), checkpoint()).await.expect_err("its outcome is not known here");
    assert_eq!(error.verdict(), Verdict::Rebuild);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_accepts_and_says_nothing_is_not_waited_for_without_end() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut settings = settings(&silent.local_addr().expect("an address").to_string());
    settings.call_timeout = Duration::from_secs(1);
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = silent.accept().await {
            held.push(socket);
        }
    });
    let run = RunIdentity::of_this_process();
    let error = TransactionalWriter::open(&settings, &cases(&settings), &run).await.expect_err("silence");
    assert_eq!((error.verdict(), error.failure().exit), (Verdict::Rebuild, Exit::Unavailable));
    let error = read_checkpoint(&settings, &cases(&settings)).await.expect_err("silence is not `no checkpoint`");
    assert!(matches!(error, KafkaError::Unavailable { .. }), "{error:?}");
    holding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_beside_transactions_fences_nobody_and_is_news_once() {
    let Some(brokers) = broker("what_is_appended_beside_transactions_fences_nobody_and_is_news_once") else { return };
    let settings = settings(&brokers);
    let topic = format!("{}.gaps", settings.topic_prefix);
    ensure_topic(&settings, &topic, TopicRole::Gaps).await.expect("a topic");
    let run = RunIdentity::of_this_process();
    let (mut writer, _) = TransactionalWriter::open(&settings, &cases(&settings), &run).await.expect("a writer");
    let mut read_to = ReadTo::default();
    let mut news = async |settings: &KafkaSettings| {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let found = seen.clone();
        let reached = scan_news(settings, &topic, read_to.clone(), move |record| {
            let key = record.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            found.lock().expect("no panic").push(key);
        });
        read_to = reached.await.expect("read");
        let mut keys = std::mem::take(&mut *seen.lock().expect("no panic"));
        keys.sort();
        keys
    };
    assert!(news(&settings).await.is_empty());
    writer.commit(vec![record(&topic, "a", "{}")], checkpoint()).await.expect("committed");
    append(&settings, ["b", "c", "d"].map(|key| record(&topic, key, "{}")).into()).await.expect("appended");
    assert_eq!(news(&settings).await, ["a", "b", "c", "d"]);
    assert!(news(&settings).await.is_empty());
    writer.commit(vec![record(&topic, "e", "{}")], checkpoint()).await.expect("nobody was fenced");
    append(&settings, vec![record(&topic, "f", "{}")]).await.expect("appended");
    assert_eq!(news(&settings).await, ["e", "f"]);

    let large = vec![record(&topic, "g", vec![b'x'; 5 * 1024 * 1024])];
    let error = append(&settings, large).await.expect_err("larger than is taken");
    assert!(matches!(error, KafkaError::TooLarge { index: 0, .. }), "{error:?}");
    assert!(news(&settings).await.is_empty());
    let nobody = KafkaSettings { brokers: "127.0.0.1:1".to_owned(), call_timeout: Duration::from_secs(1), ..settings };
    let error = append(&nobody, vec![record(&topic, "h", "{}")]).await.expect_err("nobody answers");
    assert_eq!((error.verdict(), error.failure().exit), (Verdict::Rebuild, Exit::Unavailable), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_does_not_exist_is_named() {
    let mut settings = settings("127.0.0.1:1");
    settings.properties.insert("compresion.type".into(), "lz4".into());
    let run = RunIdentity::of_this_process();
    let error = TransactionalWriter::open(&settings, &cases(&settings), &run).await.expect_err("no such property");
    let Verdict::Stop(failure) = error.verdict() else { panic!("{error:?}") };
    assert!(failure.exit == Exit::Configuration && failure.what.contains("compresion.type"), "{failure}");
}
