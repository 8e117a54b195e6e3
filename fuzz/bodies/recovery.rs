//! A small log's directory, damaged in any way, then opened in each mode.
//!
//! ```text
//! input | which log 1 | flags 1 | damage, 8 bytes each …
//! damage | what 1 | file 1 | offset 2 | how much 1 | value 1 | other offset 2 |
//! ```
//!
//! Whatever happened: no panic, no endless work; what is read is what was written; what the bytes that are left prove
//! to have been flushed is there, or somebody is told; a read-only or refused open writes nothing; a log that takes
//! appends keeps them and everything it had shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use seawall::internals as door;
use seawall::{Chain, Error, Log, Lsn, Recovery, RecoveryMode};

use super::Input;
use super::base::{self, Base, Left, bases, config};
use super::memory::{Image, Memory};

const DAMAGES_MAX: usize = 12;
/// Of a segment.
const HEADER_BYTES: usize = 64;
/// No file grows beyond this.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// The damage comes after the log was opened.
const LATE: u8 = 1;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let base = &bases()[usize::from(input.byte()) % 4];
    let flags = input.byte();
    let mut damaged = Damaged { image: base.image.clone(), forged: false };
    for _ in 0..DAMAGES_MAX {
        if input.is_empty() {
            break;
        }
        damaged.apply(base, Damage::read(&mut input));
    }
    if flags & LATE != 0 {
        return late(base, &damaged);
    }
    read_only(base, &damaged);
    appending(base, &damaged, RecoveryMode::Strict);
    appending(base, &damaged, RecoveryMode::Quarantine);
}

// --- damage --------------------------------------------------------------------------------------------------------

pub struct Damage {
    pub what: u8,
    pub file: u8,
    pub at: u16,
    pub count: u8,
    pub value: u8,
    pub other: u16,
}

impl Damage {
    fn read(input: &mut Input<'_>) -> Damage {
        Damage {
            what: input.byte(),
            file: input.byte(),
            at: input.u16(),
            count: input.byte(),
            value: input.byte(),
            other: input.u16(),
        }
    }

    pub fn bytes(&self) -> [u8; 8] {
        let ([a, b], [c, d]) = (self.at.to_le_bytes(), self.other.to_le_bytes());
        [self.what, self.file, a, b, self.count, self.value, c, d]
    }
}

struct Damaged {
    image: Image,
    /// Something has a valid checksum that the log never wrote: what it says proves nothing.
    forged: bool,
}

