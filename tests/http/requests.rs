//! What requests are answered, and what is in the stream then.

use seawall::node::{HttpConfig, HttpGateway, TokenRule};
use seawall::receiver::{Code, Hello, Message, Poison, ReceiverConfig, RecordCheck, Sequences, SessionOutput, WaitFor};
use seawall::{Config, Secret, SourceEpoch, SourceId};

use crate::client::Client;
use crate::{World, epochs_written, records, until};

const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");
const RAW: (&str, &str) = ("Content-Type", "application/octet-stream");

#[test]
fn created_means_durable_also_behind_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3u64 {
        let world = World::open(dir.path(), ReceiverConfig::default());
        let http = world.serve_http(HttpConfig::default());
        let mut client = Client::connect(http.address);
        let first = (round * 4 + 1).to_string();
        let answer = client.post(&[("Source-Id", "a"), ("First-Seq", &first)], "one\ntwo\n");
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.json["guarantee"], "deduplicated");
        let told = ["first", "last", "records", "duplicates"].map(|name| answer.number(name));
        assert_eq!(told, [round * 4 + 1, round * 4 + 2, 2, 0]);
        assert!(world.log.flushed().get() >= answer.number("durable_lsn"), "durable is flushed");
        let first = (round * 4 + 3).to_string();
        let answer = client.post(&[("Source-Id", "a"), ("First-Seq", &first), NDJSON], "{}\n[]");
        assert_eq!(answer.status, 201, "the last line need not be ended: {answer:?}");
        assert_eq!(answer.number("epoch"), round + 1, "behind a restart nobody knows whose the last one was");
        // Without a close: nothing but what was flushed before the answers.
        world.abandon();
    }
    let world = World::open(dir.path(), ReceiverConfig::default());
    let found = records(&world.log);
    assert_eq!(found.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert_eq!(found[..4].iter().map(|(_, _, text)| &text[..]).collect::<Vec<_>>(), ["one", "two", "{}", "[]"]);
    assert_eq!(epochs_written(&world.log), 3);
    world.close();
}

#[test]
fn nothing_is_created_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, driver) = World::without_driver(dir.path(), Config::default(), ReceiverConfig::default(), None);
    let http =
        world.serve_http(HttpConfig { durable_wait: std::time::Duration::from_millis(200), ..Default::default() });
    let mut client = Client::connect(http.address);
    let answer = client.post(&[], "one\n");
    assert_eq!((answer.status, &answer.json["outcome"]), (503, &"unknown".into()), "{answer:?}");
    world.thread = Some(driver.unwrap().spawn().unwrap());
    // As long as a device may take.
    let http = world.serve_http(HttpConfig::default());
    let answer = Client::connect(http.address).post(&[], "one\n");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(records(&world.log).len(), 2, "what was unknown came to be");
    world.close();
}

#[test]
fn without_a_name_a_repetition_is_a_new_record_and_the_answer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    for _ in 0..2 {
        let answer = client.post(&[RAW], "a\nb");
        assert_eq!((answer.status, answer.number("records"), answer.number("duplicates")), (201, 1, 0), "{answer:?}");
        assert_eq!(answer.json["guarantee"], "at_least_once");
        assert!(answer.number("durable_lsn") > 0);
    }
    let texts: Vec<_> = records(&world.log).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ["a\nb", "a\nb"]);
    assert_eq!(epochs_written(&world.log), 0);
    drop(client);
    until("the sessions have ended", || world.receiver.stats().intake.sessions == 0);
    world.close();
}

#[test]
fn a_repetition_is_found_and_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    assert_eq!(client.post(&from("1"), "1\n2\n3\n").status, 201);
    let answer = client.post(&from("1"), "1\n2\n3\n");
    assert_eq!((answer.status, answer.number("duplicates"), answer.number("last")), (200, 3, 3), "{answer:?}");
    let answer = client.post(&from("2"), "2\n3\n4\n5\n");
    assert_eq!((answer.status, answer.number("duplicates"), answer.number("last")), (201, 2, 5), "{answer:?}");
    // On another connection, as after one that broke.
    let answer = Client::connect(http.address).post(&from("5"), "5\n");
    assert_eq!((answer.status, answer.number("duplicates")), (200, 1), "{answer:?}");
    let texts: Vec<_> = records(&world.log).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
    assert_eq!(world.receiver.stats().intake.duplicates, 6);
    assert_eq!(epochs_written(&world.log), 1, "requests cost no epochs");
    assert_eq!(http.watch.answers().collect::<Vec<_>>(), [(200, 2), (201, 2)]);
    world.close();
}

