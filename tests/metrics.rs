//! What a log tells about itself: its statistics, and the same through the `metrics` facade.

#![cfg(feature = "metrics")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use seawall::storage::Backend;
use seawall::{BackendChoice, Config, DirectIo, Log, Lsn, Stats};

/// Everything that was told, by name: how often, and the sum.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<BTreeMap<String, (u64, f64)>>>);

struct Cell(Told, String);

impl Cell {
    fn add(&self, value: f64) {
        let mut told = self.0.0.lock().unwrap();
        let (count, sum) = told.entry(self.1.clone()).or_default();
        *count += 1;
        *sum += value;
    }
}

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _: u64) {
        unreachable!("nothing is told this way");
    }
}

impl GaugeFn for Cell {
    fn increment(&self, _: f64) {
        unreachable!("nothing is told this way");
    }

    fn decrement(&self, _: f64) {
        unreachable!("nothing is told this way");
    }

    fn set(&self, value: f64) {
        self.0.0.lock().unwrap().insert(self.1.clone(), (1, value));
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Told {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        Arc::new(Cell(self.clone(), format!("{}{labels}", key.name())))
    }

    /// How often something was told, and the sum of it.
    fn of(&self, name: &str) -> (u64, f64) {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key))
    }
}

const SWEEP: Duration = Duration::from_millis(40);

fn config(direct_io: DirectIo, backend: BackendChoice) -> Config {
    Config {
        direct_io,
        backend,
        segment_bytes_min: 256 << 10,
        segment_bytes_max: 256 << 10,
        sweep_interval: SWEEP,
        idle_proof_after: Duration::from_secs(3600),
        ..Config::default()
    }
}

/// Two groups that were waited for, one that nobody came for, and rotations; then what the log says.
fn worked(config: Config) -> (Log, Stats) {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), config).unwrap();
    log.append(b"alone").unwrap().wait().unwrap();
    let batch: Vec<Vec<u8>> = (0..10).map(|i| vec![i; 100]).collect();
    log.append_many(&batch).unwrap().wait().unwrap();
    drop(log.append(b"nobody waits").unwrap());
    while log.flushed() < Lsn::new(12) {
        std::thread::sleep(Duration::from_millis(1));
    }
    for i in 0..6 {
        log.append(&vec![i; 100_000]).unwrap().wait().unwrap();
    }
    let stats = log.stats();
    (log, stats)
}

#[test]
fn times_sizes_and_counts_are_told_apart() {
    let told = Told::default();
    metrics::set_global_recorder(told.clone()).map_err(|_| "a recorder is set").unwrap();
    for backend in [BackendChoice::Pwrite, BackendChoice::Auto] {
        for direct_io in [DirectIo::Auto, DirectIo::Never] {
            told.0.lock().unwrap().clear();
            let (log, stats) = worked(config(direct_io, backend));
            let groups = stats.flush_micros.count;
            assert!(groups >= 9, "{stats:?}");
            assert_eq!(stats.groups_led + stats.groups_driven, groups, "{stats:?}");
            assert!(stats.groups_driven > 0, "{stats:?}");
            let by_pool = if log.medium().backend == Backend::IoUring { 0 } else { stats.groups_driven };
            assert_eq!(stats.groups_by_pool, by_pool, "{stats:?}");
            // Where both are one operation, all of it is the flush.
            assert!(stats.flush_micros.sum > 0, "{stats:?}");
            assert_eq!(stats.write_micros.count, groups);
            assert_eq!(stats.write_micros.sum > 0, !log.medium().direct, "{stats:?}");
            // The frame that nobody came for waited for the sweep; the others did not.
            assert!(stats.queue_wait_micros.max >= SWEEP.as_micros() as u64, "{stats:?}");
            assert_eq!(stats.queue_wait_micros.count, groups);
            assert!(stats.group_frames.max >= 10 && stats.group_frames.sum == 18, "{stats:?}");
            assert_eq!(stats.group_bytes.sum, stats.device_bytes);
            assert!(stats.device_bytes > stats.frame_bytes && stats.frame_bytes > 600_000, "{stats:?}");
            assert!(stats.rotations >= 2 && stats.segments as u64 == stats.rotations + 1, "{stats:?}");
            assert!(stats.faulty_ranges.is_empty() && !stats.poisoned && stats.full.is_none());

            // The facade was told the same.
            let sums = [
                ("seawall_frames_flushed_total", 18),
                ("seawall_device_bytes_total", stats.device_bytes),
                ("seawall_groups_flushed_total", groups),
                ("seawall_events_total rotation", stats.rotations),
                ("seawall_queue_wait_microseconds", stats.queue_wait_micros.sum),
            ];
            for (name, sum) in sums {
                assert_eq!(told.of(name).1, sum as f64, "{name}");
            }
            for name in ["write_microseconds", "flush_microseconds", "group_frames", "queue_wait_microseconds"] {
                assert_eq!(told.of(&format!("seawall_{name}")).0, groups, "{name}");
            }
            let flushed = told.of("seawall_flush_microseconds").1;
            assert!((flushed - stats.flush_micros.sum as f64).abs() <= groups as f64, "{flushed}: {stats:?}");
            assert_eq!(told.of("seawall_write_microseconds").1 > 0.0, !log.medium().direct);
            assert_eq!(told.of("seawall_events_total poisoned").0, 0);
            drop(log);
        }
    }
}
