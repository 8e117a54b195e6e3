//! `tail`, `dump` and `inspect`, also beside a writer at work.

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Place, Running, command, seawall, text_file};

#[test]
fn following_a_live_log_shows_what_is_appended() {
    let place = Place::new();
    let log = place.arg("log");
    // It may be started first.
    let mut tail = Running::start(command(&["tail", "--log", &log, "--follow", "--every", "20ms"]));
    let mut writer = command(&["ingest", "--log", &log, "-", "--quiet"]);
    writer.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut writer = writer.spawn().unwrap();
    let mut stdin = writer.stdin.take().unwrap();
    for number in 1..=5 {
        writeln!(stdin, "line {number}").unwrap();
        assert_eq!(tail.line().unwrap(), format!("line {number}"));
    }
    // Two writers' lives later it still follows.
    drop(stdin);
    assert!(writer.wait().unwrap().success());
    let more = place.write("more", "line 6\nline 7\n");
    seawall(&["ingest", "--log", &log, &more]).expect(0);
    assert_eq!(tail.line().unwrap(), "line 6");
    assert_eq!(tail.line().unwrap(), "line 7");
}

#[test]
fn a_busy_log_is_followed_without_a_gap() {
    let place = Place::new();
    let log = place.arg("log");
    let bytes = text_file(8_000_000, 9);
    let original = place.write("original", &bytes);
    let small = place.write("config.toml", "segment_bytes_min = \"256 KiB\"\nsegment_bytes_max = \"1 MiB\"\n");
    let follow = ["tail", "--log", &log, "--follow", "--from", "1", "--every", "1ms", "--format", "raw"];
    let mut tail = Running::start(command(&follow));
    seawall(&["ingest", "--log", &log, &original, "--config", &small, "--outstanding", "16"]).expect(0);
    let mut followed = vec![0; bytes.len()];
    std::io::Read::read_exact(&mut tail.lines, &mut followed).unwrap();
    assert!(followed == bytes, "what was followed is not what was appended");
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Follows a log: what is told and what is shown in one stream, so many lines at a time.
fn following(args: &[&str]) -> (Killed, impl FnMut(usize) -> Vec<String> + use<>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut follow = command(&[&["tail", "--follow", "--every", "20ms"], args].concat());
    follow.stdout(writer.try_clone().unwrap()).stderr(writer);
    let child = follow.spawn().unwrap();
    drop(follow);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
        lines.map_while(Result::ok).try_for_each(|line| tell.send(line))
    });
    (Killed(child), move |count| (0..count).map(|_| told.recv_timeout(support::PATIENCE).expect("a line")).collect())
}

#[test]
fn who_follows_is_told_of_a_truncation_and_shown_what_comes_instead() {
    let place = Place::new();
    let (log, _) = seawall::Log::open(place.path("log"), seawall::Config::default()).unwrap();
    let append = |what: &str, lsns: std::ops::RangeInclusive<u64>| {
        let lines: Vec<String> = lsns.map(|lsn| format!("{what} {lsn}")).collect();
        log.append_many(&lines).unwrap().wait().unwrap();
        lines
    };
    let (_running, mut read) = following(&["--log", &place.arg("log")]);
    let first = append("first", 1..=5);
    assert_eq!(read(5), first);
    // Told while nothing new is there.
    log.truncate(seawall::Lsn::new(3)).unwrap();
    assert_eq!(read(1), ["seawall: frames 4..6 were truncated, going on with frame 4"]);
    let second = append("second", 4..=5);
    assert_eq!(read(2), second);
    // And when there are as many again before anybody looked.
    log.truncate(seawall::Lsn::new(1)).unwrap();
    let third = append("third", 2..=9);
    assert_eq!(read(1), ["seawall: frames 2..6 were truncated, going on with frame 2"]);
    assert_eq!(read(8), third);
    log.close(support::PATIENCE).unwrap();
}

/// To ask the log for the last frame read its segment from the start, at each look.
#[test]
fn who_follows_a_log_that_stays_as_it_is_does_not_read_it_again_and_again() {
    let place = Place::new();
    let (log, _) = seawall::Log::open(place.path("log"), seawall::Config::default()).unwrap();
    for _ in 0..32 {
        log.append(&vec![7; 1 << 20]).unwrap().wait().unwrap();
    }
    log.append(b"last").unwrap().wait().unwrap();
    // Or each look looks whether anything stands in the one that was being prepared.
    while log.stats().spare_segments < 2 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    log.close(support::PATIENCE).unwrap();
    let (running, mut read) = following(&["--log", &place.arg("log"), "-n", "1"]);
    assert_eq!(read(1), ["last"]);
    let read_bytes = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", running.0.id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = read_bytes();
    // Some tens of looks, or fewer on a busy machine.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let bytes = read_bytes() - before;
    assert!(bytes < 24 << 20, "{bytes} bytes");
}

/// It began behind the place where the log was cut.
#[test]
fn a_truncation_below_the_first_record_shown_is_gone_on_behind() {
    let place = Place::new();
    let (log, _) = seawall::Log::open(place.path("log"), seawall::Config::default()).unwrap();
    log.append_many(&["1", "2", "3", "4", "5"]).unwrap().wait().unwrap();
    let (_running, mut read) = following(&["--log", &place.arg("log"), "--from", "4"]);
    assert_eq!(read(2), ["4", "5"]);
    log.truncate(seawall::Lsn::new(2)).unwrap();
    assert_eq!(read(1), ["seawall: frames 3..6 were truncated, going on with frame 3"]);
    log.append(b"another 3").unwrap().wait().unwrap();
    assert_eq!(read(1), ["another 3"]);
    log.close(support::PATIENCE).unwrap();
}

