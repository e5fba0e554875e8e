//! The producer's own thread.
//!
//! Every call of a transactional producer blocks, so none is made on a runtime worker. The thread ends
//! when its handle is dropped.

use std::collections::HashSet;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::sync::oneshot;

use crate::kafka::connection::{Connection, ConnectionContext, Delivered, WrittenTo};
use crate::kafka::error::{Class, Flags, KafkaError, class_of, class_of_client, explain};
use crate::kafka::failpoint::{self, After};
use crate::kafka::replicas::{TRANSACTION_STATE, shortage};
use crate::kafka::scan::Reader;
use crate::kafka::settings::{KafkaSettings, LEAST_BATCH_BYTES, create};
use crate::kafka::topics;
use crate::kafka::writer::OutputRecord;

/// The most that one blocking call is asked to take at a time. Ambiguous time-outs are answered by the
/// same call again, so this only sets how often a refused password is looked for.
const SLICE: Duration = Duration::from_secs(2);

/// How short one of them may be. librdkafka forgets that a commit is under way when a call that goes on with it ends before it
/// was taken up, and then takes the coordinator's answer for that of an abort: an assertion ends the process.
const LEAST_SLICE: Duration = Duration::from_millis(50);

/// The records of one transaction; the checkpoint is the last.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub records: Vec<OutputRecord>,
}

impl Transaction {
    fn writes_to(&self, topic: &str) -> bool {
        self.records.iter().any(|record| &*record.topic == topic)
    }
}

/// What the thread can be asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// `init_transactions`.
    Fence { reply: oneshot::Sender<Result<(), KafkaError>> },
    /// Where the only partition of a topic ends, found out by writing there and taking it back.
    FindEnd { probe: OutputRecord, reply: oneshot::Sender<Result<i64, KafkaError>> },
    /// A transaction from begin to commit; the reply is how long it took.
    Commit { transaction: Transaction, reply: oneshot::Sender<Result<Duration, KafkaError>> },
    /// Drop the producer.
    Close { reply: oneshot::Sender<Result<(), KafkaError>> },
}

/// Who has said how large the batches are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batches {
    /// The operator.
    Set,
    /// The topics that there were when the writer was opened.
    Fitted,
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct ProducerThread {
    commands: mpsc::Sender<Command>,
    connection: Arc<Connection>,
    call: Arc<Mutex<&'static str>>,
}

impl ProducerThread {
    /// Makes the producer and starts its thread. Nothing is asked of a broker yet.
    pub fn spawn(
        settings: &Arc<KafkaSettings>,
        transactional_id: String,
        batches: Batches,
        written_to: Arc<WrittenTo>,
    ) -> Result<Self, KafkaError> {
        let context = ConnectionContext::after(written_to);
        let producer: ThreadedProducer<ConnectionContext> =
            create(&settings.producer(&transactional_id), context.clone())?;
        let (commands, inbox) = mpsc::channel();
        let call = Arc::new(Mutex::new("waiting for work"));
        let runtime = tokio::runtime::Handle::current();
        let worker = Worker {
            producer,
            context: context.clone(),
            settings: Arc::clone(settings),
            batches,
            call: Arc::clone(&call),
            runtime,
        };
        thread::Builder::new().name("kafka-transactions".to_owned()).spawn(move || worker.serve(&inbox)).map_err(
            |error| KafkaError::Rebuild { call: "starting the producer's thread", reason: error.to_string() },
        )?;
        Ok(Self { commands, connection: context.connection, call })
    }

    pub fn send(&self, command: Command) -> Result<(), KafkaError> {
        self.commands.send(command).map_err(|_| self.gone())
    }

    /// The error of a thread that is not there any more.
    pub fn gone(&self) -> KafkaError {
        KafkaError::Rebuild { call: self.current_call(), reason: "the producer's thread has ended".to_owned() }
    }

    /// What the thread is doing.
    pub fn current_call(&self) -> &'static str {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }
}

/// What lives on the thread.
struct Worker {
    producer: ThreadedProducer<ConnectionContext>,
    context: ConnectionContext,
    settings: Arc<KafkaSettings>,
    batches: Batches,
    call: Arc<Mutex<&'static str>>,
    runtime: tokio::runtime::Handle,
}

