//! The one place where events come into being: a thread that owns the generator, the
//! records, the replay counter and the ledger, and appends to the bus.
//!
//! A thread and not a task, because it writes the ledger file and because one owner
//! makes a run deterministic without a lock. A line is in the ledger before its event
//! can be received.

use std::sync::Arc;
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::proto::{ConsumerEvent, ProducerEvent};
use crate::simulator::bus::{Entry, replay_bytes, replay_hex};
use crate::simulator::change_event::{Body, ChangeEvent};
use crate::simulator::control::EventOrder;
use crate::simulator::dice::Dice;
use crate::simulator::generator::{Draft, Generator};
use crate::simulator::ledger::{Ledger, LedgerLine};
use crate::simulator::objects::{self, Field, Object};
use crate::simulator::org::Org;
use crate::simulator::schema::{EventSchema, is_nullable};
use crate::simulator::settings::Channel;
use crate::simulator::value::{self, Value};

/// The largest event; a larger change is told as a gap.
const LARGEST_EVENT: usize = 1_000_000;
/// How many events are appended to the bus at once.
const BATCH: u64 = 500;

/// What the publisher can be told to do; each is answered when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Draw and publish this many events; `span` spreads them over so many milliseconds before now.
    Generate { count: u64, span: i64, lines: bool, done: oneshot::Sender<Result<Published, String>> },
    /// Publish one event as ordered.
    Publish { order: Box<EventOrder>, done: oneshot::Sender<Result<Published, String>> },
    /// Take an event from a client of the API.
    Accept { topic: String, event: ProducerEvent, done: oneshot::Sender<Result<u64, String>> },
    /// Change records as ordered, without an event.
    ChangeSilently { order: Box<EventOrder>, done: oneshot::Sender<Result<(), String>> },
    /// Remove records for good, without an event.
    HardDelete { entity: String, record_ids: Vec<String>, done: oneshot::Sender<Result<(), String>> },
    /// Remove a custom field from an object.
    RemoveField { entity: String, field: String, done: oneshot::Sender<Result<(), String>> },
    /// Add a field to an object: new events have a new schema.
    AddField { entity: String, field: Field, done: oneshot::Sender<Result<(), String>> },
    /// Add a change type to an object's schema.
    AddChangeType { entity: String, symbol: String, done: oneshot::Sender<Result<(), String>> },
    /// Make the next events undecodable.
    Poison { events: u64 },
    /// Forget everything published; `backwards` restarts the counter below where it was.
    Restart { backwards: bool, done: oneshot::Sender<()> },
}

/// What came of publishing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    pub(crate) count: u64,
    /// The ledger lines, if they were asked for.
    pub(crate) lines: Vec<LedgerLine>,
}

/// The publisher's side of the thread.
pub(crate) struct Publisher {
    org: Arc<Org>,
    generator: Generator,
    /// The current schema of each object.
    schemas: Vec<EventSchema>,
    /// The schemas that objects had before, by the object: clients may still publish with them.
    former: Vec<(usize, EventSchema)>,
    ledger: Ledger,
    dice: Dice,
    replay: u64,
    lines: u64,
    drawn: i64,
    poisoned: u64,
}

