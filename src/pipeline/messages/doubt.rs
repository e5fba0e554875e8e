//! Whose fault a failed call for entries is: that of one conversation, or of the whole org.
//!
//! Some answers concern one conversation and some all of them (`setback`). What lies between, a server error, a time-out or a
//! refusal, says nothing about that: it can be one conversation's for ever, or everybody's for an hour. So the next call goes to
//! another conversation. Once that is answered the first is asked again, and if that fails it waits alone and comes into the gap ledger
//! in the end (`unread`). One answer explains one failure: what an org that answers now and then refuses is nobody's fault. While others
//! fail too, nobody is to blame and all wait: an outage costs one call for each pause, up to five minutes, and gives nobody up.
//!
//! What can wait, the histories of snapshots and comparisons, has pauses of its own: its failures do not hold up what comes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::pipeline::messages::conversation::Reason;
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::setback::{Concern, LIMITS, Setback};
use crate::salesforce::backoff::Backoff;

/// What failed so long ago says nothing of today.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// What is known of calls that failed.
#[derive(Debug)]
pub(super) struct Doubt {
    failed: BTreeMap<String, Failed>,
    /// Whether anything was answered since the last failure.
    fine: bool,
    /// The conversation that was told to be at fault since something was answered.
    blamed: Option<String>,
    /// Of what comes …
    urgent: Gate,
    /// … and of what can wait.
    spare: Gate,
}

/// The pauses between calls.
#[derive(Debug)]
struct Gate {
    backoff: Backoff,
    /// No conversation is asked for before.
    not_before: Instant,
}

impl Gate {
    fn open() -> Self {
        Self { backoff: Backoff::new(LIMITS), not_before: Instant::now() }
    }
}

/// A conversation of which the last call failed.
#[derive(Debug)]
struct Failed {
    at: Instant,
    /// How often since it was answered last.
    times: u32,
    /// Whether another one was answered since.
    others_answered: bool,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The conversation's: it fails while others are answered.
    Own,
    /// Nobody knows: nothing else was asked since.
    Unknown,
    /// That of the org, the network or the user's rights: others fail too.
    Everybody,
}

impl Doubt {
    /// Without any.
    pub fn new() -> Self {
        Self { failed: BTreeMap::new(), fine: false, blamed: None, urgent: Gate::open(), spare: Gate::open() }
    }

    /// Notes that a conversation failed. Of one that is in vain it is known that others could be read when it could not, so
    /// nothing has to be answered in between for it to be believed, as long as it is the only one.
    pub fn failed(&mut self, id: &str, in_vain: bool) -> Fault {
        let fine = std::mem::take(&mut self.fine);
        let alone =
            !self.unexplained().any(|(other, _)| other != id) && self.blamed.as_ref().is_none_or(|one| one == id);
        let explained = self.failed.get(id).is_some_and(|failed| failed.others_answered);
        if fine && explained || in_vain && (fine || alone) {
            self.failed.remove(id);
            self.blamed = Some(id.to_owned());
            return Fault::Own;
        }
        let now = Instant::now();
        let new = Failed { at: now, times: 0, others_answered: false };
        let failed = self.failed.entry(id.to_owned()).or_insert(new);
        (failed.at, failed.times, failed.others_answered) = (now, failed.times.saturating_add(1), false);
        if self.unexplained().count() > 1 { Fault::Everybody } else { Fault::Unknown }
    }

    /// Notes that a conversation was answered; returns those that may be asked again for it.
    pub fn answered(&mut self, id: &str) -> Vec<String> {
        self.failed.remove(id);
        (self.fine, self.blamed, self.urgent, self.spare) = (true, None, Gate::open(), Gate::open());
        self.failed.retain(|_, failed| failed.at.elapsed() < FORGOTTEN);
        let again = self.failed.iter_mut().filter(|(_, failed)| !failed.others_answered);
        again
            .map(|(id, failed)| {
                failed.others_answered = true;
                id.clone()
            })
            .collect()
    }

    /// How long whoever failed waits, and the others: until then no conversation is asked for. Also where somebody has to mend
    /// it the pauses of the others begin short: two in a row can be refused, and the third be read. What comes does not wait for
    /// what can wait, but for as long as the server asked.
    pub fn pauses(&mut self, setback: &Setback, fault: Fault, reason: Reason) -> (Duration, Duration) {
        let can_wait = matches!(reason, Reason::History | Reason::Reconcile);
        let gate = if can_wait { &mut self.spare } else { &mut self.urgent };
        let step = gate.backoff.next_wait_at_least(setback.least_wait());
        let own = setback.wait(&mut gate.backoff.clone()).max(step);
        let others = if fault == Fault::Everybody { step } else { setback.least_wait() };
        let now = Instant::now();
        gate.not_before = gate.not_before.max(now + others);
        self.urgent.not_before = self.urgent.not_before.max(now + setback.least_wait());
        (own, others)
    }

