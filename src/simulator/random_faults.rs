//! Faults by chance: drawn from the seed, at a rate, from a table.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::simulator::control::Control;
use crate::simulator::dice::Dice;
use crate::simulator::faults::Fault;
use crate::simulator::org::Org;
use crate::simulator::settings::RandomFaults;

/// Inflicts faults until told to stop. The time between two is anything up to twice the mean.
/// One that lasts until it is undone is undone after at most three seconds. The seed decides
/// which and when; another rate or table, set while this runs, goes on with the same dice.
pub(crate) async fn inflict(org: Arc<Org>, control: Control, shutdown: CancellationToken) {
    let mut settings = org.random_faults.subscribe();
    let mut dice = Dice::stream(org.settings.seed, "faults");
    loop {
        let RandomFaults { per_minute, table } = settings.borrow_and_update().clone();
        let chance = async {
            if per_minute <= 0.0 {
                return std::future::pending().await;
            }
            let mean = 60_000.0 / per_minute;
            let share = dice.below(10_000) as f64 / 10_000.0;
            tokio::time::sleep(Duration::from_secs_f64((mean * 2.0 * share).clamp(1.0, 3.6e6) / 1000.0)).await;
        };
        tokio::select! {
            () = chance => {}
            _ = settings.changed() => continue,
            () = shutdown.cancelled() => return,
        }
        let table = if table.is_empty() { Fault::survivable() } else { table };
        let fault = dice.pick(&table).clone();
        let ending = fault.ending();
        if let Err(error) = control.inflict(fault).await {
            tracing::warn!(error = %error, "a random fault could not be inflicted");
            continue;
        }
        if let Some(ending) = ending {
            let lasting = Duration::from_millis(dice.between(200, 3_000) as u64);
            tokio::select! {
                () = tokio::time::sleep(lasting) => {}
                () = shutdown.cancelled() => return,
            }
            if let Err(error) = control.inflict(ending).await {
                tracing::warn!(error = %error, "a random fault could not be ended");
            }
        }
    }
}
