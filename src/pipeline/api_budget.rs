//! How much completion may do, by how many of the org's API requests of 24 hours are used.
//!
//! What counts is the use of all clients together: whoever runs into the limit stops all of them, so completion,
//! which can wait, steps back before.

use crate::salesforce::api_usage::ApiUsage;
use crate::status::CompletionLevel;

/// From which part of the share on a level begins, in percent.
const STEPS: [(u64, CompletionLevel); 3] =
    [(100, CompletionLevel::GapsOnly), (90, CompletionLevel::NeededOnly), (80, CompletionLevel::Slowed)];

/// A level is left for a better one only when the use is this much below where it began, in percent of the share:
/// otherwise every call at the border would be a step.
const MARGIN: u64 = 2;

/// The level at a usage, coming from `now`. `share` is the part of all requests, in percent, that may be used.
pub(crate) fn level(usage: ApiUsage, share: u64, now: CompletionLevel) -> CompletionLevel {
    let allowed = usage.maximum.saturating_mul(share);
    let reached = |percent: u64| usage.used.saturating_mul(10_000) >= allowed.saturating_mul(percent);
    let at = |margin: u64| {
        let step = STEPS.into_iter().find(|(percent, _)| reached(percent.saturating_sub(margin)));
        step.map_or(CompletionLevel::Full, |(_, level)| level)
    };
    let (worse, better) = (at(0), at(MARGIN));
    if worse >= now { worse } else { better.min(now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CompletionLevel::{Full, GapsOnly, NeededOnly, Slowed};

    #[test]
    fn each_level_begins_before_the_share_is_used_up_and_ends_a_little_lower() {
        for (used, now, expected) in [
            (0, Full, Full),
            (63_999, Full, Full),
            (64_000, Full, Slowed),
            (63_000, Slowed, Slowed),
            (62_399, Slowed, Full),
            (72_000, Full, NeededOnly),
            (71_000, NeededOnly, NeededOnly),
            (71_000, Slowed, Slowed),
            (70_399, NeededOnly, Slowed),
            (80_000, Full, GapsOnly),
            (79_000, GapsOnly, GapsOnly),
            (79_000, Full, NeededOnly),
            (78_399, GapsOnly, NeededOnly),
            (100_001, Slowed, GapsOnly),
            (10, GapsOnly, Full),
        ] {
            let usage = ApiUsage { used, maximum: 100_000, at: chrono::Utc::now() };
            assert_eq!(level(usage, 80, now), expected, "{used} from {now:?}");
        }
    }

    #[test]
    fn odd_figures_are_no_reason_to_panic() {
        for (used, maximum) in [(0, 0), (u64::MAX, u64::MAX), (u64::MAX, 1), (0, u64::MAX)] {
            let usage = ApiUsage { used, maximum, at: chrono::Utc::now() };
            level(usage, 100, Full);
        }
    }
}
