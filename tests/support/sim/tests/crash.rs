//! Bytes: lost, kept, torn.

use super::*;

#[test]
fn what_is_not_flushed_may_be_lost_and_what_is_flushed_never() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let (disk, storage, file) = disk_with_file(options);
        storage.write(&file, 0, &blocks(2, 1)).unwrap();
        assert_eq!(heads(&disk), [2, 1, 1, 1], "readers see it");
        assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1], vec![2, 1, 1, 1]]));
        storage.flush(&file).unwrap();
        assert_eq!(states(&disk), BTreeSet::from([vec![2, 1, 1, 1]]));
    }
}

#[test]
fn a_flush_covers_its_file_only() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    disk.write_file("other", &[1; 4096]);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    let other = storage.open("other").unwrap();
    storage.write(&other, 0, &blocks(2, 1)).unwrap();
    storage.flush(&other).unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1], vec![2, 1, 1, 1]]));
    assert_eq!(disk.crash(&CrashChoice::lost()).read_file("other"), [2; 4096]);
}

#[test]
fn a_flushed_write_is_durable_alone() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    storage.write_flushed(&file, 4096, &[Arc::new(blocks(3, 1)), Arc::new(blocks(4, 1))]).unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![1, 3, 4, 1], vec![2, 3, 4, 1]]));
}

#[test]
fn a_durable_overwrite_is_never_undone_by_an_older_write() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 3)).unwrap();
    storage.write_flushed(&file, 4096, &[Arc::new(blocks(3, 1))]).unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![1, 3, 1, 1], vec![2, 3, 2, 1]]));
    for state in disk.crash_states(CrashOptions::default()) {
        assert_eq!(heads(&state.disk)[1], 3, "{state}");
    }
}

#[test]
fn small_sets_are_enumerated_exhaustively() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    for block in 0..4 {
        storage.write(&file, block * 4096, &blocks(2, 1)).unwrap();
    }
    let expected: BTreeSet<Vec<u8>> =
        (0..16u8).map(|bits| (0..4).map(|block| 1 + (bits >> block & 1)).collect()).collect();
    assert_eq!(states(&disk), expected);
    let few = CrashOptions { exhaustive_up_to: 3, random_subsets: 0, torn_writes: 0, ..CrashOptions::default() };
    let heads: Vec<Vec<u8>> = disk.crash_states(few).map(|state| heads(&state.disk)).collect();
    assert_eq!(heads.len(), heads.iter().collect::<BTreeSet<_>>().len(), "no state twice: {heads:?}");
    // None, four prefixes, three single losses and three single survivors that are not prefixes.
    assert_eq!(heads.len(), 11);
}

#[test]
fn torn_writes_are_old_or_new_in_every_sector_and_every_cut_is_tried() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 4096, &blocks(2, 2)).unwrap();
    let options = CrashOptions { garbage_per_write: 0, ..CrashOptions::default() };
    let (mut prefixes, mut suffixes) = (BTreeSet::new(), BTreeSet::new());
    for state in disk.crash_states(options) {
        let bytes = state.disk.read_file("f");
        assert!(bytes[..4096].iter().chain(&bytes[3 * 4096..]).all(|b| *b == 1), "{state}");
        let sectors: Vec<u8> = bytes[4096..3 * 4096].chunks(512).map(|sector| sector[0]).collect();
        for (sector, head) in bytes[4096..3 * 4096].chunks(512).zip(&sectors) {
            assert!(sector.iter().all(|b| b == head) && [1, 2].contains(head), "{state}");
        }
        let new = sectors.iter().take_while(|head| **head == 2).count();
        if sectors[new..].iter().all(|head| *head == 1) {
            prefixes.insert(new);
        }
        let old = sectors.iter().take_while(|head| **head == 1).count();
        if sectors[old..].iter().all(|head| *head == 2) {
            suffixes.insert(old);
        }
    }
    assert_eq!(prefixes, (0..=16).collect());
    assert_eq!(suffixes, (0..=16).collect());
}

#[test]
fn garbage_stays_inside_the_write() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT_512);
    disk.write_file("older", &[9; 4 * 4096]);
    storage.write(&file, 512, &buffer(&[2; 5120])).unwrap();
    let mut seen = BTreeSet::new();
    for state in disk.crash_states(CrashOptions { garbage_per_write: 99, ..CrashOptions::default() }) {
        let bytes = state.disk.read_file("f");
        assert!(bytes[..512].iter().chain(&bytes[5632..]).all(|b| *b == 1), "{state}");
        seen.extend(bytes[512..5632].iter().copied().filter(|b| ![1, 2].contains(b)));
    }
    assert!(seen.contains(&0) && seen.contains(&0xFF) && seen.contains(&9) && seen.len() > 100, "all fills");
}

#[test]
fn a_length_may_be_lost_or_stay_without_its_bytes() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 4 * 4096, &blocks(2, 1)).unwrap();
    let old = vec![1; 4];
    let with = |byte: u8| old.iter().copied().chain([byte]).collect::<Vec<u8>>();
    assert_eq!(states(&disk), BTreeSet::from([old.clone(), with(0), with(2)]));
    storage.allocate(&file, 6 * 4096).unwrap();
    assert!(states(&disk).contains(&[1, 1, 1, 1, 0, 0][..]), "allocated, not written");
    storage.flush(&file).unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1, 2, 0]]));
}