impl Damaged {
    fn apply(&mut self, base: &Base, damage: Damage) {
        let Some(name) = self.image.keys().nth(usize::from(damage.file) % self.image.len().max(1)).cloned() else {
            return;
        };
        let other = self.image.keys().nth(usize::from(damage.other) % self.image.len()).cloned().expect("not empty");
        let block = base.block_bytes as usize;
        let (at, count) = (usize::from(damage.at), usize::from(damage.count));
        match damage.what % 14 {
            // At a frame's start: one byte of its header or of its payload.
            0 => self.at_frame(base, &damage, |bytes, at, _| {
                if let Some(byte) = bytes.get_mut(at + usize::from(damage.count)) {
                    *byte ^= damage.value.max(1);
                }
            }),
            // The same, and its checksum made right again.
            1 => {
                self.forged = true;
                self.at_frame(base, &damage, |bytes, at, seed| {
                    if let Some(byte) = bytes.get_mut(at + usize::from(damage.count) % 60) {
                        *byte ^= damage.value.max(1);
                        door::reseal_frame(seed, &mut bytes[at..]);
                    }
                });
            }
            2 => self.on(&name, |bytes| {
                let at = at * 8 % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at + usize::from(damage.other % 8)) {
                    *byte ^= damage.value.max(1);
                }
            }),
            3 => self.on(&name, |bytes| fill(bytes, at * block, (count + 1) * block, |_| 0)),
            4 => self.on(&name, |bytes| fill(bytes, at * 512, (count + 1) * 512, |i| (i * 151 + count) as u8)),
            // A write that went to the wrong place, in this file or another.
            5 => {
                let from: Vec<u8> = window(&self.image[&other], usize::from(damage.value) * block, (count + 1) * block);
                self.on(&name, |bytes| fill(bytes, at * block, from.len(), |i| from[i]));
            }
            6 => self.on(&name, |bytes| bytes.truncate(at * 8)),
            7 => self.on(&name, |bytes| {
                bytes.resize((bytes.len() + (count + 1) * 512).min(FILE_BYTES_MAX).max(bytes.len()), damage.value)
            }),
            8 => drop(self.image.remove(&name)),
            9 => {
                let bytes = self.image[&name].clone();
                self.image.insert(other, bytes);
            }
            10 => {
                let bytes = self.image[&name].clone();
                let number = base::number(&name).unwrap_or(0).saturating_add(u64::from(damage.value));
                let new = match damage.count % 5 {
                    0 => format!("{number:020}.seg"),
                    1 => format!("{number:020}.seg.new"),
                    2 => "control.new".to_owned(),
                    3 => format!("{:020}.seg", u64::MAX - u64::from(damage.value)),
                    _ => "somebody else's".to_owned(),
                };
                self.image.insert(new, bytes);
            }
            // One file as it was earlier, whole or a part of it: writes that were lost.
            11 => {
                let before = &base.earlier[count % base.earlier.len()];
                if let Some(bytes) = before.get(&name) {
                    self.image.insert(name, bytes.clone());
                }
            }
            12 => {
                let before = &base.earlier[count % base.earlier.len()];
                let from = before.get(&name).map(|bytes| window(bytes, at * block, usize::from(damage.value) * block));
                let from = from.unwrap_or_default();
                self.on(&name, |bytes| fill(bytes, at * block, from.len(), |i| from[i]));
            }
            // A group whose write never happened, although a later one did: zeros up to the next frame's block.
            _ => {
                self.at_frame(base, &damage, |bytes, at, _| fill(bytes, at / block * block, (count + 1) * block, |_| 0))
            }
        }
    }

    fn on(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(bytes) = self.image.get_mut(name) {
            change(Arc::make_mut(bytes));
        }
    }

    fn at_frame(&mut self, base: &Base, damage: &Damage, change: impl FnOnce(&mut Vec<u8>, usize, u32)) {
        let (name, at) = &base.starts[usize::from(damage.at) % base.starts.len()];
        let seed = base::place(base::number(name).expect("a segment")).seed(*at);
        self.on(name, |bytes| {
            if bytes.len() as u64 >= *at {
                change(bytes, *at as usize, seed);
            }
        });
    }
}

fn fill(bytes: &mut [u8], at: usize, count: usize, with: impl Fn(usize) -> u8) {
    let end = (at + count).min(bytes.len());
    if at < end {
        bytes[at..end].iter_mut().enumerate().for_each(|(i, byte)| *byte = with(i));
    }
}

fn window(bytes: &[u8], at: usize, count: usize) -> Vec<u8> {
    bytes.get(at..(at + count).min(bytes.len())).unwrap_or_default().to_vec()
}

// --- what must hold ------------------------------------------------------------------------------------------------

fn read_only(base: &Base, damaged: &Damaged) {
    let storage = Memory::new(&damaged.image, base.direct, base.block_bytes);
    if let Some((log, recovery)) = open(base, damaged, &storage, RecoveryMode::ReadOnly) {
        read_all(base, damaged, &log, log.flushed());
        assert!(matches!(log.try_append(b"no"), Err(Error::ReadOnly)));
        check_nothing_dropped(base, damaged, &recovery);
        let _ = log.close(Duration::ZERO);
    }
    storage.pump();
    assert!(same(&storage.image(), &damaged.image), "a read-only open wrote something");
}

