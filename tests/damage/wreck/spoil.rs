//! The ways to damage a log's files: places chosen where something stands, mostly near the log's end.

use super::super::sim::{Journal, Op, Rng, SimDisk};
use super::layout::{CONTROL, Layout, SLOT, name};

/// Bytes of a block that is lost.
pub const LOST_BYTES: usize = 4096;

/// One damage, in one place.
#[derive(Clone, Debug)]
pub enum Spoil {
    /// A bit of a file.
    Bit(String, u64),
    /// A block of a file, or two that are neighbours, hold something else.
    Blocks(String, usize, usize, Fill),
    /// A slot of the control file holds again what was written there so many writes ago.
    OldSlot(usize, usize),
    /// A file is not there any more.
    Gone(String),
}

#[derive(Clone, Copy, Debug)]
pub enum Fill {
    Zeros,
    Noise(u64),
}

/// What each slot of the control file held, the newest last.
pub fn slots_written(journal: &Journal) -> [Vec<Vec<u8>>; 2] {
    let mut slots: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    for (_, op) in journal.ops() {
        let Op::Write { name, data, .. } = op else { continue };
        if !name.starts_with("control") {
            continue;
        }
        let (start, bytes) = (data.range().start as usize, data.to_vec());
        for (slot, written) in slots.iter_mut().enumerate() {
            let (from, to) = ((slot * SLOT).max(start), ((slot + 1) * SLOT).min(start + bytes.len()));
            if from < to {
                let mut whole = written.last().cloned().unwrap_or_else(|| vec![0; SLOT]);
                whole[from - slot * SLOT..to - slot * SLOT].copy_from_slice(&bytes[from - start..to - start]);
                written.push(whole);
            }
        }
    }
    slots
}

/// A damage of one of the kinds that there are.
pub fn any(rng: &mut Rng, layout: &Layout, slots: &[Vec<Vec<u8>>; 2]) -> Vec<Spoil> {
    match rng.below(12) {
        0 => vec![bit(rng, layout)],
        1 | 2 => vec![blocks(rng, layout, 1)],
        3 | 4 => vec![blocks(rng, layout, 2)],
        5 | 6 => vec![old_slot(rng, slots)],
        7 => vec![old_slot(rng, slots), somewhere(rng, layout)],
        _ => vec![somewhere(rng, layout), somewhere(rng, layout)],
    }
}

/// One that takes a file away, alone or beside another one.
pub fn any_with_a_file_gone(rng: &mut Rng, layout: &Layout, slots: &[Vec<Vec<u8>>; 2]) -> Vec<Spoil> {
    let gone = gone(rng, layout);
    match rng.below(8) {
        0..3 => vec![gone],
        3 => vec![gone, self::gone(rng, layout)],
        4 => vec![gone, old_slot(rng, slots)],
        5 => vec![gone, blocks(rng, layout, 2)],
        _ => vec![gone, somewhere(rng, layout)],
    }
}

fn somewhere(rng: &mut Rng, layout: &Layout) -> Spoil {
    if rng.one_in(3) { blocks(rng, layout, 1) } else { bit(rng, layout) }
}

fn old_slot(rng: &mut Rng, slots: &[Vec<Vec<u8>>; 2]) -> Spoil {
    let slot = rng.below(2) as usize;
    let written = slots[slot].len() as u64;
    // Mostly the write that was lost is the last one.
    let back = if rng.one_in(2) { 1 } else { 1 + rng.below(written.saturating_sub(1).max(1)) };
    Spoil::OldSlot(slot, back as usize)
}

/// Mostly one of the newest segments, or of those prepared behind them.
fn gone(rng: &mut Rng, layout: &Layout) -> Spoil {
    if rng.one_in(8) {
        return Spoil::Gone(CONTROL.into());
    }
    let numbers: Vec<u64> = layout.things.keys().copied().collect();
    let used = numbers.iter().filter(|number| layout.is_used(**number)).count();
    let at = if rng.one_in(4) { used as u64 + rng.below(2) } else { (used as u64).saturating_sub(1 + rng.below(3)) };
    Spoil::Gone(name(numbers[(at as usize).min(numbers.len() - 1)]))
}

fn bit(rng: &mut Rng, layout: &Layout) -> Spoil {
    let (file, start, bytes) = place(rng, layout);
    Spoil::Bit(file, start as u64 * 8 + rng.below(bytes as u64 * 8))
}

fn blocks(rng: &mut Rng, layout: &Layout, count: usize) -> Spoil {
    let (file, start, bytes) = place(rng, layout);
    let at = start + rng.below(bytes as u64) as usize;
    let fill = if rng.one_in(2) { Fill::Zeros } else { Fill::Noise(rng.next()) };
    Spoil::Blocks(file, at / LOST_BYTES * LOST_BYTES, count, fill)
}

/// Where something stands: file, offset, length.
fn place(rng: &mut Rng, layout: &Layout) -> (String, usize, usize) {
    if rng.one_in(12) {
        return (CONTROL.into(), rng.below(2) as usize * SLOT, 172);
    }
    let numbers: Vec<u64> = layout.things.keys().rev().copied().collect();
    let newest = layout.parts.last().map_or(0, |part| part.number);
    // The newest, the one before it, …; any of them, the prepared ones too, now and then.
    let mut from: Vec<u64> = numbers.iter().copied().filter(|number| *number <= newest || rng.one_in(8)).collect();
    while from.len() > 1 && rng.one_in(2) {
        from.remove(0);
    }
    let number = from.first().copied().or(numbers.first().copied()).unwrap_or(1);
    let file = name(number);
    let things = &layout.things[&number];
    if things.is_empty() || rng.one_in(16) {
        return (file, 0, 64);
    }
    // The seal, something near the end, or anything.
    let thing = match rng.below(4) {
        0 | 1 => things[0],
        2 => things[things.len() - 1 - rng.below(3.min(things.len() as u64)) as usize],
        _ => things[rng.below(things.len() as u64) as usize],
    };
    let range = if rng.one_in(4) && thing.payload > 0 { thing.payload() } else { thing.header() };
    (file, range.start, range.len())
}

impl Spoil {
    fn file(&self) -> &str {
        match self {
            Spoil::Bit(file, _) | Spoil::Blocks(file, ..) | Spoil::Gone(file) => file,
            Spoil::OldSlot(..) => CONTROL,
        }
    }

    /// Of a file that is gone, nothing more can be spoilt.
    pub fn happen(&self, disk: &SimDisk, slots: &[Vec<Vec<u8>>; 2]) {
        if !disk.names().iter().any(|(name, _)| name == self.file()) {
            return;
        }
        match self {
            Spoil::Gone(file) => disk.remove_file(file),
            Spoil::Bit(file, bit) => disk.flip_bit(file, *bit),
            Spoil::Blocks(file, offset, count, fill) => {
                let length = disk.read_file(file).len();
                let mut bytes = vec![0; (count * LOST_BYTES).min(length.saturating_sub(*offset))];
                if let Fill::Noise(seed) = fill {
                    Rng::new(*seed).fill(&mut bytes);
                }
                disk.write_at(file, *offset as u64, &bytes);
            }
            Spoil::OldSlot(slot, back) => {
                let written = &slots[*slot];
                if let Some(old) = written.len().checked_sub(1 + back).and_then(|at| written.get(at)) {
                    disk.write_at(CONTROL, (slot * SLOT) as u64, old);
                }
            }
        }
    }
}
