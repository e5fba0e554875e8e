//! `GET /events`: the page's news, as server-sent events.
//!
//! | event | data |
//! |---|---|
//! | `snapshot` | everything: `document`, `journal`, `trend`; the first one of each connection |
//! | `change` | a merge patch of the document, at most four a second |
//! | `journal` | entries that are new or happened again, and the ids of all there are |
//! | `sample` | rate and lag of each stream, every two seconds; it also says that the connection lives |
//!
//! Nothing is kept for a listener: what it gets is made when there is room to send it, so one that is slow gets fewer and
//! larger changes, and one that is gone costs a place until the connection notices, or for an hour.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admin::denial::Denial;
use crate::admin::snapshots::SnapshotDoor;
use crate::admin::view::{document, patch};
use crate::status::{Board, SAMPLE_EVERY, Trend};

/// Who can listen at a time.
const SEATS: usize = 24;

/// Between two changes.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);

/// Between two comments on a connection without events, for the proxies on the way.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long one connection lasts; a browser makes another one by itself.
const LONGEST: Duration = Duration::from_secs(3600);

/// The source of all listeners; cheap to clone.
#[derive(Clone)]
pub(super) struct News {
    board: Board,
    door: Arc<SnapshotDoor>,
    acts: bool,
    trend: Arc<Mutex<Trend>>,
    /// The newest samples as text, and how many there have been.
    samples: watch::Sender<(u64, String)>,
    seats: Arc<Semaphore>,
    stop: CancellationToken,
}

impl News {
    pub(super) fn new(board: Board, door: Arc<SnapshotDoor>, acts: bool, stop: CancellationToken) -> Self {
        let (trend, samples) = (Arc::default(), watch::Sender::default());
        Self { board, door, acts, trend, samples, seats: Arc::new(Semaphore::new(SEATS)), stop }
    }

    /// Takes samples until the end, whether or not anybody listens: who comes wants to see the last minutes.
    pub(super) async fn sample(self) {
        let mut ticks = interval(SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = Utc::now();
            let taken = self.trend.lock().unwrap_or_else(PoisonError::into_inner).sample(now, &self.board.snapshot());
            let text = json!({ "at": now, "streams": taken }).to_string();
            self.samples.send_modify(|(count, newest)| (*count, *newest) = (count.wrapping_add(1), text));
        }
    }

    /// A place among the listeners, if one is free.
    pub(super) fn listen(self) -> Response {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else {
            return ([(header::RETRY_AFTER, "5")], Denial::Full(SEATS).response()).into_response();
        };
        let listener = Listener {
            changes: self.board.changes(),
            samples: self.samples.subscribe(),
            news: self,
            shown: None,
            journal: 0,
            not_before: Instant::now(),
            until: Instant::now() + LONGEST,
            _seat: seat,
        };
        let stream = Sse::new(listener.stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
        // Buffering in a proxy would hold the news back.
        ([(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")], stream)
            .into_response()
    }
}

struct Listener {
    news: News,
    changes: watch::Receiver<u64>,
    samples: watch::Receiver<(u64, String)>,
    /// The document as the listener has it; none before the first.
    shown: Option<Value>,
    /// The number of the newest journal entry that it has.
    journal: u64,
    not_before: Instant,
    until: Instant,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        unfold(self, |mut listener| async move { listener.next().await.map(|event| (Ok(event), listener)) })
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        if self.shown.is_none() {
            return Some(self.everything());
        }
        loop {
            tokio::select! {
                biased;
                () = self.news.stop.cancelled() => return None,
                () = sleep_until(self.until) => return None,
                changed = self.samples.changed() => {
                    changed.ok()?;
                    return Some(named("sample").data(self.samples.borrow_and_update().1.as_str()));
                }
                changed = changed_after(&mut self.changes, self.not_before) => {
                    changed.ok()?;
                    if let Some(event) = self.news() {
                        return Some(event);
                    }
                }
            }
        }
    }

    fn everything(&mut self) -> Event {
        self.changes.mark_unchanged();
        let now = document(&self.news.board, &self.news.door, self.news.acts);
        let journal = self.news.board.journal(0);
        self.journal = journal.last().map_or(0, |entry| entry.number);
        let trend = self.news.trend.lock().unwrap_or_else(PoisonError::into_inner);
        let every = SAMPLE_EVERY.as_millis();
        let all = json!({ "at": Utc::now(), "document": now, "journal": journal, "trend": { "every_ms": every, "streams": trend.all() } });
        self.not_before = Instant::now() + AT_MOST_EVERY;
        self.shown = Some(now);
        named("snapshot").data(all.to_string())
    }

    /// What is new, if it is worth telling. Entries of the journal go first: they are rare.
    fn news(&mut self) -> Option<Event> {
        let entries = self.news.board.journal(self.journal);
        if let Some(last) = entries.last() {
            self.journal = last.number;
            // An entry may have become part of another one, and old ones make room.
            let ids: Vec<u64> = self.news.board.journal(0).iter().map(|entry| entry.id).collect();
            // What else has changed is told next.
            self.changes.mark_changed();
            return Some(
                named("journal").data(json!({ "at": Utc::now(), "entries": entries, "ids": ids }).to_string()),
            );
        }
        self.not_before = Instant::now() + AT_MOST_EVERY;
        let now = document(&self.news.board, &self.news.door, self.news.acts);
        let change = patch(self.shown.as_ref()?, &now)?;
        self.shown = Some(now);
        Some(named("change").data(json!({ "at": Utc::now(), "patch": change }).to_string()))
    }
}

fn named(name: &str) -> Event {
    Event::default().event(name)
}

/// Returns at a change, but not before `earliest`. What is not awaited to its end leaves the change for the next time.
async fn changed_after(changes: &mut watch::Receiver<u64>, earliest: Instant) -> Result<(), watch::error::RecvError> {
    sleep_until(earliest).await;
    changes.changed().await
}