#[test]
fn the_last_frames_or_those_from_a_place_on() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", (1..=20).map(|n| format!("{n}\n")).collect::<String>());
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    let lines = |args: &[&str]| seawall(&[&["tail", "--log", &log], args].concat()).expect(0).text();
    assert_eq!(lines(&[]).lines().count(), 10);
    assert_eq!(lines(&["-n", "2"]), "19\n20\n");
    assert_eq!(lines(&["-n", "0"]), "");
    assert_eq!(lines(&["--from", "18"]), "18\n19\n20\n");
    let json = seawall(&["tail", "--log", &log, "-n", "1", "--format", "json"]).expect(0).json();
    assert_eq!(
        (&json[0]["lsn"], &json[0]["source"], &json[0]["payload"]),
        (&20.into(), &"file".into(), &"20\n".into())
    );
}

#[test]
fn dump_takes_ranges_times_and_sources() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", b"one\ntwo\nthree\n\xff\x1b\n");
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    let dump = |args: &[&str]| seawall(&[&["dump", "--log", &log], args].concat()).expect(0).text();
    assert_eq!(dump(&["--from", "2", "--to", "3", "--format", "raw"]), "two\nthree\n");
    assert_eq!(dump(&["--to", "1"]).split('\t').nth(2), Some("file@0"));
    assert_eq!(dump(&["--since", "1h"]).lines().count(), 4);
    assert_eq!(dump(&["--since", "2999-01-01 00:00:00"]), "");
    assert_eq!(dump(&["--source", "another"]), "");
    assert!(dump(&["--from", "4"]).ends_with("\t\\xff\\u{1b}\n"));
    assert!(dump(&["--from", "4", "--format", "json"]).contains("\"payload_hex\":\"ff1b0a\""));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", text_file(3_000_000, 10));
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    for args in [vec!["dump", "--log", &log], vec!["tail", "--log", &log, "--from", "1"]] {
        let mut child = command(&args).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        drop(child.stdout.take());
        let ended = support::ended(child.wait_with_output().unwrap());
        assert_eq!(ended.stderr, "");
        ended.expect(0);
    }
}

#[test]
fn records_of_other_programs_are_shown_as_they_are() {
    let place = Place::new();
    let (log, _) = seawall::Log::open(place.path("log"), seawall::Config::default()).unwrap();
    log.append(b"plain").unwrap().wait().unwrap();
    log.append(b"\0bin").unwrap().wait().unwrap();
    log.close(support::PATIENCE).unwrap();
    let log = place.arg("log");
    assert_eq!(seawall(&["tail", "--log", &log]).expect(0).text(), "plain\n\\u{0}bin\n");
    assert_eq!(seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0).stdout, b"plain\0bin");
    assert!(
        seawall(&["verify", "--log", &log])
            .expect(0)
            .text()
            .contains("2 frames are neither of `ingest` nor of a receiver")
    );
}

#[test]
fn inspect_shows_files_and_on_demand_their_frames() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "one\ntwo\n");
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    place.write("log/notes.txt", "mine");
    let inspected = seawall(&["inspect", "--log", &log, "--frames", "--format", "json"]).expect(0).json().remove(0);
    let files = inspected["files"].as_array().unwrap();
    let role = |name: &str| files.iter().find(|file| file["name"] == name).unwrap()["role"].clone();
    assert_eq!((role("notes.txt"), role("control")), ("not of the log".into(), "control file".into()));
    let held: u64 = files.iter().filter_map(|file| file["holds"]["frames"].as_u64()).sum();
    assert_eq!(held, 2);
    assert_eq!((&inspected["first_lsn"], &inspected["last_lsn"]), (&1.into(), &2.into()));
    assert!(seawall(&["inspect", "--log", &log]).expect(0).text().contains("closed cleanly"));
}

/// Equal chain at equal position means equal content: what is not shown yet is not in the chain either.
#[test]
fn the_chain_that_is_shown_is_that_of_the_last_frame_shown() {
    let place = Place::new();
    let config = seawall::Config { idle_proof_after: std::time::Duration::from_secs(3600), ..Default::default() };
    let (log, _) = seawall::Log::open(place.path("log"), config).unwrap();
    (0..3u8).for_each(|i| _ = log.append(&[i; 10]).unwrap().wait().unwrap());
    for command in ["inspect", "verify"] {
        let json = seawall(&[command, "--log", &place.arg("log"), "--format", "json"]).expect(0).json();
        let last = json[0]["last_lsn"].as_u64().unwrap();
        assert!(last < 3, "{command}: nothing proves the last frame: {json:?}");
        let chain = log.chain_at(seawall::Lsn::new(last)).unwrap().to_string();
        assert_eq!(json[0]["chain"], chain.as_str(), "{command}");
    }
}

/// Before the first frame there is one chain only, which nothing that is shown tells.
#[test]
fn the_chain_of_a_log_that_shows_nothing_yet_is_that_of_an_empty_one() {
    let place = Place::new();
    let config = seawall::Config { idle_proof_after: std::time::Duration::from_secs(3600), ..Default::default() };
    let (log, _) = seawall::Log::open(place.path("log"), config).unwrap();
    let empty = log.chain_at(seawall::Lsn::ZERO).unwrap().to_string();
    log.append(b"nothing proves it").unwrap().wait().unwrap();
    for command in ["inspect", "verify"] {
        let json = seawall(&[command, "--log", &place.arg("log"), "--format", "json"]).expect(0).json();
        assert_eq!((&json[0]["last_lsn"], &json[0]["chain"]), (&0.into(), &empty.as_str().into()), "{command}");
    }
}
