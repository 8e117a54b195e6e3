//! What other threads do for the log: the I/O driver's turns, and background jobs; and the end, which waits for both.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use super::super::commit::DriverTurn;
use super::Shared;
use crate::error::Error;
use crate::events;
use crate::io::{Client, GroupWrite, Storage, WriteTimes};
use crate::metrics::add;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, now, sleep};
use crate::types::Lsn;

/// Background jobs of this log: the directory is given back only when none runs and none will.
#[derive(Default)]
pub(super) struct Work {
    running: usize,
    retired: bool,
}

/// What the driver remembers between two turns.
#[derive(Default)]
pub(super) struct DriveState {
    /// The last Lsn assigned when the driver last looked, and since when it has not changed.
    seen: Lsn,
    quiet_since: Option<Instant>,
}

impl<S: Storage> Client<S::File> for Shared<S> {
    fn complete(&self, write: GroupWrite<S::File>, result: std::io::Result<WriteTimes>) {
        if result.as_ref().is_ok_and(|times| times.by_thread) {
            add(&self.counters.groups_by_pool, 1);
        }
        self.group_ended(write, result);
    }

    fn drive(&self) -> Option<Duration> {
        let waits_for_room = self.retry_for_tasks();
        let mut state = self.drive_state.lock();
        let mut pipe = self.pipe.lock();
        let now = now();
        let next_look = loop {
            match pipe.take_for_driver(now, false) {
                DriverTurn::Submit(group) => {
                    add(&self.counters.groups_driven, 1);
                    self.counters.queue_wait_micros.record_micros(group.queued_for);
                    events::queue_waited(group.queued_for.as_micros() as u64);
                    MutexGuard::unlocked(&mut pipe, || self.storage.submit(group.write));
                }
                DriverTurn::At(at) => break at,
            }
        };
        // Activity keeps the driver looking in once per sweep interval; silence ends in a proof, then in sleep.
        if pipe.wants_written_spare() {
            MutexGuard::unlocked(&mut pipe, || self.keep_spares());
        }
        let end = pipe.end().0;
        if end != state.seen || !pipe.is_idle() {
            state.seen = end;
            state.quiet_since = None;
        }
        let quiet_since = *state.quiet_since.get_or_insert(now);
        let sweep = self.config.sweep_interval;
        let quiet = now.saturating_duration_since(quiet_since);
        if quiet >= self.config.idle_proof_after && pipe.is_idle() {
            if !self.closed.load(Ordering::Relaxed)
                && pipe.put_marker(now)
                && let DriverTurn::Submit(group) = pipe.take_for_driver(now, true)
            {
                // What is appended from now on asks for the driver.
                pipe.driver_armed = false;
                MutexGuard::unlocked(&mut pipe, || self.storage.submit(group.write));
                let after = self.config.idle_proof_after;
                return Some(waits_for_room.map_or(after, |retry| retry.min(after)));
            }
            pipe.driver_armed = false;
            return waits_for_room;
        }
        if pipe.poison.is_some() {
            return None;
        }
        pipe.driver_armed = true;
        let at = next_look.map_or(sweep, |at| at.saturating_duration_since(now));
        let at = waits_for_room.map_or(at, |retry| retry.min(at));
        Some(at.clamp(Duration::from_micros(20), sweep))
    }

    fn panicked(&self) {
        let what = std::io::Error::other("a panic in the log's own code, see the message it left");
        self.abandon(Error::io("work for", self.storage.describe(), what));
    }
}

impl<S: Storage> Shared<S> {
    /// Runs a job on the storage's background thread, unless the log is gone by then.
    pub(crate) fn spawn(&self, job: impl FnOnce(&Shared<S>) + Send + 'static) {
        let me = self.me.clone();
        self.storage.background(Box::new(move || {
            let Some(shared) = me.upgrade() else { return };
            {
                let mut work = shared.work.lock();
                if work.retired {
                    return;
                }
                work.running += 1;
            }
            let ran = catch_unwind(AssertUnwindSafe(|| job(&shared)));
            shared.work.lock().running -= 1;
            shared.work_done.notify_all();
            if let Err(panic) = ran {
                shared.panicked();
                resume_unwind(panic);
            }
        }));
    }

