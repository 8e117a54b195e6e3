//! Every short story of a few steps, and of each every damage in one place and in two: what the smallest scope can show, it shows
//! without luck.

use super::super::sim::{DiskOptions, KillChoice};
use super::super::story::{Step, Tale};
use super::layout::{CONTROL, Layout, SLOT, name};
use super::spoil::{Fill, LOST_BYTES, Spoil};
use super::{Damages, Wreck};

/// The steps that stories begin with; the others need something to work on.
const FIRST: u64 = 3;
const STEPS: u64 = 8;

fn step(letter: u64) -> Step {
    match letter {
        0 => Step::Append(vec![100]),
        // One group, whose last frame stands where a block begins and is found when those before it are lost.
        1 => Step::Batch(vec![2_000, 1_968, 40]),
        // Two fill a segment.
        2 => Step::Append(vec![40_000]),
        3 => Step::Kill(KillChoice::Landed),
        4 => Step::Close,
        // Half, and a little.
        5 => Step::Truncate(128),
        6 => Step::Truncate(220),
        _ => Step::Trim(128),
    }
}

/// The stories in order: shorter ones first, each with both ends and both kinds of device.
pub fn nth(number: u64) -> Wreck {
    let (is_closed, block_bytes) = (number % 2 == 1, [4096, 512][number as usize / 2 % 2]);
    let (mut rest, mut of_length, mut length) = (number / 4, FIRST, 1);
    while rest >= of_length {
        (rest, of_length, length) = (rest - of_length, of_length * STEPS, length + 1);
    }
    let mut steps = vec![step(rest % FIRST)];
    rest /= FIRST;
    for _ in 1..length {
        steps.push(step(rest % STEPS));
        rest /= STEPS;
    }
    let tale = Tale { seed: number, disk: DiskOptions { direct: true, block_bytes }, steps };
    Wreck { tale, is_closed, damages: Damages::Each }
}

/// Every damage in one place, then in every two.
pub fn each(layout: &Layout) -> Vec<Vec<Spoil>> {
    let places = places(layout);
    let one = places.iter().map(|place| vec![place.clone()]);
    let two = (0..places.len()).flat_map(|first| (0..first).map(move |second| (first, second)));
    one.chain(two.map(|(first, second)| vec![places[first].clone(), places[second].clone()])).collect()
}

/// Each thing that stands somewhere: its header, its payload, the blocks that it begins in; each file, gone; and each slot of the control
/// file, damaged or an older one.
fn places(layout: &Layout) -> Vec<Spoil> {
    let newest = layout.parts.last().map_or(0, |part| part.number);
    let mut places = Vec::new();
    for (number, things) in layout.things.iter().filter(|(number, _)| **number <= newest + 1) {
        let file = name(*number);
        let bit = |byte: usize| Spoil::Bit(file.clone(), byte as u64 * 8);
        places.push(bit(8));
        places.extend(things.iter().map(|thing| bit(thing.header().start + 16)));
        places.extend(things.iter().filter(|thing| thing.payload > 0).map(|thing| bit(thing.payload().start)));
        let mut blocks: Vec<usize> = things.iter().map(|thing| thing.offset / LOST_BYTES * LOST_BYTES).collect();
        blocks.dedup();
        places.extend(blocks.into_iter().map(|block| Spoil::Blocks(file.clone(), block, 1, Fill::Zeros)));
        places.push(Spoil::Gone(file));
    }
    places.push(Spoil::Gone(CONTROL.into()));
    for slot in 0..2 {
        places.push(Spoil::Bit("control".into(), (slot * SLOT + 16) as u64 * 8));
        places.push(Spoil::OldSlot(slot, 1));
    }
    places
}