    fn unexplained(&self) -> impl Iterator<Item = (&String, &Failed)> {
        self.failed.iter().filter(|(_, failed)| !failed.others_answered)
    }

    /// Whether a failure is unexplained.
    pub fn is_open(&self) -> bool {
        self.unexplained().next().is_some()
    }

    /// Whether that of a conversation is, so that another one has to be asked before it.
    pub fn is_of(&self, id: &str) -> bool {
        self.failed.get(id).is_some_and(|failed| !failed.others_answered)
    }

    /// How often a conversation failed since it was answered last.
    pub fn times(&self, id: &str) -> u32 {
        self.failed.get(id).map_or(0, |failed| failed.times)
    }

    /// From when on conversations may be asked for.
    pub fn not_before(&self) -> Instant {
        self.urgent.not_before
    }

    /// From when on those may that can wait.
    pub fn spare_not_before(&self) -> Instant {
        self.spare.not_before.max(self.urgent.not_before)
    }

    /// Whether one conversation comes before another: the most urgent first. In doubt the one that has not failed and would be the last:
    /// it was mostly read before, or is new, and a hundred old ones can have the same fault.
    pub fn prefers(&self, one: (Reason, i64, &str), other: (Reason, i64, &str)) -> bool {
        if !self.is_open() {
            return one < other;
        }
        (self.is_of(one.2), Reverse(one)) < (self.is_of(other.2), Reverse(other))
    }
}

impl MessageRunner {
    /// Fetches the next page of a conversation. Where that fails and may be its own fault, it waits and others go on. Returns
    /// whether it was read.
    pub(super) async fn fetch_or_wait(&mut self, id: &str, reason: Reason) -> Result<bool, Setback> {
        let Err(setback) = self.fetch(id, reason).await else { return Ok(true) };
        match setback.concerns() {
            Concern::All => return Err(setback),
            Concern::Perhaps => {
                let fault = self.doubt.failed(id, self.is_in_vain(id));
                if fault != Fault::Own {
                    let (own, others) = self.doubt.pauses(&setback, fault, reason);
                    self.wait_for(id, 0, own);
                    self.say(&setback, if fault == Fault::Everybody { others } else { own });
                    return Ok(false);
                }
            }
            Concern::One => {}
        }
        let failure = setback.failure();
        warn!(conversation = id, error = failure.what, remedy = failure.remedy, "a conversation waits");
        self.in_vain(id, &failure.what).await?;
        self.context.board.error(failure.what, failure.remedy);
        Ok(false)
    }

    /// Whether it is known that a conversation cannot be read.
    pub(super) fn is_in_vain(&self, id: &str) -> bool {
        self.conversations.get(id).is_some_and(|conversation| conversation.in_vain_since.is_some())
    }

