//! `casewire run`: the main job.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin;
use crate::cli::error::CommandError;
use crate::cli::service_manager::ServiceManager;
use crate::config::Config;
use crate::doctor::{self, Outcome};
use crate::failure::Failure;
use crate::pipeline::process::Process;

/// How long the admin port may take to end. A client that asks half a question would hold it up.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Runs until `stop`, with the admin port open from before the first call to after the last commit.
///
/// # Errors
/// See [`Process::run`]; and when the admin port is taken.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Failure> {
    for finding in doctor::at_a_glance(&config) {
        if let Outcome::Warning { what, remedy } = &finding.outcome {
            warn!(check = finding.check, remedy, "{what}");
        }
    }
    carry(Process::new(config)?, stop).await
}

/// The same of a process whose board somebody else watches too.
///
/// # Errors
/// See [`run`].
pub async fn carry(process: Process, stop: CancellationToken) -> Result<(), Failure> {
    let listen = process.config().admin.listen;
    let doors = (admin::Guard::of(&process.config().admin), admin::SnapshotDoor::of(process.config()));
    let admin_stop = CancellationToken::new();
    let admin = match listen {
        None => None,
        Some(address) => {
            let listener = admin::bind(address).await?;
            if let Ok(address) = listener.local_addr() {
                info!(%address, "serving /live, /ready, /metrics, /status and the page");
            }
            let (board, metrics) = (process.board().clone(), process.metrics().clone());
            Some(tokio::spawn(admin::serve(listener, board, metrics, doors, admin_stop.clone())))
        }
    };
    let told = ServiceManager::from_environment()
        .map(|manager| tokio::spawn(manager.tell(process.board().clone(), admin_stop.clone())));
    let outcome = process.run(stop).await;
    admin_stop.cancel();
    if let Some(told) = told {
        let _ = tokio::time::timeout(LAST_ANSWERS, told).await;
    }
    if let Some(admin) = admin {
        match tokio::time::timeout(LAST_ANSWERS, admin).await {
            Ok(Ok(Ok(()))) | Err(_) => {}
            Ok(Ok(Err(error))) => return outcome.and(Err(lost(&error.to_string()))),
            Ok(Err(error)) => return outcome.and(Err(lost(&error.to_string()))),
        }
    }
    outcome
}

fn lost(error: &str) -> Failure {
    CommandError::AdminPort(error.to_owned()).into()
}
