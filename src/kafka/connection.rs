//! What a client's callbacks say about the connection.
//!
//! librdkafka reports a refused password or certificate through a callback only; the call that
//! waits for a broker just times out. What the callbacks said is kept here, so that the error of the
//! call can tell the cause.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use rdkafka::statistics::Statistics;

/// Whether the brokers can be reached, as far as a client knows by itself.
#[derive(Debug, Default)]
pub struct Connection {
    all_brokers_down: AtomicBool,
    refused: Mutex<Option<String>>,
    last_error: Mutex<Option<String>>,
    told: Mutex<Vec<RDKafkaErrorCode>>,
}

impl Connection {
    /// False once every broker's connection has failed, until one is up again.
    pub fn is_reachable(&self) -> bool {
        !self.all_brokers_down.load(Ordering::Relaxed)
    }

    /// The last error that the client reported since a call was answered, in librdkafka's words.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    /// The words in which the brokers' side refused a password, mechanism or certificate.
    pub fn refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    /// A call was answered.
    pub(crate) fn answered(&self) {
        self.all_brokers_down.store(false, Ordering::Relaxed);
        *lock(&self.refused) = None;
        *lock(&self.last_error) = None;
        lock(&self.told).clear();
    }

    /// Whether an error of this kind is news since a call was answered. librdkafka repeats itself with every
    /// attempt to connect, several times a second; a log of that hides what else happens.
    fn is_news(&self, code: Option<RDKafkaErrorCode>) -> bool {
        let Some(code) = code else { return true };
        let mut told = lock(&self.told);
        let news = !told.contains(&code);
        if news {
            told.push(code);
        }
        news
    }

    fn report(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.all_brokers_down.store(true, Ordering::Relaxed),
            Some(code) if is_refusal(code, reason) => *lock(&self.refused) = Some(reason.to_owned()),
            _ => {}
        }
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || lock(&self.last_error).is_none() {
            *lock(&self.last_error) = Some(reason.to_owned());
        }
    }
}

/// Whether a client error says that trying again cannot help. A TLS handshake can also break off
/// because the network did, so only words about certificates count.
fn is_refusal(code: RDKafkaErrorCode, reason: &str) -> bool {
    match code {
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism => true,
        RDKafkaErrorCode::SSL => reason.contains("certificate"),
        // With TLS 1.3 the client's handshake is over before the broker looks at its certificate: what it thinks of it
        // comes as an alert (RFC 8446, 6.2) in place of the first answer, and that reads as a failed transport.
        RDKafkaErrorCode::BrokerTransportFailure => {
            reason.contains("SSL alert number")
                && ["certificate", "unknown ca", "access denied"].iter().any(|word| reason.contains(word))
        }
        _ => false,
    }
}

/// Deliveries of the transaction that is being written.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    state: Mutex<DeliveryState>,
    settled: Condvar,
    written_to: Arc<WrittenTo>,
}

#[derive(Debug, Default)]
struct DeliveryState {
    outstanding: usize,
    failed: Vec<(usize, RDKafkaErrorCode)>,
    /// Where the last acknowledged record was put.
    offset: Option<i64>,
}

/// How far a process has written into each partition of its topics, as the brokers acknowledged it: a partition that takes a
/// record at or before that place has lost what stood there. It outlasts transactions, committed or not, since an aborted record
/// keeps its place, and it is for the producers to come.
#[derive(Debug, Default)]
pub struct WrittenTo(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    of_topic: HashMap<String, Vec<Option<i64>>>,
    went_back: Option<WentBack>,
}

/// A partition that took a record at or before the place of an earlier one: what stood there is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WentBack {
    pub topic: String,
    pub partition: usize,
    /// The last record that was acknowledged …
    pub before: i64,
    /// … and the one after it.
    pub now: i64,
}

impl WrittenTo {
    /// Forgets a topic that is known to be another one.
    pub fn forget(&self, topic: &str) {
        lock(&self.0).of_topic.remove(topic);
    }