    /// Notes that a call for entries of a conversation was answered: those that failed meanwhile are asked again.
    pub(super) fn answered(&mut self, id: &str) {
        for again in self.doubt.answered(id) {
            self.waits.remove(&again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::rest::RestError;
    use tokio::time::advance;

    fn refused(status: u16) -> Setback {
        let (code, message) = ("X".to_owned(), String::new());
        Setback::Entries(RestError::Refused { status, code, message, retry_after: None })
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_while_others_are_answered_has_its_own_fault_and_holds_nobody_up() {
        let (mut doubt, begin) = (Doubt::new(), Instant::now());
        assert!(!doubt.is_open() && doubt.prefers((Reason::Event, 1, "old"), (Reason::Event, 2, "new")));
        assert_eq!(doubt.failed("bad", false), Fault::Unknown);
        let (own, others) = doubt.pauses(&refused(403), Fault::Unknown, Reason::Event);
        assert_eq!((own.as_secs(), others.as_secs()), (300, 1), "somebody has to mend it, if it is everybody's");
        assert_eq!(doubt.not_before() - begin, others);
        assert!(doubt.is_open() && doubt.is_of("bad") && !doubt.is_of("good"));
        // Its own turn would be the next: it is the oldest. A conversation that is as old can have the same fault.
        assert!(doubt.prefers((Reason::Event, 2, "good"), (Reason::Event, 1, "bad")));
        assert!(doubt.prefers((Reason::Event, 3, "good"), (Reason::Event, 2, "older")));
        assert!(doubt.prefers((Reason::Sweep, 0, "good"), (Reason::Event, 2, "older")));
        assert_eq!(doubt.answered("good"), ["bad"]);
        assert!(!doubt.is_open() && doubt.not_before() <= Instant::now());
        assert_eq!(doubt.failed("bad", false), Fault::Own);
        assert_eq!(
            (doubt.times("bad"), doubt.failed("bad", false)),
            (0, Fault::Unknown),
            "it was told, and begins anew"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_nobodys_fault_costs_a_call_for_each_pause_and_leaves_nothing_behind() {
        let (mut doubt, mut now, mut calls) = (Doubt::new(), Instant::now(), 0_u32);
        let begin = now;
        let name = |call: u32| format!("c{}", call % 40);
        while begin.elapsed() < Duration::from_secs(6 * 3600) {
            let fault = doubt.failed(&name(calls), calls > 0 && calls % 3 == 0);
            assert_eq!(fault, if calls == 0 { Fault::Unknown } else { Fault::Everybody });
            // A right that is missing is asked for no more often than a server that is down.
            let (_, others) = doubt.pauses(&refused(if calls % 2 == 0 { 503 } else { 403 }), fault, Reason::Event);
            assert!(
                calls > 3 || others <= Duration::from_secs(2 << calls),
                "the second may be one of its own: {others:?}"
            );
            advance(doubt.not_before() - now).await;
            now = Instant::now();
            calls += 1;
        }
        assert!((70..160).contains(&calls), "{calls} calls in six hours");
        // The first that is answered lets all of them be asked again. It explains the failure of one, not that of all others.
        assert_eq!(doubt.answered("c0").len(), 39);
        let faults: Vec<Fault> = (1..40).map(|call| doubt.failed(&name(call), call % 3 == 0)).collect();
        assert_eq!(faults.iter().filter(|fault| **fault == Fault::Own).count(), 1, "{faults:?}");
        assert_eq!(faults.last(), Some(&Fault::Everybody));
        // Those that are answered are free of it.
        assert_eq!(doubt.answered("c0").len(), 38);
        for call in 1..40 {
            assert!(doubt.answered(&name(call)).is_empty());
        }
        assert!(doubt.failed.is_empty());
        assert_eq!(doubt.failed("c1", false), Fault::Unknown);
        doubt.answered("c0");
        advance(FORGOTTEN).await;
        doubt.answered("c0");
        assert_eq!(doubt.failed("c1", false), Fault::Unknown, "what failed a day ago says nothing of today");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_can_be_compared_with_is_counted_and_holds_others_up_for_a_second_at_most() {
        let mut doubt = Doubt::new();
        for times in 1..=4 {
            assert_eq!((doubt.failed("alone", false), doubt.times("alone")), (Fault::Unknown, times));
            let (own, others) = doubt.pauses(&refused(500), Fault::Unknown, Reason::Event);
            assert!(own >= Duration::from_secs(1 << (times - 1)) && others == LIMITS.minimum(), "{own:?} {others:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_wait_and_fails_does_not_hold_up_what_comes() {
        let (mut doubt, begin) = (Doubt::new(), Instant::now());
        for number in 0..9 {
            let fault = doubt.failed(&format!("old{number}"), false);
            doubt.pauses(&refused(403), fault, Reason::History);
        }
        assert!(doubt.spare_not_before() - begin > Duration::from_secs(60));
        assert_eq!(doubt.not_before() - begin, LIMITS.minimum(), "as long as the server asked");
        let fault = doubt.failed("new", false);
        let (_, others) = doubt.pauses(&refused(403), fault, Reason::Event);
        assert!(others <= LIMITS.minimum() * 2, "its pauses begin short: {others:?}");
        assert!(doubt.spare_not_before() >= doubt.not_before());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_in_vain_is_blamed_as_long_as_it_is_the_only_one() {
        let mut doubt = Doubt::new();
        doubt.answered("good");
        for _ in 0..3 {
            assert_eq!(doubt.failed("vain", true), Fault::Own, "whether or not there is anything else to ask for");
        }
        assert_eq!(doubt.failed("vain too", true), Fault::Unknown, "it may be an outage now");
        assert_eq!(doubt.failed("vain", true), Fault::Everybody);
        assert_eq!(doubt.failed("vain too", true), Fault::Everybody);
        doubt.answered("good");
        assert_eq!((doubt.failed("vain", true), doubt.failed("vain too", true)), (Fault::Own, Fault::Unknown));
    }
}
