//! Signing in as a stream needs it: disturbances are waited for, refusals are not.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::failure::Failure;
use crate::pipeline::context::RECOVERY;
use crate::salesforce::backoff::Backoff;
use crate::salesforce::session::{Session, Token};
use crate::status::StreamBoard;

/// A token, or `None` when `stop` came first. While the login host is disturbed the streams say so and wait.
///
/// # Errors
/// An answer that asking again does not change.
pub async fn sign_in(
    session: &Session,
    boards: &[StreamBoard],
    stop: &CancellationToken,
) -> Result<Option<Arc<Token>>, Failure> {
    let mut backoff = Backoff::new(RECOVERY);
    for board in boards {
        board.starting("signing in");
    }
    loop {
        let token = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            token = session.token() => token,
        };
        let error = match token {
            Ok(token) => {
                for board in boards {
                    board.board().set_salesforce_now(session.salesforce_now());
                }
                return Ok(Some(token));
            }
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(error.failure()),
        };
        let wait = backoff.next_wait_at_least(error.wait_at_least());
        warn!(%error, ?wait, "signing in failed; trying again");
        for board in boards {
            board.recovering(&error.failure(), wait);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
