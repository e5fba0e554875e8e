//! `[reconcile]`: how the records in Kafka are compared with those of the org.

use std::time::Duration;

use crate::config::reader::{Findings, Section};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[reconcile]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconcileConfig {
    /// Between two comparisons of what was changed lately; none where it is not wanted.
    pub every: Option<Duration>,
    /// How far these look back.
    pub since: Duration,
    /// Between two comparisons of all ids; none where it is not wanted.
    pub full_every: Option<Duration>,
    /// Whether what they find goes into the gap ledger, to be healed.
    pub repair: bool,
    /// Whether entities are looked at that fall silent.
    pub silence_check: bool,
    /// Between two such looks.
    pub silence_every: Duration,
}

impl ReconcileConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Self {
        let never = Duration::ZERO;
        let wanted = |every: Duration| (!every.is_zero()).then_some(every);
        let every = wanted(section.duration("every", never, (never, 30 * DAY), findings));
        let config = Self {
            every,
            since: section.duration("since", DAY, (HOUR, 365 * DAY), findings),
            full_every: wanted(section.duration("full_every", never, (never, 365 * DAY), findings)),
            repair: section.flag("repair", false, findings),
            silence_check: section.flag("silence_check", true, findings),
            silence_every: section.duration("silence_every", HOUR, (SECOND, DAY), findings),
        };
        if config.full_every.is_some() && every.is_none() {
            let problem = "is set, but reconcile.every is not: a full comparison takes the place of one that is due";
            findings.fault(section.path_of("full_every"), problem);
        }
        section.finish(findings);
        config
    }
}
