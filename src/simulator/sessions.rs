//! Access tokens: given out, used, expired by idleness, revoked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// The tokens that are good, and when each was last used.
#[derive(Debug)]
pub(crate) struct Sessions {
    org_id: String,
    idle_timeout: Duration,
    tokens: Mutex<HashMap<String, Instant>>,
}

impl Sessions {
    pub(crate) fn new(org_id: &str, idle_timeout: Duration) -> Self {
        Self { org_id: org_id.to_owned(), idle_timeout, tokens: Mutex::default() }
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // A map insert or remove leaves nothing half done.
        self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new token: the 15-character org id, an exclamation mark, and what nobody can guess.
    pub(crate) fn issue(&self) -> String {
        let (one, two) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let token = format!("{}!AQ{one}.{two}", self.org_id.get(..15).unwrap_or(&self.org_id));
        self.tokens().insert(token.clone(), Instant::now());
        token
    }

    /// Whether the token is good; if so, its idle time begins anew.
    pub(crate) fn check(&self, token: &str) -> bool {
        let mut tokens = self.tokens();
        match tokens.get_mut(token) {
            Some(used) if used.elapsed() < self.idle_timeout => {
                *used = Instant::now();
                true
            }
            _ => {
                tokens.remove(token);
                false
            }
        }
    }

    pub(crate) fn revoke(&self, token: &str) -> bool {
        self.tokens().remove(token).is_some()
    }

    pub(crate) fn revoke_all(&self) {
        self.tokens().clear();
    }
}