#[test]
fn a_gap_is_told_with_what_was_expected_and_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    // More than once: each is told.
    for _ in 0..3 {
        let answer = client.post(&from("2"), "2\n");
        assert_eq!((answer.status, &answer.json["error"]), (409, &"gap".into()), "{answer:?}");
        assert_eq!((answer.number("expected"), answer.number("durable")), (1, 0));
    }
    assert_eq!(client.post(&from("1"), "1\n2\n").status, 201);
    let answer = client.post(&from("7"), "7\n");
    assert_eq!((answer.status, answer.number("expected"), answer.number("durable")), (409, 3, 2), "{answer:?}");
    // Told from the head alone.
    let head = [&from("7")[..], &[("Content-Length", "1000000"), ("Content-Type", "text/plain")]].concat();
    let mut early = Client::connect(http.address);
    early.send(Client::head("/v1/streams/test", &head));
    assert_eq!(early.answer().status, 409);
    drop(early);
    assert_eq!(client.post(&from("3"), "3\n").status, 201, "the session goes on");
    assert_eq!(records(&world.log).len(), 3);
    assert_eq!(world.receiver.stats().intake.charged_bytes, 0);
    world.close();
}

#[test]
fn a_higher_epoch_fences_lower_ones_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let post = |client: &mut Client, epoch: &str, first: &str| {
        client.post(&[("Source-Id", "a"), ("Source-Epoch", epoch), ("First-Seq", first)], "x\n")
    };
    let answer = post(&mut client, "5", "1");
    assert_eq!((answer.status, answer.number("epoch")), (201, 5), "{answer:?}");
    assert_eq!(post(&mut client, "5", "2").status, 201);
    let answer = post(&mut client, "4", "3");
    assert_eq!((answer.status, &answer.json["error"]), (409, &"old_epoch".into()), "{answer:?}");
    assert_eq!((answer.number("expected"), answer.number("epoch")), (3, 5));
    assert_eq!(post(&mut client, "9", "3").status, 201);
    assert_eq!(post(&mut client, "5", "4").status, 409);
    let answer = client.post(&[("Source-Id", "a"), ("First-Seq", "4")], "x\n");
    assert_eq!((answer.status, answer.number("epoch")), (201, 9), "none is the one of its requests: {answer:?}");
    world.abandon();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    assert_eq!(post(&mut client, "5", "5").status, 409, "fenced behind a restart as well");
    assert_eq!(post(&mut client, "9", "5").status, 201);
    assert_eq!((records(&world.log).len(), epochs_written(&world.log)), (5, 2));
    world.close();
}

#[test]
fn a_higher_epoch_does_not_wait_for_a_body_of_a_lower_one() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut zombie = Client::connect(http.address);
    let from = |epoch, first| [("Source-Id", "a"), ("Source-Epoch", epoch), ("First-Seq", first)];
    assert_eq!(zombie.post(&from("1", "1"), "x\n").status, 201);
    let head = [&from("1", "2")[..], &[("Content-Length", "4"), ("Content-Type", "text/plain")]].concat();
    zombie.send(Client::head("/v1/streams/test", &head) + "z\n");
    until("the body is being read", || world.receiver.stats().intake.charged_bytes > 0);
    let began = std::time::Instant::now();
    let answer = Client::connect(http.address).post(&from("2", "2"), "y\n");
    assert_eq!((answer.status, answer.number("epoch")), (201, 2), "{answer:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(1));
    zombie.send("z\n");
    let answer = zombie.answer();
    assert_eq!((answer.status, &answer.json["error"]), (409, &"old_epoch".into()), "{answer:?}");
    assert_eq!(answer.json["outcome"], "nothing_taken");
    let texts: Vec<_> = records(&world.log).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ["x", "y"]);
    world.close();
}

