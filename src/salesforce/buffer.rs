//! The room between a subscription and the committed end of its stream.
//!
//! A batch takes room when it is received and gives it back when it is dropped, which
//! is after its commit. The subscription asks Salesforce only for what fits, so
//! that a slow Kafka slows the sender down instead of filling the memory.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What an event is taken to weigh before any was received.
const FIRST_GUESS_BYTES: u64 = 2048;

/// A budget in events and bytes. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Buffer {
    shared: Arc<Shared>,
}

struct Shared {
    max_events: u32,
    max_bytes: u64,
    used: Mutex<Used>,
    freed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    events: u32,
    bytes: u64,
    /// Moving average of the payload of one event.
    event_bytes: u64,
}

impl Buffer {
    /// A budget; either limit is taken as at least one.
    ///
    /// What has been asked for must be taken when it comes, so the bytes held can exceed `max_bytes`
    /// by one credit: at most 100 events of 1 MB each.
    pub fn new(max_events: u32, max_bytes: u64) -> Self {
        let used = Used { events: 0, bytes: 0, event_bytes: FIRST_GUESS_BYTES };
        Self {
            shared: Arc::new(Shared {
                max_events: max_events.max(1),
                max_bytes: max_bytes.max(1),
                used: Mutex::new(used),
                freed: Notify::new(),
            }),
        }
    }

    /// How many more events fit, judged by the size of those received lately. At least one when empty.
    pub fn free_events(&self) -> u32 {
        let used = *self.lock();
        let by_count = self.shared.max_events.saturating_sub(used.events);
        let by_bytes = self.shared.max_bytes.saturating_sub(used.bytes) / used.event_bytes.max(1);
        let free = by_count.min(u32::try_from(by_bytes).unwrap_or(u32::MAX));
        if used.events == 0 { free.max(1) } else { free }
    }

    /// The events that fit into an empty buffer, by their number.
    pub fn max_events(&self) -> u32 {
        self.shared.max_events
    }

    /// The events and bytes held now.
    pub fn used(&self) -> (u32, u64) {
        let used = *self.lock();
        (used.events, used.bytes)
    }

    /// Takes room for what has been received. Never refused: it is here already.
    pub fn hold(&self, events: u32, bytes: u64) -> Hold {
        let mut used = self.lock();
        used.events = used.events.saturating_add(events);
        used.bytes = used.bytes.saturating_add(bytes);
        if events > 0 {
            let mean = bytes / u64::from(events);
            used.event_bytes = (used.event_bytes.saturating_mul(7).saturating_add(mean) / 8).max(1);
        }
        drop(used);
        Hold { buffer: self.clone(), events, bytes }
    }

    /// Waits until `events` more fit.
    pub async fn room_for(&self, events: u32) {
        self.until(|buffer| buffer.free_events() >= events).await;
    }

    /// Waits until `events` more fit or the buffer is empty, for a number that may never fit.
    pub async fn room_or_empty(&self, events: u32) {
        self.until(|buffer| buffer.free_events() >= events || buffer.used().0 == 0).await;
    }

    async fn until(&self, fits: impl Fn(&Self) -> bool) {
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            // Registered before the look, so that room given back in between is not missed.
            freed.as_mut().enable();
            if fits(self) {
                return;
            }
            freed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        // Plain numbers: a panic elsewhere cannot leave them half written.
        self.shared.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, bytes) = self.used();
        write!(formatter, "Buffer({events}/{} events, {bytes}/{} bytes)", self.shared.max_events, self.shared.max_bytes)
    }
}

/// Room taken; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    buffer: Buffer,
    events: u32,
    bytes: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut used = self.buffer.lock();
        used.events = used.events.saturating_sub(self.events);
        used.bytes = used.bytes.saturating_sub(self.bytes);
        drop(used);
        self.buffer.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_and_given_back_and_waiters_are_woken() {
        let buffer = Buffer::new(10, 1 << 20);
        let first = buffer.hold(6, 600);
        let second = buffer.hold(8, 800);
        assert_eq!((buffer.free_events(), buffer.used()), (0, (14, 1400)), "what came is taken, above the limit too");
        let waiting = tokio::spawn({
            let buffer = buffer.clone();
            async move { buffer.room_for(3).await }
        });
        drop(first);
        assert_eq!(buffer.free_events(), 2);
        drop(second);
        waiting.await.expect("woken");
        assert_eq!(buffer.used(), (0, 0));
    }

    #[tokio::test]
    async fn heavy_events_use_up_the_bytes_first_but_an_empty_buffer_takes_one() {
        let buffer = Buffer::new(1000, 10_000);
        let heavy: Vec<_> = (0..40).map(|_| buffer.hold(1, 1_000_000)).collect();
        assert_eq!(buffer.free_events(), 0);
        drop(heavy);
        assert_eq!(buffer.free_events(), 1);
        buffer.room_or_empty(500).await;
    }
}
