use seawall::{BatchId, LedgerId};

use super::*;
use crate::sqlite::SqliteConfig;

const LEDGER: LedgerId = LedgerId::new(7);

fn key(batch: u64) -> BatchKey {
    BatchKey { ledger: LEDGER, batch: BatchId::new(batch) }
}

fn sink(dir: &tempfile::TempDir) -> SqliteSink {
    let mut sink = SqliteSink::open(&dir.path().join("words.sqlite"), SqliteConfig::default()).unwrap();
    sink.claim(LEDGER, false).unwrap();
    sink
}

fn records(lines: &[&'static str]) -> Vec<Result<&'static str, SinkError>> {
    lines.iter().map(|line| Ok(*line)).collect()
}

#[test]
fn words_are_what_stands_between_ascii_whitespace() {
    let split = |record: &'static [u8]| words(record).collect::<Vec<_>>();
    assert_eq!(split(b"to be  or\tnot\r\n to\x0cbe"), [&b"to"[..], b"be", b"or", b"not", b"to", b"be"]);
    assert_eq!(split(b""), [b""; 0]);
    assert_eq!(split(b" \t\r\n\x0c"), [b""; 0]);
    // Neither a vertical tab nor a space beyond ASCII parts words.
    assert_eq!(split(b"a\x0bb"), [b"a\x0bb"]);
    assert_eq!(split("a\u{a0}b".as_bytes()), ["a\u{a0}b".as_bytes()]);
    assert_eq!(split(b"\xff \xfe"), [b"\xff", b"\xfe"]);
}

#[test]
fn words_are_counted() {
    let counts: Counts = ["to be or not", "to be", ""].into_iter().collect();
    assert_eq!([counts.get(b"to"), counts.get(b"or"), counts.get(b"To"), counts.get(b"")], [2, 1, 0, 0]);
}

#[test]
fn batches_add_up_and_a_batch_that_runs_again_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let one = || records(&["to be", "or not to be"]);
    let stored = run_batch(&mut sink(&dir), key(1), one()).unwrap();
    assert_eq!(stored, Stored::New { token: "6 words, 4 different".into() });
    for _ in 0..3 {
        let mut sink = sink(&dir);
        assert_eq!(run_batch(&mut sink, key(1), one()).unwrap().token(), stored.token());
        run_batch(&mut sink, key(2), records(&["be that as it may"])).unwrap();
    }
    let table = top(sink(&dir).connection(), 3).unwrap();
    assert_eq!(table, [(b"be".to_vec(), 3), (b"to".to_vec(), 2), (b"as".to_vec(), 1)]);
    assert_eq!(top(sink(&dir).connection(), 100).unwrap().len(), 8);
}

/// Text and bytes that are no text stay what they are, and two words stay two.
#[test]
fn words_that_are_no_text_are_counted_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&dir);
    for batch in 1..=2 {
        let records: [Result<&[u8], SinkError>; 1] = [Ok(b"\xff 1 01 1.0 \xffa \x00 \xc3\xbc")];
        run_batch(&mut sink, key(batch), records).unwrap();
    }
    let table = top(sink.connection(), 100).unwrap();
    let words: Vec<&[u8]> = table.iter().map(|(word, _)| &word[..]).collect();
    assert_eq!(words, [&b"\x00"[..], b"01", b"1", b"1.0", b"\xc3\xbc", b"\xff", b"\xffa"]);
    assert!(table.iter().all(|(_, count)| *count == 2));
}

#[test]
fn a_record_that_cannot_be_read_ends_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&dir);
    let lost = SinkError::Damaged { what: "a record".into() };
    let error = run_batch(&mut sink, key(1), [Ok("one"), Err(lost), Ok("two")]).unwrap_err();
    assert!(matches!(error, SinkError::Damaged { .. }));
    assert!(top(sink.connection(), 1).is_err(), "nothing was ever counted");
    assert!(matches!(run_batch(&mut sink, key(1), records(&["one two"])).unwrap(), Stored::New { .. }));
}

#[test]
fn a_batch_without_a_word_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&dir);
    assert_eq!(run_batch(&mut sink, key(1), records(&["", " "])).unwrap().token(), "0 words, 0 different");
    assert!(matches!(run_batch(&mut sink, key(1), records(&[])).unwrap(), Stored::AlreadyThere { .. }));
}