#[test]
fn another_session_of_the_source_takes_over_visibly() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    assert_eq!(client.post(&from("1"), "1\n").status, 201);
    // In the middle of a request.
    let head = [&from("2")[..], &[("Content-Length", "2"), ("Content-Type", "text/plain")]].concat();
    client.send(Client::head("/v1/streams/test", &head));
    until("the body is being read", || world.receiver.stats().intake.charged_bytes > 0);
    let mut local = world.receiver.local_blocking("a").unwrap();
    local.store_blocking(&["2"]).unwrap();
    client.send("2\n");
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json["error"]), (409, &"old_epoch".into()), "{answer:?}");
    assert_eq!((answer.number("expected"), answer.number("durable"), answer.number("epoch")), (3, 2, 2));
    // Between requests: the epoch there is was given to somebody else, so the source begins the next.
    let answer = client.post(&from("3"), "3\n");
    assert_eq!((answer.status, answer.number("epoch")), (201, 3), "{answer:?}");
    assert!(local.store_blocking(&["x"]).is_err());
    assert_eq!(records(&world.log).len(), 3);
    assert_eq!(world.receiver.stats().intake.replaced, 2);
    world.close();
}

/// A client that is given an epoch believes that nobody else sends in it: what it hears to be durable behind a break of its
/// connection is its own. It let go of what it had sent and what had never arrived.
#[test]
fn a_request_without_an_epoch_takes_no_part_in_one_that_another_session_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let hello = |epoch| {
        let mut session = world.receiver.connect().unwrap();
        session.handle(Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            sequences: Sequences::Dense,
            wait_for: WaitFor::Durable,
            epoch: SourceEpoch::new(epoch),
            source: b"w".to_vec(),
            ..Hello::default()
        }));
        let said = world.runtime.block_on(session.next_output());
        (session, said)
    };
    let post = |client: &mut Client, first: &str| client.post(&[("Source-Id", "w"), ("First-Seq", first)], "x\n");
    let (session, said) = hello(0);
    let SessionOutput::Message(Message::Welcome(welcome)) = said else { panic!("{said:?}") };
    assert_eq!(welcome.epoch.get(), 1);
    // Its connection breaks.
    drop(session);
    let answer = post(&mut client, "1");
    assert_eq!((answer.status, answer.number("epoch")), (201, 2), "{answer:?}");
    let (session, said) = hello(1);
    let SessionOutput::Message(Message::Nack(nack)) = said else { panic!("{said:?}") };
    assert_eq!((nack.code, nack.fatal), (Code::OldEpoch, true), "it is told: {nack:?}");
    drop(session);
    // Nor where the other one only comes back to its epoch, by another gateway or by the same.
    let (session, said) = hello(0);
    assert!(matches!(&said, SessionOutput::Message(Message::Welcome(w)) if w.epoch.get() == 3), "{said:?}");
    drop(session);
    let chosen = [("Source-Id", "w"), ("Source-Epoch", "3"), ("First-Seq", "2")];
    assert_eq!(client.post(&chosen, "x\n").number("epoch"), 3, "who says it, knows it");
    assert_eq!(post(&mut client, "3").number("epoch"), 4);
    let other = world.serve_http(HttpConfig::default());
    let answer = post(&mut Client::connect(other.address), "4");
    assert_eq!((answer.status, answer.number("epoch")), (201, 4), "all gateways of a receiver are one: {answer:?}");
    world.close();
}