impl Publisher {
    /// Starts the thread. It ends when every sender of commands is gone.
    pub(crate) fn start(org: Arc<Org>, ledger: Ledger) -> std::io::Result<mpsc::Sender<Command>> {
        let (sender, commands) = mpsc::channel();
        let settings = &org.settings;
        let generator = Generator::new(settings.seed, &settings.traffic, objects::all());
        let schemas = generator.objects.iter().map(EventSchema::of).collect::<Vec<_>>();
        for (at, (schema, object)) in schemas.iter().zip(&generator.objects).enumerate() {
            if object.told {
                org.serve_schema(schema);
            }
            org.set_current_schema(at, &schema.id, (object.fields.len(), object.change_types.len()));
        }
        let mut publisher = Self {
            generator,
            schemas,
            former: Vec::new(),
            ledger,
            dice: Dice::stream(settings.seed, "bus"),
            replay: settings.traffic.first_replay_id,
            lines: 0,
            drawn: 0,
            poisoned: 0,
            org,
        };
        std::thread::Builder::new().name("simulator-publisher".to_owned()).spawn(move || {
            // A caller that no longer waits for the answer is not an error.
            while let Ok(command) = commands.recv() {
                publisher.obey(command);
            }
        })?;
        Ok(sender)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Generate { count, span, lines, done } => {
                let _ = done.send(self.generate(count, span, lines));
            }
            Command::Publish { order, done } => {
                let settled = self.check_told(&order.entity).and_then(|()| self.settle(&order.record_ids));
                let now = self.event_time();
                let drawn = settled.and_then(|()| self.generator.ordered(&order, now, &self.org.records));
                let _ = done.send(drawn.and_then(|draft| self.publish(vec![(draft, None)], true)));
            }
            Command::Accept { topic, event, done } => {
                let _ = done.send(self.accept(topic, event));
            }
            Command::ChangeSilently { order, done } => {
                let _ = done.send(self.change_silently(*order));
            }
            Command::HardDelete { entity, record_ids, done } => {
                let deleted = self
                    .settle(&record_ids)
                    .and_then(|()| self.generator.hard_delete(&entity, &record_ids, &self.org.records));
                self.org.records.commit(self.generator.take_changed());
                let _ = done.send(deleted);
            }
            Command::RemoveField { entity, field, done } => {
                let _ = done.send(self.remove_field(&entity, &field));
            }
            Command::AddField { entity, field, done } => {
                let _ = done.send(self.add_field(&entity, field));
            }
            Command::AddChangeType { entity, symbol, done } => {
                let object = self.generator.object(&entity).ok_or_else(|| format!("there is no entity `{entity}`"));
                let _ = done.send(object.map(|object| {
                    self.generator.add_change_type(object, &symbol);
                    self.refresh_schema(object);
                }));
            }
            Command::Poison { events } => self.poisoned += events,
            Command::Restart { backwards, done } => {
                self.replay = if backwards { self.replay / 2 } else { self.replay + 1_000 };
                self.org.bus.restart(self.replay);
                let _ = done.send(());
            }
        }
    }

    /// The time of the next event: the org's clock, or a fixed step after a configured start.
    fn event_time(&mut self) -> i64 {
        self.drawn += 1;
        match self.org.settings.traffic.start_time {
            Some(start) => start.timestamp_millis() + self.drawn * 250,
            None => self.org.now_millis(),
        }
    }

    fn generate(&mut self, count: u64, span: i64, lines: bool) -> Result<Published, String> {
        let mut published = Published::default();
        let mut left = count;
        let total = i64::try_from(count).unwrap_or(i64::MAX).max(1);
        let now = self.org.now_millis();
        let base = self.org.settings.traffic.start_time.map_or(now, |start| start.timestamp_millis());
        while left > 0 {
            let size = left.min(BATCH);
            let mut drafts = Vec::new();
            for at in 0..size {
                let (time, stored) = if span > 0 {
                    let done = i64::try_from(count - left + at).unwrap_or(0);
                    let before = span - done.saturating_mul(span) / total;
                    (base - before, Some(now - before))
                } else {
                    (self.event_time(), None)
                };
                let draft = self.generator.next(time).ok_or("the mix and the entities leave nothing to publish")?;
                drafts.push((draft, stored));
            }
            let batch = self.publish(drafts, lines)?;
            published.count += batch.count;
            published.lines.extend(batch.lines);
            left -= size;
        }
        Ok(published)
    }

    /// Encodes, enters in the ledger, and appends to the bus.
    fn publish(&mut self, drafts: Vec<(Draft, Option<i64>)>, lines: bool) -> Result<Published, String> {
        let mut published = Published { count: drafts.len() as u64, lines: Vec::new() };
        let wanted = lines || self.ledger.is_kept();
        let mut entries = Vec::with_capacity(drafts.len());
        for (draft, stored) in drafts {
            // Other traffic and the bus itself take positions too.
            self.replay += 1 + if self.dice.percent(30) { self.dice.below(17) as u64 } else { 0 };
            let stored = stored.unwrap_or_else(|| self.org.now_millis());
            let poison = self.poisoned > 0;
            self.poisoned = self.poisoned.saturating_sub(1);
            let event_id = self.dice.uuid();
            for (topics, draft, event_id) in self.renditions(draft, event_id) {
                let (object, payload) = self.encode(&draft, poison);
                self.lines += 1;
                if wanted {
                    let line = self.line(&topics, &draft, &event_id, poison);
                    self.ledger.write(&line).map_err(|error| format!("the ledger cannot be written: {error}"))?;
                    published.lines.extend(lines.then_some(line));
                }
                let producer = ProducerEvent {
                    id: event_id,
                    schema_id: self.schemas[object].id.clone(),
                    payload: payload.into(),
                    headers: Vec::new(),
                };
                let event = ConsumerEvent { event: Some(producer), replay_id: replay_bytes(self.replay) };
                entries.push((topics, Entry { replay: self.replay, published: stored, object, event }));
            }
        }
        self.ledger.flush().map_err(|error| format!("the ledger cannot be written: {error}"))?;
        // Whoever receives the event can read the record as it is after it.
        self.org.records.commit(self.generator.take_changed());
        self.org.bus.append(entries, self.replay);
        self.org.stats.published(published.count, self.replay);
        Ok(published)
    }

    fn encode(&mut self, draft: &Draft, poison: bool) -> (usize, Vec<u8>) {
        let object = match draft {
            Draft::Change(event) => event.object,
            Draft::Platform { object, .. } => *object,
        };
        self.refresh_schema(object);
        if poison {
            // No varint of Avro is this long, so that no decoder can take it for a length.
            return (object, vec![0xFF; 24]);
        }
        let definition = &self.generator.objects[object];
        (object, encoded(definition, draft))
    }

    /// Serves a new schema when the object has changed since the last event.
    fn refresh_schema(&mut self, object: usize) {
        let Some((definition, schema)) = self.generator.objects.get(object).zip(self.schemas.get_mut(object)) else {
            return;
        };
        let (fields, symbols) = (definition.fields.len(), definition.change_types.len());
        if self.org.schema_size(object) != (fields, symbols) {
            self.former.push((object, std::mem::replace(schema, EventSchema::of(definition))));
            self.org.serve_schema(schema);
            self.org.set_current_schema(object, &schema.id, (fields, symbols));
        }
    }

    /// The event as each group of topics gets it. A channel that enriches gets its own:
    /// one for every record of a merged event, all with one replay id.
    fn renditions(&mut self, draft: Draft, event_id: String) -> Vec<(Vec<String>, Draft, String)> {
        let Draft::Change(event) = draft else {
            let Draft::Platform { object, .. } = &draft else { return Vec::new() };
            let name = self.generator.objects[*object].name;
            let mut topics = vec![self.generator.objects[*object].topic()];
            topics.extend(self.org.channels_of(name).map(|channel| format!("/event/{}", channel.name)));
            return vec![(topics, draft, event_id)];
        };
        let org = Arc::clone(&self.org);
        let definition = &self.generator.objects[event.object];
        let mut event = fitting(definition, event);
        let hidden = org.script.hidden_fields(definition.name);
        let hidden: Vec<usize> = hidden.iter().filter_map(|field| definition.position(field)).collect();
        event.hide(&hidden);
        let mut topics = vec![definition.topic(), "/data/ChangeEvents".to_owned()];
        let name = definition.name;
        let enriches = matches!(event.change_type.as_str(), "UPDATE" | "DELETE");
        let mut own = Vec::new();
        for channel in org.channels_of(name) {
            let mut fields = enriched_fields(channel, &self.generator.objects[event.object]);
            fields.retain(|at| !hidden.contains(at));
            let topic = format!("/data/{}", channel.name);
            if fields.is_empty() || !enriches {
                topics.push(topic);
                continue;
            }
            let merged = event.record_ids.len() > 1;
            for id in &event.record_ids {
                let enriched = self.generator.values_of(event.object, id, &fields);
                let single = ChangeEvent { record_ids: vec![id.clone()], enriched, ..event.clone() };
                let event_id = if merged { self.dice.uuid() } else { event_id.clone() };
                own.push((vec![topic.clone()], Draft::Change(single), event_id));
            }
        }
        let mut all = vec![(topics, Draft::Change(event), event_id)];
        all.extend(own);
        all
    }

    fn line(&self, topics: &[String], draft: &Draft, event_id: &str, poison: bool) -> LedgerLine {
        let object = match draft {
            Draft::Change(event) => event.object,
            Draft::Platform { object, .. } => *object,
        };
        let definition = &self.generator.objects[object];
        let mut line = LedgerLine {
            n: self.lines,
            topics: topics.to_vec(),
            replay_id: replay_hex(self.replay),
            event_id: event_id.to_owned(),
            schema_id: self.schemas[object].id.clone(),
            entity: definition.name.to_owned(),
            change_type: None,
            record_ids: Vec::new(),
            commit_timestamp: 0,
            commit_number: None,
            transaction_key: None,
            sequence_number: None,
            user: String::new(),
            origin: String::new(),
            changed: serde_json::Map::new(),
            unresolved: Vec::new(),
            enriched: serde_json::Map::new(),
            poison,
        };
        match draft {
            Draft::Change(event) => {
                line.change_type = Some(event.change_type.clone());
                line.record_ids.clone_from(&event.record_ids);
                line.commit_timestamp = event.commit_timestamp;
                line.commit_number = Some(event.commit_number.to_string());
                line.transaction_key = Some(event.transaction_key.clone());
                line.sequence_number = Some(event.sequence_number);
                line.user.clone_from(&event.user);
                line.origin.clone_from(&event.origin);
                (line.changed, line.unresolved) = event.render(definition);
                line.enriched = event.render_enriched(definition);
                line.enriched.retain(|name, _| !line.changed.contains_key(name) && !line.unresolved.contains(name));
            }
            Draft::Platform { created, values, .. } => {
                line.commit_timestamp = *created;
                for (field, value) in definition.fields.iter().zip(values) {
                    let json = value.as_ref().map_or(serde_json::Value::Null, |value| value::render(field.kind, value));
                    if field.name == "CreatedById" {
                        line.user = json.as_str().unwrap_or_default().to_owned();
                    }
                    line.changed.insert(field.name.to_string(), json);
                }
            }
        }
        line
    }

    /// Puts a client's own event on the bus and in the ledger, if it is one of the topic. A schema that the
    /// topic had earlier is as good as its current one: it can be resolved against that.
    fn accept(&mut self, topic: String, event: ProducerEvent) -> Result<u64, String> {
        let mut objects = self.generator.objects.iter();
        let object = objects.position(|object| object.is_platform_event() && object.topic() == topic);
        let object = object.ok_or("The topic takes no events from clients")?;
        let mut known = self.former.iter().filter(|(at, _)| *at == object).map(|(_, schema)| schema);
        let current = Some(&self.schemas[object]).filter(|schema| schema.id == event.schema_id);
        let schema = current.or_else(|| known.find(|schema| schema.id == event.schema_id));
        let schema = schema.ok_or("The schema id is not the topic's")?;
        let values =
            value::read_datum(&schema.json, &event.payload).ok_or("The payload is not an event of the schema")?;
        let created = match values.first() {
            Some(Some(Value::Long(created))) => *created,
            _ => self.org.now_millis(),
        };
        self.replay += 1;
        let id = if event.id.is_empty() { self.dice.uuid() } else { event.id };
        let draft = Draft::Platform { object, created, values };
        let (topics, draft, event_id) = self.renditions(draft, id).pop().ok_or("The event has no topic")?;
        self.lines += 1;
        if self.ledger.is_kept() {
            let mut line = self.line(&topics, &draft, &event_id, false);
            line.schema_id.clone_from(&event.schema_id);
            let written = self.ledger.write(&line).and_then(|()| self.ledger.flush());
            written.map_err(|error| format!("The ledger cannot be written: {error}"))?;
        }
        let event = ConsumerEvent {
            event: Some(ProducerEvent { id: event_id, ..event }),
            replay_id: replay_bytes(self.replay),
        };
        let entry = Entry { replay: self.replay, published: self.org.now_millis(), object, event };
        self.org.bus.append(vec![(topics, entry)], self.replay);
        self.org.stats.published(1, self.replay);
        Ok(self.replay)
    }

    fn add_field(&mut self, entity: &str, field: Field) -> Result<(), String> {
        let object = self.generator.object(entity).ok_or_else(|| format!("there is no entity `{entity}`"))?;
        let fields = &mut self.generator.objects[object].fields;
        if fields.iter().any(|known| known.name == field.name) {
            return Err(format!("{entity} already has a field `{}`", field.name));
        }
        fields.push(field);
        self.org.records.redefine(object, &self.generator.objects[object], None);
        self.refresh_schema(object);
        Ok(())
    }

    /// Refuses an event of an object that has none.
    fn check_told(&self, entity: &str) -> Result<(), String> {
        let untold = self.generator.object(entity).is_some_and(|at| !self.generator.objects[at].told);
        if untold { Err(format!("{entity} has no change events; change it silently")) } else { Ok(()) }
    }

    /// Publishes the rest of a drawn transaction if it is about one of these records: what is
    /// ordered next would otherwise show the changes before their events.
    fn settle(&mut self, ids: &[String]) -> Result<(), String> {
        if self.generator.awaits(ids) { self.publish_waiting() } else { Ok(()) }
    }

    fn publish_waiting(&mut self) -> Result<(), String> {
        let drawn = self.generator.take_waiting().into_iter().map(|draft| (draft, None)).collect();
        self.publish(drawn, false).map(drop)
    }

    fn remove_field(&mut self, entity: &str, field: &str) -> Result<(), String> {
        let object = self.generator.object(entity).ok_or_else(|| format!("there is no entity `{entity}`"))?;
        let at = self.generator.objects[object].position(field).filter(|_| field.ends_with("__c"));
        let at = at.ok_or_else(|| format!("{entity} has no custom field `{field}`"))?;
        // What is drawn and not yet published has the fields of before.
        self.publish_waiting()?;
        self.generator.remove_field(object, at);
        self.org.records.redefine(object, &self.generator.objects[object], Some(at));
        self.refresh_schema(object);
        Ok(())
    }

    /// Does what the order says to the records and publishes nothing.
    fn change_silently(&mut self, mut order: EventOrder) -> Result<(), String> {
        if order.change_type.is_empty() {
            order.change_type = "UPDATE".to_owned();
        }
        self.settle(&order.record_ids)?;
        // A gap event changes the records in the same way, and draws what is not said.
        order.change_type.insert_str(0, "GAP_");
        let now = self.event_time();
        let changed = self.generator.ordered(&order, now, &self.org.records).map(drop);
        self.org.records.commit(self.generator.take_changed());
        changed
    }
}

