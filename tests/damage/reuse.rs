//! Bytes of earlier lives, and bytes in somebody's hands.

use seawall::{Error, Lsn, RecoveryMode};

use super::bed::{Files, append_each, buffered, close, direct, empty, in_mode, open, record, settle, shown, sized};
use super::bytes::{BLOCK, segment_name};
use super::oracle::{holds, lsns};
use super::shelf::{Shelf, on_shelves};

#[test]
fn a_recycled_segment_s_old_bytes_never_appear() {
    for config in [buffered(), direct()] {
        let dir = empty(&config);
        let mut expected: Vec<Vec<u8>> = Vec::new();
        let mut recycled = 0;
        for round in 0..12u64 {
            let (log, recovery) = open(&dir, &config);
            assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{recovery:?}");
            // The same sizes every time: old frames stand exactly where new ones will.
            for i in 0..5 {
                expected.push(sized(round * 100 + i, 15_000));
                append_each(&log, &expected[expected.len() - 1..]);
                settle(&log);
            }
            log.trim(Lsn::new(expected.len() as u64 - 2)).unwrap();
            recycled += log.stats().segments_recycled;
            drop(log);
            let (log, recovery) = open(&dir, &config);
            assert_eq!(recovery.end.get(), expected.len() as u64);
            holds(&log, &expected, &[]).unwrap();
            assert!(log.verify(|_, _| {}).unwrap().is_sound(), "{:?}", log.verify(|_, _| {}));
            if round % 2 == 0 { close(log) } else { drop(log) }
        }
        assert!(recycled >= 10, "only {recycled} segments were recycled");
    }
}

#[test]
fn bytes_in_hand_stay_what_they_are_across_trim_and_recycling() {
    for config in [buffered(), direct()] {
        let dir = empty(&config);
        let config = seawall::Config { memory_tail_bytes: 0, ..config };
        let (log, _) = open(&dir, &config);
        let records: Vec<Vec<u8>> = (0..8).map(|i| sized(i, 25_000)).collect();
        append_each(&log, &records);
        settle(&log);
        let held: Vec<_> = log.reader(Lsn::FIRST).map(|frame| frame.unwrap()).collect();
        let stays = || held.iter().zip(&records).all(|(frame, record)| frame.payload == *record);
        log.trim(Lsn::new(8)).unwrap();
        for round in 0..10 {
            append_each(&log, &[sized(100 + round, 25_000), sized(200 + round, 25_000)]);
            log.trim(log.flushed()).unwrap();
            assert!(stays(), "round {round}");
        }
        assert!(log.stats().segments_recycled > 0);
        drop(log);
        let (log, _) = open(&dir, &config);
        append_each(&log, &[sized(300, 25_000), sized(301, 25_000), sized(302, 25_000)]);
        assert!(stays(), "after reopening");
    }
}

#[test]
fn bytes_of_a_file_that_a_writer_has_claimed_are_copies() {
    on_shelves(true, |shelf| {
        let dir = shelf.lay_out(|_| {});
        let number = shelf.sealed[1];
        let path = dir.path().join(segment_name(number));
        let claim = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (log, _) = shelf.open(&dir, RecoveryMode::ReadOnly);
        // As a writer does before it uses a segment again.
        claim.lock().unwrap();
        let lsn = shelf.held[&number].start;
        let payload = log.read(lsn).unwrap().payload;
        assert!(payload == shelf.records[lsn.get() as usize - 1]);
        std::fs::write(&path, vec![0xAB; shelf.files.0[&segment_name(number)].len()]).unwrap();
        assert!(payload == shelf.records[lsn.get() as usize - 1], "it has changed under its holder");
    });
}

#[test]
fn a_truncated_file_is_an_error_also_under_a_map() {
    on_shelves(false, |shelf| {
        let number = shelf.sealed[1];
        let name = segment_name(number);
        let held = shelf.held[&number];
        // Cut under a live map: an error to this reader, no signal; the rest is read.
        for bytes in [0, 100, BLOCK as u64, 3 * BLOCK as u64] {
            let dir = shelf.lay_out(|_| {});
            let (log, _) = shelf.open(&dir, RecoveryMode::Strict);
            let mut reader = log.range(held);
            assert_eq!(reader.next().unwrap().unwrap().lsn, held.start);
            std::fs::OpenOptions::new().write(true).open(dir.path().join(&name)).unwrap().set_len(bytes).unwrap();
            for lsn in held.start.get()..held.end.get() {
                let read = log.read(Lsn::new(lsn));
                assert!(matches!(read, Err(Error::Io { .. } | Error::Corrupt { .. })), "{bytes}: {read:?}");
            }
            assert!(log.read(held.end).is_ok() && log.read(Lsn::FIRST).is_ok());
            append_each(&log, &[record(1)]);
        }
        // Cut before it is opened: damage with its frames.
        for bytes in [0, BLOCK, 3 * BLOCK] {
            let dir = shelf.lay_out(|files| files.segment(number).truncate(bytes));
            let (log, recovery) = shelf.open(&dir, RecoveryMode::Strict);
            assert!(recovery.damage.is_empty(), "{recovery:?}");
            holds(&log, &shelf.records, &[held]).unwrap_or_else(|what| panic!("{bytes} bytes: {what}"));
        }
        // The active one: what is proven is told.
        let bytes = 2 * BLOCK + 100;
        let dir = shelf.lay_out(|files| files.segment(shelf.active).truncate(bytes));
        let (log, recovery) = shelf.open(&dir, RecoveryMode::Strict);
        assert!(matches!(log.append(b"x").map(drop), Err(Error::Damaged { .. })), "{recovery:?}");
    });
}

