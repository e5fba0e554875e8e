//! How much may be asked: calls by the hour, or by the minute over the Conversation Data API, and different conversations by the half hour, since each call makes its
//! conversation count among the org's active ones for so long.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{MessagesApi, MessagesConfig};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// A call makes its conversation active for so long.
pub(super) const ACTIVE_FOR: Duration = Duration::from_secs(30 * 60);

/// A window is counted in so many parts, each of which is left out once all of it is older than the window.
const PARTS: u32 = 60;

/// Calls that what can wait leaves to what cannot.
const SPARED: f64 = 50.0;

/// A bucket of calls, and the conversations that are active.
///
/// The bucket holds a quarter of the calls of its window and the rest flow in evenly, so that no window has more than all of
/// them whenever it begins. It begins empty: whatever a predecessor used, a restart adds nothing.
#[derive(Debug)]
pub(super) struct Budget {
    /// How many calls flow in, in `window`.
    flow: f64,
    window: Duration,
    most: f64,
    calls: f64,
    filled_at: Instant,
    max_active: usize,
    active: HashMap<String, Instant>,
    /// What was called lately: when a part of the window began, and how often in it.
    made: VecDeque<(Instant, u64)>,
}

/// How much of the budget is used, for whoever looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// Calls that could be made at once.
    pub calls_left: u64,
    /// Calls that this run made within the window, to a sixtieth of it.
    pub calls_used: u64,
    /// Calls that may be made in it.
    pub calls_allowed: u64,
    /// How long it is.
    pub window: Duration,
    /// Conversations that are active.
    pub active: u64,
    /// So many may be.
    pub active_allowed: u64,
}

