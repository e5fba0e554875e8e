//! A bare transactional producer: reads what casewire has written and writes the same bytes once more, to topics of the
//! same kind, in the same transactions and with the same settings of librdkafka.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casewire::kafka::{MOST_BATCH_BYTES, TopicRole, ensure_topic};
use clap::Args;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use serde_json::{Value, json};

use crate::{Failure, broker, clocks};

/// For each of the producer's calls.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    bootstrap: String,
    /// Where casewire wrote the records
    #[arg(long)]
    records: String,
    /// Where it wrote the checkpoints
    #[arg(long)]
    checkpoints: String,
    /// What the names of the topics written to begin with
    #[arg(long)]
    prefix: String,
    /// Begins each transaction as long after the first as its last record was produced after the first one's,
    /// instead of at once
    #[arg(long)]
    at_their_times: bool,
    /// A property of librdkafka, as in casewire's [kafka.properties]
    #[arg(long, value_name = "NAME=VALUE")]
    property: Vec<String>,
}

#[derive(Clone)]
struct Record {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    offset: i64,
    /// When it was produced, in milliseconds of the epoch.
    produced_at: i64,
}

/// The records of one transaction and the checkpoint behind them.
struct Transaction {
    records: Vec<Record>,
    checkpoint: Record,
    /// How long after the first one it begins.
    after: Duration,
}

/// Counts the records that are not answered yet: a commit with one of them under way takes a tenth of a second.
#[derive(Clone, Default)]
struct Answers(Arc<(Mutex<Outstanding>, Condvar)>);

#[derive(Default)]
struct Outstanding {
    records: usize,
    failed: usize,
}

impl ClientContext for Answers {}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut outstanding = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        outstanding.records -= 1;
        outstanding.failed += usize::from(result.is_err());
        if outstanding.records == 0 {
            self.0.1.notify_all();
        }
    }
}

