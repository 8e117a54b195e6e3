//! `ingest`: every byte once, whatever happens to the process.

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, Random, Running, code, command, flip_bit_at, seawall, seawall_with_input, text_file};

/// The offset of an event of this kind.
fn offset(event: &Value, kind: &str) -> Option<u64> {
    (event["event"] == kind).then(|| event["offset"].as_u64().unwrap())
}

fn first_offset(events: &[Value]) -> u64 {
    offset(&events[0], "start").unwrap()
}

/// The last offset that was reported durable.
fn last_offset(events: &[Value]) -> u64 {
    events.last().unwrap()["offset"].as_u64().unwrap()
}

#[track_caller]
fn expect_whole(log: &str, original: &str) {
    let raw = seawall(&["dump", "--log", log, "--format", "raw"]).expect(0).stdout;
    assert!(raw == std::fs::read(original).unwrap(), "the log's bytes are not the file's");
    let verified = seawall(&["verify", "--log", log, "--against", original, "--format", "json"]).expect(0);
    let verdict = &verified.json()[0];
    assert_eq!(verdict["verdict"], "sound");
    assert_eq!(verdict["comparison"]["not_in_log_bytes"], 0);
}

/// A file that lost its end while it was read was complete, and `--close` said for good that nothing follows.
#[test]
fn a_file_that_becomes_shorter_is_refused_and_not_closed() {
    let place = Place::new();
    let log = place.arg("log");
    let bytes = text_file(700_000, 3);
    let file = place.write("file", &bytes);
    let mut ingest = command(&["ingest", "--log", &log, &file, "--close", "--outstanding", "1", "--format", "json"]);
    ingest.args(["--report-every", "1ms"]);
    let mut run = Running::start(ingest);
    run.lines_until(|line| line.contains("\"start\""));
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(650_000).unwrap();
    while run.line().is_some() {}
    assert_eq!(code(run.child.wait().unwrap()), 4);
    // It is gone on with when it has its end again.
    let file = place.write("file", &bytes);
    seawall(&["ingest", "--log", &log, &file, "--close"]).expect(0);
    seawall(&["verify", "--log", &log, "--against", &file]).expect(0);
}