impl Budget {
    /// A budget that begins now; `active` are conversations and for how long they have been so.
    pub fn new(config: &MessagesConfig, active: impl IntoIterator<Item = (String, Duration)>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "at most a million calls")]
        let (all, window) = match config.api {
            MessagesApi::Connect => (config.calls_per_hour as f64, HOUR),
            MessagesApi::Data => (config.calls_per_minute as f64, MINUTE),
        };
        let now = Instant::now();
        let since = |ago: Duration| (ago < ACTIVE_FOR).then(|| now.checked_sub(ago).unwrap_or(now));
        let active = active.into_iter().filter_map(|(conversation, ago)| Some((conversation, since(ago)?)));
        Self {
            flow: all * 0.75,
            window,
            most: (all * 0.25).max(1.0),
            calls: 0.0,
            filled_at: now,
            max_active: usize::try_from(config.max_active).unwrap_or(usize::MAX),
            active: active.collect(),
            made: VecDeque::new(),
        }
    }

    fn fill(&mut self, now: Instant) {
        let flown = now.saturating_duration_since(self.filled_at).as_secs_f64() * self.flow / self.window.as_secs_f64();
        self.calls = (self.calls + flown).min(self.most);
        self.filled_at = now;
        self.active.retain(|_, called| now.saturating_duration_since(*called) < ACTIVE_FOR);
    }

    /// When there is a call; `now` or earlier if there is one.
    pub fn next_call(&mut self, now: Instant) -> Instant {
        self.next(now, 1.0)
    }

    fn next(&mut self, now: Instant, calls: f64) -> Instant {
        self.fill(now);
        let missing = (calls.min(self.most) - self.calls).max(0.0) * self.window.as_secs_f64();
        // A little more, so that rounding does not end a wait a moment too early.
        let wait = Duration::try_from_secs_f64(missing / self.flow.max(f64::MIN_POSITIVE) * 1.001).unwrap_or(HOUR);
        now + wait
    }

    /// The same for what can wait: it leaves some calls to what comes meanwhile.
    pub fn next_spare_call(&mut self, now: Instant) -> Instant {
        self.next(now, 1.0 + (self.most / 2.0).min(SPARED))
    }

    /// Whether a conversation may be asked for that can wait: it leaves a quarter of the active ones to others.
    pub fn admits_spare(&self, conversation: &str) -> bool {
        self.active.contains_key(conversation) || self.active.len() < self.max_active - self.max_active / 4
    }

    /// Whether a conversation may be asked for, calls aside.
    pub fn admits(&self, conversation: &str) -> bool {
        self.active.contains_key(conversation) || self.active.len() < self.max_active
    }

    /// When the next conversation ceases to be active.
    pub fn next_inactive(&self) -> Option<Instant> {
        self.active.values().min().map(|called| *called + ACTIVE_FOR)
    }

    /// Uses a call.
    pub fn take(&mut self, conversation: &str, now: Instant) {
        self.fill(now);
        self.calls = (self.calls - 1.0).max(0.0);
        self.active.insert(conversation.to_owned(), now);
        let part = self.window / PARTS;
        match self.made.back_mut().filter(|(began, _)| now.saturating_duration_since(*began) < part) {
            Some((_, calls)) => *calls = calls.saturating_add(1),
            None => self.made.push_back((now, 1)),
        }
        self.forget_old_calls(now);
    }

    /// Different conversations that what can wait may ask for in an hour, with a call each and nothing else going on.
    pub fn spare_an_hour(&self) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 60 million")]
        let calls = (self.flow * HOUR.as_secs_f64() / self.window.as_secs_f64()) as u64;
        let active = u64::try_from(self.max_active - self.max_active / 4).unwrap_or(u64::MAX);
        calls.min(active.saturating_mul(HOUR.as_secs() / ACTIVE_FOR.as_secs())).max(1)
    }

    /// A part counts until its last moment is older than the window.
    fn forget_old_calls(&mut self, now: Instant) {
        let counted = self.window + self.window / PARTS;
        while self.made.front().is_some_and(|(began, _)| now.saturating_duration_since(*began) >= counted) {
            self.made.pop_front();
        }
    }

    /// How much of it is used.
    pub fn usage(&mut self, now: Instant) -> Usage {
        self.fill(now);
        self.forget_old_calls(now);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
        let whole = |calls: f64| calls.floor() as u64;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Usage {
            calls_left: whole(self.calls),
            calls_used: self.made.iter().map(|(_, calls)| calls).sum(),
            calls_allowed: whole(self.flow / 0.75),
            window: self.window,
            active: count(self.active.len()),
            active_allowed: count(self.max_active),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn config(calls_per_hour: u64, max_active: u64) -> MessagesConfig {
        let any = Duration::from_secs(60);
        MessagesConfig {
            api: MessagesApi::Connect,
            calls_per_minute: 80,
            calls_per_hour,
            max_active,
            api_share: 80,
            settle: any,
            reread: any,
            history: any,
            sweep_least: any,
            sweep_most: any,
            final_after: any,
            give_up_after: Duration::from_secs(24 * 3600),
            records: true,
        }
    }

    /// Calls until `until`, each as soon as it is allowed; how long after the beginning each was.
    async fn calls(budget: &mut Budget, until: Duration) -> Vec<Duration> {
        let (begin, mut made) = (Instant::now(), Vec::new());
        loop {
            let now = Instant::now();
            let next = budget.next_call(now);
            if next > begin + until {
                return made;
            }
            advance(next.saturating_duration_since(now)).await;
            budget.take("c", Instant::now());
            made.push(begin.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_hour_has_more_calls_than_all_of_them_whenever_it_begins() {
        let mut budget = Budget::new(&config(100, 9), []);
        advance(2 * HOUR).await;
        let made = calls(&mut budget, 3 * HOUR).await;
        assert!(made.len() > 230, "{}", made.len());
        for (first, at) in made.iter().enumerate() {
            let within = made[first..].iter().take_while(|other| **other - *at < HOUR).count();
            assert!(within <= 100, "{within} from {at:?} on");
        }
        let data = MessagesConfig { api: MessagesApi::Data, ..config(100, 9) };
        let mut budget = Budget::new(&data, []);
        let made = calls(&mut budget, 10 * MINUTE).await;
        assert!(made.len() > 550, "{}", made.len());
        for (first, at) in made.iter().enumerate() {
            let within = made[first..].iter().take_while(|other| **other - *at < MINUTE).count();
            assert!(within <= 80, "{within} from {at:?} on");
        }
        let mut fresh = Budget::new(&config(100, 9), []);
        assert!(fresh.next_call(Instant::now()) > Instant::now(), "a restart adds nothing");
        let usage = fresh.usage(Instant::now());
        assert_eq!((usage.calls_left, usage.calls_used, usage.calls_allowed, usage.active), (0, 0, 100, 0));
        let mut counted = Budget::new(&config(100, 9), []);
        advance(HOUR).await;
        for _ in 0..20 {
            counted.take("c", Instant::now());
            advance(Duration::from_secs(6)).await;
        }
        assert_eq!((counted.usage(Instant::now()).calls_used, counted.made.len()), (20, 2), "in parts of a minute");
        advance(HOUR - Duration::from_secs(60)).await;
        assert_eq!(counted.usage(Instant::now()).calls_used, 10, "the first minute of them is an hour old");
        assert_eq!(Budget::new(&config(1_000, 500), []).spare_an_hour(), 750);
        assert_eq!(Budget::new(&config(1_000, 40), []).spare_an_hour(), 60, "thirty in half an hour");
        let (now, mut waiting) = (Instant::now(), Budget::new(&config(1_000, 9), []));
        let spare = waiting.next_spare_call(now) - now;
        assert!(spare > 40 * (waiting.next_call(now) - now), "history leaves calls to events: {spare:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_conversations_than_allowed_are_active_also_after_a_restart() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let before = [("a".to_owned(), minutes(20)), ("gone".to_owned(), minutes(30))];
        let mut budget = Budget::new(&config(1_000, 2), before);
        assert!(budget.admits("b"));
        budget.take("b", Instant::now());
        assert!(budget.admits("a") && budget.admits("b") && !budget.admits("c"));
        let mut four = Budget::new(&config(1_000, 4), []);
        for conversation in ["a", "b", "c"] {
            assert!(four.admits_spare(conversation));
            four.take(conversation, Instant::now());
        }
        assert!(four.admits("d") && !four.admits_spare("d") && four.admits_spare("a"));
        let next = budget.next_inactive().expect("a is active");
        assert_eq!(next - Instant::now(), minutes(10));
        advance(minutes(10)).await;
        budget.next_call(Instant::now());
        assert!(budget.admits("c") && budget.usage(Instant::now()).active == 1);
    }
}
