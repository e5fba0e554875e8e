//! REST that does not give up at once: disturbances are waited for with backoff until a deadline, and when the org's
//! API requests are used up, nothing more is asked for a while.
//!
//! The pause is one for all clones: a request that cannot be answered still counts against the org.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::salesforce::api_usage::ApiUsage;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::rest::{RestAnswer, RestError, RestRequest, RestVerdict};
use crate::salesforce::session::Session;

/// How often one call is made, at most; what is disturbed for longer is for the caller to decide about.
const ATTEMPTS: u32 = 5;

/// Waits between the attempts.
const DEFAULT_BACKOFF: BackoffLimits = BackoffLimits::constant(Duration::from_millis(500), Duration::from_secs(30));

/// One attempt. Salesforce ends a call after ten minutes; one that takes longer than this is better asked for less.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads and queries one org. Cheap to clone; clones share the pause.
#[derive(Debug, Clone)]
pub struct RestClient {
    session: Session,
    backoff: BackoffLimits,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pause: Mutex<Option<Pause>>,
    /// The bytes of a row of each object as they came last.
    row_bytes: Mutex<HashMap<String, usize>>,
    /// What is still to be said to Salesforce for somebody who has gone.
    last_calls: TaskTracker,
}

/// Nothing is asked until then.
#[derive(Debug, Clone, Copy)]
struct Pause {
    ends: Instant,
    until: DateTime<Utc>,
}

impl RestClient {
    /// Over a session, with waits of half a second to half a minute.
    pub fn new(session: Session) -> Self {
        Self::with_backoff(session, DEFAULT_BACKOFF)
    }

    /// With other waits.
    pub fn with_backoff(session: Session, backoff: BackoffLimits) -> Self {
        Self { session, backoff, shared: Arc::default() }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What the newest answer said of the org's API requests; none before the first.
    pub fn usage(&self) -> Option<ApiUsage> {
        self.session.api_usage()
    }

    /// Until when nothing is asked because the org's API requests are used up.
    pub fn paused_until(&self) -> Option<DateTime<Utc>> {
        self.pause().map(|pause| pause.until)
    }

    /// The versioned path of a resource: `/services/data/v66.0/` and what follows.
    pub(crate) fn path(&self, resource: &str) -> String {
        format!("/services/data/v{}/{resource}", self.session.api_version())
    }

    /// Makes a call until it is answered, until it is hopeless, or until the next attempt would begin after the
    /// deadline; then the last error is returned.
    pub(crate) async fn call(&self, request: &RestRequest, deadline: Instant) -> Result<Vec<u8>, RestError> {
        Ok(self.answer(request, deadline).await?.body)
    }

    /// The same with the headers of the answer.
    pub(crate) async fn answer(&self, request: &RestRequest, deadline: Instant) -> Result<RestAnswer, RestError> {
        let mut backoff = Backoff::new(self.backoff);
        loop {
            if let Some(pause) = self.pause() {
                return Err(RestError::Paused(pause.until));
            }
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            // The deadline also bounds a sign-in that hangs.
            let sent = self.session.send(request, Some(CALL_TIMEOUT.min(left)));
            let error = match tokio::time::timeout(left, sent).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => RestError::Unreachable("no answer within the time there was".to_owned()),
            };
            let wait = match error.verdict() {
                RestVerdict::RetryAfter(hint) => backoff.next_wait_at_least(hint),
                RestVerdict::Pause(length) => return Err(self.begin_pause(length)),
                _ => return Err(error),
            };
            if backoff.attempts() >= ATTEMPTS || Instant::now() + wait >= deadline {
                return Err(error);
            }
            warn!(resource = request.resource(), error = %error, wait_ms = wait.as_millis(), "rest call failed, trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Makes a call once. For a resource with a limit of its own: that being used up is the caller's to wait for and
    /// pauses nobody else; only the end of the org's requests of 24 hours does.
    pub(crate) async fn call_once(&self, request: &RestRequest, deadline: Instant) -> Result<Vec<u8>, RestError> {
        if let Some(pause) = self.pause() {
            return Err(RestError::Paused(pause.until));
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let sent = self.session.send(request, Some(CALL_TIMEOUT.min(left)));
        let error = match tokio::time::timeout(left, sent).await {
            Ok(Ok(answer)) => return Ok(answer.body),
            Ok(Err(error)) => error,
            Err(_) => RestError::Unreachable("no answer within the time there was".to_owned()),
        };
        match (&error, error.verdict()) {
            (RestError::Refused { message, .. }, RestVerdict::Pause(length)) if message.contains("TotalRequests") => {
                Err(self.begin_pause(length))
            }
            _ => Err(error),
        }
    }

    /// The calls for whoever has gone.
    pub(crate) fn last_calls(&self) -> &TaskTracker {
        &self.shared.last_calls
    }

    fn pause(&self) -> Option<Pause> {
        let mut pause = self.shared.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if pause.is_some_and(|pause| pause.ends <= Instant::now()) {
            info!("asking the rest api again");
            *pause = None;
        }
        *pause
    }

    fn begin_pause(&self, length: Duration) -> RestError {
        let until = Utc::now() + TimeDelta::from_std(length).unwrap_or_default();
        let mut pause = self.shared.pause.lock().unwrap_or_else(PoisonError::into_inner);
        // Several calls can be under way when the first is refused; their pause is the same.
        let pause = *pause.get_or_insert_with(|| {
            warn!(%until, "the org's api requests are used up, asking nothing until then");
            Pause { ends: Instant::now() + length, until }
        });
        RestError::Paused(pause.until)
    }

    /// The bytes of a row of an object as they came last.
    pub(crate) fn row_bytes(&self, object: &str) -> Option<usize> {
        self.shared.row_bytes.lock().unwrap_or_else(PoisonError::into_inner).get(object).copied()
    }

    /// Notes how many bytes a row of an object has.
    pub(crate) fn note_row_bytes(&self, object: &str, bytes: usize) {
        self.shared.row_bytes.lock().unwrap_or_else(PoisonError::into_inner).insert(object.to_owned(), bytes);
    }
}

/// A name as it may stand in a path or in SOQL.
///
/// # Errors
/// When it is no API name.
pub(crate) fn api_name(name: &str) -> Result<&str, RestError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.is_empty() && name.bytes().all(legal) { Ok(name) } else { Err(RestError::Path(name.to_owned())) }
}