/// Appends would go on by themselves, but the command had ended.
#[test]
fn a_full_log_says_how_a_command_goes_on() {
    let place = Place::new();
    let file = place.write("file", text_file(1_000_000, 3));
    let size = "segment_bytes_min = \"64 KiB\"\nsegment_bytes_max = \"64 KiB\"\nbyte_limit = \"256 KiB\"\n";
    let config = place.write("small.toml", size);
    let ended = seawall(&["ingest", "--log", &place.arg("log"), &file, "--config", &config]).expect(1);
    let told = ["byte_limit", "run the command again"];
    assert!(told.iter().all(|what| ended.stderr.contains(what)), "{}", ended.stderr);
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was() {
    const KILLS: usize = 8;
    let place = Place::new();
    let original = place.write("original.txt", text_file(20_000_000, 1));
    let length = std::fs::metadata(&original).unwrap().len();
    let log = place.arg("log");
    let mut random = Random::new(2);
    let mut reported = 0;
    let mut kills = 0;
    let args = ["ingest", "--log", &log, &original, "--format", "json", "--report-every", "1ms", "--quiet"];
    while kills < KILLS {
        let mut run = Running::start(command(&args));
        let began = Instant::now();
        // A kill between two reports, somewhere in the first part of what is left: a quick disk must not be done first.
        let start = first_offset(&[serde_json::from_str(&run.line().unwrap()).unwrap()]);
        assert!(start >= reported, "{reported} was reported durable, the next run begins at {start}");
        let until = start + random.below((length - start) / (2 * (KILLS - kills) as u64));
        let mut events = Vec::new();
        while let Some(line) = run.line() {
            events.push(serde_json::from_str::<Value>(&line).unwrap());
            if last_offset(&events) >= until || began.elapsed() > support::PATIENCE {
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(3_000)));
        run.child.kill().unwrap();
        // What it still said before it died counts.
        while let Some(line) = run.line() {
            events.extend(serde_json::from_str::<Value>(&line));
        }
        run.child.wait().unwrap();
        reported = events.iter().filter_map(|event| offset(event, "durable")).max().unwrap_or(start).max(reported);
        kills += 1;
        // What was proven is sound, also before anybody opens the log for appending again.
        seawall(&["verify", "--log", &log, "--against", &original]).expect(0);
    }
    let events = seawall(&args).expect(0).json();
    assert!(first_offset(&events) >= reported && first_offset(&events) < length, "the last run has something to do");
    assert_eq!(last_offset(&events), length);
    expect_whole(&log, &original);
}

#[test]
fn a_second_run_adds_nothing_and_a_grown_file_goes_on_behind_an_unfinished_line() {
    let place = Place::new();
    let original = place.write("grows.log", "one\ntwo\nthr");
    let log = place.arg("log");
    let args = ["ingest", "--log", &log, &original, "--format", "json"];
    assert_eq!(last_offset(&seawall(&args).expect(0).json()), 11);
    let again = seawall(&args).expect(0).json();
    assert_eq!((first_offset(&again), again.last().unwrap()["records"].as_u64().unwrap()), (11, 0));
    place.write("grows.log", "one\ntwo\nthree\nfour\n");
    let grown = seawall(&args).expect(0).json();
    assert_eq!((first_offset(&grown), last_offset(&grown)), (11, 19));
    expect_whole(&log, &original);
    let lines = seawall(&["tail", "--log", &log]).expect(0).text();
    assert_eq!(lines, "one\ntwo\nthr\nee\nfour\n");
}

#[test]
fn blocks_and_lines_too_long_for_a_record_come_back_as_they_were() {
    let place = Place::new();
    let original = place.write("original", text_file(700_000, 3));
    let config = place.write("config.toml", "record_bytes_max = \"4 KiB\"\n");
    for (log, cut) in [("lines", vec!["--lines"]), ("blocks", vec!["--block", "1000"])] {
        let log = place.arg(log);
        let args = [&["ingest", "--log", &log, &original, "--config", &config][..], &cut].concat();
        seawall(&args).expect(0);
        expect_whole(&log, &original);
    }
    let too_large = ["ingest", "--log", &place.arg("no"), &original, "--config", &config, "--block", "4 KiB"];
    assert!(seawall(&too_large).expect(1).stderr.contains("--block is 4096 bytes, must be within 1 and"));
}

#[test]
fn standard_input_is_sent_again_and_what_is_durable_is_skipped() {
    let place = Place::new();
    let bytes = text_file(300_000, 4);
    let original = place.write("original", &bytes);
    let log = place.arg("log");
    let args = ["ingest", "--log", &log, "-", "--format", "json", "--report-every", "1ms"];
    let half = seawall_with_input(&args, &bytes[..bytes.len() / 2]).expect(0).json();
    assert_eq!(last_offset(&half), bytes.len() as u64 / 2);
    let whole = seawall_with_input(&args, &bytes).expect(0).json();
    assert_eq!((first_offset(&whole), last_offset(&whole)), (bytes.len() as u64 / 2, bytes.len() as u64));
    expect_whole(&log, &original);
    let other = seawall_with_input(&args, b"something else").expect(4);
    assert!(other.stderr.contains("standard input"), "{}", other.stderr);
}

#[test]
fn a_stream_that_pauses_is_durable_meanwhile() {
    let place = Place::new();
    let log = place.arg("log");
    let args = ["ingest", "--log", &log, "-", "--format", "json", "--report-every", "10ms"];
    let mut child = command(&args);
    child.stdin(Stdio::piped());
    let mut run = Running::start(child);
    let mut stdin = run.child.stdin.take().unwrap();
    for (text, durable) in [("one\n", "\"offset\":4,"), ("two\nthr", "\"offset\":8,"), ("ee\n", "\"offset\":14,")] {
        stdin.write_all(text.as_bytes()).unwrap();
        run.lines_until(|line| line.contains("\"event\":\"durable\"") && line.contains(durable));
    }
    drop(stdin);
    run.lines_until(|line| line.contains("\"outcome\":\"complete\""));
    assert!(run.child.wait().unwrap().success());
}

#[test]
fn an_interrupt_ends_in_good_order() {
    let place = Place::new();
    let log = place.arg("log");
    let args = ["ingest", "--log", &log, "-", "--format", "json", "--report-every", "10ms"];
    let mut child = command(&args);
    child.stdin(Stdio::piped());
    let mut run = Running::start(child);
    run.child.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").unwrap();
    run.lines_until(|line| line.contains("\"offset\":8,"));
    run.signal("INT");
    let end = run.lines_until(|line| line.contains("\"event\":\"end\"")).pop().unwrap();
    assert!(end.contains("\"outcome\":\"interrupted\",\"offset\":8,"), "{end}");
    assert_eq!(support::code(run.child.wait().unwrap()), 130);
    let inspected = seawall(&["inspect", "--log", &log, "--format", "json"]).expect(0).json();
    assert_eq!((&inspected[0]["closed_cleanly"], &inspected[0]["last_lsn"]), (&true.into(), &2.into()));
}

#[test]
fn another_file_under_the_same_name_is_refused() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "first\nsecond\n");
    let args = ["ingest", "--log", &log, &file];
    seawall(&args).expect(0);
    for (content, complaint) in [
        ("first\n", "has 6 bytes, but 13 bytes of source \"file\" are in the log"),
        ("first\nSecond\nthird\n", "differs at offset 6 from what frame 2 holds"),
    ] {
        place.write("file", content);
        let refused = seawall(&args).expect(4);
        assert!(refused.stderr.contains(complaint), "{}", refused.stderr);
    }
    // Under a name of its own it is welcome, and both are whole.
    seawall(&["ingest", "--log", &log, &file, "--source", "other"]).expect(0);
    let verified = seawall(&["verify", "--log", &log, "--format", "json"]).expect(0).json();
    assert_eq!(verified[0]["sources"].as_array().unwrap().len(), 2);
    let raw = seawall(&["dump", "--log", &log, "--format", "raw", "--source", "other"]).expect(0);
    assert_eq!(raw.text(), "first\nSecond\nthird\n");
}

