//! The conversations behind messaging sessions. The platform keeps their entries away from the records: no query shows
//! them, no event carries them, and the one resource that does is counted for itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::simulator::dice::Dice;
use crate::simulator::record_store::RecordKey;

/// A call marks its conversation as active in the org for so long.
const ACTIVE_FOR: Duration = Duration::from_secs(30 * 60);

/// Something that is said in a session.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MessageOrder {
    /// The id of the `MessagingSession`, which must have a `ConversationId`.
    pub session: String,
    /// The text; without one it is an entry that is no text, such as somebody joining.
    #[serde(default)]
    pub text: Option<String>,
    /// `EndUser`, `Agent`, `Chatbot` or `System`.
    #[serde(default = "end_user")]
    pub role: String,
    /// Whether a change event of the session tells that there is something new.
    #[serde(default = "told")]
    pub tell: bool,
}

fn end_user() -> String {
    "EndUser".to_owned()
}

fn told() -> bool {
    true
}

impl MessageOrder {
    /// A text of the end user, with an event.
    pub fn new(session: &str, text: &str) -> Self {
        Self { session: session.to_owned(), text: Some(text.to_owned()), role: end_user(), tell: true }
    }

    /// The same without an event.
    #[must_use]
    pub fn untold(mut self) -> Self {
        self.tell = false;
        self
    }
}

/// One entry as it truly is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryLine {
    /// The conversation's identifier, a UUID.
    pub conversation: String,
    /// Its record id.
    pub conversation_id: String,
    /// The entry's own identifier.
    pub identifier: String,
    /// The session in which it was said.
    pub session: String,
    /// `EndUser`, `Agent`, ….
    pub role: String,
    /// Which program its sender used.
    pub app_type: String,
    /// Who that is.
    pub subject: String,
    /// The text as it is now.
    pub text: Option<String>,
    /// Milliseconds of the epoch, by the sender's clock.
    pub client_time: i64,
    /// The same, by the server's.
    pub server_time: i64,
    /// How often the text was changed afterwards.
    pub redactions: u32,
}

/// Why a call is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The calls of the hour.
    Calls,
    /// The conversations that may be active at a time.
    Active,
}

/// What the calls so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    /// Conversations that are active.
    pub(crate) active: usize,
}

/// All of them, and what may be asked of them.
#[derive(Debug)]
pub(crate) struct Conversations {
    calls_allowed: usize,
    window: Duration,
    data_calls_allowed: usize,
    active_allowed: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Each with its entries in the order of their server time.
    entries: BTreeMap<String, Vec<EntryLine>>,
    calls: VecDeque<Instant>,
    /// Over the Conversation Data API.
    data_calls: VecDeque<Instant>,
    active: HashMap<String, Instant>,
    dice: Dice,
}

/// The limit of the Conversation Data API is one of a minute.
const DATA_WINDOW: Duration = Duration::from_secs(60);

/// Uses one of the calls allowed in a window.
fn spend(calls: &mut VecDeque<Instant>, allowed: usize, window: Duration) -> Result<(), Spent> {
    let now = Instant::now();
    while calls.front().is_some_and(|call| now.duration_since(*call) >= window) {
        calls.pop_front();
    }
    if calls.len() >= allowed {
        return Err(Spent::Calls);
    }
    calls.push_back(now);
    Ok(())
}

