//! `seawall rescue`: off a disk of which some blocks cannot be read any more.

#[path = "support/image.rs"]
mod image;
#[path = "../../tests/support/skip.rs"]
mod skip;
mod support;

use image::Image;
use support::{Place, seawall, text_file};

const MARK: &[u8] = b"THE MARKED LINE\n";

/// btrfs has checksums of its own: bytes that change below it can be read by nobody any more. EIO, from a kernel.
#[test]
fn what_a_disk_cannot_read_costs_the_frames_that_stood_there() {
    let Some(image) = Image::mounted("btrfs") else { return };
    let place = Place::new();
    let lines = |from: u64| (from..from + 6_000).flat_map(|line| format!("{line} {}\n", line.pow(3)).into_bytes());
    let original: Vec<u8> = lines(0).chain(MARK.iter().copied()).chain(lines(6_000)).collect();
    let original = place.write("original", original);
    let config = place.write("config.toml", "segment_bytes_min = \"256 KiB\"\nsegment_bytes_max = \"256 KiB\"\n");
    let log = image.at().join("log").to_str().unwrap().to_owned();
    seawall(&["ingest", "--log", &log, &original, "--config", &config]).expect(0);
    image.unmount().unwrap();
    let mut bytes = std::fs::read(image.file()).unwrap();
    let places: Vec<usize> =
        bytes.windows(MARK.len()).enumerate().filter(|(_, at)| *at == MARK).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the line stands on the device");
    places.iter().for_each(|at| bytes[*at] ^= 0x20);
    std::fs::write(image.file(), bytes).unwrap();
    image.mount().unwrap();

    // Every line before that block; and what the disk said, not what came of it.
    let dumped = seawall(&["dump", "--log", &log, "--format", "raw"]).expect(1);
    assert!(dumped.stderr.contains("Input/output error"), "{}", dumped.stderr);
    assert!(dumped.stderr.contains("seawall rescue"), "{}", dumped.stderr);
    let whole = std::fs::read(&original).unwrap();
    let mark = whole.windows(MARK.len()).position(|at| at == MARK).unwrap();
    assert!(mark - dumped.stdout.len() < 4096, "{} bytes of {mark}", dumped.stdout.len());
    let into = place.arg("rescued");
    let rescued = seawall(&["rescue", "--log", &log, &into, "--format", "json"]).expect(2).json().remove(0);
    let range = &rescued["unread"][0];
    assert_eq!((rescued["unread"].as_array().unwrap().len(), &rescued["unread_bytes"]), (1, &range["bytes"]));
    let (file, offset) = (range["file"].as_str().unwrap(), range["offset"].as_u64().unwrap());
    assert_eq!(range["bytes"], 4096, "one block: {rescued}");
    let copied = std::fs::read(place.path("rescued").join(file)).unwrap();
    assert!(copied[offset as usize..][..4096].iter().all(|byte| *byte == 0));

    let told = seawall(&["verify", "--log", &into, "--format", "json"]).expect(2).json().remove(0);
    assert!(
        told["findings"].as_array().unwrap().iter().all(|it| it["offset"].as_u64().unwrap().abs_diff(offset) < 8192),
        "{told}"
    );
    let repaired = seawall(&["repair", "--log", &into, "--quarantine", "--format", "json"]).expect(0).json().remove(0);
    let lost = &repaired["set_aside"][0];
    let lost = lost[1].as_u64().unwrap() - lost[0].as_u64().unwrap();
    let dumped = seawall(&["dump", "--log", &into, "--format", "raw"]).expect(0).text();
    let all = String::from_utf8(whole).unwrap();
    assert_eq!(dumped.lines().count() as u64 + lost, all.lines().count() as u64);
    assert!(!dumped.contains("THE MARKED LINE"));

    // Twice does not go over what is there; and without a directory there is nothing.
    let again = seawall(&["rescue", "--log", &log, &into]).expect(1).stderr;
    assert!(again.contains("is there already"), "{again}");
    seawall(&["rescue", "--log", &place.arg("nowhere"), &place.arg("other")]).expect(1);
}

#[test]
fn a_log_that_can_be_read_is_copied() {
    let place = Place::new();
    let (log, into) = (place.arg("log"), place.arg("rescued"));
    let original = place.write("original", text_file(100_000, 7));
    seawall(&["ingest", "--log", &log, &original]).expect(0);
    let told = seawall(&["rescue", "--log", &log, &into]).expect(0).text();
    assert!(told.contains("copied to"), "{told}");
    seawall(&["verify", "--log", &into, "--against", &original]).expect(0);
    seawall(&["ingest", "--log", &into, &original]).expect(0);
}