impl Answers {
    fn expect(&self, records: usize) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).records += records;
    }

    fn wait(&self) -> Result<(), Failure> {
        let outstanding = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(outstanding, PATIENCE, |outstanding| outstanding.records > 0);
        let (outstanding, late) = waited.unwrap_or_else(PoisonError::into_inner);
        match (late.timed_out(), outstanding.failed) {
            (false, 0) => Ok(()),
            (true, _) => Err(format!("{} records are not answered", outstanding.records).into()),
            (false, failed) => Err(format!("{failed} records were refused").into()),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Value, Failure> {
    let transactions = load(arguments)?;
    let (records_topic, checkpoints_topic) =
        (format!("{}.records", arguments.prefix), format!("{}.checkpoints", arguments.prefix));
    make_topics(arguments, &records_topic, &checkpoints_topic)?;
    let answers = Answers::default();
    let mut settings = broker::settings(&arguments.bootstrap);
    // As large as casewire's are where its own topics are all there is.
    settings.properties.insert("batch.size".to_owned(), MOST_BATCH_BYTES.to_string());
    for property in &arguments.property {
        let (name, value) = property.split_once('=').ok_or("a property is written NAME=VALUE")?;
        settings.properties.insert(name.to_owned(), value.to_owned());
    }
    let config = settings.producer(&arguments.prefix);
    let producer: ThreadedProducer<Answers> = config.create_with_context(answers.clone())?;
    producer.init_transactions(PATIENCE)?;

    let processor_before = clocks::processor_seconds()?;
    let (began, began_at) = (Instant::now(), clocks::now());
    let mut begins = Vec::with_capacity(transactions.len());
    for transaction in &transactions {
        if arguments.at_their_times {
            // What counts is when it should begin: one that is late because the one before took long has waited.
            begins.push(began_at + u64::try_from(transaction.after.as_micros())?);
            std::thread::sleep(transaction.after.saturating_sub(began.elapsed()));
        }
        producer.begin_transaction()?;
        answers.expect(transaction.records.len() + 1);
        for record in &transaction.records {
            send(&producer, &records_topic, record)?;
        }
        send(&producer, &checkpoints_topic, &transaction.checkpoint)?;
        answers.wait()?;
        while producer.in_flight_count() > 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
        producer.commit_transaction(PATIENCE)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let records: usize = transactions.iter().map(|transaction| transaction.records.len()).sum();
    Ok(json!({
        "transactions": transactions.len(),
        "records": records,
        "seconds": seconds,
        "rate": records as f64 / seconds,
        "processor_seconds": clocks::processor_seconds()? - processor_before,
        "sizes": transactions.iter().map(|transaction| transaction.records.len()).collect::<Vec<_>>(),
        "begins": begins,
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn make_topics(arguments: &Arguments, records: &str, checkpoints: &str) -> Result<(), Failure> {
    let settings = broker::settings(&arguments.bootstrap);
    ensure_topic(&settings, records, TopicRole::Entity).await?;
    ensure_topic(&settings, checkpoints, TopicRole::Checkpoints).await?;
    Ok(())
}

fn send(producer: &ThreadedProducer<Answers>, topic: &str, record: &Record) -> Result<(), Failure> {
    let headers =
        record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_slice()) })
        });
    let mut made = BaseRecord::to(topic).key(record.key.as_slice());
    if !record.headers.is_empty() {
        made = made.headers(headers);
    }
    if let Some(value) = &record.value {
        made = made.payload(value.as_slice());
    }
    producer.send(made).map_err(|(error, _)| error.into())
}

/// What casewire wrote, transaction by transaction. In a topic of one partition a transaction's records have consecutive
/// offsets, and its commit takes the offset behind them; the last checkpoints belong to the transactions with records.
fn load(arguments: &Arguments) -> Result<Vec<Transaction>, Failure> {
    let mut runs: Vec<Vec<Record>> = Vec::new();
    for record in read(&arguments.bootstrap, &arguments.records)? {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.offset + 1 == record.offset) => run.push(record),
            _ => runs.push(vec![record]),
        }
    }
    // The topic is compacted while it is written: of a long run only the newest checkpoints are left. They differ in
    // digits only, so the oldest that is left stands for those before it.
    let mut checkpoints = read(&arguments.bootstrap, &arguments.checkpoints)?;
    let oldest = checkpoints.first().cloned().ok_or("there is no checkpoint")?;
    let lost = runs.len().saturating_sub(checkpoints.len());
    checkpoints.splice(..0, std::iter::repeat_n(oldest, lost));
    let checkpoints = checkpoints.split_off(checkpoints.len() - runs.len());
    let produced_at = |records: &[Record]| records.last().map_or(0, |record| record.produced_at);
    let first = runs.first().map_or(0, |run| produced_at(run));
    let transaction = |(records, checkpoint): (Vec<Record>, Record)| {
        let after = Duration::from_millis(u64::try_from(produced_at(&records) - first).unwrap_or_default());
        Transaction { records, checkpoint, after }
    };
    Ok(runs.into_iter().zip(checkpoints).map(transaction).collect())
}

fn read(bootstrap: &str, topic: &str) -> Result<Vec<Record>, Failure> {
    let consumer = broker::reader(bootstrap, topic, Duration::ZERO)?;
    let mut records = Vec::new();
    loop {
        match consumer.poll(PATIENCE) {
            None => return Err(format!("the end of {topic} is not reached").into()),
            Some(Err(error)) if broker::is_end(&error) => return Ok(records),
            Some(record) => records.push(Record::of(&record?)),
        }
    }
}

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let pair = |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.unwrap_or_default().to_vec());
            headers.iter().map(pair).collect()
        });
        Self {
            key: message.key().unwrap_or_default().to_vec(),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            offset: message.offset(),
            produced_at: message.timestamp().to_millis().unwrap_or_default(),
        }
    }
}
