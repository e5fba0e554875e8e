//! `[messages]`: how the messages of conversations are fetched.

use std::time::Duration;

use crate::config::reader::{Findings, Section};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[messages]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagesConfig {
    /// Calls for entries in any hour, at most. Salesforce's own limit is 1,000 for an application and user.
    pub calls_per_hour: u64,
    /// Different conversations asked for in any half hour, at most: each counts among the org's active ones for so long.
    pub max_active: u64,
    /// Of the org's API requests of 24 hours, used by whomever: the percentage from which messages wait.
    pub api_share: u64,
    /// How long a trigger waits for more of its kind.
    pub settle: Duration,
    /// How far back each fetch looks for entries that changed, or came late.
    pub reread: Duration,
    /// How far back the first fetch of a conversation goes, and the sessions that a snapshot finds are fetched.
    pub history: Duration,
    /// How often the conversation of an open session is looked at while things happen in it.
    pub sweep_least: Duration,
    /// The same after nothing new was found for long; it doubles up to there.
    pub sweep_most: Duration,
    /// How long after a session ended, paused or went inactive its conversation is looked at once more.
    pub final_after: Duration,
    /// How long a session that no query finds, or a conversation that cannot be read, is tried before it becomes an entry of
    /// the gap ledger. It is tried on for [`Self::history`].
    pub give_up_after: Duration,
    /// Whether the records of conversations and of who takes part in them are written beside the messages.
    pub records: bool,
}

impl MessagesConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Self {
        let config = Self {
            calls_per_hour: section.number("calls_per_hour", 900, (4, 1_000_000), findings),
            max_active: section.number("max_active", 500, (1, 100_000), findings),
            api_share: section.number("api_share", 80, (1, 100), findings),
            settle: section.duration("settle", 2 * SECOND, (Duration::from_millis(10), MINUTE), findings),
            reread: section.duration("reread", DAY, (MINUTE, 30 * DAY), findings),
            history: section.duration("history", 7 * DAY, (HOUR, 365 * DAY), findings),
            sweep_least: section.duration("sweep_least", MINUTE, (SECOND, HOUR), findings),
            sweep_most: section.duration("sweep_most", 30 * MINUTE, (SECOND, DAY), findings),
            final_after: section.duration("final_after", 5 * MINUTE, (SECOND, DAY), findings),
            give_up_after: section.duration("give_up_after", DAY, (SECOND, 30 * DAY), findings),
            records: section.flag("records", true, findings),
        };
        if config.sweep_least > config.sweep_most {
            findings.fault(section.path_of("sweep_least"), "is longer than sweep_most");
        }
        section.finish(findings);
        config
    }
}
