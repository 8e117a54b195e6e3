//! The tail: torn, damaged, or with a hole. What decides is whether anything claims the bytes were flushed.

use std::time::Duration;

use seawall::{Config, Error, Log, Lsn, Recovery, RecoveryMode};
use tempfile::TempDir;

use super::bed::{Files, append_each, buffered, close, direct, empty, in_mode, open, record, settle, shown};
use super::bytes::{self, BLOCK, FrameAt, HEADER, MARKER, data_frames, frames, seed, state_chain, state_flushed};
use super::oracle::{holds, lsns};

const FRAMES: u64 = 5;

/// A log of five frames, each a group of its own, abandoned; and its records.
struct Tail {
    files: Files,
    records: Vec<Vec<u8>>,
    config: Config,
    /// The segment that is the tail, and its last data frame.
    segment: u64,
    last: FrameAt,
}

impl Tail {
    /// `prove`: a marker states at the end that everything was flushed.
    fn new(config: &Config, prove: bool) -> Tail {
        let idle_proof_after = if prove { Duration::from_millis(1) } else { config.idle_proof_after };
        let writing = Config { idle_proof_after, ..config.clone() };
        let dir = empty(config);
        let (log, _) = open(&dir, &writing);
        let records: Vec<Vec<u8>> = (0..FRAMES).map(record).collect();
        append_each(&log, &records);
        settle(&log);
        while prove && !has_final_proof(&dir) {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(log);
        let mut files = Files::of(dir.path());
        let segment = *files.holding(bytes::DATA).last().unwrap();
        let last = *data_frames(files.segment(segment)).last().unwrap();
        assert_eq!(last.lsn, FRAMES);
        Tail { files, records, config: config.clone(), segment, last }
    }

    /// The directory with the bytes of the last frame's blocks replaced from `from` on.
    fn torn(&self, from: usize, fill: u8) -> Files {
        let mut files = self.files.clone();
        let end = self.last.end().next_multiple_of(BLOCK);
        files.segment(self.segment)[from..end].fill(fill);
        files
    }

    /// True when the last frame's header is what it was: untouched, or ending in the very bytes that replaced it (its
    /// checksum's last byte does, once in 256 clocks).
    fn leaves_the_header(&self, from: usize, fill: u8) -> bool {
        let behind = self.last.offset + HEADER;
        let segment = &self.files.0[&bytes::segment_name(self.segment)];
        from >= behind || segment[from..behind].iter().all(|byte| *byte == fill)
    }

    fn reopen(&self, dir: &TempDir, mode: RecoveryMode) -> (Log, Recovery) {
        open(dir, &in_mode(&self.config, mode))
    }
}

fn has_final_proof(dir: &TempDir) -> bool {
    let mut files = Files::of(dir.path());
    let tail = *files.holding(bytes::DATA).last().unwrap();
    let frames = frames(files.segment(tail));
    let proven = frames.iter().filter(|frame| frame.kind == MARKER).map(|frame| frame.flushed_through).max();
    proven == Some(FRAMES)
}

/// Every byte of the last frame.
fn cuts(tail: &Tail) -> std::ops::Range<usize> {
    tail.last.offset..tail.last.end()
}

#[test]
fn a_torn_last_frame_that_nothing_proves_ends_the_log_before_it() {
    let mut cases = 0;
    for config in [buffered(), direct()] {
        let tail = Tail::new(&config, false);
        for from in cuts(&tail) {
            for fill in [0, 0xA6] {
                let dir = tail.torn(from, fill).lay_out(&config);
                let case = format!("torn from byte {from} with {fill:#x}");
                let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
                assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{case}: {recovery:?}");
                assert_eq!(recovery.end, Lsn::new(FRAMES - 1), "{case}");
                // A frame that is zeros from its first byte on never was: there is nothing to tell.
                let told = (from > tail.last.offset || fill != 0).then_some(tail.last.offset as u64);
                assert_eq!(recovery.torn_at, told, "{case}");
                // The last header states that the frame before it was flushed; without it nothing does.
                let header_is_whole = tail.leaves_the_header(from, fill);
                let in_doubt = (!header_is_whole).then(|| lsns(FRAMES - 1, FRAMES - 1));
                assert_eq!(recovery.ambiguous_tail, in_doubt, "{case}");
                let mut expected = tail.records[..FRAMES as usize - 1].to_vec();
                holds(&log, &expected, &[]).unwrap();
                expected.push(b"instead".to_vec());
                assert_eq!(log.append(b"instead").unwrap().wait().unwrap(), Lsn::new(FRAMES));
                drop(log);
                let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
                assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
                holds(&log, &expected, &[]).unwrap();
                assert!(log.verify(|_, _| {}).unwrap().is_sound(), "{case}");
                cases += 1;
            }
        }
    }
    println!("{cases} torn tails");
}

#[test]
fn a_damaged_last_frame_that_a_marker_proves_is_never_cut() {
    let mut cases = 0;
    for config in [buffered(), direct()] {
        let tail = Tail::new(&config, true);
        for from in cuts(&tail) {
            for fill in [0, 0xA6] {
                let dir = tail.torn(from, fill).lay_out(&config);
                proven_damage(&tail, &dir, FRAMES, &format!("damaged from byte {from} with {fill:#x}"));
                cases += 1;
            }
        }
    }
    println!("{cases} damaged tails");
}

#[test]
fn a_damaged_frame_that_a_later_one_claims_is_never_cut() {
    for config in [buffered(), direct()] {
        let tail = Tail::new(&config, false);
        let frames = data_frames(&tail.files.0[&bytes::segment_name(tail.segment)]);
        // Each frame is claimed by the one after it.
        for frame in &frames[..frames.len() - 1] {
            for from in (frame.offset..frame.end()).step_by(7) {
                let mut files = tail.files.clone();
                files.segment(tail.segment)[from..frame.end()].fill(0xA6);
                let dir = files.lay_out(&config);
                proven_damage(&tail, &dir, frame.lsn, &format!("frame {} damaged from byte {from}", frame.lsn));
            }
        }
    }
}

/// Frame `lsn` is damaged and proven: what each mode makes of it.
fn proven_damage(tail: &Tail, dir: &TempDir, lsn: u64, case: &str) {
    let lost = [lsns(lsn, lsn)];
    let frame = data_frames(&tail.files.0[&bytes::segment_name(tail.segment)])[lsn as usize - 1];
    let place = |error: &Error| match error {
        Error::Corrupt { segment, offset, lsns, .. } => {
            assert_eq!((segment.get(), *lsns), (tail.segment, lost[0]), "{case}");
            let near = frame.offset as u64..(frame.next().next_multiple_of(BLOCK)) as u64;
            assert!(near.contains(offset), "{case}: {offset} is not in {near:?}");
        }
        other => panic!("{case}: {other:?}"),
    };
    for _ in 0..2 {
        let (log, recovery) = tail.reopen(dir, RecoveryMode::Strict);
        assert_eq!(recovery.damage.len(), 1, "{case}: {recovery:?}");
        place(&recovery.damage[0]);
        assert_eq!((recovery.end, recovery.dropped), (Lsn::new(FRAMES), None), "{case}");
        match log.append(b"refused").map(drop) {
            Err(Error::Damaged { damage }) => place(&damage),
            other => panic!("{case}: {other:?}"),
        }
        place(&log.read(Lsn::new(lsn)).unwrap_err());
        holds(&log, &tail.records[..shown(&log, &recovery)], &lost).unwrap();
        let report = log.verify(|_, _| {}).unwrap();
        assert_eq!(report.findings.iter().map(|f| f.lsns).find(|l| !l.is_empty()), Some(lost[0]), "{case}: {report:?}");
    }
    let (log, recovery) = tail.reopen(dir, RecoveryMode::Quarantine);
    assert_eq!(recovery.quarantined, lost, "{case}");
    let mut expected = tail.records.clone();
    for next in ["behind the gap", "and again"] {
        assert_eq!(log.append(next.as_bytes()).unwrap().wait().unwrap().get(), expected.len() as u64 + 1, "{case}");
        expected.push(next.as_bytes().to_vec());
    }
    assert!(matches!(log.read(Lsn::new(lsn)), Err(Error::Quarantined { lsns }) if lsns == lost[0]), "{case}");
    holds(&log, &expected, &lost).unwrap();
    drop(log);
    for _ in 0..2 {
        let (log, recovery) = tail.reopen(dir, RecoveryMode::Strict);
        assert!(recovery.damage.is_empty() && recovery.quarantined == lost, "{case}: {recovery:?}");
        assert!(matches!(log.read(Lsn::new(lsn)), Err(Error::Quarantined { lsns }) if lsns == lost[0]), "{case}");
        holds(&log, &expected, &lost).unwrap();
        assert!(log.verify(|_, _| {}).unwrap().is_sound(), "{case}: {:?}", log.verify(|_, _| {}));
        expected.push(b"more".to_vec());
        log.append(b"more").unwrap().wait().unwrap();
        close(log);
    }
}

#[test]
fn bits_below_a_proven_position_are_damage_wherever_they_are() {
    let config = buffered();
    let tail = Tail::new(&config, true);
    let frames = data_frames(&tail.files.0[&bytes::segment_name(tail.segment)]);
    for frame in frames {
        for bit in (frame.offset * 8..frame.end() * 8).step_by(31) {
            let mut files = tail.files.clone();
            files.segment(tail.segment)[bit / 8] ^= 1 << (bit % 8);
            let dir = files.lay_out(&config);
            let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
            let lost = [lsns(frame.lsn, frame.lsn)];
            assert_eq!(recovery.damage[0].lsns(), Some(lost[0]), "bit {bit}: {recovery:?}");
            assert!(matches!(log.append(b"x").map(drop), Err(Error::Damaged { .. })), "bit {bit}");
            holds(&log, &tail.records, &lost).unwrap();
        }
    }
}

/// The groups from the hole on were in flight together: none of them states more than the one before it.
fn with_a_hole(tail: &Tail, hole: u64) -> Files {
    let mut files = tail.files.clone();
    let (id, incarnation) = identity(tail);
    let bytes = files.segment(tail.segment);
    let frames = data_frames(bytes);
    for frame in frames.iter().filter(|frame| frame.lsn > hole) {
        let seed = seed(id, incarnation, tail.segment, frame.offset);
        state_flushed(bytes, frame.offset, hole - 1, seed);
    }
    let gone = frames[hole as usize - 1].offset;
    bytes[gone..gone + BLOCK].fill(0);
    files
}

#[test]
fn a_hole_left_by_writes_that_ended_out_of_order_is_dropped_for_ever() {
    for config in [buffered(), direct()] {
        for hole in 2..FRAMES {
            let tail = Tail::new(&config, false);
            let files = with_a_hole(&tail, hole);
            let dir = files.lay_out(&config);
            let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
            assert!(recovery.damage.is_empty(), "{recovery:?}");
            assert_eq!((recovery.end.get(), recovery.dropped), (hole - 1, Some(lsns(hole + 1, FRAMES))));
            let mut expected = tail.records[..hole as usize - 1].to_vec();
            holds(&log, &expected, &[]).unwrap();
            drop(log);
            for i in 0..FRAMES + 2 {
                let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
                assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{recovery:?}");
                holds(&log, &expected, &[]).unwrap();
                expected.push(format!("new {i}").into_bytes());
                log.append(expected.last().unwrap()).unwrap().wait().unwrap();
                assert!(log.verify(|_, _| {}).unwrap().is_sound());
            }
        }
    }
}

const HOLE: u64 = 3;

/// Opened behind a hole, beyond which everything was dropped.
fn behind_a_hole(config: &Config) -> (Tail, TempDir, Log) {
    let tail = Tail::new(config, false);
    let dir = with_a_hole(&tail, HOLE).lay_out(config);
    let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
    assert_eq!(recovery.dropped, Some(lsns(HOLE + 1, FRAMES)));
    (tail, dir, log)
}

/// The seal that says where the hole's segment ends is lost with the frames behind it. What was dropped has their numbers.
#[test]
fn what_was_dropped_does_not_take_the_place_of_lost_frames() {
    let config = direct();
    let (tail, dir, log) = behind_a_hole(&config);
    let new: Vec<Vec<u8>> = (0..4).map(|i| format!("new {i}").into_bytes()).collect();
    append_each(&log, &new);
    let expected = [tail.records[..HOLE as usize - 1].to_vec(), new].concat();
    close(log);
    // Another seal follows, so that the open itself has nothing to do with what is lost.
    let (log, _) = tail.reopen(&dir, RecoveryMode::Strict);
    append_each(&log, &[b"last".to_vec()]);
    close(log);
    let mut files = Files::of(dir.path());
    let behind = *files.holding(bytes::DATA).iter().find(|number| **number > tail.segment).unwrap();
    let second = data_frames(files.segment(behind))[1];
    assert_eq!(second.lsn, HOLE + 1);
    files.segment(behind)[BLOCK..second.end().next_multiple_of(BLOCK)].fill(0xa5);
    let dir = files.lay_out(&config);
    let (log, _) = tail.reopen(&dir, RecoveryMode::Strict);
    let expected = [expected, vec![b"last".to_vec()]].concat();
    holds(&log, &expected, &[lsns(HOLE, HOLE + 1)]).unwrap();
    for lsn in HOLE..=HOLE + 1 {
        let error = log.read(Lsn::new(lsn)).unwrap_err();
        assert!(error.lsns().is_some_and(|lsns| lsns.contains(Lsn::new(lsn))), "{error}");
    }
}

/// A close behind the hole proves what it closed, and nothing of what was dropped in the segment before.
#[test]
fn what_was_dropped_is_not_brought_back_by_a_close() {
    let config = direct();
    let (tail, dir, log) = behind_a_hole(&config);
    append_each(&log, &[b"new".to_vec()]);
    close(log);
    let mut files = Files::of(dir.path());
    let behind = *files.holding(bytes::DATA).iter().find(|number| **number > tail.segment).unwrap();
    files.segment(behind)[BLOCK..].fill(0xa5);
    let dir = files.lay_out(&config);
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
        let (log, recovery) = tail.reopen(&dir, mode);
        let named = recovery.damage.iter().filter_map(Error::lsns).any(|lsns| lsns.contains(Lsn::new(HOLE)));
        assert!(named, "{mode:?}: {recovery:?}");
        let read: Vec<u64> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.lsn.get()).collect();
        assert_eq!(read, (1..HOLE).collect::<Vec<u64>>(), "{mode:?}: {recovery:?}");
    }
}

#[test]
fn a_valid_frame_that_does_not_continue_the_chain_is_not_believed() {
    let config = buffered();
    let tail = Tail::new(&config, false);
    let (id, incarnation) = identity(&tail);
    let mut files = tail.files.clone();
    let seed = seed(id, incarnation, tail.segment, tail.last.offset);
    state_chain(files.segment(tail.segment), tail.last.offset, 4711, seed);
    let dir = files.lay_out(&config);
    let (log, recovery) = tail.reopen(&dir, RecoveryMode::Strict);
    assert_eq!(recovery.end, Lsn::new(FRAMES - 1), "{recovery:?}");
    holds(&log, &tail.records[..FRAMES as usize - 1], &[]).unwrap();
}

fn identity(tail: &Tail) -> (seawall::LogId, seawall::Incarnation) {
    let dir = tail.files.lay_out(&tail.config);
    let (log, _) = open(&dir, &in_mode(&tail.config, RecoveryMode::ReadOnly));
    (log.id(), log.incarnation())
}