#[test]
fn several_sources_share_a_log_and_each_finds_its_place() {
    let place = Place::new();
    let log = place.arg("log");
    let (a, b) = (place.write("a", "a1\na2\n"), place.write("b", text_file(200_000, 5)));
    seawall(&["ingest", "--log", &log, &a]).expect(0);
    seawall(&["ingest", "--log", &log, &b]).expect(0);
    place.write("a", "a1\na2\na3\n");
    let events = seawall(&["ingest", "--log", &log, &a, "--format", "json"]).expect(0).json();
    assert_eq!((first_offset(&events), last_offset(&events)), (6, 9));
    let ambiguous = seawall(&["verify", "--log", &log, "--against", &b]).expect(1);
    assert!(ambiguous.stderr.contains("--source"), "{}", ambiguous.stderr);
    seawall(&["verify", "--log", &log, "--source", "b", "--against", &b]).expect(0);
    seawall(&["verify", "--log", &log, "--source", "a", "--against", &b]).expect(3);
}

#[test]
fn a_closed_source_takes_nothing_more() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "all\n");
    seawall(&["ingest", "--log", &log, &file, "--close"]).expect(0);
    assert!(seawall(&["ingest", "--log", &log, &file]).expect(0).text().contains("closed already"));
    let verified = seawall(&["verify", "--log", &log, "--format", "json"]).expect(0).json();
    assert_eq!(verified[0]["sources"][0]["closed"], true);
    place.write("file", "all\nmore\n");
    assert!(seawall(&["ingest", "--log", &log, &file]).expect(4).stderr.contains("was closed at offset 4"));
}

#[test]
fn an_offset_of_its_own_is_where_a_new_source_begins() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "skipped\nkept\n");
    let args = ["ingest", "--log", &log, &file, "--offset", "8"];
    seawall(&args).expect(0);
    seawall(&args).expect(0);
    assert_eq!(seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0).text(), "kept\n");
    seawall(&["verify", "--log", &log, "--against", &file]).expect(0);
    let beyond = seawall(&["ingest", "--log", &log, &file, "--source", "new", "--offset", "99"]).expect(4);
    assert!(beyond.stderr.contains("cannot begin at offset 99"), "{}", beyond.stderr);
}

