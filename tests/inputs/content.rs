//! What happens to a file's content: half lines, ends of files, changes, limits, records of other kinds.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use seawall::ledger::{InputError, Replayable};
use seawall::node::{DirectorySource, DirectorySourceConfig, FilesBy, Finished, RecordRule};

use crate::bed::{Bed, all, is_changed, prompt, read, share, tick};

fn latest(bed: &Bed) -> (u64, u64) {
    let latest = bed.source.latest(&bed.ledger.known()).unwrap();
    (latest.bytes, latest.waiting_bytes)
}

#[test]
fn a_line_without_an_end_waits() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n2\nha");
    assert_eq!(latest(&bed), (4, 2));
    assert_eq!(bed.take(), ["1", "2"]);
    assert_eq!(latest(&bed), (0, 2));
    assert!(bed.take().is_empty());
    bed.append("a", "lf\r\n\n");
    assert_eq!(latest(&bed), (7, 0));
    assert_eq!(bed.take(), ["half\r", ""], "a line is what is between the delimiters");
    assert_eq!(latest(&bed), (0, 0));
}

#[test]
fn a_line_without_an_end_ends_with_an_unchanged_file() {
    let time = Duration::from_millis(150);
    let mut bed = Bed::new(DirectorySourceConfig { finished: Finished::UnchangedFor(time), ..prompt() });
    bed.append("a", "1\nrest");
    // A writer can set this one.
    let file = fs::File::options().append(true).open(bed.path("a")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(bed.take(), ["1"]);
    assert_eq!(latest(&bed), (0, 4));
    std::thread::sleep(time + Duration::from_millis(50));
    assert_eq!(latest(&bed), (4, 0));
    assert_eq!(bed.take(), ["rest"]);
    bed.append("a", " of it\n");
    assert_eq!(bed.take(), [" of it"], "what comes after the end is a record of its own");
}

#[test]
fn a_line_without_an_end_ends_with_a_marker() {
    [FilesBy::Birth, FilesBy::Inode].into_iter().for_each(ends_with_a_marker);
}

fn ends_with_a_marker(files_by: FilesBy) {
    let config = DirectorySourceConfig { finished: Finished::Marker, depth_max: 1, files_by, ..prompt() };
    let mut bed = Bed::new(config);
    fs::create_dir(bed.path("day")).unwrap();
    bed.append("old.done", "");
    bed.append("day/_SUCCESS", "");
    tick();
    bed.append("a", "1\nrest");
    bed.append("old", "old");
    bed.append("day/b", "b");
    assert_eq!(bed.take(), ["1"], "a marker that is older than the file speaks of another one");
    bed.append("a.done", "not input\n");
    assert_eq!(bed.take(), ["rest"]);
    bed.append("day/_SUCCESS", "now");
    bed.append("old.done", "now");
    let mut both = bed.take();
    both.sort();
    assert_eq!(both, ["b", "old"]);
}

#[test]
fn a_shortened_file_stops_the_plan_and_its_batch() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n2\n3\n");
    let batch = bed.allocate().unwrap();
    fs::File::options().write(true).open(bed.path("a")).unwrap().set_len(2).unwrap();
    let told = is_changed(bed.read(batch));
    assert!(told.contains("shorter"), "{told}");
    let told = is_changed(bed.try_plan(all()));
    assert!(told.contains("/a, 2..6") && told.contains("shortened"), "{told}");
    is_changed(bed.source.latest(&bed.ledger.known()));
}

#[test]
fn a_file_shortened_between_the_look_and_the_plan_is_told_at_once() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n2\n");
    bed.take();
    bed.append("a", "3\n");
    let path = bed.path("a");
    let source = DirectorySource::open(bed.dir.path(), prompt()).unwrap().filtered(move |_| {
        // After its size was seen.
        fs::File::options().write(true).open(&path).unwrap().set_len(2).unwrap();
        true
    });
    bed.source = source;
    is_changed(bed.try_plan(all()));
}

#[test]
fn a_rewritten_file_stops_its_batch() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n2\n3\n");
    let batch = bed.allocate().unwrap();
    let file = fs::File::options().write(true).open(bed.path("a")).unwrap();
    file.write_all_at(b"X", 2).unwrap();
    is_changed(bed.source.read(&bed.ledger.ranges(batch)[0]));
    file.write_all_at(b"2", 2).unwrap();
    assert_eq!(bed.read(batch).unwrap(), ["1", "2", "3"]);
}

#[test]
fn no_changed_record_is_shown_even_when_it_changes_between_two_looks() {
    let mut bed = Bed::prompt();
    let line = format!("{}\n", "x".repeat(1023));
    bed.append("a", line.repeat(5 * 1024));
    let batch = bed.allocate().unwrap();
    let range = &bed.ledger.ranges(batch)[0];
    let mut records = bed.source.read(range).unwrap();
    assert_eq!(records.next().unwrap().unwrap().bytes.len(), 1023);
    let file = fs::File::options().write(true).open(bed.path("a")).unwrap();
    file.write_all_at(b"y", (3 << 20) + 100).unwrap();
    let mut shown = 1;
    let error = loop {
        match records.next().expect("ends with an error") {
            Ok(record) => assert!(record.bytes.iter().all(|byte| *byte == b'x')),
            Err(error) => break error,
        }
        shown += 1;
    };
    is_changed(Err::<(), _>(error));
    assert_eq!(shown, 3 * 1024, "the pieces before are what they were");
    assert!(records.next().is_none());
    is_changed(bed.source.read(range));
}

#[test]
fn records_cross_pieces() {
    let mut bed = Bed::prompt();
    let lengths = [0, 1, (1 << 20) - 2, 1 << 20, 3_000_000, 5, (1 << 20) - 1];
    let lines: Vec<String> = lengths.iter().map(|n| "z".repeat(*n)).collect();
    bed.append("a", lines.join("\n") + "\n");
    assert_eq!(bed.take(), lines);
}