    /// The first partition that was found to have gone back, once.
    fn take_went_back(&self) -> Option<WentBack> {
        lock(&self.0).went_back.take()
    }

    fn acknowledged(&self, topic: &str, partition: i32, offset: i64) {
        let Ok(partition) = usize::try_from(partition) else { return };
        let mut guard = lock(&self.0);
        let Ends { of_topic, went_back } = &mut *guard;
        let ends = match of_topic.get_mut(topic) {
            Some(ends) => ends,
            None => of_topic.entry(topic.to_owned()).or_default(),
        };
        if ends.len() <= partition {
            ends.resize(partition + 1, None);
        }
        let Some(end) = ends.get_mut(partition) else { return };
        // An old broker acknowledges what it had twice without saying where it stands, and librdkafka counts on from that.
        let before = std::mem::replace(end, (offset >= 0).then_some(offset));
        let Some(before) = before.filter(|before| (0..=*before).contains(&offset)) else { return };
        went_back.get_or_insert_with(|| WentBack { topic: topic.to_owned(), partition, before, now: offset });
        // It is told once: whoever begins anew after that goes on.
        of_topic.remove(topic);
    }
}

/// How the wait for a transaction's deliveries ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Every record was acknowledged.
    All,
    /// These records were refused: their place in the transaction and why.
    Failed(Vec<(usize, RDKafkaErrorCode)>),
    /// This many were still unanswered at the deadline.
    Late(usize),
}

impl Deliveries {
    /// Forgets the last transaction.
    pub fn begin(&self) {
        *lock(&self.state) = DeliveryState::default();
    }

    /// A record is about to be handed over.
    pub fn sending(&self) {
        lock(&self.state).outstanding += 1;
    }

    /// It was not taken.
    pub fn not_sent(&self) {
        self.settle(None);
    }

    /// The offset at which the last acknowledged record stands.
    pub fn offset(&self) -> Option<i64> {
        lock(&self.state).offset
    }

    /// Forgets how far a topic was written into: whoever asks where it ends compares that with what he knows.
    pub fn forget(&self, topic: &str) {
        self.written_to.forget(topic);
    }

    /// The first partition that was found to have gone back, once.
    pub fn went_back(&self) -> Option<WentBack> {
        self.written_to.take_went_back()
    }

    fn settle(&self, failure: Option<(usize, RDKafkaErrorCode)>) {
        let mut state = lock(&self.state);
        state.outstanding = state.outstanding.saturating_sub(1);
        state.failed.extend(failure);
        if state.outstanding == 0 || !state.failed.is_empty() {
            self.settled.notify_all();
        }
    }

    /// Waits until every record is answered, or one is refused and the others had a moment to follow.
    ///
    /// A refused batch fails record by record; which of them is to blame shows only when all are known.
    pub fn wait(&self, deadline: Instant) -> Delivered {
        const FOLLOWERS: Duration = Duration::from_millis(200);
        let mut until = deadline;
        let mut state = lock(&self.state);
        while state.outstanding > 0 {
            if !state.failed.is_empty() {
                until = until.min(Instant::now() + FOLLOWERS);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.failed.is_empty() {
            Delivered::Failed(state.failed.clone())
        } else if state.outstanding > 0 {
            Delivered::Late(state.outstanding)
        } else {
            Delivered::All
        }
    }
}

/// The context of every client that this room makes.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionContext {
    pub connection: Arc<Connection>,
    pub deliveries: Arc<Deliveries>,
}

impl ConnectionContext {
    /// The context of a producer that goes on where others of its process have written to.
    pub fn after(written_to: Arc<WrittenTo>) -> Self {
        let deliveries = Deliveries { written_to, ..Deliveries::default() };
        Self { connection: Arc::default(), deliveries: Arc::new(deliveries) }
    }
}

impl ClientContext for ConnectionContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Producer properties given to a consumer and the other way round: one table serves both.
            _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        let code = error.rdkafka_error_code();
        // The end of a partition is what every reader here reads to. Kept as the last error, it would explain
        // the next time-out wrongly.
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        self.connection.report(code, reason);
        if self.connection.is_news(code) {
            tracing::warn!(target: "librdkafka", error = %error, reason, "client error");
        } else {
            tracing::debug!(target: "librdkafka", error = %error, reason, "client error");
        }
    }

    fn stats(&self, statistics: Statistics) {
        // A client that has nothing to write keeps only the connection to its coordinator, which has no node id.
        let up = statistics.brokers.values().any(|broker| broker.state == "UP");
        if up {
            self.connection.all_brokers_down.store(false, Ordering::Relaxed);
        }
    }
}