fn appending(base: &Base, damaged: &Damaged, mode: RecoveryMode) {
    let storage = Memory::new(&damaged.image, base.direct, base.block_bytes);
    let Some((log, recovery)) = open(base, damaged, &storage, mode) else {
        storage.pump();
        assert!(damaged.forged || same(&storage.image(), &damaged.image), "an open that failed wrote something");
        return;
    };
    check_nothing_dropped(base, damaged, &recovery);
    let end = recovery.end;
    let refuses = mode == RecoveryMode::Strict && !recovery.damage.is_empty();
    assert!(log.flushed() == end || refuses, "appends would go on behind {end}, {} is shown", log.flushed());
    let shown = read_all(base, damaged, &log, log.flushed());
    let report = log.verify(|_, _| {}).expect("memory does not fail");
    if report.is_sound() && recovery.damage.is_empty() && recovery.missing_segments.is_empty() {
        let all = end.since(log.first().previous());
        let quarantined: u64 = recovery.quarantined.iter().map(|lsns| lsns.frames()).sum();
        assert!(shown.len() as u64 + quarantined >= all, "sound, and yet {} of {all} frames can be read", shown.len());
    }
    if refuses {
        assert!(matches!(log.try_append(b"no"), Err(Error::Damaged { .. })));
        drop(log);
        storage.pump();
        assert!(same(&storage.image(), &damaged.image), "a refused open wrote something");
        return;
    }
    let record = b"a record behind the damage";
    let new =
        base::append(&log, &storage, record).and_then(|pending| pending.wait()).expect("a log that takes appends");
    assert_eq!(new, end.next(), "positions go on where they ended");
    storage.pump();
    if log.close(Duration::from_secs(1)).is_err() {
        panic!("what was appended cannot be closed");
    }
    storage.pump();
    let (log, again) = Log::open_on(storage.clone(), config(mode)).expect("closed cleanly just now");
    if damaged.forged {
        // Frames that claim what never was may well hide what is.
        return;
    }
    assert_eq!((again.end, again.clean || !again.damage.is_empty()), (new, true), "{again:?}");
    if again.clean {
        assert_eq!(&log.read(new).expect("appended after recovery").payload[..], record);
    }
    for (lsn, payload) in shown {
        let frame = log.read(lsn).unwrap_or_else(|e| panic!("frame {lsn} was shown, and is gone: {e}"));
        assert_eq!(frame.payload, payload, "frame {lsn} has changed");
    }
}

/// The same damage, to a log that is open already.
fn late(base: &Base, damaged: &Damaged) {
    let storage = Memory::new(&base.image, base.direct, base.block_bytes);
    let log = base::open(&storage);
    let mine: Vec<Lsn> = (0..3)
        .filter_map(|i| base::append(&log, &storage, &vec![i; 700]).and_then(|pending| pending.wait()).ok())
        .collect();
    assert_eq!(mine.len(), 3);
    storage.pump();
    let mut image = storage.image();
    image.retain(|name, _| damaged.image.contains_key(name) || !base.image.contains_key(name));
    for (name, bytes) in &damaged.image {
        if base.image.get(name).is_none_or(|before| before != bytes) {
            image.insert(name.clone(), bytes.clone());
        }
    }
    storage.replace(&image);
    let first = log.first();
    let mut steps = 0;
    for frame in log.reader(first) {
        steps += 1;
        assert!(steps < 1000, "a reader does not end");
        if let Ok(frame) = frame {
            check_frame(base, damaged, frame.lsn, &frame.payload, &mine);
        }
    }
    for lsn in first.get()..=log.flushed().get() {
        if let Ok(frame) = log.read(Lsn::new(lsn)) {
            check_frame(base, damaged, frame.lsn, &frame.payload, &mine);
        }
    }
    let _ = log.verify(|_, _| {});
    let _ = base::append(&log, &storage, b"after").and_then(|pending| pending.wait());
    let _ = log.trim(Lsn::new(base.end));
    storage.pump();
    let _ = log.close(Duration::from_secs(1));
    storage.pump();
}