#[test]
fn other_records_of_the_same_bytes_are_another_content() {
    let mut bed = Bed::prompt();
    bed.append("a", "1;2\n3;4\n");
    let batch = bed.allocate().unwrap();
    let records = RecordRule::Lines { delimiter: b';' };
    bed.restart(DirectorySourceConfig { records, ..prompt() });
    is_changed(bed.read(batch));
    bed.restart(prompt());
    assert_eq!(bed.read(batch).unwrap(), ["1;2", "3;4"]);
}

#[test]
fn delimiters_can_be_chosen() {
    let mut bed = Bed::new(DirectorySourceConfig { records: RecordRule::Lines { delimiter: 0 }, ..prompt() });
    bed.append("a", "1\n\0two\0x");
    assert_eq!(bed.take(), ["1\n", "two"]);
}

#[test]
fn records_of_fixed_length() {
    let (records, finished) = (RecordRule::Fixed { bytes: 4 }, Finished::Marker);
    let mut bed = Bed::new(DirectorySourceConfig { records, finished, ..prompt() });
    bed.append("a", "aaaabbbbcc");
    assert_eq!(latest(&bed), (8, 2));
    assert_eq!(bed.take(), ["aaaa", "bbbb"]);
    bed.append("a", "ccd");
    assert_eq!(bed.take(), ["cccc"]);
    bed.append("a.done", "");
    assert_eq!(bed.take(), ["d"], "the last one may be shorter");
}

#[test]
fn whole_files_as_records() {
    let (records, finished) = (RecordRule::Whole, Finished::Marker);
    let mut bed = Bed::new(DirectorySourceConfig { records, finished, record_bytes_max: 10, ..prompt() });
    bed.append("a", "one\ntwo");
    bed.append("empty", "");
    bed.append("empty.done", "");
    assert!(bed.take().is_empty());
    assert_eq!(latest(&bed), (0, 7));
    bed.append("a.done", "");
    assert_eq!(latest(&bed), (7, 0));
    assert_eq!(bed.take(), ["one\ntwo"]);
    bed.append("b", "0123456789-");
    bed.append("b.done", "");
    assert!(matches!(bed.try_plan(all()), Err(InputError::Limit { bytes: 11, limit_bytes: 10, .. })));
}

#[test]
fn a_record_above_the_limit_is_told_and_nothing_is_lost() {
    for line in ["12345\n", "12345"] {
        let config = DirectorySourceConfig { record_bytes_max: 4, ..prompt() };
        let mut bed = Bed::new(config.clone());
        bed.append("a", "1\n1234\n");
        bed.append("a", line);
        assert_eq!(bed.take(), ["1", "1234"], "what is before it");
        match bed.try_plan(all()) {
            Err(e @ InputError::Limit { limit_bytes: 4, field: "record_bytes_max", .. }) => {
                let told = e.to_string();
                assert!(told.contains("/a: the record at 7"), "{told}");
            }
            other => panic!("{other:?}"),
        }
        bed.restart(DirectorySourceConfig { record_bytes_max: 5, ..config });
        bed.append("a", "\n");
        assert_eq!(bed.take()[0], "12345");
    }
}

#[test]
fn shares_cut_between_records() {
    let mut bed = Bed::prompt();
    bed.append("a", "111\n222\n333\n444\n");
    let cases = [(share(1, 100, 9), 1), (share(9, 7, 9), 2), (share(9, 1, 9), 1)];
    for (share, expected) in cases {
        let plan = bed.try_plan(share).unwrap();
        assert_eq!((plan.ranges[0].records, plan.has_more), (expected, true), "{share:?}");
        assert_eq!(read(&bed.source, &plan.ranges[0]).unwrap().len() as u64, expected);
    }
    let none = seawall::ledger::Share { takes_one: false, ..share(9, 2, 9) };
    let plan = bed.try_plan(none).unwrap();
    assert!(plan.ranges.is_empty() && plan.has_more, "the smallest piece only where it must be taken");
    let exact = bed.try_plan(share(4, 12, 1)).unwrap();
    assert_eq!((exact.ranges[0].records, exact.has_more), (4, false));
    bed.ledger.allocate(exact);
}

#[test]
fn a_file_that_grows_while_it_is_planned_is_planned_up_to_what_was_seen() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut bed = Bed::prompt();
    bed.append("a", "0\n");
    let (path, stop) = (bed.path("a"), AtomicBool::new(false));
    let mut taken = Vec::new();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 1;
            while !stop.load(Ordering::Relaxed) && n < 50_000 {
                // In two writes: a look may see half a line.
                crate::bed::append(&path, n.to_string().as_bytes());
                crate::bed::append(&path, b"\n");
                n += 1;
            }
            n
        });
        for _ in 0..20 {
            taken.extend(bed.take());
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    taken.extend(bed.take());
    assert_eq!(taken, (0..written).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_name_too_long_for_a_marker_of_its_own_is_a_file_like_others() {
    let mut bed = Bed::new(DirectorySourceConfig { finished: Finished::Marker, ..prompt() });
    bed.append(&"x".repeat(252), "1\n2");
    assert_eq!(bed.take(), ["1"]);
    bed.append("_SUCCESS", "");
    assert_eq!(bed.take(), ["2"]);
}

#[test]
fn markers_are_never_begun() {
    let mut bed = Bed::new(DirectorySourceConfig { finished: Finished::Marker, ignored_prefixes: vec![], ..prompt() });
    for name in ["_SUCCESS", "a.done", "_a"] {
        bed.append(name, format!("{name}\n"));
    }
    assert_eq!(bed.take(), ["_a"]);
}
