//! SIGTERM and SIGINT: the first begins an orderly end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code of a process that was ended by an impatient Ctrl-C, as shells report it.
const INTERRUPTED: i32 = 130;

/// A token that the first signal cancels. Has to be called on the runtime.
pub fn stop() -> CancellationToken {
    let stop = CancellationToken::new();
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        warn!("signals cannot be caught: the process ends at once when told to, which loses nothing");
        return stop;
    };
    let cancelled = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                cancelled.cancel();
                info!("ending in order; a second signal ends at once");
            } else {
                std::process::exit(INTERRUPTED);
            }
        }
    });
    stop
}
