//! Exit codes and everything around the commands.

mod support;

use support::{Place, command, seawall};

#[test]
fn wrong_usage_is_one_and_help_is_zero() {
    for args in
        [&[][..], &["nonsense"], &["ingest"], &["repair", "--log", "x"], &["inspect", "--log", "x", "--format", "raw"]]
    {
        seawall(args).expect(1);
    }
    let help = seawall(&["--help"]).expect(0).text();
    for code in ["  0 ", "  1 ", "  2 ", "  3 ", "  4 ", "  5 ", "  130 "] {
        assert!(help.contains(code), "{help}");
    }
    seawall(&["--version"]).expect(0);
}

#[test]
fn errors_are_one_line_that_names_the_place() {
    let place = Place::new();
    let (no_log, no_file) = (place.arg("no-log"), place.arg("no-file"));
    for command in ["tail", "dump", "inspect", "verify"] {
        let ended = seawall(&[command, "--log", &no_log]).expect(1);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&no_log) && ended.stderr.contains("holds no log"), "{}", ended.stderr);
        assert!(!place.path("no-log").exists(), "{command} creates nothing");
    }
    assert!(seawall(&["ingest", "--log", &no_log, &no_file]).expect(1).stderr.contains(&no_file));
    assert!(!place.path("no-log").exists(), "nothing is created for a file that is not there");
    let config = place.write("config.toml", "segment_bytes_min = \"1 MiB\"\nno_such_field = 1\n");
    let ended = seawall(&["ingest", "--log", &no_log, &config, "--config", &config]).expect(1);
    assert!(ended.stderr.contains("no_such_field") && ended.stderr.lines().count() == 1, "{}", ended.stderr);
}

#[test]
fn completions_and_manual_pages() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(seawall(&["completions", shell]).expect(0).text().contains("ingest"));
    }
    seawall(&["man", &place.arg("man")]).expect(0);
    for page in ["seawall.1", "seawall-ingest.1", "seawall-verify.1"] {
        assert!(place.path("man").join(page).exists(), "{page}");
    }
}

#[test]
fn help_into_a_closed_pipe_does_not_panic() {
    let mut child = command(&["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    support::ended(child.wait_with_output().unwrap()).expect(0);
}

#[test]
#[ignore = "half a gigabyte of writes, and figures need a quiet machine"]
fn bench_measures_and_leaves_nothing_behind() {
    let place = Place::new();
    std::fs::create_dir(place.path("dir")).unwrap();
    let dir = place.arg("dir");
    let args = ["bench", "--dir", &dir, "--cold", "--cells", "threads-1", "--seconds", "0.05", "--rounds", "2"];
    let figures = seawall(&[&args[..], &["--format", "json"]].concat()).expect(0).json().remove(0);
    assert!(figures["loads"][0]["records_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert!(figures["others"]["disturbed"].is_boolean(), "{figures}");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}
