//! How long to wait before the next attempt: exponential, with jitter and a cap.
//!
//! Many streams lose the same connection at the same moment, so each wait is drawn
//! from the upper half of its step. A server's own hint is never undercut.

use std::time::Duration;

use rand::Rng;

/// Limits that are no limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "A backoff from {minimum:?} to {maximum:?} is not possible: the minimum must be above zero and not above the maximum"
)]
pub struct InvalidBackoff {
    minimum: Duration,
    maximum: Duration,
}

/// The shortest and the longest wait; validated once, when made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffLimits {
    minimum: Duration,
    maximum: Duration,
}

impl BackoffLimits {
    /// Fails unless `0 < minimum <= maximum`.
    pub fn new(minimum: Duration, maximum: Duration) -> Result<Self, InvalidBackoff> {
        if minimum.is_zero() || minimum > maximum {
            return Err(InvalidBackoff { minimum, maximum });
        }
        Ok(Self { minimum, maximum })
    }

    /// Limits that are known when casewire is compiled; impossible ones do not compile in a `const`.
    pub(crate) const fn constant(minimum: Duration, maximum: Duration) -> Self {
        assert!(!minimum.is_zero() && minimum.as_nanos() <= maximum.as_nanos());
        Self { minimum, maximum }
    }

    /// The shortest wait.
    pub fn minimum(&self) -> Duration {
        self.minimum
    }
}

impl Default for BackoffLimits {
    /// One second to five minutes.
    fn default() -> Self {
        const { Self::constant(Duration::from_secs(1), Duration::from_secs(300)) }
    }
}

/// A sequence of waits that grows until [`Backoff::reset`].
#[derive(Debug, Clone)]
pub struct Backoff {
    limits: BackoffLimits,
    attempts: u32,
}

impl Backoff {
    /// A sequence that has not begun.
    pub fn new(limits: BackoffLimits) -> Self {
        Self { limits, attempts: 0 }
    }

    /// The next wait: never below the minimum, never above the maximum.
    pub fn next_wait(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let factor = 2_u32.saturating_pow(self.attempts.min(31));
        let step = self.limits.minimum.saturating_mul(factor).min(self.limits.maximum);
        let low = (step / 2).max(self.limits.minimum);
        rand::rng().random_range(low..=step.max(low))
    }

    /// The next wait where the server said how long it wants to be left alone.
    pub fn next_wait_at_least(&mut self, hint: Duration) -> Duration {
        self.next_wait().max(hint)
    }

    /// Begins anew, after something has been received.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How many waits were given out since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(minimum: u64, maximum: u64) -> BackoffLimits {
        BackoffLimits::new(Duration::from_secs(minimum), Duration::from_secs(maximum)).expect("valid")
    }

    #[test]
    fn impossible_limits_are_refused() {
        assert!(BackoffLimits::new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(BackoffLimits::new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
        assert!(BackoffLimits::new(Duration::from_secs(2), Duration::from_secs(2)).is_ok());
    }

    #[test]
    fn every_wait_lies_in_the_upper_half_of_its_step_and_the_steps_double_up_to_the_cap() {
        for _ in 0..200 {
            let mut backoff = Backoff::new(seconds(1, 300));
            for step in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300] {
                let wait = backoff.next_wait();
                let step = Duration::from_secs(step);
                assert!(wait >= step / 2 && wait <= step, "{wait:?} in the step of {step:?}");
            }
        }
    }

    #[test]
    fn waits_differ_so_that_streams_do_not_return_together() {
        let waits: std::collections::HashSet<_> = (0..50).map(|_| Backoff::new(seconds(1, 300)).next_wait()).collect();
        assert!(waits.len() > 10);
    }

    #[test]
    fn a_server_hint_is_never_undercut_and_a_reset_begins_anew() {
        let mut backoff = Backoff::new(seconds(1, 300));
        assert_eq!(backoff.next_wait_at_least(Duration::from_secs(3600)), Duration::from_secs(3600));
        for _ in 0..100 {
            backoff.next_wait();
        }
        assert!(backoff.next_wait() >= Duration::from_secs(150), "no overflow after many attempts");
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_secs(2));
    }
}
