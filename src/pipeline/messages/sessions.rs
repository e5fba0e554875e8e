//! Which conversation a session belongs to, which case it is about, and which sessions are open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::identity::case_safe_id;
use crate::pipeline::ledger::OpenGap;
use crate::pipeline::messages::desk::Trigger;
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::{Clear, MessageBatch};
use crate::pipeline::messages::setback::Setback;
use crate::pipeline::messages::unread::{End, LedgerWriter, Stage, shortest, since, stage};
use crate::salesforce::conversation_entries::Entry;
use crate::salesforce::messaging_sessions::MessagingSession;

/// Sessions of one query.
const SESSIONS: usize = 500;

/// Cases that are remembered; beyond that they are asked for anew.
const MOST_CASES: usize = 20_000;

/// How often the open sessions are listed.
pub(super) const LISTING: Duration = Duration::from_secs(3600);

/// The shortest pause of a session that is not found: some hundred are looked for with one query.
const LEAST_PAUSE: Duration = Duration::from_secs(2);

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
    /// Learns the case of a session.
    pub fn learn(&mut self, session: &MessagingSession) {
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
            !known && is_old(trigger.renewed_at) && !self.is_waiting(session, trigger.number)
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
        let mut batch = MessageBatch::default();
        for (id, trigger) in triggers {
            match found.get(&id) {
                Some(session) if !session.hides_its_conversation => {
                    self.waits.remove(&id);
                    match self.heed(session) {
                        Some(conversation) if !self.is_owed(&conversation) => {
                            drop(self.sessions.resolved.insert(id, (trigger.number, conversation)));
                        }
                        _ => batch.clears.push(Clear { session: id, number: trigger.number, end: End::Healed }),
                    }
                }
                // A copy of the database may have been behind, or a right missing.
                session => self.not_found(id, &trigger, session.is_some(), &mut batch),
            }
        }
        let told = batch.tells.len();
        if told == 0 && batch.clears.is_empty() {
            return Ok(());
        }
        self.hand_over(batch).await?;
        self.count_in_vain(told);
        Ok(())
    }

    /// Whether a conversation stands in the ledger because it cannot be read: then it is fetched for itself as soon as it can.
    fn is_owed(&self, conversation: &str) -> bool {
        self.conversations.get(conversation).is_some_and(|conversation| conversation.entry.is_some())
    }

    /// Lets a session wait of which no query finds the conversation; has it entered in the gap ledger when that has gone on
    /// for long, where its entry stays open for as long as it is tried; and gives it up in the end.
    fn not_found(&mut self, id: String, trigger: &Trigger, is_there: bool, batch: &mut MessageBatch) {
        match stage(since(trigger.since, Utc::now()), trigger.told, LEAST_PAUSE, &self.config) {
            Stage::Wait(pause) => self.wait_for(&id, trigger.number, pause),
            Stage::Tell => {
                let what = if is_there { "of which the conversation is hidden" } else { "that no query finds" };
                warn!(session = id, "a messaging session {what}; the gap ledger names it");
                let detail = format!("the messages of a session {what} were not fetched");
                let gap = OpenGap::messages(vec![id.clone()], trigger.since, detail);
                let entry = LedgerWriter::of(&self.context).open(&gap);
                self.wait_for(&id, trigger.number, shortest(LEAST_PAUSE, &self.config));
                batch.tells.push((id, entry));
            }
            Stage::GiveUp => {
                warn!(session = id, "the messages of a session are given up");
                batch.clears.push(Clear { session: id, number: trigger.number, end: End::GivenUp });
            }
        }
    }

    /// Counts sessions and conversations that are entered in the ledger.
    pub(super) fn count_in_vain(&self, told: usize) {
        let told = u64::try_from(told).unwrap_or(u64::MAX);
        self.context.board.update(|status| status.messages.get_or_insert_default().sessions_given_up += told);
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

    /// Lets one conversation or session wait; an event with a newer number ends that.
    pub(super) fn wait_for(&mut self, id: &str, number: u64, pause: Duration) {
        self.waits.insert(id.to_owned(), (Instant::now() + pause, number));
    }

    /// Whether one conversation or session waits.
    pub(super) fn is_waiting(&self, id: &str, number: u64) -> bool {
        self.waits.get(id).is_some_and(|(until, of)| *until > Instant::now() && *of == number)
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