fn open(base: &Base, damaged: &Damaged, storage: &Memory, mode: RecoveryMode) -> Option<(Log<Memory>, Recovery)> {
    match Log::open_on(storage.clone(), config(mode)) {
        Ok((log, recovery)) => {
            if same(&damaged.image, &base.image) {
                assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{recovery:?}");
                assert!(mode == RecoveryMode::ReadOnly || recovery.end.get() == base.end, "{recovery:?}");
                assert_eq!(recovery.clean, base.left == Left::Clean);
            }
            Some((log, recovery))
        }
        // Nothing can be said without these.
        Err(Error::Control { .. } | Error::FutureVersion { .. } | Error::NotALog { .. } | Error::Foreign { .. }) => {
            None
        }
        // A frame that does not follow the one before it, with a checksum that says it does, cannot be carried on.
        Err(Error::Invalid { .. } | Error::Corrupt { .. }) if damaged.forged => None,
        Err(other) => panic!("{mode:?}: {other:?}"),
    }
}

/// Reads every frame both ways. What can be read is what was written; what cannot is named.
fn read_all(base: &Base, damaged: &Damaged, log: &Log<Memory>, end: Lsn) -> BTreeMap<Lsn, Vec<u8>> {
    let mut shown = BTreeMap::new();
    let first = log.first();
    let bound = base.end + 1000;
    // A claim that is forged may be far beyond anything that is there.
    let last = Lsn::new(end.get().min(first.get().saturating_add(bound)));
    for lsn in first.get()..=last.get() {
        let lsn = Lsn::new(lsn);
        match log.read(lsn) {
            Ok(frame) => {
                assert_eq!(frame.lsn, lsn);
                check_frame(base, damaged, lsn, &frame.payload, &[]);
                shown.insert(lsn, frame.payload.to_vec());
            }
            Err(error) => {
                let told = names(&error, lsn) || (damaged.forged && cannot_be_unpacked(&error));
                assert!(told, "frame {lsn} of {end}: {error:?}");
            }
        }
    }
    let mut next = first;
    let mut steps = 0;
    for frame in log.reader(first) {
        steps += 1;
        assert!(steps < 2 * bound, "a reader does not end");
        match frame {
            Ok(frame) => {
                assert!(frame.lsn == next || damaged.forged, "a reader jumps from {next} to {}", frame.lsn);
                let same = shown.get(&frame.lsn).is_none_or(|payload| *payload == frame.payload);
                assert!(same || damaged.forged, "frame {} is read in two ways", frame.lsn);
                next = frame.lsn.next();
            }
            Err(error) if damaged.forged && cannot_be_unpacked(&error) => next = next.next(),
            Err(error) => {
                let lsns = error.lsns().unwrap_or_else(|| panic!("a reader stops at {next}: {error:?}"));
                assert!(lsns.end > next, "a reader stands still at {next}: {error:?}");
                next = lsns.end;
            }
        }
    }
    assert!(next > end, "a reader ends at {next}, the log at {end}");
    shown
}

/// A frame that says it is compressed, to a reader that does not unpack it: no damage. None was ever written here.
fn cannot_be_unpacked(error: &Error) -> bool {
    matches!(error, Error::Invalid { .. } | Error::RecordTooLarge { .. })
}

fn names(error: &Error, lsn: Lsn) -> bool {
    error.lsns().is_some_and(|lsns| lsns.contains(lsn))
}

fn check_frame(base: &Base, damaged: &Damaged, lsn: Lsn, payload: &[u8], mine: &[Lsn]) {
    if damaged.forged || mine.contains(&lsn) {
        return;
    }
    let now = base.frames.get(&lsn.get()).is_some_and(|(written, _)| written == payload);
    let once = base.cut.get(&lsn.get()).is_some_and(|written| written == payload);
    let trimmed = lsn.get() <= base.trimmed;
    assert!(now || once || trimmed, "frame {lsn} holds {} bytes that were never written to it", payload.len());
}

