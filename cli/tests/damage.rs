//! `verify` and `repair`: what is damaged is found, named, and set aside.

mod support;

use serde_json::Value;
use support::{Place, flip_bit_at, seawall, seawall_unread, segments, text_file};

/// A log of a few sealed segments with a line that is easily found in the middle.
fn damaged_log(place: &Place) -> (String, String) {
    let mut bytes = text_file(1_500_000, 7);
    bytes.extend_from_slice(b"\nTHE MARKED LINE\n");
    bytes.extend_from_slice(&text_file(1_500_000, 8));
    let original = place.write("original", bytes);
    let config = place.write("config.toml", "segment_bytes_min = \"256 KiB\"\nsegment_bytes_max = \"256 KiB\"\n");
    let log = place.arg("log");
    seawall(&["ingest", "--log", &log, &original, "--config", &config]).expect(0);
    assert!(segments(&place.path("log")).len() > 8);
    seawall(&["verify", "--log", &log, "--against", &original]).expect(0);
    flip_bit_at(&place.path("log"), b"THE MARKED LINE");
    (log, original)
}

fn verify(log: &str, code: i32) -> Value {
    seawall(&["verify", "--log", log, "--format", "json"]).expect(code).json().remove(0)
}

#[test]
fn a_flipped_bit_is_found_named_and_set_aside() {
    let place = Place::new();
    let (log, original) = damaged_log(&place);

    let found = verify(&log, 2);
    assert_eq!(found["verdict"], "damaged");
    let finding = &found["findings"][0];
    let (first, end) = (finding["first_lsn"].as_u64().unwrap(), finding["end_lsn"].as_u64().unwrap());
    assert_eq!(end - first, 1, "one frame is affected");
    assert_eq!(found["sources"][0]["breaks"][0]["kind"], "gap");

    // Readers are told, get everything else, and the exit code says so too.
    let dumped = seawall(&["dump", "--log", &log, "--format", "raw"]).expect(2);
    assert!(dumped.stderr.contains(&format!("frames {first}..{end} cannot be read")), "{}", dumped.stderr);
    let (expected, marked) = (std::fs::read(&original).unwrap(), b"THE MARKED LINE\n".len());
    assert_eq!(dumped.stdout.len(), expected.len() - marked);
    seawall(&["dump", "--log", &log, "--to", &(first - 1).to_string()]).expect(0);

    let files = |log: &str| segments(std::path::Path::new(log)).len();
    let before = files(&log);
    let dry = seawall(&["repair", "--log", &log, "--dry-run"]).expect(2).text();
    assert!(dry.contains(&format!("frames {first}..{end} (1) would be set aside")), "{dry}");
    assert!(dry.contains("nothing was written") && files(&log) == before);
    verify(&log, 2);

    let repaired = seawall(&["repair", "--log", &log, "--quarantine", "--format", "json"]).expect(0).json();
    assert_eq!(repaired[0]["set_aside"][0][0], first);
    let after = verify(&log, 0);
    assert_eq!(after["verdict"], "sound but for what was set aside");
    assert_eq!(after["findings"][0]["quarantined"], true);
    assert_eq!(after["sources"][0]["set_aside_bytes"], marked as u64);
    let dumped = seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0);
    assert!(dumped.stderr.contains("quarantined") && dumped.stdout.len() == expected.len() - marked);
    seawall(&["verify", "--log", &log, "--against", &original]).expect(0);

    // And the source goes on behind it.
    let grown = [&expected[..], b" and its rest\n"].concat();
    place.write("original", &grown);
    seawall(&["ingest", "--log", &log, &original]).expect(0);
    let again = seawall(&["repair", "--log", &log, "--dry-run"]).expect(0).text();
    assert!(again.contains("were set aside before"), "{again}");
    let raw = seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0).stdout;
    assert_eq!(raw.len(), grown.len() - marked);
}