/// The identifier of a conversation: always the same for the same record.
pub(crate) fn identifier_of(conversation: &RecordKey) -> String {
    let digest = Sha256::digest(conversation.fifteen().as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

impl Conversations {
    pub(crate) fn new(
        seed: u64,
        (calls_allowed, window): (usize, Duration),
        data_calls_allowed: usize,
        active_allowed: usize,
    ) -> Self {
        let dice = Dice::stream(seed, "conversations");
        let (calls, data_calls) = (VecDeque::new(), VecDeque::new());
        let state = State { entries: BTreeMap::new(), calls, data_calls, active: HashMap::new(), dice };
        Self { calls_allowed, window, data_calls_allowed, active_allowed, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one push or one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was said at `now` (milliseconds of the epoch). Server times never go back within a conversation, and
    /// can be equal.
    pub(crate) fn say(&self, conversation: &RecordKey, order: &MessageOrder, now: i64) -> EntryLine {
        let identifier = identifier_of(conversation);
        let mut state = self.state();
        let entry = state.dice.uuid();
        // Clocks of phones are off.
        let client_time = now - 250 - i64::try_from(state.dice.below(3_000)).unwrap_or(0);
        let (app_type, subject) = match order.role.as_str() {
            "Agent" => ("agent", "0058d0000000001AAA".to_owned()),
            "Chatbot" => ("chatbot", "0Xx8d0000000001AAA".to_owned()),
            "System" => ("conversation", "system".to_owned()),
            _ => ("conversation", format!("v2/iamessage/UNAUTH/NA/uid:{}", identifier.get(..8).unwrap_or_default())),
        };
        let line = EntryLine {
            conversation_id: conversation.id(),
            identifier: entry,
            session: order.session.clone(),
            role: order.role.clone(),
            app_type: app_type.to_owned(),
            subject,
            text: order.text.clone(),
            client_time,
            server_time: now,
            redactions: 0,
            conversation: identifier.clone(),
        };
        let entries = state.entries.entry(identifier).or_default();
        let server_time = entries.last().map_or(now, |last| last.server_time.max(now));
        let line = EntryLine { server_time, ..line };
        entries.push(line.clone());
        line
    }

    /// Replaces the text of an entry; false when there is none of that name.
    pub(crate) fn redact(&self, conversation: &str, entry: &str, text: &str) -> bool {
        let mut state = self.state();
        let entries = state.entries.get_mut(conversation);
        let Some(found) = entries.and_then(|entries| entries.iter_mut().find(|one| one.identifier == entry)) else {
            return false;
        };
        found.text = Some(text.to_owned());
        found.redactions += 1;
        true
    }

    /// Takes an entry away; false when there is none of that name.
    pub(crate) fn remove(&self, conversation: &str, entry: &str) -> bool {
        let mut state = self.state();
        let Some(entries) = state.entries.get_mut(conversation) else { return false };
        let before = entries.len();
        entries.retain(|one| one.identifier != entry);
        entries.len() < before
    }

    /// The entries of a conversation in the order of their server time; none when nothing was ever said.
    pub(crate) fn entries(&self, conversation: &str) -> Option<Vec<EntryLine>> {
        self.state().entries.get(conversation).cloned()
    }

    /// Everything that was said.
    pub(crate) fn all(&self) -> Vec<EntryLine> {
        self.state().entries.values().flatten().cloned().collect()
    }

    /// Counts a call for a conversation, which makes it active.
    pub(crate) fn take(&self, conversation: &str) -> Result<Used, Spent> {
        let mut state = self.state();
        spend(&mut state.calls, self.calls_allowed, self.window)?;
        self.activate(&mut state, conversation)
    }

    /// The same over the Conversation Data API, which has a limit by the minute.
    pub(crate) fn take_data(&self, conversation: &str) -> Result<Used, Spent> {
        let mut state = self.state();
        spend(&mut state.data_calls, self.data_calls_allowed, DATA_WINDOW)?;
        self.activate(&mut state, conversation)
    }

    /// How long until there is a call over the Conversation Data API.
    pub(crate) fn next_data_call(&self) -> Duration {
        let oldest = self.state().data_calls.front().copied();
        oldest.map_or(Duration::ZERO, |oldest| DATA_WINDOW.saturating_sub(oldest.elapsed()))
    }

    fn activate(&self, state: &mut State, conversation: &str) -> Result<Used, Spent> {
        let now = Instant::now();
        state.active.retain(|_, called| now.duration_since(*called) < ACTIVE_FOR);
        if !state.active.contains_key(conversation) && state.active.len() >= self.active_allowed {
            return Err(Spent::Active);
        }
        state.active.insert(conversation.to_owned(), now);
        Ok(Used { active: state.active.len() })
    }

    /// Leaves exactly so many calls of the hour, at most all.
    pub(crate) fn leave(&self, left: u64) {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let used = self.calls_allowed.saturating_sub(left);
        self.state().calls = std::iter::repeat_n(Instant::now(), used).collect();
    }

    /// A number below `bound`, for whatever has no order.
    pub(crate) fn draw(&self, bound: usize) -> usize {
        self.state().dice.below(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> RecordKey {
        RecordKey::parse(&crate::simulator::record_id::record_id("0dw", number)).expect("an id")
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_by_the_hour_and_conversations_by_the_half_hour() {
        let conversations = Conversations::new(1, (3, Duration::from_secs(3_600)), 1, 2);
        assert_eq!(conversations.take("a"), Ok(Used { active: 1 }));
        assert_eq!(conversations.take("b"), Ok(Used { active: 2 }));
        assert_eq!(conversations.take("c"), Err(Spent::Active));
        assert_eq!(conversations.take("a"), Err(Spent::Calls), "a refused call is a call");
        tokio::time::advance(ACTIVE_FOR).await;
        assert_eq!(conversations.take("a"), Err(Spent::Calls));
        tokio::time::advance(ACTIVE_FOR).await;
        assert_eq!(conversations.take("c"), Ok(Used { active: 1 }));
        conversations.leave(1);
        assert!(conversations.take("c").is_ok());
        assert_eq!(conversations.take("c"), Err(Spent::Calls));
        assert!(conversations.take_data("c").is_ok(), "a limit of its own");
        assert_eq!(conversations.take_data("c"), Err(Spent::Calls));
        assert_eq!(conversations.next_data_call(), DATA_WINDOW);
        tokio::time::advance(DATA_WINDOW).await;
        assert!(conversations.take_data("c").is_ok());
    }

    #[test]
    fn server_times_never_go_back_and_a_redaction_keeps_the_entry() {
        let conversations = Conversations::new(1, (9, Duration::from_secs(3_600)), 9, 9);
        let first = conversations.say(&key(1), &MessageOrder::new("0Mw", "one"), 2_000);
        let second = conversations.say(&key(1), &MessageOrder::new("0Mw", "two"), 1_000);
        assert_eq!((first.server_time, second.server_time), (2_000, 2_000));
        assert_ne!(identifier_of(&key(1)), identifier_of(&key(2)));
        assert_eq!(first.conversation.len(), 36);
        assert!(conversations.redact(&first.conversation, &first.identifier, "xxx"));
        assert!(!conversations.redact(&first.conversation, "nobody", "xxx"));
        let now = conversations.entries(&first.conversation).expect("entries");
        assert_eq!((now[0].text.as_deref(), now[0].redactions), (Some("xxx"), 1));
        assert!(conversations.remove(&first.conversation, &first.identifier));
        assert!(!conversations.remove(&first.conversation, &first.identifier));
        assert_eq!(conversations.entries(&first.conversation).expect("entries"), [second]);
    }
}
