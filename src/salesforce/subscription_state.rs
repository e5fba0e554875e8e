//! How a subscription is doing, for whoever watches it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::failure::Failure;

/// How a subscription is doing; counters count since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionState {
    /// The generation of the subscription.
    pub generation: u64,
    /// A call is under way. It may not have been answered: see `last_message_at`.
    pub connected: bool,
    /// When the call under way was made; Salesforce's time.
    pub opened_at: Option<DateTime<Utc>>,
    /// When the last message came, on whichever call; Salesforce's time.
    pub last_message_at: Option<DateTime<Utc>>,
    /// Why the last call failed; gone when a message has come.
    pub last_error: Option<String>,
    /// What an operator can do about it.
    pub remedy: Option<String>,
    /// Calls made again, by reason.
    pub reconnects: BTreeMap<&'static str, u64>,
    /// Events asked for and not delivered.
    pub pending: u32,
    /// When the next call is made, while none is under way; local time.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Events received, without duplicates.
    pub events: u64,
    /// Events dropped because they had been taken before.
    pub duplicates: u64,
    /// Empty responses.
    pub keepalives: u64,
    /// Calls closed because there was no room downstream.
    pub planned_closes: u64,
    /// Events delivered beyond the credit, against the protocol.
    pub unasked_events: u64,
}

/// The writing side.
pub(crate) struct StateWriter(watch::Sender<SubscriptionState>);

impl StateWriter {
    pub(crate) fn new(sender: watch::Sender<SubscriptionState>, generation: u64) -> Self {
        sender.send_modify(|state| state.generation = generation);
        Self(sender)
    }

    pub(crate) fn opened(&self, at: DateTime<Utc>, pending: u32) {
        self.0.send_modify(|state| {
            (state.connected, state.opened_at, state.next_attempt_at) = (true, Some(at), None);
            state.pending = pending;
        });
    }

    pub(crate) fn message(&self, at: DateTime<Utc>, unasked: u32) {
        self.0.send_modify(|state| {
            state.last_message_at = Some(at);
            (state.last_error, state.remedy) = (None, None);
            state.unasked_events += u64::from(unasked);
        });
    }

    pub(crate) fn received(&self, events: usize, duplicates: u32, keepalive: bool) {
        self.0.send_modify(|state| {
            state.events += events as u64;
            state.duplicates += u64::from(duplicates);
            state.keepalives += u64::from(keepalive);
        });
    }

    pub(crate) fn pending(&self, pending: u32) {
        self.0.send_if_modified(|state| std::mem::replace(&mut state.pending, pending) != pending);
    }

    /// The call is over and another will be made.
    pub(crate) fn again(&self, reason: &'static str, wait: Duration, trouble: Option<&Failure>) {
        let at = TimeDelta::from_std(wait).ok().and_then(|wait| Utc::now().checked_add_signed(wait));
        self.0.send_modify(|state| {
            (state.connected, state.opened_at, state.pending) = (false, None, 0);
            state.next_attempt_at = at;
            *state.reconnects.entry(reason).or_default() += 1;
            state.planned_closes += u64::from(reason == PLANNED);
            if let Some(trouble) = trouble {
                set_trouble(state, trouble);
            }
        });
    }

    /// The next call waits until somebody wants it.
    pub(crate) fn waits_for_leave(&self) {
        self.0.send_modify(|state| state.next_attempt_at = None);
    }

    /// No other call will be made.
    pub(crate) fn ended(&self, trouble: Option<&Failure>) {
        self.0.send_modify(|state| {
            (state.connected, state.opened_at, state.next_attempt_at, state.pending) = (false, None, None, 0);
            if let Some(trouble) = trouble {
                set_trouble(state, trouble);
            }
        });
    }
}

/// The reason of a close because of missing room downstream.
pub(crate) const PLANNED: &str = "planned";

/// The reason of a close because nothing is to be asked for.
pub(crate) const PAUSED: &str = "paused";

fn set_trouble(state: &mut SubscriptionState, trouble: &Failure) {
    state.last_error = Some(trouble.what.clone());
    state.remedy = (!trouble.remedy.is_empty()).then(|| trouble.remedy.clone());
}
