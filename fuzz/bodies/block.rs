//! Blocks on arbitrary bytes: what is read has one form, its records lie within it, and whatever it says may be applied.

use bytes::Bytes;
use seawall::receiver::{Block, RangeKind, Sequences, Sources};

pub fn run(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(block) = Block::read(&bytes) else { return };
    assert_eq!(block.encode(), bytes, "one block has one form");
    let mut taken = 0;
    for record in block.records() {
        let Ok(record) = record else { break };
        assert!(record.seq > record.range.previous);
        taken += record.record.len();
    }
    assert!(taken <= bytes.len());
    let mut sources = Sources::default();
    for pass in 0..2 {
        block.ranges.iter().for_each(|(range, _)| sources.apply(range));
        for (range, _) in &block.ranges {
            let counts = range.sequences != Sequences::None || range.kind != RangeKind::Records;
            let moves = !matches!(range.kind, RangeKind::Unseen { .. } | RangeKind::Retired | RangeKind::Seen);
            if let (true, true, Some(id)) = (counts, moves, &range.source) {
                assert!(sources.durable(id).is_some_and(|durable| durable >= range.last), "pass {pass}");
            }
        }
    }
    assert!(block.reached().all(|(id, seq)| sources.durable(id).is_some_and(|durable| durable >= seq)));
}
