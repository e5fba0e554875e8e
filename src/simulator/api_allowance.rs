//! The REST and Bulk calls that the org may be asked in 24 hours.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many are allowed, and how many are used.
#[derive(Debug)]
pub(crate) struct ApiAllowance {
    allowed: u64,
    used: AtomicU64,
}

impl ApiAllowance {
    pub(crate) fn new(allowed: u64) -> Self {
        Self { allowed, used: AtomicU64::new(0) }
    }

    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Uses one, if one is left.
    pub(crate) fn take(&self) -> bool {
        let one_more = |used: u64| (used < self.allowed).then(|| used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Leaves exactly so many, at most all.
    pub(crate) fn leave(&self, left: u64) {
        self.used.store(self.allowed.saturating_sub(left), Ordering::Relaxed);
    }
}
