//! Control over a running simulator, for tests in the same process. The control port
//! offers the same over HTTP.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{broadcast, oneshot};
use tonic::Code;

use crate::proto::ProducerEvent;
use crate::simulator::columns;
use crate::simulator::connections::ConnectionOrder;
use crate::simulator::conversation_records;
use crate::simulator::conversations::{EntryLine, MessageOrder};
use crate::simulator::faults::{Fault, RefusedSignIn, RestFailure};
use crate::simulator::ledger::LedgerLine;
use crate::simulator::objects::{Field, Kind};
use crate::simulator::org::{Org, StreamOrder};
use crate::simulator::publisher::{Command, Published};
use crate::simulator::record_store::{self, RecordKey};
use crate::simulator::refusal::Refusal;
use crate::simulator::settings::RandomFaults;
use crate::simulator::stats::Snapshot;
use crate::simulator::truth::RecordLine;
use crate::simulator::value;

/// One event to publish. What it does not say is drawn.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventOrder {
    /// The API name of the object or platform event.
    pub entity: String,
    /// `CREATE`, `UPDATE`, …; nothing for a platform event.
    #[serde(default)]
    pub change_type: String,
    /// The records. None given: a new record for creates, any known one otherwise. `500*` names all of an object.
    #[serde(default)]
    pub record_ids: Vec<String>,
    /// Values by field; null clears, an object names the components of a compound that change.
    #[serde(default)]
    pub fields: Map<String, Value>,
    /// Whether the event belongs to the transaction of the event before it.
    #[serde(default)]
    pub same_transaction: bool,
    /// `GAP_OVERFLOW` only: how many records changed, with the `fields` or with what is drawn. New ones when there are too few.
    #[serde(default)]
    pub rows: u64,
}

impl EventOrder {
    /// A change of an entity with nothing else said.
    pub fn new(entity: &str, change_type: &str) -> Self {
        Self {
            entity: entity.to_owned(),
            change_type: change_type.to_owned(),
            record_ids: Vec::new(),
            fields: Map::new(),
            same_transaction: false,
            rows: 0,
        }
    }

    /// Names the records.
    #[must_use]
    pub fn on<'a>(mut self, ids: impl IntoIterator<Item = &'a str>) -> Self {
        self.record_ids = ids.into_iter().map(str::to_owned).collect();
        self
    }

    /// Sets a field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }
}

/// What the simulator could not be made to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The order names something that is not there.
    #[error("The simulator cannot do that: {0}")]
    Refused(String),
    /// The simulator was shut down.
    #[error("The simulator has been shut down")]
    Gone,
    /// What was waited for did not happen.
    #[error("It did not happen within {0:?}; the counters stand at {1:?}")]
    TimedOut(Duration, Box<Snapshot>),
}

fn keys(ids: &[String]) -> Result<Vec<RecordKey>, ControlError> {
    let key =
        |id: &String| RecordKey::parse(id).ok_or_else(|| ControlError::Refused(format!("`{id}` is no record id")));
    ids.iter().map(key).collect()
}

/// A handle on a running simulator; clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct Control {
    org: Arc<Org>,
    publisher: mpsc::Sender<Command>,
    connections: broadcast::Sender<ConnectionOrder>,
    moves: tokio::sync::mpsc::Sender<oneshot::Sender<Result<(), String>>>,
}

