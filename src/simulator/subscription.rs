//! One Subscribe call: credit, delivery, keepalives, and its end.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};
use uuid::Uuid;

use crate::proto::{FetchRequest, FetchResponse, ReplayPreset};
use crate::simulator::bus::{Entry, replay_bytes};
use crate::simulator::dice::Dice;
use crate::simulator::objects;
use crate::simulator::org::{Org, StreamOrder, Topic};
use crate::simulator::refusal::Refusal;

/// The most credit a call can hold; more is treated as this.
const MOST_CREDIT: u64 = 100;
/// The largest response, in bytes of payload.
const LARGEST_RESPONSE: usize = 3_000_000;

pub(crate) type Responses = mpsc::Sender<Result<FetchResponse, Status>>;

/// How a call goes on after something happened to it.
enum Course {
    Open,
    /// The client or the service ends it; the status is OK.
    Ended,
}

/// A Subscribe call that was accepted.
pub(crate) struct Subscription {
    org: Arc<Org>,
    topic: String,
    /// Filter events by what the user may see: only channels need it.
    channel: bool,
    names: Vec<&'static str>,
    cursor: u64,
    credit: u64,
    last_message: Instant,
    exhausted: Instant,
    requests: Streaming<FetchRequest>,
    responses: Responses,
    orders: mpsc::UnboundedReceiver<StreamOrder>,
    dice: Dice,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.org.stats.count(|stats| {
            stats.open_streams = stats.open_streams.saturating_sub(1);
            stats.credit = stats.credit.saturating_sub(self.credit);
        });
    }
}

