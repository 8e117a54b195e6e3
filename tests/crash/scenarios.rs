//! What is crashed, step by step.

use std::time::Duration;

use seawall::storage::Storage;
use seawall::{Log, RecoveryMode};

use super::sim::{DiskOptions, SimDisk};
use super::story::Story;

/// For one scenario on one medium; `SEAWALL_CRASH_SECONDS` sets another, and enough of them judge every state.
fn budget() -> Duration {
    let seconds = std::env::var("SEAWALL_CRASH_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(3.5))
}

fn on_every_disk(name: &str, tell: impl Fn(&mut Story)) {
    for (medium, options) in [("direct", DiskOptions::DIRECT), ("buffered", DiskOptions::BUFFERED)] {
        let mut story = Story::new(options);
        tell(&mut story);
        story.crash_everywhere(&format!("{name}, {medium}"), budget()).assert_clean();
    }
}

#[test]
fn creating_and_opening() {
    on_every_disk("create and open", |story| {
        let log = story.open();
        story.kill(log);
        let log = story.open();
        story.append(&log, &[100]);
        story.kill(log);
        let log = story.open();
        story.kill(log);
        let log = story.open();
        story.append(&log, &[100]);
    });
}

#[test]
fn appending_groups() {
    on_every_disk("groups", |story| {
        let log = story.open();
        for lengths in [&[100, 0, 3000, 5000][..], &[9000], &[1, 2, 3], &[4032], &[4033, 20]] {
            story.append(&log, lengths);
        }
        // Handed over, and nobody waits.
        story.disk.set_manual(true);
        for length in [200, 6000, 300] {
            drop(story.submit(&log, &[length]));
            std::thread::sleep(Duration::from_millis(2));
            story.disk.tick();
        }
        story.kill(log);
    });
}

#[test]
fn rotating() {
    on_every_disk("rotation", |story| {
        let log = story.open();
        for length in [30_000, 25_000, 20_000, 30_000, 70_000, 10] {
            story.append(&log, &[length]);
        }
    });
}

#[test]
fn trimming_and_recycling() {
    on_every_disk("trim", |story| {
        let log = story.open();
        for _ in 0..3 {
            story.append(&log, &[30_000, 20_000]);
        }
        story.trim(&log, 2);
        story.trim(&log, 5);
        for _ in 0..3 {
            story.append(&log, &[30_000, 20_000]);
        }
        story.trim(&log, 12);
        story.append(&log, &[40_000]);
        assert!(log.stats().segments_recycled > 0, "nothing was recycled");
        story.kill(log);
        let log = story.open();
        story.append(&log, &[50]);
    });
}

#[test]
fn truncating() {
    on_every_disk("truncate", |story| {
        let log = story.open();
        for _ in 0..4 {
            story.append(&log, &[20_000, 300, 20_000]);
        }
        story.truncate(&log, 11);
        story.append(&log, &[500]);
        story.truncate(&log, 4);
        story.append(&log, &[20_000, 300, 20_000]);
        story.kill(log);
        let log = story.open();
        story.append(&log, &[20_000, 300]);
        story.truncate(&log, 0);
        story.append(&log, &[10]);
    });
}

#[test]
fn closing_and_proving() {
    on_every_disk("close", |story| {
        story.config.idle_proof_after = Duration::from_millis(1);
        for _ in 0..3 {
            let log = story.open();
            story.append(&log, &[100, 200]);
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(2));
                story.disk.tick();
            }
            story.append(&log, &[300]);
            story.close(log);
        }
        let log = story.open();
        story.close(log);
        let log = story.open();
        story.append(&log, &[5000]);
    });
}

#[test]
fn setting_damage_aside() {
    on_every_disk("quarantine", |story| {
        let log = story.open();
        for length in [100, 200, 300, 400] {
            story.append(&log, &[length]);
        }
        story.kill(log);
        // Frame 2 rots; frames behind it claim it. Frame 1 stands in the block after the seal's, each in its own.
        let segment = "00000000000000000001.seg";
        let bytes = story.disk.read_file(segment);
        let at = bytes.chunks(4096).position(|block| block[0] == 1 && block[16] == 2).unwrap();
        story.disk.flip_bit(segment, (at * 4096 + 100) as u64 * 8);
        let lost = seawall::LsnRange::new(seawall::Lsn::new(2), seawall::Lsn::new(3));
        story.lost.push(lost);
        story.disk.cut_journal();
        story.config.recovery = RecoveryMode::Quarantine;
        let log = story.open();
        story.append(&log, &[600]);
        story.kill(log);
        let log = story.open();
        story.append(&log, &[700]);
    });
}

/// The control: a disk whose flushes lie loses what was acknowledged, and the judgment says so.
#[test]
fn a_disk_that_lies_is_caught() {
    let mut story = Story::new(DiskOptions::DIRECT);
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.set_flushes_lie(true);
    story.append(&log, &[200]);
    story.append(&log, &[300]);
    let judged = story.crash_everywhere("flushes lie", Duration::from_millis(500));
    assert!(!judged.failures.is_empty(), "nothing was noticed in {} states", judged.enumerated);
}

/// A disk that leaves garbage in place of a sector that was being written takes nothing of a tail in doubt: it is never
/// written over.
#[test]
fn garbage_over_a_tail_in_doubt() {
    let mut story = Story::new(DiskOptions::BUFFERED);
    story.garbage = true;
    for _ in 0..3 {
        let log = story.open();
        story.append(&log, &[100]);
        story.append(&log, &[200]);
        story.kill(log);
    }
    story.crash_everywhere("garbage, buffered", budget()).assert_clean();
}