    /// Gives the directory back: waits for writes in flight and background jobs, then releases the lock.
    pub(crate) fn retire(&self) {
        // A device that hangs is not waited for for ever. A job that hangs keeps the directory's lock, by its reference to all
        // of this; a write does not: of its segment it is the claim that keeps the next writer away.
        let give_up = now() + Duration::from_secs(10);
        let mut work = self.work.lock();
        work.retired = true;
        while work.running > 0 {
            if self.work_done.wait_until(&mut work, give_up).timed_out() {
                return;
            }
        }
        drop(work);
        while self.pipe.lock().writes_in_flight > 0 {
            if now() >= give_up {
                return;
            }
            self.storage.watch_over();
            sleep(Duration::from_micros(200));
        }
        self.pipe.lock().release_files();
        self.catalog.release(&self.storage);
        self.lock.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Log, LsnRange};

    #[test]
    fn nobody_is_left_waiting_when_a_close_did_not_come_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
        let following = log.tail(Lsn::FIRST);
        let following = std::thread::spawn(move || following.count());
        log.shared_for_tests().refuse_appends();
        drop(log);
        let began = Instant::now();
        while !following.is_finished() {
            assert!(began.elapsed() < Duration::from_secs(20), "it follows for ever");
            sleep(Duration::from_millis(1));
        }
    }

    /// A claim is all that keeps the next writer from using a file again while bytes of it are in somebody's hands.
    #[test]
    fn a_frame_in_hand_keeps_the_claim_on_its_file_beyond_a_truncation_and_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { memory_tail_bytes: 0, ..Config::default() };
        let open = || Log::open(dir.path(), config.clone()).unwrap().0;
        let log = open();
        let lsns: Vec<Lsn> = (0..2u8).map(|i| log.append(&[i; 100]).unwrap().wait().unwrap()).collect();
        log.close(Duration::from_secs(5)).unwrap();
        let log = open();
        // Behind what the open left to the background: the segment is settled, the next one prepared.
        let (tell, done) = std::sync::mpsc::channel();
        log.shared_for_tests().spawn(move |_| tell.send(()).unwrap());
        done.recv().unwrap();
        let kept = log.read(lsns[0]).unwrap();
        // What the truncation leaves to the background comes too late.
        log.shared_for_tests().spawn(|shared| {
            while !shared.work.lock().retired {
                sleep(Duration::from_millis(1));
            }
        });
        log.truncate(lsns[0]).unwrap();
        drop(log);
        let name = crate::segment::FileName::Segment(crate::SegmentNumber::FIRST).to_string();
        let file = std::fs::File::open(dir.path().join(name)).unwrap();
        let claim = || rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert_eq!(claim(), Err(rustix::io::Errno::WOULDBLOCK), "it may be written under {kept:?}");
        drop(kept);
        // A child that another test forks has it for a moment, too.
        let began = Instant::now();
        while claim().is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "it is claimed for ever");
            sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_panic_in_a_background_job_poisons_the_log_and_leaves_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
        let before = log.append(b"before").unwrap();
        let lsn = before.wait().unwrap();
        log.shared_for_tests().spawn(|_| panic!("a bug in a job"));
        let mut tries = 0;
        let error = loop {
            match log.append(b"after").and_then(crate::Pending::wait) {
                Ok(_) => assert!(tries < 10_000, "appended for ever"),
                Err(error) => break error,
            }
            tries += 1;
        };
        assert!(matches!(error, Error::Poisoned { .. } | Error::Unknown { .. }), "{error:?}");
        assert_eq!(log.read(lsn).unwrap().payload, &b"before"[..]);
        let began = Instant::now();
        drop(log);
        assert!(began.elapsed() < Duration::from_secs(5), "the job that panicked is waited for");
        let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
        assert_eq!(log.read(lsn).unwrap().payload, &b"before"[..]);
        assert_eq!(log.range(LsnRange::inclusive(lsn, lsn)).count(), 1);
    }
}
