//! Which conversation a session belongs to, which case it is about, and which sessions are open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::identity::case_safe_id;
use crate::pipeline::ledger::OpenGap;
use crate::pipeline::ledger_entries::append_entries;
use crate::pipeline::messages::desk::Trigger;
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::setback::{ONE, Setback};
use crate::salesforce::backoff::Backoff;
use crate::salesforce::conversation_entries::Entry;
use crate::salesforce::messaging_sessions::MessagingSession;

/// Sessions of one query.
const SESSIONS: usize = 500;

/// Cases that are remembered; beyond that they are asked for anew.
const MOST_CASES: usize = 20_000;

/// How often the open sessions are listed.
pub(super) const LISTING: Duration = Duration::from_secs(3600);

/// One query with its repetitions may take so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of sessions; all of it can be asked for again.
#[derive(Default)]
pub(super) struct Sessions {
    /// The conversation of each trigger, with the number that the trigger had.
    pub resolved: HashMap<String, (u64, String)>,
    /// The case that each session is about.
    pub cases: HashMap<String, Option<String>>,
}

impl Sessions {
    fn learn(&mut self, session: &MessagingSession) {
        if self.cases.len() >= MOST_CASES {
            self.cases.clear();
        }
        self.cases.insert(session.id.clone(), session.case.clone());
    }
}

