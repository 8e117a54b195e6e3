//! Everything that was done to a device, and what it would hold had power been lost anywhere in it.

use std::collections::VecDeque;
use std::sync::Arc;

use rustix::io::Errno;

use crate::choice::{Choice, Dice};
use crate::sparse::Sparse;

/// What tears is lost or kept in units of this.
const SECTOR_BYTES: usize = 512;

/// A checkpoint is taken at the first flush after so many steps; an image repeats about as many.
const CHECKPOINT_STEPS: u64 = 64;

/// One thing that was done.
#[derive(Clone)]
enum Step {
    Write { offset: u64, bytes: Arc<[u8]> },
    Zero { offset: u64, bytes: u64 },
    Flush,
}

/// A device and its past.
///
/// ```text
/// base ─ step first ─ … ─ flush ─ checkpoint ─ … ─ flush ─ … ─ write ─ write ─ live
///                                                    └ of these, a part survives ┘
/// ```
pub(super) struct Tape {
    device_bytes: u64,
    live: Sparse,
    /// Steps number `first` and later; `first` is at a checkpoint.
    steps: VecDeque<Step>,
    first: u64,
    /// The numbers of the flushes among them.
    flushes: VecDeque<u64>,
    /// What the device held before the step of that number, everything before which was flushed. The first is the base.
    checkpoints: VecDeque<(u64, Sparse)>,
    held_bytes: u64,
    held_bytes_max: u64,
}

impl Tape {
    pub(super) fn new(device_bytes: u64, held_bytes_max: u64) -> Tape {
        Tape {
            device_bytes,
            live: Sparse::default(),
            steps: VecDeque::new(),
            first: 0,
            flushes: VecDeque::new(),
            checkpoints: VecDeque::from([(0, Sparse::default())]),
            held_bytes: 0,
            held_bytes_max,
        }
    }

    pub(super) fn device_bytes(&self) -> u64 {
        self.device_bytes
    }

    /// The earliest moment that is still known: so many steps from the beginning.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// How many steps there have been.
    pub(super) fn now(&self) -> u64 {
        self.first + self.steps.len() as u64
    }

    pub(super) fn flushes_between(&self, from: u64, to: u64) -> usize {
        self.flushes.partition_point(|at| *at < to) - self.flushes.partition_point(|at| *at < from)
    }

    pub(super) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; (self.device_bytes.saturating_sub(offset)).min(bytes as u64) as usize];
        self.live.read(offset, &mut read);
        read
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.check_range(offset, bytes.len() as u64)?;
        self.make_room(bytes.len() as u64)?;
        self.live.write(offset, bytes);
        self.steps.push_back(Step::Write { offset, bytes: bytes.into() });
        Ok(())
    }

    /// A discard, or zeros written without bytes.
    pub(super) fn zero(&mut self, offset: u64, bytes: u64) -> Result<(), Errno> {
        self.check_range(offset, bytes)?;
        self.live.zero(offset, bytes);
        self.steps.push_back(Step::Zero { offset, bytes });
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        self.flushes.push_back(self.now());
        self.steps.push_back(Step::Flush);
        if self.checkpoints.back().is_none_or(|(at, _)| self.now() - at >= CHECKPOINT_STEPS) {
            self.checkpoints.push_back((self.now(), self.live.clone()));
        }
    }

    /// Makes now the beginning: nothing before it can be asked for any more.
    pub(super) fn forget(&mut self) {
        *self = Tape {
            live: self.live.clone(),
            first: self.now(),
            checkpoints: VecDeque::from([(self.now(), self.live.clone())]),
            ..Tape::new(self.device_bytes, self.held_bytes_max)
        };
    }

    /// What the device holds if power was lost after `at` steps: all up to the last flush, and of what followed, a part.
    pub(super) fn image(&self, at: u64, choice: Choice) -> Sparse {
        assert!((self.first..=self.now()).contains(&at), "step {at} is not on the tape");
        let nth_flush = self.flushes.partition_point(|flush| *flush < at);
        let flushed = if nth_flush == 0 { self.first } else { self.flushes[nth_flush - 1] };
        let nth_checkpoint = self.checkpoints.partition_point(|(start, _)| *start <= flushed.max(self.first));
        let (start, image) = &self.checkpoints[nth_checkpoint - 1];
        let mut image = image.clone();
        self.between(*start, flushed).for_each(|step| step.apply(&mut image));
        let mut dice = Dice::new(choice);
        self.between(flushed, at).for_each(|step| step.apply_perhaps(&mut image, &mut dice));
        image
    }

    fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Step> {
        self.steps.range((from - self.first) as usize..(to - self.first) as usize)
    }

    fn check_range(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.device_bytes);
        if fits { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// Forgets the oldest steps, up to a checkpoint, while more is held than may be.
    fn make_room(&mut self, bytes: u64) -> Result<(), Errno> {
        self.held_bytes += bytes;
        while self.held_bytes > self.held_bytes_max {
            let Some((next, _)) = self.checkpoints.get(1) else {
                self.held_bytes -= bytes;
                // Nobody has flushed for so long that nothing may be forgotten.
                return Err(Errno::NOSPC);
            };
            let gone = self.steps.drain(..(*next - self.first) as usize);
            self.held_bytes -= gone.map(|step| step.held_bytes()).sum::<u64>();
            self.first = *next;
            self.checkpoints.pop_front();
            self.flushes.drain(..self.flushes.partition_point(|flush| *flush < self.first));
        }
        Ok(())
    }
}

