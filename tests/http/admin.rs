//! The admin port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use seawall::Config;
use seawall::node::{Admin, HttpConfig, LinesConfig, LinesGateway, Receiver};
use seawall::receiver::ReceiverConfig;

use crate::World;
use crate::client::Client;

impl World {
    fn serve_admin(&self, admin: &Admin) -> SocketAddr {
        let (listener, address) = self.listen();
        self.runtime.spawn(admin.clone().serve(listener, std::future::pending()));
        address
    }
}

#[test]
fn ready_is_what_takes_records() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let admin = Admin::new();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let mut client = Client::connect(listener.local_addr().unwrap());
    runtime.spawn(admin.clone().serve(listener, std::future::pending()));
    let mut ready = |reason: Option<&str>| {
        let answer = client.get("/readyz");
        let expected = (if reason.is_none() { 200 } else { 503 }, reason.map_or(serde_json::Value::Null, Into::into));
        assert_eq!((answer.status, answer.json["reason"].clone()), expected, "{answer:?}");
        assert_eq!(client.get("/livez").status, 200);
        let metrics = client.get("/metrics").text;
        assert!(metrics.contains(&format!("\nseawall_ready {}\n", u64::from(reason.is_none()))), "{metrics}");
        answer
    };
    ready(Some("starting"));
    admin.starting("replaying", 3, 10);
    let answer = ready(Some("starting"));
    assert_eq!((answer.number("done"), answer.number("total"), &answer.json["text"]), (3, 10, &"replaying".into()));

    let few = ReceiverConfig { sessions_max: 1, ..ReceiverConfig::default() };
    let open = || {
        let log = crate::streams::reopen(dir.path(), &Config::default());
        let (receiver, driver, _) = Receiver::open(log.clone(), "test", few.clone()).unwrap();
        (log, receiver, driver.spawn().unwrap())
    };
    let (log, receiver, thread) = open();
    admin.ready(receiver.clone());
    ready(None);
    assert_eq!(receiver.stats().intake.sessions, 0, "asking leaves nothing behind");
    let only = receiver.local_blocking("a").unwrap();
    ready(Some("refuses"));
    drop(only);
    ready(None);
    receiver.drain(Duration::from_secs(1), "maintenance");
    assert_eq!(ready(Some("draining")).json["text"], "maintenance");
    receiver.shut_down();
    thread.join().unwrap();
    ready(Some("failed"));
    log.close(Duration::from_secs(5)).unwrap();

    admin.starting("reopening", 0, 0);
    drop(receiver);
    ready(Some("starting"));
    let (log, receiver, thread) = open();
    admin.ready(receiver.clone());
    ready(None);
    // A log that takes nothing more, heard of by the next record.
    log.close(Duration::from_secs(5)).unwrap();
    receiver.local_blocking("a").unwrap_err();
    assert!(thread.join().is_err());
    ready(Some("failed"));
    admin.failed("no such directory");
    assert_eq!(ready(Some("failed")).json["text"], "no such directory");
}

/// Every sample by its name and labels; panics at what is not Prometheus text.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut kinds, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && words.ends_with('.'), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["gauge", "counter", "summary"].contains(&kind) && helped.contains(name), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let name = key.split('{').next().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            let of_summary = [name.strip_suffix("_sum"), name.strip_suffix("_count")];
            let is_known = kinds.contains_key(name)
                || of_summary.into_iter().flatten().any(|name| kinds.get(name).is_some_and(|kind| kind == "summary"));
            assert!(is_known, "a sample without a type: {line}");
            assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    samples
}