#[test]
fn requests_of_one_source_take_turns_and_those_of_many_run_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig { sources_kept_max: 4, ..Default::default() });
    let address = http.address;
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                let source = format!("source-{number}");
                for round in 0..25 {
                    let first = (round * 2 + 1).to_string();
                    let body = format!("{}\n{}\n", round * 2 + 1, round * 2 + 2);
                    let headers = [("Source-Id", &source[..]), ("First-Seq", &first)];
                    // With fewer places than sources at work some have to come again.
                    let answer = loop {
                        let answer = client.post(&headers, &body);
                        if answer.status != 429 {
                            break answer;
                        }
                        assert_eq!(answer.json["outcome"], "nothing_taken");
                    };
                    assert_eq!((answer.status, answer.number("duplicates")), (201, 0), "{answer:?}");
                }
            });
        }
        // The same requests of one source from several connections: each record is taken once, and every request is
        // answered by what became of it.
        for _ in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                let mut first = 1;
                while first <= 40 {
                    let headers = [("Source-Id", "shared"), ("First-Seq", &first.to_string()[..])];
                    let answer = client.post(&headers, format!("{first}\n"));
                    match answer.status {
                        200 | 201 => first += 1,
                        429 => {}
                        _ => panic!("{answer:?}"),
                    }
                }
            });
        }
    });
    let mut found = records(&world.log);
    assert_eq!(found.len(), 8 * 50 + 40);
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    for of_source in found.chunk_by(|a, b| a.0 == b.0) {
        for (at, (source, seq, text)) in of_source.iter().enumerate() {
            assert_eq!((*seq, text), (at as u64 + 1, &seq.to_string()), "{source}");
        }
    }
    assert_eq!(epochs_written(&world.log), 9, "sources that lost their place go on in their epoch");
    world.close();
}

#[test]
fn what_is_too_long_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        ReceiverConfig { record_bytes_max: 100, frame_bytes_max: 1024, frame_records_max: 10, ..Default::default() };
    let world = World::open(dir.path(), config);
    let http = world.serve_http(HttpConfig { unannounced_bytes_max: 50, body_bytes_max: 5000, ..Default::default() });
    let mut client = Client::connect(http.address);
    let from = [("Source-Id", "a"), ("First-Seq", "1")];
    let long = "x".repeat(101);
    let answer = client.post(&from, format!("ok\n{long}\nok\n"));
    assert_eq!(
        (answer.status, &answer.json["error"], answer.number("record")),
        (413, &"oversized".into(), 2),
        "{answer:?}"
    );
    assert_eq!(client.post(&[RAW], &long).status, 413);
    assert_eq!(client.post(&[], "\n".repeat(11)).json["error"], "too_many_records");
    assert_eq!(client.post(&from, format!("{}\n", &long[..99]).repeat(9)).status, 201);
    let answer = client.post(&[("Source-Id", "b"), ("First-Seq", "1")], format!("{}\r\n", &long[..100]).repeat(10));
    assert_eq!((answer.status, &answer.json["error"]), (413, &"body_too_long".into()), "{answer:?}");
    // The receiver's own limit holds as well, and a long body's sender gets to its answer.
    let answer = client.post(&[RAW], "x".repeat(7 << 20));
    assert_eq!((answer.status, &answer.json["error"]), (413, &"body_too_long".into()), "{answer:?}");
    // One that asks before it sends hears it before it has sent anything.
    let mut asks = Client::connect(http.address);
    asks.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "5000"), ("Expect", "100-continue")]));
    assert_eq!(asks.answer().status, 413);
    // A length that is not told: as it comes.
    let chunked = [RAW, ("Transfer-Encoding", "chunked")];
    let mut client = Client::connect(http.address);
    client.send(
        Client::head("/v1/streams/test", &chunked)
            + "19\r\n"
            + &long[..25]
            + "\r\n19\r\n"
            + &long[..25]
            + "\r\n0\r\n\r\n",
    );
    assert_eq!(client.answer().status, 201);
    client.send(Client::head("/v1/streams/test", &chunked) + "33\r\n" + &long[..51] + "\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    assert_eq!(records(&world.log).len(), 10);
    until("nothing is charged", || world.receiver.stats().intake.charged_bytes == 0);
    world.close();
}

