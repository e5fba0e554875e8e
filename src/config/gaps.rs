//! `[gaps]`: how what is known to be missing is read again.

use std::time::Duration;

use crate::config::reader::{Findings, Section};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[gaps]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapsConfig {
    /// Whether gaps are healed by reading records over REST.
    pub heal: bool,
    /// Of the org's API requests of 24 hours, used by whomever: the percentage from which healing waits.
    pub api_share: u64,
    /// Between two looks at the ledger for entries that others wrote, such as `casewire reconcile --repair`.
    pub look_every: Duration,
    /// Records that cannot be read are tried again for so long after the job began.
    pub give_up_after: Duration,
    /// Of the records of an object that Kafka holds: the percentage that may be gone from the org before
    /// nothing more is taken for deleted.
    pub most_absent: u64,
    /// An object with at least so many records is read over Bulk when all of them are to be read.
    pub bulk_from: u64,
}

impl GapsConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Self {
        let config = Self {
            heal: section.flag("heal", true, findings),
            api_share: section.number("api_share", 80, (1, 100), findings),
            look_every: section.duration("look_every", 60 * SECOND, (SECOND, DAY), findings),
            give_up_after: section.duration("give_up_after", DAY, (SECOND, 30 * DAY), findings),
            most_absent: section.number("most_absent", 20, (0, 100), findings),
            bulk_from: section.number("bulk_from", 20_000, (0, 1_000_000_000), findings),
        };
        section.finish(findings);
        config
    }
}
