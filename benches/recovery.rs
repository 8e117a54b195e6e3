//! Opening a log, by size: after a clean close, and after a kill that left half a segment unsealed.
//!
//! One iteration is one open; making the directory what it was takes no part in the time.

mod bed;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use seawall::{Config, Log};

use bed::{KIB, MIB};

const SEGMENT_BYTES: usize = 16 * MIB;

fn recovery(criterion: &mut Criterion) {
    let config = Config {
        segment_bytes_min: SEGMENT_BYTES as u64,
        segment_bytes_max: SEGMENT_BYTES as u64,
        ..Config::default()
    };
    let sizes = if bed::is_trial() { vec![24] } else { vec![24, 136, 1032] };
    for (name, is_clean) in [("clean", true), ("killed", false)] {
        let mut group = criterion.benchmark_group(format!("open/{name}"));
        // The time is little against what surrounds it: few iterations, and no more than asked for.
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(100));
        for mib in &sizes {
            let made = bed::scratch();
            make(made.path(), &config, *mib, is_clean);
            group.bench_function(BenchmarkId::new("MiB", mib), |bencher| {
                bencher.iter_custom(|opens| (0..opens).map(|_| open_copy(made.path(), &config, is_clean)).sum());
            });
        }
        group.finish();
    }
}

/// A log of so many MiB, as it is left behind.
fn make(dir: &Path, config: &Config, mib: usize, is_clean: bool) {
    let (log, _) = Log::open(dir, config.clone()).expect("an empty directory");
    bed::fill(&log, mib * 16, 64 * KIB);
    if is_clean {
        bed::close(log);
    }
    // Otherwise dropped: what is on the disk is what a kill leaves.
}

/// Opens a copy that shares what opening does not change: sealed segments.
fn open_copy(made: &Path, config: &Config, is_clean: bool) -> Duration {
    let dir = bed::scratch();
    let mut files: Vec<_> = fs::read_dir(made).and_then(Iterator::collect).expect("just made");
    files.sort_by_key(fs::DirEntry::file_name);
    // The last three segments are the active one and the two prepared behind it.
    let shared = files.iter().filter(|file| is_segment(file)).count().saturating_sub(3);
    let mut seen = 0;
    for file in &files {
        let to = dir.path().join(file.file_name());
        seen += usize::from(is_segment(file));
        if is_segment(file) && seen <= shared {
            fs::hard_link(file.path(), to).expect("room on the disk");
        } else {
            fs::copy(file.path(), &to).expect("room on the disk");
            // Or opening would have to write it back first.
            fs::File::open(to).and_then(|copy| copy.sync_all()).expect("a disk that works");
        }
    }
    let began = Instant::now();
    let (log, recovery) = Log::open(dir.path(), config.clone()).expect("a sound log");
    let took = began.elapsed();
    assert!(recovery.clean == is_clean && recovery.damage.is_empty(), "{recovery:?}");
    drop(log);
    took
}

fn is_segment(file: &fs::DirEntry) -> bool {
    file.path().extension().is_some_and(|extension| extension == "seg")
}

criterion_group!(benches, recovery);
criterion_main!(benches);