impl Control {
    pub(crate) fn new(
        org: Arc<Org>,
        publisher: mpsc::Sender<Command>,
        connections: broadcast::Sender<ConnectionOrder>,
        moves: tokio::sync::mpsc::Sender<oneshot::Sender<Result<(), String>>>,
    ) -> Self {
        Self { org, publisher, connections, moves }
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ControlError> {
        let (done, answer) = oneshot::channel();
        self.publisher.send(command(done)).map_err(|_| ControlError::Gone)?;
        answer.await.map_err(|_| ControlError::Gone)
    }

    /// Publishes one event. Returns its ledger lines: more than one when a channel enriches it.
    pub async fn publish(&self, order: EventOrder) -> Result<Vec<LedgerLine>, ControlError> {
        let published = self.command(|done| Command::Publish { order: Box::new(order), done }).await?;
        published.map(|published| published.lines).map_err(ControlError::Refused)
    }

    /// Draws and publishes so many events and returns their ledger lines.
    pub async fn generate(&self, count: u64) -> Result<Vec<LedgerLine>, ControlError> {
        let published = self.draw(count, Duration::ZERO, true).await?;
        Ok(published.lines)
    }

    /// Draws and publishes so many events without keeping their lines, spread over a time before now.
    pub async fn generate_backlog(&self, count: u64, span: Duration) -> Result<u64, ControlError> {
        Ok(self.draw(count, span, false).await?.count)
    }

    async fn draw(&self, count: u64, span: Duration, lines: bool) -> Result<Published, ControlError> {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let drawn = self.command(|done| Command::Generate { count, span, lines, done }).await?;
        drawn.map_err(ControlError::Refused)
    }

    pub(crate) async fn accept(&self, topic: &str, event: ProducerEvent) -> Result<u64, String> {
        let accepted = self.command(|done| Command::Accept { topic: topic.to_owned(), event, done }).await;
        accepted.map_err(|error| error.to_string())?
    }

    /// Lets faults come by chance from now on; a rate of 0 ends that.
    pub fn set_random_faults(&self, faults: RandomFaults) -> Result<(), ControlError> {
        if !faults.per_minute.is_finite() || faults.per_minute < 0.0 {
            return Err(ControlError::Refused(format!("{} faults a minute cannot be", faults.per_minute)));
        }
        self.org.random_faults.send_replace(faults);
        Ok(())
    }

    /// Makes something go wrong.
    pub async fn inflict(&self, fault: Fault) -> Result<(), ControlError> {
        let kind = fault.kind();
        self.do_inflict(fault).await?;
        tracing::info!(fault = %kind, "a fault was inflicted");
        self.org.stats.count(|stats| *stats.faults.entry(kind).or_default() += 1);
        Ok(())
    }

    async fn do_inflict(&self, fault: Fault) -> Result<(), ControlError> {
        let org = &self.org;
        match fault {
            Fault::CutStreams => org.cut_streams(),
            Fault::EndStreams => org.order_streams(&StreamOrder::End),
            Fault::FailStreams { status, error_code, message } => {
                org.order_streams(&StreamOrder::Fail(Refusal::new(Code::from(status), &error_code, message)));
            }
            Fault::DropConnections => self.order_connections(ConnectionOrder::Drop),
            Fault::GoAway => self.order_connections(ConnectionOrder::GoAway),
            Fault::BlackHole => self.order_connections(ConnectionOrder::BlackHole),
            Fault::Unreachable => drop(org.unreachable.send_replace(true)),
            Fault::Reachable => drop(org.unreachable.send_replace(false)),
            Fault::Silence => drop(org.silent.send_replace(true)),
            Fault::Speak => drop(org.silent.send_replace(false)),
            Fault::PauseTraffic => drop(org.paused.send_replace(true)),
            Fault::ResumeTraffic => drop(org.paused.send_replace(false)),
            Fault::RevokeTokens => org.sessions.revoke_all(),
            Fault::RefuseSignIn { error, description, status, times } => {
                org.script.refuse_sign_in(RefusedSignIn { error, description, status }, times);
            }
            Fault::FailGetSchema { status, error_code, times } => org.script.fail_schemas(status, error_code, times),
            Fault::Redeliver { events } => org.script.redeliver(events),
            Fault::ExpireRetention => self.command(|done| Command::Restart { backwards: false, done }).await?,
            Fault::ResetBus => self.reset_bus().await?,
            Fault::AddField { entity, field } => self.add_field(entity, field).await?,
            Fault::AddChangeType { entity, symbol } => {
                let added = self.command(|done| Command::AddChangeType { entity, symbol, done }).await?;
                added.map_err(ControlError::Refused)?;
            }
            Fault::Poison { events } => {
                self.publisher.send(Command::Poison { events }).map_err(|_| ControlError::Gone)?;
            }
            Fault::FailHttp { status, times } => org.script.fail_http(status, times),
            Fault::Allocation { left } => org.set_allocation_left(left),
            Fault::Deny { entity } => {
                org.script.deny(&entity, true);
                org.expel(&entity);
            }
            Fault::Allow { entity } => org.script.deny(&entity, false),
            Fault::ShiftClock { seconds } => org.shift_clock(seconds),
            fault => self.inflict_on_records(fault).await?,
        }
        Ok(())
    }

    /// The faults of REST and of the records behind it.
    async fn inflict_on_records(&self, fault: Fault) -> Result<(), ControlError> {
        let org = &self.org;
        match fault {
            Fault::HideRecords { record_ids } => org.script.hide_records(&keys(&record_ids)?, true),
            Fault::ShowRecords { record_ids } => org.script.hide_records(&keys(&record_ids)?, false),
            Fault::HideField { entity, field } => {
                let objects = org.records.objects();
                let path = format!("{entity}.{field}");
                columns::check_hidden_field(objects.iter().map(Arc::as_ref), &path).map_err(ControlError::Refused)?;
                org.script.hide_field(&entity, &field, true);
            }
            Fault::ShowField { entity, field } => org.script.hide_field(&entity, &field, false),
            Fault::FailRest { path, status, error_code, message, retry_after, times } => {
                org.script.fail_rest(RestFailure { path, status, error_code, message, retry_after }, times);
            }
            Fault::DelayHttp { path, milliseconds, times } => {
                org.script.delay_http(path, Duration::from_millis(milliseconds.into()), times);
            }
            Fault::FailBulk { message, times } => org.script.fail_bulk(message, times),
            Fault::HoldBulk => org.bulk.hold(true),
            Fault::ReleaseBulk => org.bulk.hold(false),
            Fault::HoldResults => org.bulk.hold_results(true),
            Fault::ReleaseResults => org.bulk.hold_results(false),
            Fault::ApiAllowance { left } => org.api_allowance.leave(left),
            Fault::ConversationCalls { left } => org.conversations.leave(left),
            Fault::Redact { conversation, entry, text } => {
                if !org.conversations.redact(&conversation, &entry, &text) {
                    return Err(ControlError::Refused(format!("there is no entry `{entry}` in `{conversation}`")));
                }
            }
            Fault::RemoveEntry { conversation, entry } => {
                if !org.conversations.remove(&conversation, &entry) {
                    return Err(ControlError::Refused(format!("there is no entry `{entry}` in `{conversation}`")));
                }
            }
            Fault::ChangeSilently { change } => {
                let done = self.command(|done| Command::ChangeSilently { order: Box::new(change), done }).await?;
                done.map_err(ControlError::Refused)?;
            }
            Fault::HardDelete { entity, record_ids } => {
                let done = self.command(|done| Command::HardDelete { entity, record_ids, done }).await?;
                done.map_err(ControlError::Refused)?;
            }
            Fault::RemoveField { entity, field } => {
                let done = self.command(|done| Command::RemoveField { entity, field, done }).await?;
                done.map_err(ControlError::Refused)?;
            }
            fault => return Err(ControlError::Refused(format!("`{}` is not a fault of the records", fault.kind()))),
        }
        Ok(())
    }

    fn order_connections(&self, order: ConnectionOrder) {
        // Nobody listening means that there is no connection.
        let _ = self.connections.send(order);
    }

    async fn reset_bus(&self) -> Result<(), ControlError> {
        self.command(|done| Command::Restart { backwards: true, done }).await?;
        let (done, moved) = oneshot::channel();
        self.moves.send(done).await.map_err(|_| ControlError::Gone)?;
        moved.await.map_err(|_| ControlError::Gone)?.map_err(ControlError::Refused)?;
        // The old instance ends what it has open; its tokens are worth nothing on the new one.
        self.org.sessions.revoke_all();
        self.order_connections(ConnectionOrder::Drop);
        Ok(())
    }

    async fn add_field(&self, entity: String, name: String) -> Result<(), ControlError> {
        if !name.ends_with("__c") || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(ControlError::Refused(format!("`{name}` is not the API name of a custom field")));
        }
        let field = Field { name: name.into(), kind: Kind::Text };
        let added = self.command(|done| Command::AddField { entity, field, done }).await?;
        added.map_err(ControlError::Refused)
    }

