//! Negative controls: a toy log whose every shortcut must be caught, and that passes without one.

use super::*;

const RECORDS: u64 = 12;
const BLOCK: usize = 4096;

/// What the toy forgets.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Shortcut {
    Nothing,
    AckBeforeFlush,
    NoSyncDir,
    NoChecksum,
    RetriedFlush,
    LyingDisk,
}

/// A record: a block that holds its number everywhere, and at its end a checksum of sorts.
fn record(number: u64) -> Buffer {
    let mut bytes = vec![number as u8; BLOCK];
    let sum = sum(&bytes[..BLOCK - 8]);
    bytes[BLOCK - 8..].copy_from_slice(&sum.to_le_bytes());
    buffer(&bytes)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// Appends records to a new file and notes each when it is acknowledged.
fn write_log(disk: &SimDisk, shortcut: Shortcut) -> io::Result<()> {
    let storage = disk.open();
    let file = storage.create("f")?;
    if shortcut != Shortcut::NoSyncDir {
        storage.sync_dir()?;
    }
    disk.set_flushes_lie(shortcut == Shortcut::LyingDisk);
    for number in 1..=RECORDS {
        if shortcut == Shortcut::RetriedFlush && number == 5 {
            disk.fail(Fault::new(OpKind::Flush, 0, errno::EIO));
        }
        storage.write(&file, (number - 1) * BLOCK as u64, &record(number))?;
        if shortcut == Shortcut::AckBeforeFlush {
            disk.note(number);
        }
        storage.flush(&file).or_else(|_| storage.flush(&file))?;
        disk.note(number);
    }
    Ok(())
}

/// How many records a crash image holds, and whether each is what was written.
fn recover(disk: &SimDisk, shortcut: Shortcut) -> Result<u64, String> {
    if disk.names().is_empty() {
        return Ok(0);
    }
    let bytes = disk.read_file("f");
    let mut count = 0;
    for block in bytes.chunks_exact(BLOCK) {
        let is_valid = block[BLOCK - 8..] == sum(&block[..BLOCK - 8]).to_le_bytes();
        let looks_written = block[0] as u64 == count + 1;
        if !(is_valid || shortcut == Shortcut::NoChecksum && looks_written) {
            break;
        }
        count += 1;
        if block[..BLOCK - 8] != record(count)[..BLOCK - 8] {
            return Err(format!("record {count} was never written"));
        }
    }
    Ok(count)
}

/// The first state that shows the shortcut, in its own words; and how many states there were.
fn check(shortcut: Shortcut) -> (usize, Option<String>) {
    let disk = SimDisk::new(DiskOptions::BUFFERED);
    write_log(&disk, shortcut).unwrap();
    let journal = disk.journal();
    let mut states = 0;
    for state in CrashStates::all(&journal, CrashOptions::default()) {
        states += 1;
        let acknowledged = journal.highest_note(state.at).unwrap_or(0);
        match recover(&state.disk, shortcut) {
            Ok(found) if found >= acknowledged => {}
            Ok(found) => return (states, Some(format!("{found} of {acknowledged} acknowledged: {state}"))),
            Err(why) => return (states, Some(format!("{why}: {state}"))),
        }
    }
    (states, None)
}

#[test]
fn a_careful_log_passes_every_state() {
    let (states, failure) = check(Shortcut::Nothing);
    assert_eq!(failure, None);
    assert!(states > 300, "only {states} states");
}

#[test]
fn every_shortcut_is_caught() {
    use Shortcut::*;
    for shortcut in [AckBeforeFlush, NoSyncDir, NoChecksum, RetriedFlush, LyingDisk] {
        let (states, failure) = check(shortcut);
        assert!(failure.is_some(), "{shortcut:?} passed {states} states");
    }
}

#[test]
fn random_states_catch_them_too() {
    use Shortcut::*;
    for shortcut in [AckBeforeFlush, NoSyncDir, RetriedFlush, LyingDisk] {
        let disk = SimDisk::new(DiskOptions::DIRECT);
        write_log(&disk, shortcut).unwrap();
        let journal = disk.journal();
        let caught = CrashStates::random(&journal, 1, 2000).any(|state| {
            let acknowledged = journal.highest_note(state.at).unwrap_or(0);
            recover(&state.disk, shortcut).is_ok_and(|found| found < acknowledged)
        });
        assert!(caught, "{shortcut:?}");
    }
}
