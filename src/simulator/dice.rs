//! The simulator's chance: a generator of its own, so that a seed in a bug report
//! means the same run for ever. The streams of library generators may change
//! between versions.

/// SplitMix64: one word of state, every seed a good one.
#[derive(Debug, Clone)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// An independent stream for one purpose, so that drawing more for one does not shift another.
    pub(crate) fn stream(seed: u64, purpose: &str) -> Self {
        let mixed =
            purpose.bytes().fold(seed, |mixed, byte| mixed.rotate_left(9) ^ u64::from(byte).wrapping_mul(0x9E37));
        let mut dice = Self::new(mixed);
        dice.next();
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `bound`; zero when `bound` is zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `percent` times in a hundred.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which are never empty.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = self.below(choices.len());
        &choices[at]
    }

    /// The index of one of `weights`, in proportion; `None` when all are zero.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let total: usize = weights.iter().map(|weight| *weight as usize).sum();
        if total == 0 {
            return None;
        }
        let mut left = self.below(total);
        weights.iter().position(|weight| {
            let weight = *weight as usize;
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })
    }

    /// A text in the form of a UUID.
    pub(crate) fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xFFFF,
            high & 0xFFF,
            0x8000 | ((low >> 48) & 0x3FFF),
            low & 0xFFFF_FFFF_FFFF
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_run_for_ever() {
        let mut dice = Dice::new(1234567);
        assert_eq!(dice.next(), 6457827717110365317, "the published first word of SplitMix64 for this seed");
        assert_eq!(dice.next(), 3203168211198807973);
        let (mut one, mut other) = (Dice::stream(7, "traffic"), Dice::stream(7, "delivery"));
        assert_ne!(one.next(), other.next());
        assert_eq!(Dice::new(1).uuid().len(), 36);
    }

    #[test]
    fn weights_decide_and_zero_weights_never_win() {
        let mut dice = Dice::new(1);
        assert!((0..1000).all(|_| dice.weighted(&[0, 3, 0, 1]).is_some_and(|at| at == 1 || at == 3)));
        assert_eq!(dice.weighted(&[0, 0]), None);
    }
}