impl ConsumerContext for ConnectionContext {}

impl ProducerContext for ConnectionContext {
    /// The record's place in its transaction.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        match result {
            Ok(message) => {
                lock(&self.deliveries.state).offset = Some(message.offset());
                self.deliveries.written_to.acknowledged(message.topic(), message.partition(), message.offset());
                self.deliveries.settle(None);
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                self.deliveries.settle(Some((index, code)));
            }
        }
    }
}

/// A poisoned lock only says that a thread panicked; what these guard is valid after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_goes_back_when_a_record_is_put_where_one_was() {
        let written_to = Arc::new(WrittenTo::default());
        let deliveries = Deliveries { written_to: written_to.clone(), ..Deliveries::default() };
        // Aborted records and markers leave places out; partitions and topics have ends of their own; and what follows upon a place
        // that is not known is not known either.
        for (topic, partition, offset) in [
            ("a", 0, 0),
            ("a", 0, 7),
            ("a", 2, 3),
            ("b", 0, 1),
            ("a", -1, 0),
            ("a", 0, 8),
            ("a", 0, -1),
            ("a", 0, 0),
            ("a", 0, 9),
        ] {
            written_to.acknowledged(topic, partition, offset);
            assert_eq!(deliveries.went_back(), None, "{topic} {partition} {offset}");
        }
        deliveries.begin();
        for offset in [0, 1] {
            written_to.acknowledged("a", 0, offset);
        }
        let back = WentBack { topic: "a".to_owned(), partition: 0, before: 9, now: 0 };
        assert_eq!(Deliveries { written_to: written_to.clone(), ..Deliveries::default() }.went_back(), Some(back));
        assert_eq!(deliveries.went_back(), None, "it is told once");
        written_to.acknowledged("a", 2, 0);
        assert_eq!(deliveries.went_back(), None, "the topic is another one");
        written_to.acknowledged("b", 0, 1);
        assert_eq!(deliveries.went_back().map(|back| back.before), Some(1), "the same place again");
        written_to.acknowledged("b", 0, 5);
        written_to.forget("b");
        written_to.acknowledged("b", 0, 0);
        assert_eq!(deliveries.went_back(), None, "it is known that it was made again");
    }

    #[test]
    fn only_words_about_passwords_and_certificates_are_a_refusal() {
        use RDKafkaErrorCode::{BrokerTransportFailure, SSL, SaslAuthenticationFailed};
        for (code, reason, refusal) in [
            (SaslAuthenticationFailed, "invalid credentials with SASL mechanism PLAIN", true),
            (SSL, "SSL handshake failed: certificate verify failed: broker certificate could not be verified", true),
            (SSL, "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?", false),
            (BrokerTransportFailure, "Receive failed: sslv3 alert bad certificate: SSL alert number 42", true),
            (BrokerTransportFailure, "Receive failed: tlsv13 alert certificate required: SSL alert number 116", true),
            (BrokerTransportFailure, "Receive failed: tlsv1 alert unknown ca: SSL alert number 48", true),
            (BrokerTransportFailure, "Receive failed: tlsv1 alert internal error: SSL alert number 80", false),
            (BrokerTransportFailure, "Connect to ipv4#10.0.0.1:9092 failed: Connection refused", false),
        ] {
            assert_eq!(is_refusal(code, reason), refusal, "{reason}");
        }
    }
}
