//! `seawall receive` on a device that does not answer for a while.

#[path = "support/image.rs"]
mod image;
#[path = "../../tests/support/skip.rs"]
mod skip;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use image::{Image, run};
use seawall::SourceId;
use seawall::node::{Client, ClientConfig};
use seawall::receiver::OutboxConfig;
use serde_json::Value;
use support::{PATIENCE, Running};

/// A small ext4 on a file, that can be made to hang: thawed and unmounted in the end, whatever happens.
struct Disk {
    image: Image,
    is_frozen: bool,
}

impl Disk {
    fn freeze(&mut self) {
        run(Command::new("fsfreeze").arg("-f").arg(self.image.at())).unwrap();
        self.is_frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            run(Command::new("fsfreeze").arg("-u").arg(self.image.at())).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// One request on a connection of its own; its answer, whole.
fn http(address: &str, request: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn get(address: &str, path: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"), PATIENCE / 3)
        .expect("an answer")
}

fn led(admin: &str) -> u64 {
    let metrics = get(admin, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with("seawall_log_groups_led_total")).expect("it is told");
    line.rsplit(' ').next().unwrap().parse().expect("a number")
}

/// The thread that hears the only source there is writes its records; where the device hangs, it hangs, and nobody else.
#[test]
fn a_device_that_hangs_holds_up_nobody_but_who_waits_for_it() {
    let Some(image) = Image::mounted("ext4") else { return };
    let log = image.at().join("log");
    let disk = Disk { image, is_frozen: false };
    let anywhere = "127.0.0.1:0";
    let args =
        ["receive", "--log", log.to_str().unwrap(), "--listen", anywhere, "--http", anywhere, "--admin", anywhere];
    let mut receiver = Running::start(support::command(&[&args[..], &["--format", "json"]].concat()));
    // Thawed first, should this fail: who hangs cannot be killed.
    let mut disk = disk;
    let listening: Value = serde_json::from_str(&receiver.line().expect("it listens")).unwrap();
    let door = |name: &str| listening["doors"][name].as_str().expect("it is open").to_owned();
    let (http, admin) = (door("http"), door("admin"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = listening["addresses"][0].as_str().expect("an address").to_owned();
    let outbox = OutboxConfig { source: SourceId::new("a"), ..OutboxConfig::default() };
    let client = Arc::new(runtime.block_on(async { Client::connect(ClientConfig::new(address, outbox)).unwrap() }));
    let push = |client: Arc<Client>| async move {
        tokio::time::timeout(PATIENCE, async { client.push("a record").await.unwrap().await }).await.expect("in time")
    };
    for _ in 0..20 {
        runtime.block_on(push(client.clone())).unwrap();
    }
    // A device that is slow at first has the others left to who writes for all.
    assert!(led(&admin) > 0, "none was written by who brought it");
    disk.freeze();
    let waiting = runtime.spawn(push(client.clone()));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!waiting.is_finished(), "durable on a device that hangs");
    for _ in 0..20 {
        assert!(get(&admin, "/livez").starts_with("HTTP/1.1 200"));
        assert!(get(&http, "/v1/streams/default/sources/nobody").starts_with("HTTP/1.1 404"));
    }
    assert!(!waiting.is_finished());
    disk.thaw();
    assert_eq!(runtime.block_on(waiting).unwrap().unwrap().get(), 21);
    receiver.signal("TERM");
    let ended = receiver.child.wait().unwrap();
    assert_eq!(support::code(ended), 130, "it ends in good order");
}
