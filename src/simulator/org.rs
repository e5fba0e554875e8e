//! The state of the org that all of its services share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use chrono::Utc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::simulator::api_allowance::ApiAllowance;
use crate::simulator::bulk_jobs::BulkJobs;
use crate::simulator::bus::Bus;
use crate::simulator::columns::{self, Column};
use crate::simulator::conversations::Conversations;
use crate::simulator::faults::Script;
use crate::simulator::objects::{self, Object};
use crate::simulator::record_id::record_id;
use crate::simulator::record_store::RecordStore;
use crate::simulator::refusal::Refusal;
use crate::simulator::rest::Cursors;
use crate::simulator::schema::EventSchema;
use crate::simulator::sessions::Sessions;
use crate::simulator::settings::{Channel, RandomFaults, SimulatorConfig};
use crate::simulator::stats::Stats;

/// What a fault can tell an open Subscribe call.
#[derive(Debug, Clone)]
pub(crate) enum StreamOrder {
    /// End with OK.
    End,
    /// End with an error.
    Fail(Refusal),
}

/// An open Subscribe call, for the faults that concern it.
#[derive(Debug)]
struct OpenStream {
    topic: String,
    orders: mpsc::UnboundedSender<StreamOrder>,
    /// Resets the HTTP/2 stream.
    cut: CancellationToken,
}

/// What a topic of the org is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topic {
    /// The events of one object, by its index.
    Entity { object: usize, platform: bool },
    /// Events of several objects.
    Channel,
}

/// The current schema of an object and how large the object was when it was made.
#[derive(Debug, Clone, Default)]
struct CurrentSchema {
    id: String,
    size: (usize, usize),
}

/// The org.
#[derive(Debug)]
pub(crate) struct Org {
    pub(crate) settings: SimulatorConfig,
    pub(crate) bus: Bus,
    pub(crate) records: RecordStore,
    pub(crate) api_allowance: ApiAllowance,
    pub(crate) cursors: Cursors,
    pub(crate) bulk: BulkJobs,
    pub(crate) conversations: Conversations,
    pub(crate) sessions: Sessions,
    /// Tokens for the Conversation Data API.
    pub(crate) data_sessions: Sessions,
    pub(crate) stats: Stats,
    pub(crate) script: Script,
    topics: HashMap<String, Topic>,
    schemas: RwLock<HashMap<String, String>>,
    current: Mutex<Vec<CurrentSchema>>,
    streams: Mutex<(u64, HashMap<u64, OpenStream>)>,
    clock_offset_millis: AtomicI64,
    delivered: AtomicI64,
    login_url: Mutex<String>,
    instance_url: Mutex<String>,
    /// While true, open calls say nothing: no events, no keepalives, no end.
    pub(crate) silent: watch::Sender<bool>,
    /// While true, connections are closed as soon as they are made.
    pub(crate) unreachable: watch::Sender<bool>,
    /// While true, no traffic is generated.
    pub(crate) paused: watch::Sender<bool>,
    /// The faults that come by chance.
    pub(crate) random_faults: watch::Sender<RandomFaults>,
    /// Verifies the signatures of assertions.
    pub(crate) assertion_key: jsonwebtoken::DecodingKey,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // None of the values held here is ever left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Org {
    pub(crate) fn new(settings: SimulatorConfig, assertion_key: jsonwebtoken::DecodingKey) -> Self {
        let mut topics = HashMap::from([("/data/ChangeEvents".to_owned(), Topic::Channel)]);
        let objects = objects::all();
        for (at, object) in objects.iter().enumerate().filter(|(_, object)| object.told) {
            let platform = object.is_platform_event();
            topics.insert(object.topic(), Topic::Entity { object: at, platform });
            for channel in
                settings.channels.iter().filter(|channel| channel.entities.iter().any(|name| name == object.name))
            {
                topics.insert(format!("/{}/{}", if platform { "event" } else { "data" }, channel.name), Topic::Channel);
            }
        }
        Self {
            bus: Bus::new(settings.traffic.first_replay_id, topics.keys().cloned()),
            // Those with events have the places that events name them by.
            records: RecordStore::new(objects.iter().cloned().chain(objects::without_events()).collect()),
            api_allowance: ApiAllowance::new(settings.rest.daily_requests),
            cursors: Cursors::new(settings.rest.query_locator_idle),
            conversations: Conversations::new(
                settings.seed,
                (settings.rest.conversation_calls, settings.rest.conversation_calls_window),
                settings.rest.conversation_data_calls,
                settings.rest.active_conversations,
            ),
            bulk: BulkJobs::new(settings.rest.bulk_job_time, settings.rest.bulk_jobs),
            sessions: Sessions::new(&settings.org_id, settings.sign_in.token_idle_timeout),
            data_sessions: Sessions::new(&settings.org_id, settings.sign_in.token_idle_timeout),
            stats: Stats::default(),
            script: Script::new(&settings.pubsub.no_permission, &settings.rest.hidden_fields),
            topics,
            schemas: RwLock::default(),
            current: Mutex::new(vec![CurrentSchema::default(); objects.len()]),
            streams: Mutex::default(),
            clock_offset_millis: AtomicI64::new(settings.sign_in.clock_offset_seconds.saturating_mul(1000)),
            delivered: AtomicI64::new(0),
            login_url: Mutex::default(),
            instance_url: Mutex::default(),
            silent: watch::Sender::new(false),
            unreachable: watch::Sender::new(false),
            paused: watch::Sender::new(false),
            random_faults: watch::Sender::new(settings.random_faults.clone()),
            assertion_key,
            settings,
        }
    }