#[test]
fn json_is_checked_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let path = "/v1/streams/test?check=json";
    let answer = client.post_to(path, &[NDJSON], "{}\n\n{oops}\n");
    assert_eq!(
        (answer.status, &answer.json["error"], answer.number("record")),
        (422, &"not_json".into(), 2),
        "{answer:?}"
    );
    assert_eq!(client.post_to(path, &[NDJSON], "{\"a\": 1}\n\n[]\n").number("records"), 2);
    assert_eq!(client.post(&[NDJSON], "{oops}\n").status, 201);
    assert_eq!(client.post_to(path, &[], "{}\n").status, 400, "not silently unchecked");
    assert_eq!(records(&world.log).len(), 3);
    world.close();
}

#[test]
fn tokens_allow_their_sources_only() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let rule = |token: &str, sources: &str| TokenRule { token: Secret::new(token), sources: sources.to_owned() };
    let tokens = vec![rule("plant-plant-plant", "plant/"), rule("admin-admin-admin", "")];
    let http = world.serve_http(HttpConfig { tokens, ..Default::default() });
    let mut client = Client::connect(http.address);
    let plant = ("Authorization", "Bearer plant-plant-plant");
    let admin = ("Authorization", "Bearer admin-admin-admin");
    let wrong = ("Authorization", "Bearer plant-plant-planx");
    let ours = [("Source-Id", "plant/7"), ("First-Seq", "1")];
    let answer = client.post(&ours, "x\n");
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{answer:?}");
    let with = |token, source: &[(&'static str, &'static str)]| [&[token], source].concat();
    assert_eq!(client.post(&with(wrong, &ours), "x\n").status, 401);
    assert_eq!(client.post(&with(plant, &ours), "x\n").status, 201);
    assert_eq!(client.post(&with(plant, &[("Source-Id", "other"), ("First-Seq", "1")]), "x\n").status, 403);
    assert_eq!(client.post(&with(plant, &[]), "x\n").status, 403, "without a name it could be anybody");
    assert_eq!(client.post(&with(admin, &[]), "x\n").status, 201);
    assert_eq!(client.get("/v1/streams/test/sources/plant%2F7").status, 401);
    assert_eq!(client.get_with("/v1/streams/test/sources/other", &[plant]).status, 403);
    assert_eq!(client.get_with("/v1/streams/test/sources/plant%2F7", &[plant]).status, 200);
    assert_eq!(client.post_to("/v1/streams/other", &[], "x\n").status, 401, "who may not know is not told");
    assert_eq!(client.post_to("/v1/streams/other", &[admin], "x\n").status, 404);
    assert_eq!(records(&world.log).len(), 2);
    world.close();
}

#[test]
fn a_source_can_ask_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let path = "/v1/streams/test/sources/a%20b";
    let answer = client.get(path);
    assert_eq!((answer.status, answer.number("first_seq")), (404, 1), "{answer:?}");
    client.post(&[("Source-Id", "a b"), ("Source-Epoch", "3"), ("First-Seq", "1")], "1\n2\n");
    world.receiver.committed(world.log.flushed()).unwrap();
    let answer = client.get(path);
    let told = ["epoch", "received", "durable", "committed", "first_seq"].map(|name| answer.number(name));
    assert_eq!((answer.status, told), (200, [3, 2, 2, 2, 3]), "{answer:?}");
    assert_eq!(client.get("/v1/streams/other/sources/a").json["error"], "unknown_stream");
    world.receiver.retire(&SourceId::new("a b").unwrap()).unwrap();
    until("it is retired", || client.get(path).json["retired"] == true);
    let answer = client.post(&[("Source-Id", "a b"), ("First-Seq", "3")], "3\n");
    assert_eq!((answer.status, &answer.json["error"]), (410, &"retired".into()), "{answer:?}");
    world.close();
}

