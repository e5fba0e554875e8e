//! What was said in the sessions that snapshots found, newest first, when nothing more urgent is to be fetched.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::debug;
use uuid::Uuid;

use crate::pipeline::messages::conversation::millis;
use crate::pipeline::messages::history::Old;
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::setback::Setback;
use crate::salesforce::messaging_sessions::MessagingSession;

/// Sessions of which the conversations are found at once.
const AHEAD: usize = 200;

/// One query with its repetitions may take so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// How far Salesforce's clock and ours may be apart.
const CLOCKS: TimeDelta = TimeDelta::minutes(1);

/// An old session, and what follows from what is known of it.
pub(super) struct Ahead {
    pub old: Old,
    pub step: Step,
}

/// What is to be done for an old session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its conversation is fetched.
    Fetch(String),
    /// It has none, or nothing younger than what is fetched at all.
    Nothing,
    /// It is not there for the user: it is looked for as if an event had told of it.
    Owe,
}

impl Step {
    fn of(old: &Old, oldest: i64, found: &HashMap<String, MessagingSession>) -> Self {
        match found.get(&old.session) {
            _ if old.last < oldest => Self::Nothing,
            Some(session) if !session.hides_its_conversation => {
                session.conversation.clone().map_or(Self::Nothing, Self::Fetch)
            }
            _ => Self::Owe,
        }
    }
}

impl MessageRunner {
    /// Whether there are old sessions newer than those that are known to be next.
    pub(super) fn has_unknown_old(&self) -> bool {
        let front = self.ahead.front().map(|ahead| ahead.old.last);
        self.desk.newest_old().is_some_and(|newest| front.is_none_or(|front| newest > front))
    }

    /// Finds the conversations of the newest old sessions.
    pub(super) async fn look_ahead(&mut self) -> Result<(), Setback> {
        let old = self.desk.next_old(AHEAD);
        let oldest = self.now().saturating_sub(millis(self.config.history)) / 1_000;
        let ids: Vec<&str> = old.iter().filter(|old| old.last >= oldest).map(|old| old.session.as_str()).collect();
        let found = self.rest.messaging_sessions(&ids, Instant::now() + PATIENCE).await.map_err(Setback::Sessions)?;
        for session in &found {
            self.sessions.learn(session);
        }
        let found: HashMap<String, MessagingSession> =
            found.into_iter().map(|session| (session.id.clone(), session)).collect();
        debug!(sessions = old.len(), found = found.len(), "conversations of old sessions found");
        let ahead = |old: Old| Ahead { step: Step::of(&old, oldest, &found), old };
        self.ahead = old.into_iter().map(ahead).collect();
        Ok(())
    }

    /// The conversation that an old session is fetched for next; none while all of them need no call, or wait. One that waits holds
    /// no other up: what is fetched before its turn is passed over when that comes.
    pub(super) fn next_past(&self) -> Option<&str> {
        let asked = self.ahead.iter().filter_map(|ahead| self.asked_for(ahead));
        let mut asked = asked.filter(|id| !self.is_waiting(id, 0));
        let first = asked.next()?;
        if self.doubt.is_of(first) { asked.find(|id| !self.doubt.is_of(id)).or(Some(first)) } else { Some(first) }
    }

    /// Whether there is an old session at the front that needs no call.
    pub(super) fn has_nothing_to_ask(&self) -> bool {
        self.ahead.front().is_some_and(|ahead| self.asked_for(ahead).is_none())
    }

    /// The conversation that an old session needs a call for.
    fn asked_for<'a>(&self, ahead: &'a Ahead) -> Option<&'a str> {
        match &ahead.step {
            Step::Fetch(id) if !self.is_fetched_since(id, ahead.old.found_at) => Some(id),
            _ => None,
        }
    }

    /// Passes over the old sessions at the front that need no call.
    pub(super) async fn pass_over(&mut self) -> Result<(), Setback> {
        let mut batch = MessageBatch::default();
        while self.has_nothing_to_ask() {
            let Some(ahead) = self.ahead.pop_front() else { break };
            batch.done.push(ahead.old.place);
            batch.owes.extend((ahead.step == Step::Owe).then_some(ahead.old.session));
        }
        if batch.done.is_empty() { Ok(()) } else { self.hand_over(batch).await }
    }

    /// The old sessions at the front that a fetch of a conversation has done with.
    pub(super) fn done_by(&mut self, id: &str) -> Vec<(Uuid, usize)> {
        let mut done = Vec::new();
        while self.ahead.front().is_some_and(|ahead| matches!(&ahead.step, Step::Fetch(of) if of == id)) {
            done.extend(self.ahead.pop_front().map(|ahead| ahead.old.place));
        }
        done
    }

    /// Whether a conversation was fetched since a moment of our clock, or is owed for itself because it cannot be read.
    fn is_fetched_since(&self, id: &str, at: DateTime<Utc>) -> bool {
        let at = at.checked_add_signed(CLOCKS).unwrap_or(at).timestamp_millis();
        self.conversations.get(id).is_some_and(|conversation| {
            conversation.in_vain_since.is_some() || conversation.asked_at.is_some_and(|asked| asked > at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_session_is_fetched_owed_or_passed_over() {
        let old =
            |session: &str, last| Old { place: (Uuid::nil(), 0), session: session.into(), last, found_at: Utc::now() };
        let session = |id: &str, conversation: Option<&str>, hides_its_conversation| MessagingSession {
            id: id.into(),
            conversation: conversation.map(str::to_owned),
            hides_its_conversation,
            ..MessagingSession::default()
        };
        let found = [session("a", Some("c"), false), session("b", None, false), session("h", None, true)];
        let found: HashMap<_, _> = found.into_iter().map(|session| (session.id.clone(), session)).collect();
        for (id, last, step) in [
            ("a", 100, Step::Fetch("c".into())),
            ("a", 99, Step::Nothing),
            ("b", 100, Step::Nothing),
            ("h", 100, Step::Owe),
            ("gone", 100, Step::Owe),
            ("gone", 99, Step::Nothing),
        ] {
            assert_eq!(Step::of(&old(id, last), 100, &found), step, "{id} {last}");
        }
    }
}