    /// Says something in a session. Whoever receives the event that tells of it can read it.
    pub async fn say(&self, order: MessageOrder) -> Result<EntryLine, ControlError> {
        let (conversation, count) = self.conversation_of(&order.session)?;
        let entry = self.org.conversations.say(&conversation, &order, self.org.now_millis());
        conversation_records::note(&self.org.records, &conversation, &entry);
        if order.tell {
            let update = EventOrder::new("MessagingSession", "UPDATE").on([order.session.as_str()]);
            self.publish(update.with("EndUserMessageCount", count.saturating_add(1))).await?;
        }
        Ok(entry)
    }

    /// The conversation of a session, and the messages that the session counts.
    fn conversation_of(&self, session: &str) -> Result<(RecordKey, i32), ControlError> {
        let refused = |what: &str| ControlError::Refused(format!("`{session}` {what}"));
        let key = RecordKey::parse(session).ok_or_else(|| refused("is no record id"))?;
        let (at, object) =
            self.org.records.find_object("MessagingSession").ok_or_else(|| refused("is of no object"))?;
        let found = self.org.records.get(at, &[Some(key)]).pop().flatten().ok_or_else(|| refused("is no session"))?;
        let values = found.1.values(&object);
        let value = |name: &str| object.position(name).and_then(|at| values.get(at).cloned()).flatten();
        let conversation = match value("ConversationId") {
            Some(value::Value::Text(id)) => RecordKey::parse(&id),
            _ => None,
        };
        let count = match value("EndUserMessageCount") {
            Some(value::Value::Integer(count)) => count,
            _ => 0,
        };
        Ok((conversation.ok_or_else(|| refused("has no conversation"))?, count))
    }