    /// The org's own idea of the time, in milliseconds of the epoch.
    pub(crate) fn now_millis(&self) -> i64 {
        Utc::now().timestamp_millis().saturating_add(self.clock_offset_millis.load(Ordering::Relaxed))
    }

    pub(crate) fn shift_clock(&self, seconds: i64) {
        self.clock_offset_millis.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
    }

    /// The id of the user that signs in.
    pub(crate) fn user_id(&self) -> String {
        record_id("005", 9_001)
    }

    pub(crate) fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    pub(crate) fn channels_of<'a>(&'a self, entity: &'a str) -> impl Iterator<Item = &'a Channel> {
        self.settings.channels.iter().filter(move |channel| channel.entities.iter().any(|member| member == entity))
    }

    /// The fields of an object that the user may see, in the order of describe.
    pub(crate) fn visible_columns(&self, object: &Object) -> Vec<Column> {
        let hidden = self.script.hidden_fields(object.name);
        let mut columns = columns::columns(object);
        columns.retain(|column| {
            let named = |name: &str| hidden.iter().any(|field| field == name);
            !named(&column.name) && !column.compound.as_deref().is_some_and(named)
        });
        columns
    }

    pub(crate) fn serve_schema(&self, schema: &EventSchema) {
        let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        schemas.insert(schema.id.clone(), schema.json.clone());
    }

    /// Any schema ever served; they stay valid for ever.
    pub(crate) fn schema(&self, id: &str) -> Option<String> {
        self.schemas.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn schema_size(&self, object: usize) -> (usize, usize) {
        lock(&self.current).get(object).map_or((0, 0), |current| current.size)
    }

    pub(crate) fn set_current_schema(&self, object: usize, id: &str, size: (usize, usize)) {
        if let Some(current) = lock(&self.current).get_mut(object) {
            *current = CurrentSchema { id: id.to_owned(), size };
        }
    }

    pub(crate) fn current_schema(&self, object: usize) -> String {
        lock(&self.current).get(object).map(|current| current.id.clone()).unwrap_or_default()
    }

    pub(crate) fn instance_url(&self) -> String {
        lock(&self.instance_url).clone()
    }

    pub(crate) fn login_url(&self) -> String {
        lock(&self.login_url).clone()
    }

    pub(crate) fn set_login_url(&self, url: String) {
        *lock(&self.login_url) = url;
    }

    pub(crate) fn set_instance_url(&self, url: String) {
        *lock(&self.instance_url) = url;
    }

    /// Events that may still be delivered; negative when more than the allocation were.
    pub(crate) fn allocation_left(&self) -> i64 {
        let allocation = i64::try_from(self.settings.pubsub.delivery_allocation).unwrap_or(i64::MAX);
        allocation.saturating_sub(self.delivered.load(Ordering::Relaxed))
    }

    pub(crate) fn delivered(&self, events: usize) {
        self.delivered.fetch_add(i64::try_from(events).unwrap_or(0), Ordering::Relaxed);
    }

    /// Lets exactly this many events more be delivered.
    pub(crate) fn set_allocation_left(&self, left: i64) {
        let allocation = i64::try_from(self.settings.pubsub.delivery_allocation).unwrap_or(i64::MAX);
        self.delivered.store(allocation.saturating_sub(left), Ordering::Relaxed);
    }

    /// Registers an open call; it is forgotten when the receiver of its orders is.
    pub(crate) fn register(&self, topic: &str, cut: CancellationToken) -> mpsc::UnboundedReceiver<StreamOrder> {
        let (orders, receiver) = mpsc::unbounded_channel();
        let mut streams = lock(&self.streams);
        streams.1.retain(|_, stream| !stream.orders.is_closed());
        streams.0 += 1;
        let number = streams.0;
        streams.1.insert(number, OpenStream { topic: topic.to_owned(), orders, cut });
        receiver
    }

    /// Tells every open call something.
    pub(crate) fn order_streams(&self, order: &StreamOrder) {
        for stream in lock(&self.streams).1.values() {
            // A call that has just ended needs no orders.
            let _ = stream.orders.send(order.clone());
        }
    }

    /// Resets every open call.
    pub(crate) fn cut_streams(&self) {
        lock(&self.streams).1.values().for_each(|stream| stream.cut.cancel());
    }

    /// Ends the calls on the single-entity topic of an entity for want of permission.
    pub(crate) fn expel(&self, entity: &str) {
        let objects = objects::all();
        for object in objects.iter().filter(|object| object.name == entity) {
            let topic = object.topic();
            for stream in lock(&self.streams).1.values().filter(|stream| stream.topic == topic) {
                let _ = stream.orders.send(StreamOrder::Fail(Refusal::no_permission(&topic)));
            }
        }
    }
}