fn encoded(definition: &Object, draft: &Draft) -> Vec<u8> {
    match draft {
        Draft::Change(event) => event.encode(definition),
        Draft::Platform { values, .. } => {
            let mut out = Vec::new();
            let mut values = values.clone();
            values.resize(definition.fields.len(), None);
            for (field, value) in definition.fields.iter().zip(&values) {
                match value {
                    Some(value) if !is_nullable(definition, field) => value::encode(&mut out, value),
                    value => value::encode_nullable(&mut out, value.as_ref()),
                }
            }
            out
        }
    }
}

/// The event itself, or, when it is too large for the bus, the gap event in its place.
fn fitting(definition: &Object, event: ChangeEvent) -> ChangeEvent {
    let gap = format!("GAP_{}", event.change_type);
    if event.text_bytes() > LARGEST_EVENT && definition.change_types.contains(&gap) {
        return ChangeEvent { change_type: gap, body: Body::Empty, ..event };
    }
    event
}

/// The fields of an object that a channel adds, by position.
fn enriched_fields(channel: &Channel, object: &Object) -> Vec<usize> {
    let of_object = channel.enriched.iter().filter_map(|path| path.strip_prefix(object.name)?.strip_prefix('.'));
    of_object.filter_map(|field| object.position(field)).collect()
}
