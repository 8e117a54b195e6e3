//! Many files, much content: what it costs. Ignored: for people who want the numbers.
//!
//! `SEAWALL_FILES=1000000 cargo test --release --features ledger --test inputs scale -- --ignored --nocapture`

use std::time::Instant;

use seawall::ledger::Replayable;
use seawall::node::DirectorySourceConfig;

use crate::bed::{Bed, prompt, share};

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
#[ignore = "numbers, not a verdict"]
fn many_files() {
    let files = std::env::var("SEAWALL_FILES").map_or(100_000, |n| n.parse().unwrap());
    let mut bed = Bed::new(DirectorySourceConfig { files_max: files, ..prompt() });
    (0..files).for_each(|i| bed.append(&format!("file-{i:09}.log"), "1\n"));
    let before = resident_bytes();
    let none = bed.try_plan(share(0, 0, 0)).unwrap();
    println!("{} bytes a file at the first look", resident_bytes().saturating_sub(before) / files);
    bed.try_plan(share(0, 0, 0)).unwrap();
    println!("{} bytes a file when a look replaces another", resident_bytes().saturating_sub(before) / files);
    assert!(none.ranges.len() == 1, "the smallest piece");
    let mut taken = 0;
    loop {
        let begin = Instant::now();
        let plan = bed.try_plan(share(u64::MAX, u64::MAX, 10_000)).unwrap();
        taken += plan.ranges.len() as u64;
        let held = resident_bytes().saturating_sub(before) / files;
        println!("{taken} of {files} planned; {:?}, {held} bytes a file with the ledger's", begin.elapsed());
        let has_more = plan.has_more;
        let batch = bed.ledger.allocate(plan).unwrap();
        bed.ledger.commit(batch);
        if !has_more {
            break;
        }
    }
    assert_eq!(taken, files);
}

#[test]
#[ignore = "numbers, not a verdict"]
fn much_content() {
    let bed = Bed::prompt();
    let bytes = 1_u64 << 30;
    let lines = format!("{}\n", "x".repeat(119)).repeat(8738);
    while std::fs::metadata(bed.path("a")).map_or(0, |file| file.len()) < bytes {
        bed.append("a", &lines);
    }
    let rate = |begin: Instant| bytes as f64 / 1e9 / begin.elapsed().as_secs_f64();
    for _ in 0..2 {
        let begin = Instant::now();
        let plan = bed.try_plan(share(u64::MAX, u64::MAX, 1)).unwrap();
        println!("planned at {:.2} GB/s, lines of 120 bytes", rate(begin));
        let begin = Instant::now();
        let records = bed.source.read(&plan.ranges[0]).unwrap();
        println!("verified at {:.2} GB/s", rate(begin));
        let records = records.map(|record| record.unwrap().bytes.len() as u64).sum::<u64>();
        println!("verified and read at {:.2} GB/s", rate(begin));
        assert_eq!(records, plan.ranges[0].bytes);
    }
}
