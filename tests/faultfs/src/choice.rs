//! What of the unflushed survives a power loss.

/// What of the unflushed survives a power loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Nothing: the worst that is allowed.
    AllLost,
    /// Everything: as if a flush had been under way and ended.
    AllKept,
    /// A part, determined by this seed and the history: in one seed nearly nothing, in another nearly everything.
    Seeded(u64),
}

/// A choice on its way through what was unflushed: the same questions in the same order get the same answers.
pub(crate) struct Dice {
    choice: Choice,
    state: u64,
    /// Of 256 questions, how many are answered with yes; the seed decides, so that the extremes are met often.
    share: u64,
}

impl Dice {
    pub(crate) fn new(choice: Choice) -> Dice {
        let mut dice = Dice { choice, state: if let Choice::Seeded(seed) = choice { seed } else { 0 }, share: 0 };
        dice.share = [8, 64, 128, 192, 248][dice.roll(5) as usize];
        dice
    }

    /// Whether this one survives.
    pub(crate) fn keeps(&mut self) -> bool {
        match self.choice {
            Choice::AllLost => false,
            Choice::AllKept => true,
            Choice::Seeded(_) => self.roll(256) < self.share,
        }
    }

    /// Whether one that survives does so in part.
    pub(crate) fn tears(&mut self) -> bool {
        matches!(self.choice, Choice::Seeded(_)) && self.roll(4) == 0
    }

    /// How many of `all` steps that were taken in order survive.
    pub(crate) fn prefix(&mut self, all: usize) -> usize {
        match self.choice {
            Choice::AllLost => 0,
            Choice::AllKept => all,
            Choice::Seeded(_) => self.roll(all as u64 + 1) as usize,
        }
    }

    /// A number below `below`. The generator is Steele, Lea and Flood's SplitMix64: any seed is as good as another.
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}
