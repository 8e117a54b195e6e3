//! `examples/python`: a source that knows nothing but the protocol's page, with processes that are killed and a line that is cut.

#[path = "../../tests/torture/src/proxy.rs"]
mod proxy;
#[path = "../../tests/support/skip.rs"]
mod skip;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proxy::Proxy;
use skip::skipped;
use support::{PATIENCE, Place, Random, Running, code, command, ended, seawall, text_file};

/// Of a session not more than this is on its way, so that a source that does not count is found out; and sizes that make many
/// segments, blocks and snapshots of little.
const SMALL: &str = "[receiver]\nrecord_bytes_max = \"64 KiB\"\nframe_bytes_max = \"64 KiB\"\n\
    session_window_bytes = \"80 KiB\"\nblock_bytes_max = \"64 KiB\"\nsnapshot_interval_bytes = \"128 KiB\"\n\
    [log]\nsegment_bytes_min = \"128 KiB\"\nsegment_bytes_max = \"1 MiB\"\n";

/// No line of a test is longer; one that is cut off is not sent before its rest has come.
const LINE_BYTES_MAX: usize = 45_000;

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python")
}

/// `None`, told: there is none that is new enough.
fn python<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Option<Command> {
    const IS_NEW_ENOUGH: &str = "import sys; sys.exit(sys.version_info < (3, 10))";
    let found = Command::new("python3").args(["-c", IS_NEW_ENOUGH]).status();
    if !found.is_ok_and(|status| status.success()) {
        skipped("examples/python: there is no python3 of 3.10 or later");
        return None;
    }
    let mut python = Command::new("python3");
    // Nothing is written beside the sources.
    python.args(args).env("PYTHONPATH", home()).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    Some(python)
}

struct Receiver {
    running: Running,
    address: String,
}

impl Receiver {
    fn start(place: &Place, extra: &[&str]) -> Receiver {
        let (log, config) = (place.arg("log"), place.write("receive.toml", SMALL));
        let args = ["receive", "--log", &log, "--config", &config, "--format", "json", "--listen", "127.0.0.1:0"];
        let mut running = Running::start(command(&[&args[..], extra].concat()));
        let line = running.line().expect("it says where it listens");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = event["addresses"][0].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        Receiver { running, address }
    }

    fn kill(mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) {
        self.running.signal("INT");
        assert_eq!(code(self.running.child.wait().unwrap()), 130);
    }
}

/// `send_lines.py` that reads what it is given; killed when it is dropped.
struct Sender {
    child: Child,
    given: mpsc::Sender<Range<usize>>,
    /// The highest offset that it said to be durable.
    told: Arc<AtomicU64>,
    listens: JoinHandle<()>,
}

impl Sender {
    fn start(to: &str, input: &Arc<Vec<u8>>) -> Option<Sender> {
        let program = home().join("send_lines.py");
        let mut python = python(&[program.to_str().unwrap(), "-", "--to", to, "--report-every", "0"])?;
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (given, parts) = mpsc::channel::<Range<usize>>();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.clone());
        // Beside the test: it takes no more while its window is full.
        std::thread::spawn(move || while parts.recv().is_ok_and(|part| stdin.write_all(&input[part]).is_ok()) {});
        let (stdout, told) = (BufReader::new(child.stdout.take().unwrap()), Arc::new(AtomicU64::new(0)));
        let so_far = told.clone();
        let listens = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // It may have been killed in the middle of a line.
                let Some(offset) = line.strip_prefix("durable ").and_then(|offset| offset.parse().ok()) else {
                    continue;
                };
                assert!(so_far.fetch_max(offset, Ordering::Relaxed) <= offset, "what is durable went back to {offset}");
            }
        });
        Some(Sender { child, given, told, listens })
    }

    fn give(&self, part: Range<usize>) {
        // It may have failed; whoever waits for it finds that.
        let _ = self.given.send(part);
    }

    #[track_caller]
    fn wait_for(&mut self, offset: u64) {
        let began = Instant::now();
        while self.told.load(Ordering::Relaxed) < offset {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended before {offset} was durable");
            assert!(began.elapsed() < PATIENCE, "{offset} is not durable within {PATIENCE:?}, {:?} is", self.told);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it said to be durable before it was gone, and its exit code. Its input ends.
    fn end(self) -> (u64, i32) {
        let Sender { mut child, given, told, listens } = self;
        drop(given);
        let ended = code(child.wait().unwrap());
        listens.join().unwrap();
        (told.load(Ordering::Relaxed), ended)
    }

    fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.end().0
    }
}