#[test]
fn a_misdirected_write_hits_only_what_is_volatile() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    storage.write(&file, 4096, &blocks(3, 1)).unwrap();
    let options = CrashOptions { misdirected: true, ..CrashOptions::default() };
    let seen: BTreeSet<Vec<u8>> = disk.crash_states(options).map(|state| heads(&state.disk)).collect();
    assert!(seen.contains(&[1, 2, 1, 1][..]) && seen.contains(&[3, 1, 1, 1][..]));
    assert!(seen.iter().all(|heads| heads[2..] == [1, 1]));
}

#[test]
fn a_write_in_flight_is_in_no_reader_and_in_some_states() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let _witness = Witness::attached(&storage);
    let file = Arc::new(file);
    submit(&storage, &file, 7, 0, 2);
    storage.flush(&file).unwrap();
    assert_eq!(heads(&disk), [1, 1, 1, 1]);
    assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1], vec![2, 1, 1, 1]]), "a flush does not cover it");
    disk.complete(7, Outcome::Ok);
    assert_eq!(states(&disk), BTreeSet::from([vec![2, 1, 1, 1]]));
}

#[test]
fn the_journal_has_the_states_of_every_moment() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    for (step, byte) in [5, 6, 7].into_iter().enumerate() {
        storage.write_flushed(&file, 4096, &[Arc::new(blocks(byte, 1))]).unwrap();
        disk.note(step as u64 + 1);
    }
    let journal = disk.journal();
    let mut moments = BTreeSet::new();
    for state in CrashStates::all(&journal, CrashOptions { garbage_per_write: 0, ..CrashOptions::default() }) {
        let acknowledged = journal.highest_note(state.at).unwrap_or(0);
        let oldest_allowed = [1, 5, 6, 7][acknowledged as usize];
        let heads = heads(&state.disk);
        assert!(heads.is_empty() || heads[1] >= oldest_allowed, "{state}");
        let again = journal.crash(state.at, &state.choice);
        assert_eq!(again.content_hash(), state.disk.content_hash(), "{state}");
        moments.insert(state.at);
    }
    assert_eq!(moments.len(), journal.crash_points().len());
    assert!(moments.len() >= 7, "before and within each write, and at the end: {moments:?}");
}

#[test]
fn a_journal_can_be_cut_and_goes_on() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    let before = disk.journal().end();
    disk.cut_journal();
    assert_eq!((disk.journal().first(), disk.journal().ops().count()), (before, 0));
    assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1], vec![2, 1, 1, 1]]), "still volatile");
    storage.flush(&file).unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![2, 1, 1, 1]]));
}

#[test]
fn a_crashed_disk_can_crash_again() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    let second = disk.crash(&CrashChoice::lost());
    let storage = second.open();
    let file = storage.open("f").unwrap();
    storage.write(&file, 4096, &blocks(3, 1)).unwrap();
    assert_eq!(states(&second), BTreeSet::from([vec![1, 1, 1, 1], vec![1, 3, 1, 1]]));
    assert_eq!(heads(&disk), [2, 1, 1, 1], "the first disk is as it was");
}

#[test]
fn random_states_are_the_same_for_the_same_seed() {
    let trace = |seed: u64| {
        let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
        for byte in 2..20 {
            storage.write(&file, u64::from(byte % 3) * 4096, &blocks(byte, 2)).unwrap();
        }
        let states = CrashStates::random(&disk.journal(), seed, 200);
        let hashes: Vec<u64> = states.map(|state| state.disk.content_hash()).collect();
        (disk.trace_hash(), hashes)
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1).1, trace(2).1);
}

#[test]
fn states_can_be_checked_on_many_threads() {
    fn is_shareable<T: Send + Sync>() {}
    is_shareable::<(SimDisk, SimStorage, Journal, CrashState)>();
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    let journal = disk.journal();
    let points = journal.crash_points();
    let count = |at: OpNumber| CrashStates::new(&journal, at, CrashOptions::default()).count();
    let apart: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = points.iter().map(|at| scope.spawn(|| count(*at))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(apart, CrashStates::all(&journal, CrashOptions::default()).count());
}

#[test]
fn a_state_says_what_happened() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 2)).unwrap();
    storage.create("g").unwrap();
    let at = disk.journal().end();
    let texts: Vec<String> = disk.crash_states(CrashOptions::default()).map(|state| state.to_string()).collect();
    let expected = format!(
        "power lost before operation {at}; 1 of 1 name changes kept; #1 f@0+8192: Prefix(512) — journal.crash({at}, \
         &CrashChoice {{ names: Names::First(1), sizes: Sizes::AsWritten, \
         writes: Writes::One {{ index: 0, fate: Fate::Prefix(512), others: Others::All }} }})"
    );
    assert!(texts.contains(&expected), "{texts:#?}");
}