impl Step {
    fn held_bytes(&self) -> u64 {
        match self {
            Step::Write { bytes, .. } => bytes.len() as u64,
            Step::Zero { .. } | Step::Flush => 0,
        }
    }

    fn apply(&self, image: &mut Sparse) {
        match self {
            Step::Write { offset, bytes } => image.write(*offset, bytes),
            Step::Zero { offset, bytes } => image.zero(*offset, *bytes),
            Step::Flush => {}
        }
    }

    /// Whole, not at all, or in part.
    fn apply_perhaps(&self, image: &mut Sparse, dice: &mut Dice) {
        if !dice.keeps() {
            return;
        }
        match self {
            Step::Write { offset, bytes } if dice.tears() => {
                for (nth, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if dice.roll(2) == 0 {
                        image.write(offset + (nth * SECTOR_BYTES) as u64, sector);
                    }
                }
            }
            whole => whole.apply(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_byte(image: &Sparse, offset: u64) -> u8 {
        let mut byte = [0];
        image.read(offset, &mut byte);
        byte[0]
    }

    /// Every moment of a long tape, against a naive copy of what was flushed.
    #[test]
    fn every_flushed_write_is_in_every_later_image() {
        let mut tape = Tape::new(1 << 20, 1 << 30);
        let mut dice = Dice::new(Choice::Seeded(1));
        let (mut seen, mut flushed) = (vec![0; 256], vec![0; 256]);
        let mut expected = vec![flushed.clone()];
        for _ in 0..1000 {
            if dice.roll(4) == 0 {
                tape.flush();
                flushed.clone_from(&seen);
            } else {
                let (page, byte) = (dice.roll(256), dice.roll(255) as u8 + 1);
                tape.write(page * 4096, &[byte; 512]).unwrap();
                seen[page as usize] = byte;
            }
            expected.push(flushed.clone());
        }
        for (at, expected) in expected.iter().enumerate() {
            let image = tape.image(at as u64, Choice::AllLost);
            let found: Vec<u8> = (0..256).map(|page| first_byte(&image, page * 4096)).collect();
            assert_eq!(&found, expected, "after {at} steps");
        }
        assert_eq!(tape.flushes_between(0, tape.now()), tape.flushes.len());
    }

    #[test]
    fn what_is_forgotten_is_in_the_base() {
        let mut tape = Tape::new(1 << 20, 100 * 4096);
        for nth in 0..1000u64 {
            tape.write(nth % 256 * 4096, &[nth as u8; 4096]).unwrap();
            tape.flush();
        }
        assert!(tape.first() > 800 && tape.held_bytes <= tape.held_bytes_max, "{} {}", tape.first(), tape.held_bytes);
        let image = tape.image(tape.first(), Choice::AllLost);
        let last = tape.first() / 2;
        assert_eq!(first_byte(&image, (last - 1) % 256 * 4096), (last - 1) as u8);
        let mut full = Tape::new(1 << 20, 4096);
        full.write(0, &[1; 4096]).unwrap();
        assert_eq!(full.write(0, &[1; 512]), Err(Errno::NOSPC), "nothing was flushed, so nothing may be forgotten");
    }

    #[test]
    fn a_seed_loses_and_tears_the_same_each_time() {
        let mut tape = Tape::new(1 << 20, 1 << 30);
        (0..64).for_each(|page| tape.write(page * 4096, &[1; 4096]).unwrap());
        let sectors = |seed| {
            let image = tape.image(64, Choice::Seeded(seed));
            (0..512).map(|sector| first_byte(&image, sector * 512)).collect::<Vec<_>>()
        };
        let (mut lost, mut whole, mut torn) = (0, 0, 0);
        for seed in 0..20 {
            let sectors_of = sectors(seed);
            assert_eq!(sectors_of, sectors(seed));
            for write in sectors_of.chunks(8) {
                match write.iter().map(|byte| usize::from(*byte)).sum() {
                    0 => lost += 1,
                    8 => whole += 1,
                    _ => torn += 1,
                }
            }
        }
        assert!(lost > 100 && whole > 100 && torn > 100, "{lost} {whole} {torn}");
    }
}
