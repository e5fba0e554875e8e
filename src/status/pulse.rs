//! Whether the task that carries a stream still runs, and still commits.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// Between two beats of a task that has nothing to do.
const BEAT: Duration = Duration::from_secs(5);

/// What is known of one task. Kept apart from the board's facts: a beat is no news that would have to wake anybody.
/// Measured with a clock that nobody sets.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    beats: Arc<Mutex<Beats>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Beats {
    ran: Option<Instant>,
    committed: Option<Instant>,
}

impl Pulse {
    /// Does `work`, and beats while it goes on. The beats come from the task that does the work, each after the work had
    /// its turn: a call in there that blocks, or a loop that never waits, stops them.
    pub async fn of<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome,
                _ = ticks.tick() => self.beats().ran = Some(Instant::now()),
            }
        };
        *self.beats() = Beats::default();
        outcome
    }

    /// Notes that it has committed something.
    pub fn committed(&self) {
        self.beats().committed = Some(Instant::now());
    }

    /// Since it last ran; `None` while it has not begun, or has ended.
    pub(in crate::status) fn still_for(&self) -> Option<Duration> {
        Some(self.beats().ran?.elapsed())
    }

    /// Since it last committed something; `None` before.
    pub(in crate::status) fn uncommitted_for(&self) -> Option<Duration> {
        Some(self.beats().committed?.elapsed())
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_has_a_pulse_and_one_that_is_stuck_has_none() {
        let pulse = Pulse::default();
        assert_eq!(pulse.still_for(), None, "it has not begun");
        let mut task = pin!(pulse.of(std::future::pending::<()>()));
        let mut has_a_turn = async || {
            tokio::select! {
                biased;
                () = &mut task => unreachable!("it never ends"),
                () = std::future::ready(()) => {}
            }
        };
        has_a_turn().await;
        tokio::time::advance(Duration::from_secs(75)).await;
        // It has had no turn meanwhile, as when its thread is held up inside of it.
        assert_eq!(pulse.still_for(), Some(Duration::from_secs(75)));
        has_a_turn().await;
        assert_eq!(pulse.still_for(), Some(Duration::ZERO));
        pulse.committed();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(pulse.uncommitted_for(), Some(Duration::from_secs(3)));
        pulse.of(async {}).await;
        assert_eq!((pulse.still_for(), pulse.uncommitted_for()), (None, None), "what has ended is not stuck");
    }
}