#[test]
fn payloads_that_hold_whole_segments_change_nothing() {
    for config in [buffered(), direct()] {
        let shelf = Shelf::new(&config, false);
        let dir = shelf.lay_out(|_| {});
        let (log, _) = shelf.open(&dir, RecoveryMode::Strict);
        let mut expected = shelf.records.clone();
        // Copies of our own segments, at every alignment that matters.
        for (i, pad) in [0, 8, BLOCK - 64, BLOCK - 128].into_iter().enumerate() {
            for number in [shelf.sealed[0], shelf.active] {
                let mut payload = vec![7; pad];
                payload.extend_from_slice(&shelf.files.0[&segment_name(number)]);
                expected.push(payload);
                append_each(&log, &expected[expected.len() - 1..]);
            }
            assert_eq!(log.flushed().get() as usize, shelf.records.len() + 2 * (i + 1));
        }
        settle(&log);
        drop(log);
        // Behind a broken header the copies inside the payload stand in the open.
        let mut files = Files::of(dir.path());
        let last = *files.holding_raw().last().unwrap();
        let frame = super::bytes::data_frames(files.segment(last))[0];
        files.segment(last)[frame.offset + 9] ^= 1;
        let broken = files.lay_out(&config);
        let (log, recovery) = open(&broken, &in_mode(&config, RecoveryMode::Strict));
        let gone: Vec<_> = recovery.damage.iter().filter_map(Error::lsns).filter(|l| !l.is_empty()).collect();
        let end = recovery.end.get() as usize;
        assert!(end + 1 >= frame.lsn as usize, "{recovery:?}");
        assert!(gone.iter().all(|lsns| lsns.contains(Lsn::new(frame.lsn))), "{recovery:?}");
        holds(&log, &expected[..end], &gone).unwrap();
        drop(log);
        for _ in 0..2 {
            let (log, recovery) = open(&dir, &config);
            assert!(recovery.damage.is_empty(), "{recovery:?}");
            holds(&log, &expected, &[]).unwrap();
            assert!(log.verify(|_, _| {}).unwrap().is_sound());
            assert_eq!(lsns(1, expected.len() as u64).end, log.flushed().next());
        }
    }
}

#[test]
fn damage_over_more_than_a_window_of_the_tail_is_one_range() {
    let config = seawall::Config { segment_bytes_min: 8 << 20, segment_bytes_max: 8 << 20, ..buffered() };
    let dir = empty(&config);
    let (log, _) = open(&dir, &config);
    let records: Vec<Vec<u8>> = (0..60).map(|i| sized(i, 100_000)).collect();
    append_each(&log, &records);
    drop(log);
    let mut files = Files::of(dir.path());
    let number = *files.holding_raw().first().unwrap();
    let frames = super::bytes::data_frames(files.segment(number));
    let (from, to) = (frames[10].offset, frames[50].offset);
    for fill in [0, 0xC3] {
        let mut files = files.clone();
        files.segment(number)[from..to].fill(fill);
        let dir = files.lay_out(&config);
        let (log, recovery) = open(&dir, &config);
        let lost = [lsns(11, 50)];
        assert_eq!(recovery.damage.iter().filter_map(Error::lsns).collect::<Vec<_>>(), lost, "{recovery:?}");
        holds(&log, &records[..shown(&log, &recovery)], &lost).unwrap();
    }
}

#[test]
fn the_oracle_sees_red() {
    let config = buffered();
    let shelf = Shelf::new(&config, false);
    let dir = shelf.lay_out(|_| {});
    let (log, _) = shelf.open(&dir, RecoveryMode::Strict);
    assert_eq!(holds(&log, &shelf.records, &[]), Ok(()));
    let mut other = shelf.records.clone();
    other[4][100] ^= 1;
    assert!(holds(&log, &other, &[]).is_err(), "other bytes");
    other = shelf.records.clone();
    other.push(b"acknowledged and lost".to_vec());
    assert!(holds(&log, &other, &[]).is_err(), "an acknowledged frame is not there");
    assert!(holds(&log, &shelf.records[..11], &[]).is_err(), "a frame that was never acknowledged");
    assert!(holds(&log, &shelf.records, &[lsns(3, 3)]).is_err(), "a lost frame that is read");
    drop(log);
    // Damage in a frame that nobody declared lost.
    let number = shelf.sealed[0];
    let frame = super::bytes::data_frames(&shelf.files.0[&segment_name(number)])[0];
    let dir = shelf.lay_out(|files| files.segment(number)[frame.offset + 200] ^= 1);
    let (log, _) = shelf.open(&dir, RecoveryMode::Strict);
    assert!(holds(&log, &shelf.records, &[]).is_err(), "undeclared damage");
    assert_eq!(holds(&log, &shelf.records, &[lsns(frame.lsn, frame.lsn)]), Ok(()));
    // A recovery that cuts what was proven, as if row D of the table were row C.
    let cut = shelf.lay_out(|files| {
        let active = files.segment(shelf.active);
        let frame = super::bytes::data_frames(active)[0];
        active[frame.offset..].fill(0);
    });
    let (log, _) = shelf.open(&cut, RecoveryMode::Strict);
    assert!(holds(&log, &shelf.records, &[]).is_err(), "a cut tail");
}