#[test]
fn what_trimming_took_is_not_guessed() {
    let place = Place::new();
    let log = place.arg("log");
    let keep_little = "segment_bytes_min = \"64 KiB\"\nsegment_bytes_max = \"64 KiB\"\nretain_bytes = \"128 KiB\"\n";
    let config = place.write("config.toml", keep_little);
    let old = place.write("old", "gone soon\n");
    let large = place.write("large", text_file(2_000_000, 6));
    for file in [&old, &large] {
        seawall(&["ingest", "--log", &log, "--config", &config, file]).expect(0);
    }
    let verified = seawall(&["verify", "--log", &log, "--against", &large]).expect(0);
    assert!(!verified.text().contains("bytes 0.."), "the beginning is trimmed: {}", verified.text());
    let refused = seawall(&["ingest", "--log", &log, "--config", &config, &old]).expect(4);
    assert!(refused.stderr.contains("--offset"), "{}", refused.stderr);
    seawall(&["ingest", "--log", &log, "--config", &config, &old, "--offset", "10"]).expect(0);
}

#[test]
fn one_writer_at_a_time() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "x\n");
    let mut child = command(&["ingest", "--log", &log, "-", "--format", "json", "--report-every", "10ms"]);
    child.stdin(Stdio::piped());
    let mut run = Running::start(child);
    run.child.stdin.as_mut().unwrap().write_all(b"held\n").unwrap();
    run.lines_until(|line| line.contains("\"event\":\"durable\""));
    let locked = seawall(&["ingest", "--log", &log, &file]).expect(5);
    assert!(locked.stderr.contains(&run.child.id().to_string()), "{}", locked.stderr);
    seawall(&["verify", "--log", &log]).expect(0);
}

/// Ingests these lines from a stream and dies without a close, but after a marker has proven them.
fn ingest_and_die(log: &str, lines: &[u8]) {
    let mut child =
        command(&["ingest", "--log", log, "-", "--source", "file", "--format", "json", "--report-every", "1ms"]);
    child.stdin(Stdio::piped());
    let mut run = Running::start(child);
    run.child.stdin.as_mut().unwrap().write_all(lines).unwrap();
    let durable = format!("\"offset\":{},", lines.len());
    run.lines_until(|line| line.contains("\"event\":\"durable\"") && line.contains(&durable));
    std::thread::sleep(Duration::from_millis(500));
    run.child.kill().unwrap();
}

#[test]
fn a_damaged_tail_refuses_and_says_what_to_do() {
    let place = Place::new();
    let log = place.arg("log");
    ingest_and_die(&log, b"one\nMARKER\nthree\n");
    flip_bit_at(&place.path("log"), b"MARKER");
    let file = place.write("file", "one\nMARKER\nthree\nfour\n");
    let refused = seawall(&["ingest", "--log", &log, &file]).expect(2);
    assert!(refused.stderr.contains("seawall repair --dry-run"), "{}", refused.stderr);
    let dry = seawall(&["repair", "--log", &log, "--dry-run"]).expect(2).text();
    assert!(dry.contains("frames 2..3 (1) would be set aside"), "{dry}");
    seawall(&["repair", "--log", &log, "--quarantine"]).expect(0);
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    assert_eq!(seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0).text(), "one\nthree\nfour\n");
    seawall(&["verify", "--log", &log, "--against", &file]).expect(0);
}

#[test]
fn a_source_whose_last_record_is_damaged_sends_it_again() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "one\ntwo\nMARKER\n");
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    flip_bit_at(&place.path("log"), b"MARKER");
    let resumed = seawall(&["ingest", "--log", &log, &file, "--format", "json"]).expect(0);
    assert!(resumed.stderr.contains("may hold bytes of \"file\""), "{}", resumed.stderr);
    assert_eq!(first_offset(&resumed.json()), 8);
    seawall(&["verify", "--log", &log]).expect(2);
    seawall(&["repair", "--log", &log, "--quarantine"]).expect(0);
    let verified = seawall(&["verify", "--log", &log, "--against", &file, "--format", "json"]).expect(0).json();
    assert_eq!(verified[0]["sources"][0]["breaks_in_all"], 0, "each byte is there once");
    assert_eq!(seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0).text(), "one\ntwo\nMARKER\n");
}