/// Serves a call from its first request to its end. Errors go to the client as they are.
pub(crate) async fn serve(
    org: Arc<Org>,
    mut requests: Streaming<FetchRequest>,
    responses: Responses,
    cut: tokio_util::sync::CancellationToken,
) {
    let first = tokio::select! {
        first = requests.message() => first,
        () = responses.closed() => return,
    };
    // A call that ends before it asks for anything ends with OK.
    let Ok(Some(first)) = first else { return };
    let outcome = match open(&org, &first, requests, responses.clone(), cut).await {
        Ok(mut subscription) => subscription.run().await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = outcome {
        // The client may be gone already; then nobody needs to know.
        let _ = responses.send(Err(refusal.status("Subscribe"))).await;
    }
}

/// Checks the first request as the service does and finds where delivery begins.
async fn open(
    org: &Arc<Org>,
    first: &FetchRequest,
    requests: Streaming<FetchRequest>,
    responses: Responses,
    cut: tokio_util::sync::CancellationToken,
) -> Result<Subscription, Refusal> {
    org.stats.count(|stats| stats.fetch_requests += 1);
    let topic = first.topic_name.clone();
    if topic.is_empty() {
        return Err(Refusal::empty_topic());
    }
    let kind = org.topic(&topic).ok_or_else(|| Refusal::unknown_topic(&topic))?;
    let names: Vec<&'static str> = objects::all().iter().map(|object| object.name).collect();
    if let Topic::Entity { object, .. } = kind
        && names.get(*object).is_some_and(|name| org.script.is_denied(name))
    {
        return Err(Refusal::no_permission(&topic));
    }
    let requested = u64::try_from(first.num_requested).ok().filter(|requested| *requested > 0);
    let credit = requested.ok_or_else(Refusal::nothing_requested)?.min(MOST_CREDIT);
    let orders = org.register(&topic, cut);
    let opened = Instant::now();
    let cursor = start(org, first).await?;
    let cursor = cursor.saturating_sub(org.script.redelivered()).max(org.bus.earliest(&topic));
    org.stats.count(|stats| {
        stats.open_streams += 1;
        stats.credit += credit;
        match first.replay_preset() {
            ReplayPreset::Latest => stats.subscribes_latest += 1,
            ReplayPreset::Earliest => stats.subscribes_earliest += 1,
            ReplayPreset::Custom => stats.subscribes_custom += 1,
        }
    });
    Ok(Subscription {
        dice: Dice::stream(org.settings.seed, &topic),
        channel: *kind == Topic::Channel,
        org: Arc::clone(org),
        topic,
        names,
        cursor,
        credit,
        last_message: opened,
        exhausted: opened,
        requests,
        responses,
        orders,
    })
}

async fn start(org: &Org, first: &FetchRequest) -> Result<u64, Refusal> {
    match first.replay_preset() {
        ReplayPreset::Latest => {
            // The subscription takes this long to be routed; what is published meanwhile passes by.
            tokio::time::sleep(org.settings.pubsub.latest_race).await;
            Ok(org.bus.latest(&first.topic_name))
        }
        ReplayPreset::Earliest => Ok(org.bus.earliest(&first.topic_name)),
        ReplayPreset::Custom if first.replay_id.is_empty() => Err(Refusal::missing_replay_id()),
        ReplayPreset::Custom => org.bus.after(&first.topic_name, &first.replay_id).map_err(|_| {
            org.stats.count(|stats| stats.refused_replay_ids += 1);
            Refusal::corrupted_replay_id()
        }),
    }
}

impl Subscription {
    async fn run(&mut self) -> Result<(), Refusal> {
        let mut tip = self.org.bus.follow();
        let mut silent = self.org.silent.subscribe();
        loop {
            // Marked before the log is read: what is published in between wakes the wait below.
            tip.mark_unchanged();
            while let Some(request) = self.requests.message().now_or_never() {
                if let Course::Ended = self.take(request)? {
                    return Ok(());
                }
            }
            if let Ok(order) = self.orders.try_recv() {
                return obey(order);
            }
            let speaks = !*silent.borrow_and_update();
            if speaks && self.deliver().await? {
                continue;
            }
            if let Course::Ended = self.wait(&mut tip, &mut silent, speaks).await? {
                return Ok(());
            }
        }
    }

    /// Waits for whatever comes first: a request, an event, an order, or the time for a keepalive or the end.
    async fn wait(
        &mut self,
        tip: &mut watch::Receiver<u64>,
        silent: &mut watch::Receiver<bool>,
        speaks: bool,
    ) -> Result<Course, Refusal> {
        let keepalive = self.last_message + self.org.settings.pubsub.keepalive;
        let idle = self.exhausted + self.org.settings.pubsub.idle_close;
        tokio::select! {
            request = self.requests.message() => return self.take(request),
            Some(order) = self.orders.recv() => return obey(order).map(|()| Course::Ended),
            () = self.responses.closed() => return Ok(Course::Ended),
            _ = tip.changed(), if self.credit > 0 && speaks => {}
            _ = silent.changed() => {}
            () = sleep_until(keepalive), if self.credit > 0 && speaks => {
                let latest_replay_id = replay_bytes(self.org.bus.tip());
                self.org.stats.count(|stats| stats.keepalives += 1);
                self.send(Vec::new(), latest_replay_id).await;
            }
            () = sleep_until(idle), if self.credit == 0 && speaks => return Ok(Course::Ended),
        }
        Ok(Course::Open)
    }

    /// A later request: only its credit counts, and its topic if it names one.
    fn take(&mut self, request: Result<Option<FetchRequest>, Status>) -> Result<Course, Refusal> {
        // Half-close asks for the end; a broken request stream is one.
        let Ok(Some(request)) = request else { return Ok(Course::Ended) };
        self.org.stats.count(|stats| stats.fetch_requests += 1);
        if !request.topic_name.is_empty() && request.topic_name != self.topic {
            return Err(Refusal::other_topic());
        }
        let requested = u64::try_from(request.num_requested).ok().filter(|requested| *requested > 0);
        let requested = requested.ok_or_else(Refusal::nothing_requested)?;
        let before = self.credit;
        self.credit = self.credit.saturating_add(requested).min(MOST_CREDIT);
        if before == 0 {
            // Without credit there were no keepalives to be due.
            self.last_message = Instant::now();
        }
        self.org.stats.count(|stats| stats.credit += self.credit - before);
        Ok(Course::Open)
    }

    /// Sends one response of random size if there is something to send and credit for it.
    async fn deliver(&mut self) -> Result<bool, Refusal> {
        if self.credit == 0 {
            return Ok(false);
        }
        let left = u64::try_from(self.org.allocation_left()).unwrap_or(0);
        if left == 0 {
            return Err(Refusal::allocation_used_up());
        }
        let most = usize::try_from(self.credit.min(left)).unwrap_or(1);
        let most = if self.dice.percent(60) { most } else { self.dice.between(1, most) };
        let (mut entries, mut cursor) = self.org.bus.read(&self.topic, self.cursor, most);
        let read = entries.len();
        if read == 0 {
            self.cursor = cursor;
            return Ok(false);
        }
        let fitting = fitting(&entries);
        cursor -= (read - fitting) as u64;
        entries.truncate(fitting);
        if self.channel && self.org.script.denies_any() {
            let (names, script) = (&self.names, &self.org.script);
            entries.retain(|entry| names.get(entry.object).is_none_or(|name| !script.is_denied(name)));
        }
        self.cursor = cursor;
        if let Some(last) = entries.last() {
            let latest_replay_id = last.event.replay_id.clone();
            self.credit -= entries.len() as u64;
            self.org.delivered(entries.len());
            self.org.stats.count(|stats| {
                stats.responses += 1;
                stats.events_sent += entries.len() as u64;
                stats.credit = stats.credit.saturating_sub(entries.len() as u64);
            });
            self.send(entries, latest_replay_id).await;
            self.exhausted = Instant::now();
        }
        Ok(true)
    }

    async fn send(&mut self, entries: Vec<Arc<Entry>>, latest_replay_id: bytes::Bytes) {
        let response = FetchResponse {
            events: entries.iter().map(|entry| entry.event.clone()).collect(),
            latest_replay_id,
            rpc_id: Uuid::new_v4().to_string(),
            pending_num_requested: i32::try_from(self.credit).unwrap_or(i32::MAX),
        };
        // When the client has gone, the wait for the next thing sees it.
        let _ = self.responses.send(Ok(response)).await;
        self.last_message = Instant::now();
    }
}

fn obey(order: StreamOrder) -> Result<(), Refusal> {
    match order {
        StreamOrder::End => Ok(()),
        StreamOrder::Fail(refusal) => Err(refusal),
    }
}

/// How many of the entries fit into one response; at least one.
fn fitting(entries: &[Arc<Entry>]) -> usize {
    let mut size = 0;
    let fits = entries.iter().take_while(|entry| {
        size += entry.event.event.as_ref().map_or(0, |event| event.payload.len() + 128);
        size <= LARGEST_RESPONSE
    });
    fits.count().max(1)
}
