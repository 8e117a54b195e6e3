//! The pipe without threads or files.

use super::*;
use crate::codec::crc32c;
use crate::io::{GroupWrite, WriteTimes};
use crate::types::StreamId;

fn pipe(flush_depth: usize) -> Pipe<()> {
    let config = PipeConfig {
        log: LogId::new(1),
        incarnation: Incarnation::new(2),
        stream: StreamId::default(),
        block_bytes: 512,
        group_bytes_max: 8192,
        // As many writes at once as are allowed: what follows is about the order alone.
        flush_depth_max: flush_depth,
        flush_depth_min: flush_depth,
        gather: false,
        index_stride_bytes: 4096,
        memory_tail_bytes: 0,
        sweep_interval: Duration::from_millis(1),
    };
    let start = Start { end: Lsn::ZERO, chain: Chain::start(0), time_micros: 0, proven: Lsn::ZERO };
    let mut pipe = Pipe::new(config, BufferPool::new(1 << 20), start);
    for number in 1..=3 {
        let spare = Spare::new(SegmentNumber::new(number), Arc::new(()), 64 * 1024, true);
        pipe.spares.push_back(spare);
    }
    let first = pipe.take_spare().unwrap();
    let seal = seal_after(&pipe, &facts(), &first);
    pipe.begin_segment(first, seal, Instant::now());
    let seal = take(&mut pipe).unwrap();
    end(&mut pipe, seal);
    pipe
}

fn facts() -> ControlFacts {
    let trim = TrimPoint { lsn: Lsn::ZERO, chain: Chain::start(0), first_segment: SegmentNumber::FIRST };
    ControlFacts { truncation_count: 0, generation: 1, trim }
}

fn append(pipe: &mut Pipe<()>, bytes: usize) -> Lsn {
    try_append(pipe, bytes).unwrap()
}

fn try_append(pipe: &mut Pipe<()>, bytes: usize) -> Result<Lsn, Refused> {
    let payload = vec![7; bytes];
    let record = Encoded {
        body: Body::Parts(&[payload[..].into()]),
        payload_bytes: bytes as u32,
        raw_bytes: bytes as u32,
        payload_crc: crc32c(&payload),
        flags: 0,
    };
    let placed = pipe.append(record, 0, Instant::now, |pipe, next| seal_after(pipe, &facts(), next));
    placed.map(|placed| placed.lsn).map_err(|(refused, _)| refused)
}

fn take(pipe: &mut Pipe<()>) -> Option<Group<()>> {
    match pipe.take_for_driver(Instant::now(), true) {
        DriverTurn::Submit(group) => Some(group),
        DriverTurn::At(_) => None,
    }
}

fn end(pipe: &mut Pipe<()>, group: Group<()>) -> Lsn {
    let GroupWrite { token, parts, .. } = group.write;
    pipe.complete(Instant::now(), token, parts, Ok(WriteTimes::default())).flushed
}

#[test]
fn a_segment_s_seal_is_written_only_when_everything_before_it_is_flushed() {
    let mut pipe = pipe(8);
    // One group of the old segment after the other is taken and not ended.
    let mut in_flight = Vec::new();
    let mut last_of_old = Lsn::ZERO;
    while pipe.writer().unwrap().number == SegmentNumber::FIRST {
        last_of_old = append(&mut pipe, 5000);
        if pipe.writer().unwrap().number == SegmentNumber::FIRST && in_flight.len() < 4 {
            in_flight.extend(take(&mut pipe));
        }
    }
    let last_of_old = last_of_old.previous();
    assert_eq!(in_flight.len(), 4);
    let mut ended = Vec::new();
    while ended.len() < 60 {
        match take(&mut pipe) {
            Some(group) if group.write.offset == 512 => {
                assert!(in_flight.is_empty(), "the seal goes out beside {} groups of the old segment", in_flight.len());
                assert_eq!(pipe.flushed().0, last_of_old);
                return;
            }
            Some(group) => in_flight.push(group),
            // The last one taken ends first.
            None => ended.push(end(&mut pipe, in_flight.pop().unwrap())),
        }
    }
    panic!("the seal was never written");
}