impl Worker {
    fn serve(self, inbox: &mpsc::Receiver<Command>) {
        while let Ok(command) = inbox.recv() {
            // A caller that has gone needs no answer: what happened is in the checkpoint topic.
            match command {
                Command::Fence { reply } => drop(reply.send(self.fence())),
                Command::FindEnd { probe, reply } => drop(reply.send(self.find_end(probe))),
                Command::Commit { transaction, reply } => {
                    let result = self.commit(&transaction);
                    drop(reply.send(result));
                }
                Command::Close { reply } => {
                    self.enter("closing the producer");
                    drop(self.producer);
                    drop(reply.send(Ok(())));
                    return;
                }
            }
            self.enter("waiting for work");
        }
    }

    fn enter(&self, call: &'static str) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.settings.call_timeout
    }

    fn fence(&self) -> Result<(), KafkaError> {
        const CALL: &str = "fencing older producers (init_transactions)";
        self.enter(CALL);
        let fenced = self.repeat(CALL, self.deadline(), |timeout| self.producer.init_transactions(timeout));
        // A predecessor's transaction that is to end waits for the partitions that it wrote to. Which those are, only the
        // brokers know; they are some of those under the prefix.
        fenced.map_err(|error| {
            self.short_of_replicas(error, |topic| {
                topic.strip_prefix(&self.settings.topic_prefix).is_some_and(|rest| rest.starts_with('.'))
            })
        })
    }

    /// The offset at which the topic of `probe` ends, by a record that is acknowledged there and then aborted.
    ///
    /// To ask for the end is not enough: a leader that is cut off from the other brokers answers with the end that it
    /// knew, for as long as clients reach it. An acknowledgement of all in-sync replicas is what it cannot give.
    fn find_end(&self, probe: OutputRecord) -> Result<i64, KafkaError> {
        const CALL: &str = "finding the end of the checkpoint topic";
        let deadline = self.deadline();
        // A checkpoint topic that has lost its end is told with the position that is lost.
        self.context.deliveries.forget(&probe.topic);
        let probe = Transaction { records: vec![probe] };
        self.enter(CALL);
        self.context.deliveries.begin();
        self.producer.begin_transaction().map_err(|error| explain(CALL, &error, &self.context.connection))?;
        self.write(&probe, deadline)?;
        self.enter(CALL);
        // An old broker acknowledges what it had twice without saying where it stands.
        let end = self.context.deliveries.offset().filter(|offset| *offset >= 0);
        self.repeat(CALL, deadline, |timeout| self.producer.abort_transaction(timeout))?;
        end.ok_or_else(|| KafkaError::Rebuild { call: CALL, reason: "the brokers told no offset".to_owned() })
    }

