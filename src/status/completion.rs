//! How completion is doing: reading full records over REST.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// How much completion does, by what is left of the org's API requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionLevel {
    /// All that the configuration asks for.
    #[default]
    Full,
    /// The same with fewer, larger calls.
    Slowed,
    /// Only events that say less than what happened.
    NeededOnly,
    /// Only gap events.
    GapsOnly,
}

impl CompletionLevel {
    /// From 0, which is all, to 3.
    pub fn steps_down(self) -> u8 {
        match self {
            Self::Full => 0,
            Self::Slowed => 1,
            Self::NeededOnly => 2,
            Self::GapsOnly => 3,
        }
    }
}

/// Completion of one stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CompletionStatus {
    /// How much it does.
    pub level: CompletionLevel,
    /// Since when records are not read because REST does not answer or refuses; absent while all is well.
    pub unavailable_since: Option<DateTime<Utc>>,
    /// Until when nothing is asked because the org's API requests are used up.
    pub paused_until: Option<DateTime<Utc>>,
    /// Records that were completed, refreshed or found deleted.
    pub records_completed: u64,
    /// Records that should have been read and were not.
    pub records_unread: u64,
    /// Groups of batches that were read together.
    pub reads: u64,
    /// Steps down from one level to the next.
    pub steps_down: u64,
}
