//! When full records are read over REST, and how much of the org that may take.

use std::time::Duration;

use crate::config::reader::{Findings, Section};

/// When the full record of an event is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordMode {
    /// Never: what an event does not carry stays unknown.
    Never,
    /// When an event says less than what happened: gap events, text diffs.
    WhenNeeded,
    /// For each create, update and undelete as well.
    Always,
}

/// What becomes of an event whose full record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnIncomplete {
    /// It is written as it is, with an entry in the gap ledger.
    Later,
    /// The stream waits before it.
    Wait,
}

/// `[completion]`
#[derive(Debug, Clone, Copy)]
pub struct CompletionConfig {
    /// Calls of one stream under way at a time, at most.
    pub parallel: usize,
    /// How long a batch waits for its records while REST does not answer.
    pub patience: Duration,
    /// Of the org's API requests of 24 hours, used by whomever, the share in percent beyond which only gap events
    /// are completed.
    pub api_share: u64,
}

impl CompletionConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Self {
        let limits = (Duration::from_secs(1), Duration::from_secs(600));
        let config = Self {
            parallel: usize::try_from(section.number("parallel", 4, (1, 20), findings)).unwrap_or(1),
            patience: section.duration("patience", Duration::from_secs(30), limits, findings),
            api_share: section.number("api_share", 80, (1, 100), findings),
        };
        section.finish(findings);
        config
    }
}

/// The keys of a stream: `record` and `on_incomplete`.
pub(in crate::config) fn read_record(
    section: &mut Section,
    findings: &mut Findings,
) -> (Option<RecordMode>, Option<OnIncomplete>) {
    let modes = [("never", RecordMode::Never), ("when_needed", RecordMode::WhenNeeded), ("always", RecordMode::Always)];
    let ends = [("later", OnIncomplete::Later), ("wait", OnIncomplete::Wait)];
    let record = section.choice("record", &modes, Some("when_needed"), findings);
    let on_incomplete = section.choice("on_incomplete", &ends, Some("later"), findings);
    if on_incomplete == Some(OnIncomplete::Wait) && record.is_some_and(|record| record != RecordMode::Always) {
        findings.fault(section.path_of("on_incomplete"), "is \"wait\", which goes with record = \"always\" only");
    }
    (record, on_incomplete)
}