    /// Everything that was said, as it truly is.
    pub fn messages(&self) -> Vec<EntryLine> {
        self.org.conversations.all()
    }

    /// Every record of an object as it truly is, whatever was told of it, by id.
    pub fn records(&self, entity: &str) -> Result<Vec<RecordLine>, ControlError> {
        let truth = self.truth(entity)?;
        Ok(truth.rows.iter().map(|(key, row)| RecordLine::of(&truth.object, key, row)).collect())
    }

    pub(crate) fn truth(&self, entity: &str) -> Result<record_store::Snapshot, ControlError> {
        let found = self.org.records.find_object(entity).and_then(|(at, _)| self.org.records.snapshot(at));
        found.ok_or_else(|| ControlError::Refused(format!("there is no entity `{entity}`")))
    }

    /// The counters.
    pub fn stats(&self) -> Snapshot {
        self.org.stats.snapshot()
    }

    /// Waits until the counters satisfy a condition, at most so long.
    pub async fn wait_for(
        &self,
        within: Duration,
        condition: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshot, ControlError> {
        let mut stats = self.org.stats.follow();
        match tokio::time::timeout(within, stats.wait_for(condition)).await {
            Ok(Ok(snapshot)) => Ok(snapshot.clone()),
            Ok(Err(_)) => Err(ControlError::Gone),
            Err(_) => Err(ControlError::TimedOut(within, Box::new(self.stats()))),
        }
    }
}