/// Every frame that some valid header or marker, wherever a scan can meet it, says was flushed is before the end; if
/// not, there is damage, and it was told.
fn check_nothing_dropped(base: &Base, damaged: &Damaged, recovery: &Recovery) {
    if damaged.forged || !recovery.damage.is_empty() || !recovery.missing_segments.is_empty() {
        return;
    }
    let newest = &base.starts.last().expect("a base holds frames").0;
    let whole = damaged.image.get(newest).is_some_and(|bytes| bytes.len() >= 64 * 1024);
    let control = damaged.image.get("control") == base.image.get("control");
    // After a clean close nothing stands behind the end, and whoever reads a frame before it is told what became of it.
    assert!(whole || !control || recovery.clean, "the newest segment is gone, and nobody is told: {recovery:?}");
    let mut claims = Lsn::ZERO;
    for (name, bytes) in &damaged.image {
        let Some(segment) = base::number(name).filter(|_| base.image.contains_key(name)) else { continue };
        let block = u64::from(base.block_bytes);
        let mut at = block;
        let mut frames = 0;
        while at + (door::FRAME_HEADER_BYTES as u64) <= bytes.len() as u64 {
            let rest = &bytes[at as usize..];
            match door::decode_frame(base::place(segment).seed(at), rest) {
                Some(facts) => {
                    claims = claims.max(claim(base, &facts, rest));
                    at += facts.frame_bytes();
                    frames += 1;
                }
                None => at = (at / block + 1) * block,
            }
        }
        // The log's end stood there, and nothing of it is left, not even what says that nothing was ever there. Where the
        // control file is gone too, that this is all there is to go by is told. Of a segment that was made after the
        // control file was written nothing is known: what rots there is no loss that anybody can see.
        let is_rotten = bytes.get(..HEADER_BYTES) != base.image[name].get(..HEADER_BYTES) && knows(base, damaged, name);
        assert!(
            name != newest || frames > 0 || !is_rotten || recovery.control_rebuilt,
            "a rotten segment passes for a blank one: {recovery:?}"
        );
    }
    let end = recovery.end;
    assert!(end >= claims, "frame {claims} is claimed flushed by what is left, the log ends at {end}: {recovery:?}");
}

/// The control file that is left is of a moment at which the segment was there.
fn knows(base: &Base, damaged: &Damaged, name: &str) -> bool {
    let says = |image: &Image| image.get("control").and_then(|bytes| door::decode_control(bytes));
    let now = says(&damaged.image);
    base.earlier.iter().chain([&base.image]).any(|image| image.contains_key(name) && says(image) == now)
}

/// What a frame proves to be flushed of the log as it was left: nothing, if a truncation removed it.
fn claim(base: &Base, facts: &door::Facts, frame: &[u8]) -> Lsn {
    let stands = |lsn: Lsn, chain: Chain| base.frames.get(&lsn.get()).is_some_and(|(_, there)| *there == chain);
    match facts.kind {
        1 if stands(facts.lsn, facts.chain) => facts.flushed_through,
        130 => {
            let payload =
                frame.get(door::FRAME_HEADER_BYTES..).and_then(|rest| rest.get(..facts.payload_bytes as usize));
            match payload.filter(|bytes| door::crc32c(bytes) == facts.payload_crc).and_then(door::decode_marker) {
                Some((lsn, chain, _)) if stands(lsn, chain) => lsn,
                _ => Lsn::ZERO,
            }
        }
        _ => Lsn::ZERO,
    }
}

fn same(a: &Image, b: &Image) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (Arc::ptr_eq(a.1, b.1) || a.1 == b.1))
}