    /// Makes the same call until it gives a definite answer or the deadline passes.
    ///
    /// A transaction call that timed out goes on inside librdkafka. Only the same call may follow; any other gets
    /// `Conflict`.
    fn repeat(
        &self,
        call: &'static str,
        deadline: Instant,
        mut attempt: impl FnMut(Duration) -> Result<(), ClientError>,
    ) -> Result<(), KafkaError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let started = Instant::now();
            let error = match attempt(slice_of(left)) {
                Ok(()) => {
                    self.context.connection.answered();
                    return Ok(());
                }
                Err(error) => error,
            };
            let hopeless = self.context.connection.refused().is_some();
            if class_of_client(&error) != Class::Again || hopeless || Instant::now() >= deadline {
                return Err(explain(call, &error, &self.context.connection));
            }
            tracing::debug!(call, error = %error, "kafka call not answered yet, made again");
            // Some errors come back at once; the pause keeps them from spinning.
            if started.elapsed() < SLICE / 20 {
                thread::sleep(SLICE / 20);
            }
        }
    }

    fn commit(&self, transaction: &Transaction) -> Result<Duration, KafkaError> {
        const COMMIT: &str = "committing the transaction";
        let started = Instant::now();
        let deadline = self.deadline();
        self.enter("beginning a transaction");
        self.context.deliveries.begin();
        self.producer
            .begin_transaction()
            .map_err(|error| explain("beginning a transaction", &error, &self.context.connection))?;
        failpoint::pass(After::Begin);
        self.write(transaction, deadline)?;
        failpoint::pass(After::Checkpoint);
        self.enter(COMMIT);
        self.repeat(COMMIT, deadline, |timeout| self.producer.commit_transaction(timeout))
            .map_err(|error| self.short_of_replicas(error, |topic| transaction.writes_to(topic)))?;
        failpoint::pass(After::Commit);
        Ok(started.elapsed())
    }

    /// Sends the records of the transaction that is open, and waits until all are acknowledged; otherwise it is over.
    fn write(&self, transaction: &Transaction, deadline: Instant) -> Result<(), KafkaError> {
        let written = self.send_all(transaction, deadline).and_then(|()| self.await_deliveries(transaction, deadline));
        written.inspect_err(|error| self.abort(error))
    }

    fn send_all(&self, transaction: &Transaction, deadline: Instant) -> Result<(), KafkaError> {
        self.enter("sending records");
        let last = transaction.records.len().saturating_sub(1);
        for (index, record) in transaction.records.iter().enumerate() {
            if index == last {
                failpoint::pass(After::Records);
            }
            self.send(index, record, deadline)?;
        }
        Ok(())
    }

    /// Hands one record over. A full queue is waited for with the same record in hand: going on with the
    /// next one would change the order.
    fn send(&self, index: usize, record: &OutputRecord, deadline: Instant) -> Result<(), KafkaError> {
        loop {
            self.context.deliveries.sending();
            let Err((error, _)) = self.producer.send(client_record(index, record)) else { return Ok(()) };
            self.context.deliveries.not_sent();
            let full = matches!(error, ClientError::MessageProduction(RDKafkaErrorCode::QueueFull));
            if full && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            return Err(match class_of_client(&error) {
                Class::TooLarge => too_large(index, record, self.settings.record_limit()),
                _ => self.fatal().unwrap_or_else(|| self.refused_record(record, code)),
            });
        }
    }

    /// Waits until no record is in flight, so that the commit's own flush finds nothing to wait for: it
    /// would take 100 ms even for a record that is answered in one.
    fn await_deliveries(&self, transaction: &Transaction, deadline: Instant) -> Result<(), KafkaError> {
        const CALL: &str = "waiting for the records to be acknowledged";
        self.enter(CALL);
        match self.context.deliveries.wait(deadline) {
            Delivered::All => {
                if let Some(back) = self.context.deliveries.went_back() {
                    return Err(KafkaError::went_back(&back));
                }
            }
            Delivered::Late(outstanding) => {
                let error = ClientError::Flush(RDKafkaErrorCode::OperationTimedOut);
                tracing::warn!(outstanding, "records not acknowledged in time");
                // Records for a topic that is gone wait for it, and theirs is not the brokers' fault.
                if self.context.connection.is_reachable()
                    && let Some(missing) = self.missing_topic(transaction)
                {
                    return Err(self.refused_record(missing, RDKafkaErrorCode::UnknownTopicOrPartition));
                }
                let error = explain(CALL, &error, &self.context.connection);
                return Err(self.short_of_replicas(error, |topic| transaction.writes_to(topic)));
            }
            Delivered::Failed(failed) => return Err(self.explain_failed(transaction, &failed)),
        }
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// What the refused deliveries mean. Where one record of a batch is too large the whole batch is refused,
    /// so the largest of them is the one to blame.
    fn explain_failed(&self, transaction: &Transaction, failed: &[(usize, RDKafkaErrorCode)]) -> KafkaError {
        if let Some(fatal) = self.fatal() {
            return fatal;
        }
        let largest_refused = failed
            .iter()
            .filter(|(_, code)| class_of(*code, Flags::default()) == Class::TooLarge)
            .filter_map(|(index, _)| transaction.records.get(*index).map(|record| (*index, record)))
            .max_by_key(|(_, record)| record.size());
        if let Some((index, record)) = largest_refused {
            if index + 1 == transaction.records.len() {
                return checkpoint_too_large(record);
            }
            return self.refused_for_size(index, record);
        }
        // A purged record was given up because of something else, which another record or the transaction tells.
        let purged = [RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeInflight];
        let cause = failed.iter().find(|(_, code)| !purged.contains(code));
        match cause.and_then(|(index, code)| transaction.records.get(*index).map(|record| (record, *code))) {
            // Records for a topic that is gone wait for it until their time is out.
            Some((record, RDKafkaErrorCode::MessageTimedOut)) => match self.missing_topic(transaction) {
                Some(missing) => self.refused_record(missing, RDKafkaErrorCode::UnknownTopicOrPartition),
                None => {
                    let error = self.refused_record(record, RDKafkaErrorCode::MessageTimedOut);
                    self.short_of_replicas(error, |topic| transaction.writes_to(topic))
                }
            },
            Some((record, code)) => self.refused_record(record, code),
            None => self.explain_aborted(transaction),
        }
    }

    /// Why librdkafka gave the transaction up. Beginning another one is refused with exactly that reason, and unlike
    /// a commit it can do no harm should the transaction be sound after all.
    fn explain_aborted(&self, transaction: &Transaction) -> KafkaError {
        const CALL: &str = "adding partitions to the transaction";
        let Err(error) = self.producer.begin_transaction() else {
            return KafkaError::Rebuild { call: CALL, reason: "records were given up without a reason".to_owned() };
        };
        match class_of_client(&error) {
            Class::MissingTopic => self
                .missing_topic(transaction)
                .map(|record| self.refused_record(record, RDKafkaErrorCode::UnknownTopicOrPartition))
                .unwrap_or_else(|| explain(CALL, &error, &self.context.connection)),
            Class::Misuse => KafkaError::Rebuild { call: CALL, reason: error.to_string() },
            _ => explain(CALL, &error, &self.context.connection),
        }
    }

    /// Settings for finding out more about a failure: that may not take as long as what failed.
    fn for_diagnosis(&self) -> KafkaSettings {
        KafkaSettings { call_timeout: SLICE.min(self.settings.call_timeout), ..KafkaSettings::clone(&self.settings) }
    }

    /// A record whose topic the cluster does not have.
    fn missing_topic<'a>(&self, transaction: &'a Transaction) -> Option<&'a OutputRecord> {
        let reader = Reader::new(&self.for_diagnosis()).ok()?;
        let mut asked = HashSet::new();
        for record in transaction.records.iter().filter(|record| asked.insert(Arc::clone(&record.topic))) {
            // Brokers that do not answer for one topic would be waited for with each.
            if reader.partitions(&record.topic).ok()?.is_none() {
                return Some(record);
            }
        }
        None
    }

    /// The error of a call that took too long, or that for want of replicas of a topic that is `meant`, if this is what it
    /// waited for.
    fn short_of_replicas(&self, error: KafkaError, meant: impl Fn(&str) -> bool) -> KafkaError {
        if !matches!(error, KafkaError::Unavailable { .. }) || !self.context.connection.is_reachable() {
            return error;
        }
        let meant = |topic: &str| topic == TRANSACTION_STATE || meant(topic);
        shortage(&self.for_diagnosis(), meant, &self.runtime).unwrap_or(error)
    }

    fn refused_for_size(&self, index: usize, record: &OutputRecord) -> KafkaError {
        const SENDING: &str = "sending records";
        match topics::message_limit(&self.for_diagnosis(), &record.topic, &self.runtime) {
            // The topic came after the size of batches was found out, or takes less since. Whoever opens the next writer finds
            // out anew, and only what is refused then is a record's own fault: it counts compressed, and so may fit alone.
            Some(limit) if self.fits_later(limit) => KafkaError::Rebuild {
                call: SENDING,
                reason: format!("topic `{}` takes batches of {limit} bytes, less than the others", record.topic),
            },
            // It does not tell what it takes, so the next writer's batches are the least.
            None if self.fits_later(LEAST_BATCH_BYTES) && record.size() <= LEAST_BATCH_BYTES => KafkaError::Rebuild {
                call: SENDING,
                reason: format!(
                    "topic `{}` refused a batch of at most {} bytes",
                    record.topic,
                    self.settings.batch_limit()
                ),
            },
            // The topic takes the record but not the batch around it: another record would be next.
            Some(limit) if record.size() <= limit => {
                KafkaError::small_batches(&record.topic, limit, self.settings.batch_limit())
            }
            limit => too_large(index, record, limit.unwrap_or_else(|| record.size().saturating_sub(1))),
        }
    }

    /// Whether batches can be so small that a topic of this limit takes them.
    fn fits_later(&self, limit: usize) -> bool {
        self.batches == Batches::Fitted && limit >= LEAST_BATCH_BYTES && limit < self.settings.batch_limit()
    }

    fn refused_record(&self, record: &OutputRecord, code: RDKafkaErrorCode) -> KafkaError {
        const CALL: &str = "sending records";
        let error = ClientError::MessageProduction(code);
        match class_of(code, Flags::default()) {
            // The next start looks which topics are there, and knows what a missing one means.
            Class::MissingTopic => {
                KafkaError::Rebuild { call: CALL, reason: format!("topic `{}` does not exist any more", record.topic) }
            }
            Class::Unauthorized => {
                KafkaError::Unauthorized { call: CALL, reason: format!("{error}, topic `{}`", record.topic) }
            }
            // A record whose time ran out has been waiting for a broker all along.
            _ if code == RDKafkaErrorCode::MessageTimedOut => {
                explain(CALL, &ClientError::Flush(RDKafkaErrorCode::OperationTimedOut), &self.context.connection)
            }
            _ => explain(CALL, &error, &self.context.connection),
        }
    }

    /// The error that ended the producer, if one did; after it every call only repeats it.
    fn fatal(&self) -> Option<KafkaError> {
        const CALL: &str = "sending records";
        let (code, reason) = self.producer.client().fatal_error()?;
        let flags = Flags { fatal: true, ..Flags::default() };
        Some(match class_of(code, flags) {
            Class::Fenced => KafkaError::Fenced,
            Class::Unauthorized => KafkaError::Unauthorized { call: CALL, reason },
            _ => KafkaError::Rebuild { call: CALL, reason },
        })
    }

    /// Ends the transaction so that readers need not wait for its time-out. The writer is given up after
    /// any failure, so this is a courtesy: if it fails, the next writer's fence does the same.
    fn abort(&self, cause: &KafkaError) {
        if matches!(cause, KafkaError::Fenced | KafkaError::Unavailable { .. }) {
            return;
        }
        self.enter("aborting the transaction");
        if let Err(error) = self.producer.abort_transaction(SLICE) {
            tracing::debug!(error = %error, "transaction left to the next writer's fence");
        }
    }
}

/// How long one call may take of the time that is left.
fn slice_of(left: Duration) -> Duration {
    left.clamp(LEAST_SLICE, SLICE)
}

pub(crate) fn too_large(index: usize, record: &OutputRecord, limit: usize) -> KafkaError {
    KafkaError::TooLarge { index, topic: record.topic.to_string(), size: record.size(), limit }
}

pub(crate) fn checkpoint_too_large(record: &OutputRecord) -> KafkaError {
    KafkaError::large_checkpoint(&record.topic, record.size())
}

pub(crate) fn client_record(index: usize, record: &OutputRecord) -> BaseRecord<'_, [u8], [u8], usize> {
    let headers =
        record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_ref()) })
        });
    let made = BaseRecord::with_opaque_to(&record.topic, index).key(record.key.as_ref());
    let made = if record.headers.is_empty() { made } else { made.headers(headers) };
    match &record.value {
        Some(value) => made.payload(value.as_ref()),
        None => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_so_short_that_librdkafka_forgets_what_it_goes_on_with() {
        let of = |left: u64| slice_of(Duration::from_millis(left)).as_millis();
        assert_eq!([60_000, 2_000, 949, 50, 49, 0].map(of), [2_000, 2_000, 949, 50, 50, 50]);
    }
}
