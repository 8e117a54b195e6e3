//! Every bit of a sealed segment, flipped: found, the right frames named, and no other frame harmed.

use std::time::Duration;

use seawall::{Config, Log, Lsn, LsnRange, RecoveryMode};

use super::bed::{direct, in_mode, record, sized};
use super::bytes::{DATA, FrameAt, INDEX, SEAL, frames_in_blocks, segment_name};
use super::oracle::{holds, lsns};
use super::sim::{DiskOptions, SimDisk};

const BLOCK: usize = 512;

/// A log on blocks of 512 bytes: segment 1 filled by one large record; segment 2, begun by the rotation, with the
/// shapes that matter; segment 3 open.
struct Sealed {
    disk: SimDisk,
    records: Vec<Vec<u8>>,
    name: String,
    frames: Vec<FrameAt>,
}

impl Sealed {
    fn new(config: &Config) -> Sealed {
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
        let name = segment_name(2);
        let frames = frames_in_blocks(&disk.read_file(&name), BLOCK);
        let kinds: Vec<u8> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), (SEAL, DATA, INDEX), "{frames:?}");
        Sealed { disk: disk.fork(), records, name, frames }
    }

    fn used(&self) -> usize {
        self.frames.last().unwrap().end().next_multiple_of(BLOCK)
    }

    /// The frames that a flipped bit in this byte costs.
    fn cost(&self, byte: usize) -> Option<LsnRange> {
        let at = self.frames.iter().position(|frame| (frame.offset..frame.end()).contains(&byte))?;
        let frame = self.frames[at];
        if frame.kind != DATA {
            return None;
        }
        let header = byte < frame.offset + super::bytes::HEADER;
        // Behind a broken header nobody knows where the next frame starts, up to the next block that starts with one.
        let rest = self.frames[at + 1..].iter().take_while(|next| header && !next.offset.is_multiple_of(BLOCK));
        Some(lsns(frame.lsn, rest.last().map_or(frame.lsn, |last| last.lsn)))
    }
}

#[test]
fn every_bit_of_a_sealed_segment() {
    let config = Config { segment_bytes_max: 64 << 10, ..direct() };
    let sealed = Sealed::new(&config);
    let read_only = in_mode(&config, RecoveryMode::ReadOnly);
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