/// The verdict was that of a report that nobody has read to its end: 0.
#[test]
fn damage_has_its_code_although_nobody_reads_the_report() {
    let place = Place::new();
    let (log, _) = damaged_log(&place);
    std::fs::remove_file(&segments(&place.path("log"))[2]).unwrap();
    for args in [&["verify"][..], &["verify", "--format", "json"], &["repair", "--dry-run"], &["inspect", "--frames"]] {
        let ended = seawall_unread(&[args, &["--log", &log]].concat()).expect(2);
        assert!(!ended.stderr.contains("output"), "{}", ended.stderr);
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let place = Place::new();
    let (log, _) = damaged_log(&place);
    let files = segments(&place.path("log"));
    std::fs::remove_file(&files[2]).unwrap();
    let found = verify(&log, 2);
    assert_eq!(found["missing_segments"][0], 3);
    seawall(&["inspect", "--log", &log]).expect(2);
    seawall(&["repair", "--log", &log, "--dry-run"]).expect(2);
}

/// A slot of the control file that rots takes with it that the log was closed: frames that only the close proved were out of sight,
/// and no command said a word.
#[test]
fn a_lost_slot_of_the_control_file_is_told() {
    for slot in [0, 32 << 10] {
        let place = Place::new();
        let log = place.arg("log");
        let file = place.write("file", text_file(300_000, 7));
        seawall(&["ingest", "--log", &log, &file]).expect(0);
        assert_eq!(verify(&log, 0)["control_slot_lost"], false);
        let control = place.path("log").join("control");
        let mut bytes = std::fs::read(&control).unwrap();
        bytes[slot + 20] ^= 1;
        std::fs::write(&control, bytes).unwrap();
        let found = verify(&log, 0);
        assert_eq!((&found["control_slot_lost"], &found["verdict"] != "sound"), (&serde_json::json!(true), true));
        let told = seawall(&["verify", "--log", &log, "--strict"]).expect(2).text();
        assert!(told.contains("two slots is lost"), "{told}");
        for args in [&["dump", "--format", "raw"][..], &["tail"], &["inspect"], &["ingest", &file]] {
            let ended = seawall(&[args, &["--log", &log]].concat()).expect(0);
            let told = [String::from_utf8_lossy(&ended.stdout).into_owned(), ended.stderr].concat();
            assert!(told.contains("two slots is lost"), "{args:?}: {told}");
        }
        // Written anew.
        assert_eq!(verify(&log, 0)["control_slot_lost"], false);
        seawall(&["verify", "--log", &log, "--strict", "--against", &file]).expect(0);
    }
}

#[test]
fn a_sequence_that_is_broken_without_damage_has_a_code_of_its_own() {
    let place = Place::new();
    let log = place.arg("log");
    let file = place.write("file", "one\ntwo\n");
    seawall(&["ingest", "--log", &log, &file]).expect(0);
    place.write("other", "one\nTWO\n");
    let differs = seawall(&["verify", "--log", &log, "--against", &place.arg("other")]).expect(3);
    assert!(differs.text().contains("DIFFERS from \"file\" at offset 4 (frame 2)"), "{}", differs.text());
}

#[test]
fn what_no_frame_needs_is_told_and_is_no_loss() {
    let place = Place::new();
    let (log, _) = damaged_log(&place);
    // The header of a sealed segment, without which its frames are found all the same.
    let path = &segments(&place.path("log"))[2];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(path, bytes).unwrap();
    seawall(&["repair", "--log", &log, "--quarantine"]).expect(0);
    let found = verify(&log, 0);
    assert_eq!(found["verdict"], "every frame can be read, but bytes that no frame needs have changed");
    let text = seawall(&["verify", "--log", &log]).expect(0).text();
    assert!(text.contains("changed  segment 3 at byte 0, no frame affected"), "{text}");
    seawall(&["verify", "--log", &log, "--strict"]).expect(2);
    seawall(&["inspect", "--log", &log, "--frames"]).expect(0);
}

#[test]
fn a_shortened_tail_is_found_and_set_aside() {
    let place = Place::new();
    let (log, _) = damaged_log(&place);
    seawall(&["repair", "--log", &log, "--quarantine"]).expect(0);
    // The close is forgotten: the next open finds the tail as a killed writer left it.
    let opened = seawall(&["ingest", "--log", &log, "--source", "more", &place.write("more", b"one more line\n")]);
    opened.expect(0);
    let newest = segments(&place.path("log")).into_iter().rev().find(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes[4096..].iter().any(|byte| *byte != 0)
    });
    let newest = newest.unwrap();
    std::fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(4096 + 100).unwrap();
    assert_eq!(verify(&log, 2)["verdict"], "damaged");
    seawall(&["ingest", "--log", &log, "--source", "again", &place.path("more").display().to_string()]).expect(2);
    seawall(&["repair", "--log", &log, "--quarantine"]).expect(0);
    verify(&log, 0);
}

/// The message names this command as the way out: it ended with that message.
#[test]
fn a_lost_control_file_is_rebuilt() {
    for spoil in [true, false] {
        let place = Place::new();
        let original = place.write("original", text_file(100_000, 7));
        let log = place.arg("log");
        seawall(&["ingest", "--log", &log, &original]).expect(0);
        let control = place.path("log").join("control");
        match spoil {
            true => std::fs::write(&control, vec![0; 64 << 10]).unwrap(),
            false => std::fs::remove_file(&control).unwrap(),
        }
        let told = seawall(&["repair", "--log", &log, "--dry-run"]).expect(2);
        assert!(told.stderr.contains("repair --quarantine"), "{}", told.stderr);
        let repaired = seawall(&["repair", "--log", &log, "--quarantine"]).expect(0).text();
        assert!(repaired.contains("was rebuilt from the segments"), "{repaired}");
        seawall(&["verify", "--log", &log, "--against", &original]).expect(0);
    }
}
