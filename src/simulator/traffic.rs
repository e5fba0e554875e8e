//! What happens by itself: events at a rate, and the cut of the retention.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::simulator::control::Control;
use crate::simulator::org::Org;

/// Publishes at the configured rate until told to stop. Missed time is made up for, a pause is not.
pub(crate) async fn publish(org: Arc<Org>, control: Control, shutdown: CancellationToken) {
    let rate = org.settings.traffic.rate;
    if rate <= 0.0 {
        return;
    }
    // Short enough for a smooth rate, long enough for a slow one.
    let mut ticks = interval(Duration::from_millis(20));
    let mut paused = org.paused.subscribe();
    let mut since = Instant::now();
    let mut owed = 0.0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let passed = since.elapsed();
        since = Instant::now();
        if *paused.borrow_and_update() {
            continue;
        }
        owed += rate * passed.as_secs_f64();
        let due = owed.floor();
        owed -= due;
        if due >= 1.0
            && let Err(error) = control.generate_backlog(due as u64, Duration::ZERO).await
        {
            tracing::error!(error = %error, "traffic stopped");
            return;
        }
    }
}

/// Cuts off what is older than the retention, until told to stop.
pub(crate) async fn expire(org: Arc<Org>, shutdown: CancellationToken) {
    let retention = i64::try_from(org.settings.pubsub.retention.as_millis()).unwrap_or(i64::MAX);
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => org.bus.expire(org.now_millis().saturating_sub(retention)),
            () = shutdown.cancelled() => return,
        }
    }
}
