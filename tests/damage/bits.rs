//! Every bit of a sealed segment, flipped: found, the right frames named, and no other frame harmed.

use std::time::Duration;

use seawall::{Config, Log, Lsn, RecoveryMode};

use super::bed::{direct, in_mode, record, sized};
use super::oracle::holds;
use super::report::Ask;
use super::rot;
use super::sealed::{BLOCK, Sealed};
use super::sim::{DiskOptions, SimDisk};

/// A log on blocks of 512 bytes: segment 1 filled by one large record; segment 2, begun by the rotation, with the
/// shapes that matter; segment 3 open.
fn shapes() -> Sealed {
    let config = Config { segment_bytes_max: 64 << 10, ..direct() };
    let disk = SimDisk::new(DiskOptions::DIRECT_512);
    let mut records = vec![sized(0, 63_000)];
    let (log, _) = Log::open_on(disk.open(), config.clone()).unwrap();
    disk.pump();
    log.append(&records[0]).unwrap().wait().unwrap();
    disk.pump();
    // The first does not fit any more: it goes behind the next segment's seal, in the seal's group.
    let first = sized(1, 1_800);
    let group = [sized(2, 91), record(3), sized(4, 0), sized(5, 700), record(6)];
    log.append(&first).unwrap().wait().unwrap();
    disk.pump();
    records.push(first);
    log.append_many(&group).unwrap().wait().unwrap();
    records.extend(group);
    for i in 7..9 {
        records.push(record(i));
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    drop(log);
    let (log, _) = Log::open_on(disk.open(), config.clone()).unwrap();
    disk.pump();
    records.push(record(9));
    log.append(&record(9)).unwrap().wait().unwrap();
    // The filler has done its work; without it each flip is checked in a fraction of the time.
    disk.pump();
    log.trim(Lsn::FIRST).unwrap();
    log.close(Duration::from_secs(1)).unwrap();
    disk.pump();
    Sealed::of(disk.fork(), config, records)
}

#[test]
fn every_bit_of_a_sealed_segment() {
    let sealed = shapes();
    let read_only = in_mode(&sealed.config, RecoveryMode::ReadOnly);
    let (log, _) = Log::open_on(sealed.disk.open(), read_only.clone()).unwrap();
    assert!(log.verify(|_, _| {}).unwrap().is_sound());
    holds(&log, &sealed.records, &[]).unwrap();
    drop(log);
    let began = std::time::Instant::now();
    let mut missed = Vec::new();
    for bit in 0..sealed.used() as u64 * 8 {
        sealed.disk.flip_bit(&sealed.name, bit);
        if let Err(what) = flipped(&sealed, &read_only, bit) {
            missed.push(format!("bit {bit} (byte {}): {what}", bit / 8));
        }
        sealed.disk.flip_bit(&sealed.name, bit);
        sealed.disk.cut_journal();
    }
    println!("{} bits of {} bytes in {:?}", sealed.used() * 8, sealed.used(), began.elapsed());
    let shown: Vec<&String> = missed.iter().step_by(missed.len() / 20 + 1).collect();
    assert!(missed.is_empty(), "{} of {} missed: {shown:#?}", missed.len(), sealed.used() * 8);
}

fn flipped(sealed: &Sealed, config: &Config, bit: u64) -> Result<(), String> {
    let lost = sealed.cost(bit as usize / 8);
    let (log, _) = Log::open_on(sealed.disk.open(), config.clone()).map_err(|error| format!("{error:?}"))?;
    let report = log.verify(|_, _| {}).map_err(|error| format!("{error:?}"))?;
    let [finding] = &report.findings[..] else { return Err(format!("findings: {:?}", report.findings)) };
    let named = Some(finding.lsns).filter(|lsns| !lsns.is_empty());
    if named != lost || finding.segment.get() != 2 {
        return Err(format!("{lost:?} are lost, {finding:?}"));
    }
    // Told where it is, give or take the group.
    let byte = bit / 8;
    let far = 3 * BLOCK as u64;
    if finding.offset > byte || finding.offset + 64 + 1_800 + far < byte {
        return Err(format!("the flip is at byte {byte}, {finding:?}"));
    }
    holds(&log, &sealed.records, lost.as_slice())
}

/// The beginning of the sweep over a large segment: all of it is for a release build.
#[test]
fn rot_of_a_large_segment() {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    let (seed, goal) = (number("SEAWALL_SEED").unwrap_or(1), number("SEAWALL_FLIPS").unwrap_or(16_000));
    let report = rot::run(rot::SEGMENT_BYTES, Ask::new(seed, goal));
    println!("rot: {report}");
    report.assert_clean();
    rot::control().unwrap();
}