#[test]
fn a_spare_that_is_worked_on_is_begun_by_nobody_and_nor_is_a_later_one() {
    let mut pipe = pipe(1);
    let borrowed = pipe.borrow_first_spare().unwrap();
    let room = |pipe: &Pipe<()>| pipe.writer().unwrap().room();
    while room(&pipe) > 8192 {
        append(&mut pipe, 5000);
        let group = take(&mut pipe).unwrap();
        end(&mut pipe, group);
    }
    assert_eq!(try_append(&mut pipe, 9000), Err(Refused::NeedSegment { bytes: 9216 }));
    assert!(!pipe.has_place_for(9000) && pipe.take_spare().is_none() && pipe.borrow_first_spare().is_none());
    assert_eq!(pipe.writer().unwrap().number, SegmentNumber::FIRST);
    let next = borrowed.number;
    pipe.return_spare(borrowed);
    append(&mut pipe, 9000);
    assert_eq!(pipe.writer().unwrap().number, next);
}

#[test]
fn groups_that_end_out_of_order_flush_a_gap_free_prefix() {
    let mut pipe = pipe(8);
    let mut groups = Vec::new();
    for _ in 0..4 {
        append(&mut pipe, 5000);
        groups.extend(take(&mut pipe));
    }
    let flushed: Vec<u64> = [3, 1, 0, 0].into_iter().map(|which| end(&mut pipe, groups.remove(which)).get()).collect();
    assert_eq!(flushed, [0, 0, 2, 4]);
}

/// Also before it in the log: what a device lost it may tell to the flush of another group, and then to none.
#[test]
fn after_a_failure_nothing_is_flushed_whatever_ends() {
    let mut pipe = pipe(8);
    let mut groups = Vec::new();
    for _ in 0..4 {
        append(&mut pipe, 5000);
        groups.extend(take(&mut pipe));
    }
    let (first, failed) = (groups.remove(0), groups.remove(1));
    assert_eq!(end(&mut pipe, first).get(), 1);
    let lost = || Error::io_at("write and flush", "a segment", 0, std::io::Error::from_raw_os_error(5));
    let GroupWrite { token, parts, .. } = failed.write;
    assert!(pipe.complete(Instant::now(), token, parts, Err(lost())).poisoned);
    assert_eq!(pipe.poison.as_ref().unwrap().0, Lsn::new(3));
    for group in groups {
        let GroupWrite { token, parts, .. } = group.write;
        let released = pipe.complete(Instant::now(), token, parts, Ok(WriteTimes::default()));
        assert!(released.poisoned && released.flushed == Lsn::new(1));
    }
    assert!(take(&mut pipe).is_none() && pipe.poison.as_ref().unwrap().0 == Lsn::new(2));
}

#[test]
fn what_was_in_flight_at_a_close_counts_unless_something_failed() {
    for (cause, flushed) in [(Error::Closed, 1), (Error::TimedOut { what: "a control file, say" }, 0)] {
        let mut pipe = pipe(1);
        append(&mut pipe, 5000);
        let group = take(&mut pipe).unwrap();
        assert_eq!(pipe.abandon(cause), flushed == 0, "a failure is told");
        assert_eq!(end(&mut pipe, group).get(), flushed);
    }
}

/// A marker, say, or a lone seal: it stands where the poisoned part begins, and has no part in it.
#[test]
fn a_group_without_frames_may_be_in_flight_at_a_close() {
    let mut pipe = pipe(1);
    append(&mut pipe, 5000);
    let group = take(&mut pipe).unwrap();
    end(&mut pipe, group);
    assert!(pipe.put_marker(Instant::now()));
    let marker = take(&mut pipe).unwrap();
    pipe.abandon(Error::Closed);
    assert_eq!(end(&mut pipe, marker).get(), 1);
}

#[test]
fn no_marker_is_written_while_a_truncation_is_under_way() {
    let mut pipe = pipe(1);
    append(&mut pipe, 100);
    let group = take(&mut pipe).unwrap();
    end(&mut pipe, group);
    pipe.paused = true;
    assert!(!pipe.put_marker(Instant::now()) && pipe.is_idle());
    pipe.paused = false;
    assert!(pipe.put_marker(Instant::now()));
}