/// `SEAWALL_KILLS` says how often the receiver is killed (default 10); so often is the line cut, and half as often the source
/// killed.
#[test]
fn killed_and_cut_off_at_random_each_line_is_there_once() {
    let kills: u64 = std::env::var("SEAWALL_KILLS").map_or(10, |n| n.parse().expect("SEAWALL_KILLS is a number"));
    let seed: u64 = std::env::var("SEAWALL_SEED").map_or(7, |n| n.parse().expect("SEAWALL_SEED is a number"));
    let faults = [kills, kills, kills / 2];
    let in_all = faults.iter().sum::<u64>() as usize;
    let mut random = Random::new(seed);
    let place = Place::new();
    let mut input = text_file(300_000 * (in_all + 1), seed);
    let part = input.len() / (in_all + 1);
    let length = input.len() as u64;
    input.extend_from_slice(b", and then it has\n");
    let (file, input) = (place.write("stdin", &input), Arc::new(input));

    let mut receiver = Receiver::start(&place, &[]);
    let proxy = Proxy::new(receiver.address.parse().unwrap()).unwrap();
    let to = proxy.address().to_string();
    let Some(mut sender) = Sender::start(&to, &input) else { return };
    let mut left = faults;
    for step in 0..in_all {
        // It has come through the last fault, and has sent what was on its way again.
        sender.wait_for((step * part).saturating_sub(LINE_BYTES_MAX) as u64);
        sender.give(step * part..(step + 1) * part);
        std::thread::sleep(Duration::from_millis(random.below(60)));
        let mut fault = random.below(left.iter().sum());
        let which = left.iter().position(|left| fault.checked_sub(*left).map(|rest| fault = rest).is_none()).unwrap();
        left[which] -= 1;
        match which {
            0 => {
                receiver.kill();
                receiver = Receiver::start(&place, &[]);
                proxy.lead_to(receiver.address.parse().unwrap());
            }
            1 => drop(proxy.cut()),
            _ => {
                let told = sender.kill();
                sender = Sender::start(&to, &input).expect("it was there");
                sender.give(0..(step + 1) * part);
                // What it is welcomed with is the first that it tells.
                sender.wait_for(told);
            }
        }
    }
    sender.give(in_all * part..length as usize);
    assert_eq!(sender.end(), (length, 0));
    let connections = proxy.cut();
    // Another client of the same numbering goes on where this one stopped, in the middle of a line.
    let sent = seawall(&["send", &file, "--to", &receiver.address, "--format", "json"]).expect(0).json();
    assert_eq!(sent[0]["offset"], length, "{sent:?}");
    receiver.stop();
    let log = place.arg("log");
    let verified = seawall(&["verify", "--log", &log, "--against", &file, "--format", "json"]).expect(0).text();
    let report: serde_json::Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(report["comparison"]["compared_bytes"], input.len(), "{verified}");
    assert_eq!(report["comparison"]["not_in_log_bytes"], 0, "{verified}");
    println!("{faults:?} faults, {connections} connections, {} bytes, {report}", input.len());
}

/// A certificate for this machine, and of the authority that signed it, in files: as strict as verifiers are today.
fn certificates(place: &Place) -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    // One that is called like its issuer is taken for self-signed.
    params.distinguished_name.push(DnType::CommonName, "receiver");
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, &authority).unwrap();
    [
        place.write("ca.pem", authority.pem()),
        place.write("cert.pem", signed.pem()),
        place.write("key.pem", key.serialize_pem()),
    ]
}

fn succeeded(output: Output) -> String {
    ended(output).expect(0).text()
}

#[test]
fn it_speaks_tls_and_shows_a_token() {
    let place = Place::new();
    let [ca, cert, key] = certificates(&place);
    let token = place.write("token", "correct horse battery staple\n");
    let file = place.write("input", "one\ntwo\n");
    let program = home().join("send_lines.py");
    let receiver = Receiver::start(&place, &["--cert", &cert, "--key", &key, "--token-file", &token]);
    let send = |extra: &[&str]| {
        let args = [program.to_str().unwrap(), &file, "--to", &receiver.address, "--give-up-after", "0"];
        Some(python(&[&args[..], extra].concat())?.output().unwrap())
    };
    let Some(without) = send(&["--ca", &ca]) else { return };
    let without = ended(without).expect(1);
    assert!(without.stderr.contains("Unauthorized"), "{}", without.stderr);
    // Who it is that answers, it does not know.
    let stranger = ended(send(&["--ca", &ca, "--server-name", "elsewhere.example", "--token-file", &token]).unwrap());
    assert!(stranger.expect(1).stderr.contains("elsewhere.example"));
    assert_eq!(succeeded(send(&["--ca", &ca, "--token-file", &token]).unwrap()), "durable 8\n");
    receiver.stop();
    let dumped = seawall(&["dump", "--log", &place.arg("log"), "--format", "raw"]).expect(0);
    assert_eq!(dumped.text(), "one\ntwo\n");
}

/// As the head of `seawall_client.py` shows it.
#[test]
fn dense_records_are_gone_on_with_by_the_next_life() {
    let place = Place::new();
    let receiver = Receiver::start(&place, &[]);
    let program = "import sys\nfrom seawall_client import Source\n\
        with Source(sys.argv[1], b'meter-7') as source:\n    print(source.durable)\n    \
        for n in range(source.durable + 1, int(sys.argv[2]) + 1):\n        source.send(b'%d' % n)\n    \
        print(source.flush())\n";
    for (from, to) in [("0", "1000"), ("1000", "2500")] {
        let Some(mut life) = python(&["-c", program, &receiver.address, to]) else { return };
        assert_eq!(succeeded(life.output().unwrap()), format!("{from}\n{to}\n"));
    }
    receiver.stop();
    let log = place.arg("log");
    seawall(&["verify", "--log", &log]).expect(0);
    let dumped = seawall(&["dump", "--log", &log, "--format", "raw"]).expect(0).text();
    assert_eq!(dumped, (1..=2500).map(|n: u32| n.to_string()).collect::<String>());
}

/// The golden bytes of the page, and the rules.
#[test]
fn its_own_tests_pass() {
    let Some(mut tests) = python(&["-m", "unittest", "discover", "-v", "-s"]) else { return };
    let told = ended(tests.arg(home()).output().unwrap()).expect(0).stderr;
    assert!(told.contains("golden_bytes") && told.contains("\nRan "), "{told}");
    for line in told.lines().filter(|line| line.contains(" ... skipped ")) {
        skipped(format_args!("examples/python: {line}"));
    }
}