#[test]
fn metrics_say_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let (listener, lines_address) = world.listen();
    let lines = LinesGateway::new(world.receiver.clone(), LinesConfig { ack: true, ..Default::default() }).unwrap();
    let admin = Admin::new();
    admin.ready(world.receiver.clone());
    admin.show_http("public", http.watch.clone());
    admin.show_lines("sys\"log", lines.watch());
    world.runtime.spawn(lines.serve(listener, std::future::pending()));
    let mut operator = Client::connect(world.serve_admin(&admin));

    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    assert_eq!(client.post(&from("1"), "1\n2\n").status, 201);
    assert_eq!(client.post(&from("1"), "1\n2\n").status, 200);
    assert_eq!(client.post(&from("9"), "9\n").status, 409);
    let mut local = world.receiver.local_blocking("a").unwrap();
    local.store_blocking(&["3"]).unwrap();
    let mut lines = Client::connect(lines_address);
    lines.send("x\n");
    assert!(!lines.is_closed(), "OK 1");
    let answer = operator.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let told = parse(&answer.text);
    let flushed = world.log.flushed().get() as f64;
    for (name, value) in [
        ("seawall_ready", 1.0),
        ("seawall_receiver_info{stream=\"test\"}", 1.0),
        ("seawall_receiver_failed", 0.0),
        ("seawall_receiver_sources", 1.0),
        ("seawall_receiver_charged_bytes", 0.0),
        ("seawall_receiver_records_total", 4.0),
        ("seawall_receiver_duplicates_total", 2.0),
        ("seawall_receiver_replaced_total", 1.0),
        ("seawall_receiver_gaps_total", 0.0),
        ("seawall_receiver_acked_losses_total", 0.0),
        ("seawall_log_durable_lsn", flushed),
        ("seawall_log_appended_lsn", flushed),
        ("seawall_log_trimmed_lsn", 0.0),
        ("seawall_log_poisoned", 0.0),
        ("seawall_http_answers_total{gateway=\"public\",status=\"200\"}", 1.0),
        ("seawall_http_answers_total{gateway=\"public\",status=\"201\"}", 1.0),
        ("seawall_http_answers_total{gateway=\"public\",status=\"409\"}", 1.0),
        ("seawall_lines_connections{gateway=\"sys\\\"log\"}", 1.0),
        ("seawall_lines_lines_total{gateway=\"sys\\\"log\"}", 1.0),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name} in {told:#?}");
    }
    let flushes = told["seawall_log_flushes_total"];
    assert!(flushes > 0.0 && told["seawall_log_flush_seconds_count"] == flushes);
    let median = told["seawall_log_flush_seconds{quantile=\"0.5\"}"];
    assert!((1e-6..10.0).contains(&median), "in seconds: {median}");
    assert!(told["seawall_receiver_sessions"] >= 2.0);
    world.close();
}

#[test]
fn the_status_lists_sources_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    for number in 0..25 {
        world.receiver.local_blocking(&format!("source-{number}")).unwrap().store_blocking(&["x", "y"]).unwrap();
    }
    let admin = Admin::new();
    let mut client = Client::connect(world.serve_admin(&admin));
    assert_eq!(client.get("/v1/status").json["ready"], false, "before there is a receiver");
    admin.ready(world.receiver.clone());
    let answer = client.get("/v1/status");
    assert_eq!((answer.json["sources"].as_array().unwrap().len(), &answer.json["next"]), (25, &().into()));
    assert_eq!(answer.json["receiver"]["records"], 50);
    assert_eq!(answer.json["log"]["durable"], world.log.flushed().get());
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let answer = client.get(&format!("/v1/status?sources=10&from={from}"));
        for source in answer.json["sources"].as_array().unwrap() {
            assert_eq!((&source["durable"], &source["received"], &source["epoch"]), (&2.into(), &2.into(), &1.into()));
            found.push(source["id"].as_str().unwrap().to_owned());
        }
        match answer.json["next"].as_u64() {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(from, 20);
    assert_eq!(found, (0..25).map(|number| format!("source-{number}")).collect::<Vec<_>>());
    for query in ["sources=1001", "sources=-1", "from=x", "page=1", "from"] {
        assert_eq!(client.get(&format!("/v1/status?{query}")).status, 400, "{query}");
    }
    assert_eq!(client.get("/v1/status?from=99&sources=1").json["sources"], serde_json::json!([]));
    assert_eq!(client.get("/nothing").status, 404);
    assert_eq!(client.post_to("/metrics", &[], "").header("allow"), Some("GET"));
    world.close();
}
