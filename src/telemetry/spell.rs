//! A time in which spans are lost. It is told when it begins and when it is over, however often something is lost meanwhile.

use tokio::time::{Duration, Instant};

/// How long nothing may be lost before a spell is over: a collector that is a little too slow drops some now and then.
pub(super) const CALM: Duration = Duration::from_secs(10);

/// Whether there is a spell.
#[derive(Debug, Default)]
pub(super) struct Spell {
    under_way: Option<UnderWay>,
    /// Spans lost so far, as they were counted last.
    lost: u64,
}

#[derive(Debug)]
struct UnderWay {
    /// Spans that were lost before it.
    lost_before: u64,
    /// Since when all has been well.
    well_since: Option<Instant>,
}

/// What a look at things says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing new.
    None,
    /// A spell begins.
    Begins,
    /// It is over.
    Ends {
        /// Spans that were lost in it.
        lost: u64,
    },
}

impl Spell {
    /// Whether one is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether spans were lost since the last look.
    pub(super) fn loses(&self, lost: u64) -> bool {
        lost > self.lost
    }

    /// Looks at things at `now`: whether something is wrong, and how many spans were lost since the process began.
    pub(super) fn look(&mut self, now: Instant, wrong: bool, lost: u64) -> Turn {
        let before = std::mem::replace(&mut self.lost, lost);
        let wrong = wrong || lost > before;
        match &mut self.under_way {
            None if wrong => {
                self.under_way = Some(UnderWay { lost_before: before, well_since: None });
                Turn::Begins
            }
            None => Turn::None,
            Some(spell) if wrong => {
                spell.well_since = None;
                Turn::None
            }
            Some(spell) => {
                let since = *spell.well_since.get_or_insert(now);
                let lost = lost.saturating_sub(spell.lost_before);
                if now.saturating_duration_since(since) < CALM {
                    return Turn::None;
                }
                self.under_way = None;
                Turn::Ends { lost }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_is_told_once_and_is_over_when_nothing_was_lost_for_a_while() {
        let begin = Instant::now();
        let mut spell = Spell::default();
        let turns = [
            (0, false, 0, Turn::None),
            // A failure that loses nothing yet is one all the same.
            (1, true, 0, Turn::Begins),
            (2, true, 40, Turn::None),
            (3, false, 40, Turn::None),
            // Lost for want of room, although the collector takes what it gets.
            (9, false, 44, Turn::None),
            (10, false, 44, Turn::None),
            (19, false, 44, Turn::None),
            (20, false, 44, Turn::Ends { lost: 44 }),
            (21, false, 44, Turn::None),
            (22, false, 45, Turn::Begins),
            (23, false, 45, Turn::None),
            (33, false, 45, Turn::Ends { lost: 1 }),
        ];
        for (second, wrong, lost, turn) in turns {
            let now = begin + Duration::from_secs(second);
            assert_eq!(spell.look(now, wrong, lost), turn, "second {second}");
        }
        assert!(!spell.is_under_way());
    }
}