#[test]
fn dead_letters_are_listed_until_they_are_taken_note_of() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig {
        poison: Poison::DeadLetter,
        record_bytes_max: 100,
        rejects_unseen_max: 3,
        ..Default::default()
    };
    let world =
        World::open_with(dir.path(), Config::default(), config, Some(RecordCheck::new(crate::streams::even_length)));
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let seqs = |answer: &crate::client::Answer| -> Vec<u64> {
        answer.json["rejects"].as_array().unwrap().iter().map(|reject| reject["seq"].as_u64().unwrap()).collect()
    };
    let long = "x".repeat(102);
    let answer = client.post(&[("Source-Id", "a"), ("First-Seq", "1")], format!("ok\nodd\n{long}\nok\n"));
    assert_eq!((answer.status, seqs(&answer)), (201, vec![2, 3]), "{answer:?}");
    assert_eq!(answer.json["rejects"][0], serde_json::json!({ "seq": 2, "reason": "poison", "bytes": 3 }));
    assert_eq!(answer.json["rejects"][1]["reason"], "oversized");
    let answer = client.post(&[("Source-Id", "a"), ("First-Seq", "5")], "ok\nodd\n");
    assert_eq!((answer.status, seqs(&answer)), (201, vec![2, 3, 6]), "told again: {answer:?}");
    let answer = client.post(&[("Source-Id", "a"), ("First-Seq", "7")], "ok\nodd\nok\n");
    assert_eq!(
        (answer.status, &answer.json["error"], answer.number("at")),
        (409, &"rejects_unseen".into(), 8),
        "{answer:?}"
    );
    assert_eq!((answer.number("expected"), &answer.json["outcome"]), (8, &"in_part".into()));
    assert_eq!(seqs(&answer), [2, 3, 6], "what there is to take note of: {answer:?}");
    assert_eq!(answer.json["go_on"], "Rejects-Seen: 6, First-Seq: as `expected`");
    let seen = [("Source-Id", "a"), ("First-Seq", "8"), ("Rejects-Seen", "3")];
    let answer = client.post(&seen, "odd\nok\n");
    assert_eq!((answer.status, seqs(&answer)), (201, vec![6, 8]), "{answer:?}");
    // Also of those that only become durable.
    let answer = client.post(&[("Source-Id", "b"), ("First-Seq", "1")], "odd\nodd\nodd\nodd\n");
    assert_eq!((answer.status, answer.number("at"), seqs(&answer)), (409, 4, vec![1, 2, 3]), "{answer:?}");
    let texts: Vec<_> = records(&world.log).into_iter().map(|(_, seq, _)| seq).collect();
    assert_eq!(texts, [1, 4, 5, 7, 9]);
    // Without a name there is nobody to keep a reject for.
    let answer = client.post(&[], "ok\nodd\n");
    assert_eq!((answer.status, &answer.json["outcome"]), (422, &"in_part".into()), "{answer:?}");
    assert_eq!(client.post(&[], format!("ok\n{long}\n")).status, 413);
    world.close();
}

#[test]
fn a_record_the_check_refuses_stops_its_request_there() {
    let dir = tempfile::tempdir().unwrap();
    let check = Some(RecordCheck::new(crate::streams::even_length));
    let world = World::open_with(dir.path(), Config::default(), ReceiverConfig::default(), check);
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let answer = client.post(&[("Source-Id", "a"), ("First-Seq", "1")], "ok\nodd\nok\n");
    assert_eq!((answer.status, &answer.json["error"], answer.number("at")), (422, &"poison".into(), 2), "{answer:?}");
    assert_eq!((answer.number("expected"), &answer.json["outcome"]), (2, &"in_part".into()));
    let answer = client.post(&[("Source-Id", "a"), ("First-Seq", "2")], "ok\n");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(records(&world.log).len(), 2);
    world.close();
}

#[test]
fn any_connection_can_be_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let gateway = HttpGateway::new(world.receiver.clone(), HttpConfig::default()).unwrap();
    // What a TLS acceptor gives is a stream as well.
    let (mut near, far) = tokio::io::duplex(64);
    let answer = world.runtime.block_on(async {
        let served = tokio::spawn(gateway.serve_connection(far));
        let headers = [("Content-Type", "text/plain"), ("Content-Length", "2"), ("Connection", "close")];
        near.write_all((Client::head("/v1/streams/test", &headers) + "x\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        served.await.unwrap();
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(records(&world.log).len(), 1);
    world.close();
}
