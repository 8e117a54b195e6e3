//! What a directory input holds of what it does not take: nothing. Alone in its process, whose bytes are counted.

#[path = "support/counting.rs"]
#[allow(dead_code)]
mod counting;

use std::fs;

use counting::in_use;
use seawall::ledger::{BatchLimits, Part, PartKey, Parts, Replayable, Share};
use seawall::node::{DirectorySource, DirectorySourceConfig};

/// A ledger that has no batch yet.
struct Nothing;

impl Parts for Nothing {
    fn get(&self, _: &PartKey) -> Option<Part> {
        None
    }

    fn each(&self, _: &mut dyn FnMut(&PartKey, &Part)) {}
}

#[test]
fn directories_that_are_not_entered_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..1000 {
        fs::create_dir(dir.path().join(format!("{number:0200}"))).unwrap();
    }
    let source = DirectorySource::open(dir.path(), DirectorySourceConfig::default()).unwrap();
    let before = in_use();
    let plan = source.plan(&Nothing, Share::of(&BatchLimits::default())).unwrap();
    assert!(plan.ranges.is_empty());
    drop(plan);
    let held = in_use().saturating_sub(before);
    assert!(held < 10_000, "{held} bytes are held");
}
