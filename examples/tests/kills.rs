//! The whole chain as processes: a source that is cut off, files that grow and are renamed, and `word_count` killed at random.
//! The table equals the counts made from the lines directly. `WORD_COUNT_KILLS` says how often (default 10).

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall::SourceId;
use seawall::node::{Client, ClientConfig};
use seawall::receiver::OutboxConfig;

const PROGRAM: &str = env!("CARGO_BIN_EXE_word_count");
const LINES: u64 = 30_000;
const END_WITHIN: Duration = Duration::from_secs(300);

/// Small numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn line(of: &str, n: u64) -> String {
    let words = 1 + n % 7;
    (0..words).map(|w| format!("{of}{}", (n * 31 + w * w) % 997)).collect::<Vec<_>>().join(" ")
}

fn start(dir: &Path, address: SocketAddr, more: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["run".as_ref(), dir.join("data").as_os_str()])
        .args(["--listen", &address.to_string(), "--interval", "5", "--files"])
        .arg(dir.join("files"))
        .args(more)
        .stdout(Stdio::null())
        .spawn()
        .expect("word_count starts")
}

fn output(arguments: &[&std::ffi::OsStr]) -> Vec<u8> {
    let done = Command::new(PROGRAM).args(arguments).output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// Sends every line once, through any number of connections.
fn send(address: SocketAddr, cuts: &mut Dice) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let began = Instant::now();
    let is_done = |durable: u64| durable >= LINES;
    loop {
        assert!(began.elapsed() < END_WITHIN, "the receiver never has it all");
        let life = Duration::from_millis(20 + cuts.below(400));
        let done = runtime.block_on(async {
            let outbox = OutboxConfig { source: SourceId::new("press"), ..OutboxConfig::default() };
            let client = Client::connect(ClientConfig::new(address.to_string(), outbox)).expect("a configuration");
            let sending = async {
                let behind = client.resume().await.ok()?.get();
                for n in behind..LINES {
                    drop(client.push(line("net", n)).await.ok()?);
                }
                Some(client.flush().await.ok()?.durable.get())
            };
            // Dropped in the middle: cut off.
            tokio::time::timeout(life, sending).await.ok().flatten()
        });
        if done.is_some_and(is_done) {
            return;
        }
    }
}

/// Files that come, grow by halves of lines, and get other names.
fn write_files(dir: &Path, dice: &mut Dice) {
    for file in 0..6u64 {
        let path = dir.join(format!("part-{file}.txt"));
        let mut out = std::fs::File::create(&path).expect("a file");
        for n in 0..1000 {
            let whole = format!("{}\n", line("file", file * 1000 + n));
            let (head, tail) = whole.split_at(whole.len() / 2);
            out.write_all(head.as_bytes()).expect("written");
            if dice.below(50) == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            out.write_all(tail.as_bytes()).expect("written");
        }
        std::fs::rename(&path, dir.join(format!("done-{file}.txt"))).expect("renamed");
    }
}

#[test]
fn killed_at_random_it_counts_every_word_once() {
    let kills: u64 = std::env::var("WORD_COUNT_KILLS").map_or(10, |text| text.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    std::fs::create_dir(dir.join("files")).expect("a directory");
    let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sources = scope.spawn(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| write_files(&dir.join("files"), &mut Dice(0x5EED)));
                send(address, &mut Dice(0xD1CE));
            });
            is_over.store(true, Ordering::Release);
        });
        let (mut dice, mut killed) = (Dice(0x9E37_79B9_7F4A_7C15), 0);
        while killed < kills || !is_over.load(Ordering::Acquire) {
            let mut child = start(dir, address, &[]);
            std::thread::sleep(Duration::from_millis(30 + dice.below(400)));
            let ended = child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended by itself: {ended:?}");
            child.kill().expect("kill -9");
            child.wait().expect("it is dead");
            killed += 1;
            assert!(!sources.is_finished() || is_over.load(Ordering::Acquire), "the sources failed");
        }
        println!("killed {killed} times");
    });
    assert!(start(dir, address, &["--until-idle", "2"]).wait().expect("it ends").success());
    let lines = (0..LINES).map(|n| line("net", n)).chain((0..6000).map(|n| line("file", n)));
    let all = lines.fold(String::new(), |all, line| all + &line + "\n");
    std::fs::write(dir.join("all.txt"), all).expect("written");
    let counted = output(&["show".as_ref(), dir.join("data").as_os_str()]);
    let direct = output(&["direct".as_ref(), dir.join("all.txt").as_os_str()]);
    assert!(!direct.is_empty() && counted == direct, "the table is not what the lines hold");
}