/// The session among an entry's related records, with its eighteen characters.
pub(super) fn session_of(entry: &Entry) -> Option<String> {
    let is_session = |id: &&String| {
        id.starts_with("0Mw") && matches!(id.len(), 15 | 18) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    entry.related.iter().find(is_session).map(|id| case_safe_id(id).into_owned())
}

impl MessageRunner {
    /// Triggers that are old enough and of which the conversation is not known.
    pub(super) fn unresolved(&self, triggers: &BTreeMap<String, Trigger>) -> Vec<(String, Trigger)> {
        let now = Utc::now();
        let settled = now - TimeDelta::from_std(self.config.settle).unwrap_or_default();
        // A predecessor's clock may have been ahead of ours.
        let is_old = |at| at <= settled || at > now;
        let wanted = |(session, trigger): &(&String, &Trigger)| {
            let known = self.sessions.resolved.get(*session).is_some_and(|(number, _)| *number == trigger.number);
            !known && is_old(trigger.renewed_at) && !self.is_waiting(session)
        };
        let wanted = triggers.iter().filter(wanted).take(SESSIONS);
        wanted.map(|(session, trigger)| (session.clone(), trigger.clone())).collect()
    }

    /// Finds the conversations of triggers. What has none is done with.
    pub(super) async fn resolve(&mut self, triggers: Vec<(String, Trigger)>) -> Result<(), Setback> {
        let ids: Vec<&str> = triggers.iter().map(|(session, _)| session.as_str()).collect();
        let deadline = Instant::now() + PATIENCE;
        let found = self.rest.messaging_sessions(&ids, deadline).await.map_err(Setback::Sessions)?;
        let found: HashMap<String, MessagingSession> =
            found.into_iter().map(|session| (session.id.clone(), session)).collect();
        let (mut done, mut lost) = (Vec::new(), Vec::new());
        for (id, trigger) in triggers {
            match found.get(&id) {
                Some(session) if !session.hides_its_conversation => {
                    self.waits.remove(&id);
                    match self.heed(session) {
                        Some(conversation) => {
                            drop(self.sessions.resolved.insert(id, (trigger.number, conversation)));
                        }
                        None => done.push((id, trigger.number)),
                    }
                }
                // A copy of the database may have been behind, or a right missing.
                _ if (Utc::now() - trigger.since).to_std().is_ok_and(|since| since >= self.config.give_up_after) => {
                    lost.push((id, trigger));
                }
                _ => self.wait_for_one(&id, ONE),
            }
        }
        self.give_up(&lost).await?;
        done.extend(lost.into_iter().map(|(id, trigger)| (id, trigger.number)));
        if done.is_empty() { Ok(()) } else { self.clear(done).await }
    }

    /// Enters sessions that no query finds in the gap ledger. It is done before their triggers are cleared: a process that
    /// dies between the two enters them twice, and the other way round they would be lost without a word. The job of the entry
    /// reads the session, and should it be there again, what it writes is a trigger.
    async fn give_up(&self, lost: &[(String, Trigger)]) -> Result<(), Setback> {
        let Some(since) = lost.iter().map(|(_, trigger)| trigger.since).min() else { return Ok(()) };
        let (identity, run) = (&self.context.identity, &self.context.run.run_id);
        let ids: Vec<String> = lost.iter().map(|(id, _)| id.clone()).collect();
        warn!(sessions = ?ids, "messaging sessions were looked for in vain; the gap ledger names them");
        let entry = OpenGap::sessions_not_found(ids, since);
        append_entries(&self.kafka, (&identity.org, &identity.topic), run, &[entry]).await.map_err(Setback::Ledger)?;
        let count = u64::try_from(lost.len()).unwrap_or(u64::MAX);
        self.context.board.update(|status| status.messages.get_or_insert_default().sessions_given_up += count);
        Ok(())
    }

    /// Finds the sessions that are open, whether an event told of them or not.
    pub(super) async fn list_open(&mut self) -> Result<(), Setback> {
        let deadline = Instant::now() + PATIENCE;
        let open = self.rest.open_messaging_sessions(deadline).await.map_err(Setback::Sessions)?;
        debug!(sessions = open.len(), "open messaging sessions listed");
        let mut listed = BTreeSet::new();
        for session in &open {
            if let Some(conversation) = self.heed(session) {
                listed.insert((conversation, session.id.as_str()));
            }
        }
        // One that ended without an event, was purged, or belongs to another conversation now would be swept for ever.
        let now = self.now();
        for (id, conversation) in &mut self.conversations {
            let gone: Vec<String> = conversation
                .open
                .iter()
                .filter(|open| !listed.contains(&(id.clone(), open.as_str())))
                .cloned()
                .collect();
            for session in gone {
                let ended = MessagingSession { id: session, ..MessagingSession::default() };
                conversation.heed(&ended, now, &self.config);
            }
        }
        Ok(())
    }

    /// Learns the cases of the sessions in which entries were said.
    pub(super) async fn learn_cases(&mut self, entries: &[Entry]) -> Result<(), Setback> {
        let sessions: BTreeSet<String> = entries.iter().filter_map(session_of).collect();
        let unknown: Vec<&str> =
            sessions.iter().map(String::as_str).filter(|id| !self.sessions.cases.contains_key(*id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        let found = self.rest.messaging_sessions(&unknown, deadline).await.map_err(Setback::Sessions)?;
        for session in &found {
            self.sessions.learn(session);
        }
        // One that is gone has no case, and is not asked for with each page.
        for id in unknown {
            self.sessions.cases.entry(id.to_owned()).or_default();
        }
        Ok(())
    }

    /// Takes a session's state to its conversation; returns that.
    fn heed(&mut self, session: &MessagingSession) -> Option<String> {
        self.sessions.learn(session);
        let identifier = session.conversation.clone()?;
        let now = self.now();
        self.conversations.entry(identifier.clone()).or_default().heed(session, now, &self.config);
        Some(identifier)
    }

    /// Lets one conversation or session wait.
    pub(super) fn wait_for_one(&mut self, id: &str, limits: crate::salesforce::backoff::BackoffLimits) {
        let (until, backoff) =
            self.waits.entry(id.to_owned()).or_insert_with(|| (Instant::now(), Backoff::new(limits)));
        *until = Instant::now() + backoff.next_wait();
    }

    /// Whether one conversation or session waits.
    pub(super) fn is_waiting(&self, id: &str) -> bool {
        self.waits.get(id).is_some_and(|(until, _)| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_of_an_entry_is_found_among_its_related_records() {
        let of = |related: &[&str]| {
            let related = related.iter().map(|id| (*id).to_owned()).collect();
            let sender = crate::salesforce::conversation_entries::Sender::default();
            let (identifier, text, kind, payload) = (String::new(), None, None, None);
            session_of(&Entry { identifier, server_time: 0, client_time: None, text, kind, payload, sender, related })
        };
        assert_eq!(of(&["0Mw8d0000000001CAA"]).as_deref(), Some("0Mw8d0000000001CAA"));
        assert_eq!(
            of(&["36b0f4d9-7c14-43dc-bb9e-7713a4930df0", "0Mw8d0000000001"]).as_deref(),
            Some("0Mw8d0000000001CAA")
        );
        assert_eq!(of(&["0LQ8d0000000001AAA", "0Mw-' OR Id != '"]), None);
    }
}
