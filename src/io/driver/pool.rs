//! Threads that may block, started when there is work for them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::super::futex::Futex;
use super::super::slice::shorten_time_slice;
use super::turns::Turns;

/// A thread that had nothing to do for this long ends, unless it is the last.
const IDLE: Duration = Duration::from_secs(5);

/// Something a pool's thread does.
pub(super) trait Work: Send + 'static {
    /// Does it. A panic here is the work's own business: it must not come out.
    fn run(self);
}

/// A bounded number of threads over [`Turns`].
pub(super) struct Pool<W> {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State<W>>,
}

struct State<W> {
    turns: Turns<W>,
    threads: usize,
    /// Threads that sleep and have not been told to wake; the one that slept last is woken first, so that the others
    /// can go.
    idle: Vec<Arc<Futex>>,
    stopping: bool,
}

impl<W: Work> Pool<W> {
    pub(super) fn new(name: &'static str, threads_max: usize) -> Arc<Pool<W>> {
        let state = State { turns: Turns::new(), threads: 0, idle: Vec::new(), stopping: false };
        Arc::new(Pool { name, threads_max: threads_max.max(1), state: Mutex::new(state) })
    }

    /// Makes sure that there is one thread at least, which then stays: from now on no work can be stranded.
    pub(super) fn ensure_thread(self: &Arc<Self>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.threads > 0 { Ok(()) } else { self.start_thread(&mut state) }
    }

    /// Queues work of a lane, of which at most `under_way_max` are worked on at a time.
    ///
    /// # Errors
    /// Gives the work back when there is no thread and none can be started.
    pub(super) fn push(self: &Arc<Self>, lane: usize, under_way_max: usize, work: W) -> Result<(), (W, io::Error)> {
        let mut state = self.state.lock();
        if state.threads == 0
            && let Err(e) = self.start_thread(&mut state)
        {
            return Err((work, e));
        }
        if !state.turns.push(lane, under_way_max, work) {
            return Ok(());
        }
        if let Some(idle) = state.idle.pop() {
            drop(state);
            ring(&idle);
        } else if state.threads < self.threads_max {
            // Were it to fail, the threads that exist get to the work.
            let _ = self.start_thread(&mut state);
        }
        Ok(())
    }

    /// The threads end when they have nothing left to do.
    pub(super) fn stop(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.stopping = true;
            std::mem::take(&mut state.idle)
        };
        for thread in idle {
            ring(&thread);
        }
    }

    fn start_thread(self: &Arc<Self>, state: &mut State<W>) -> io::Result<()> {
        let pool = self.clone();
        std::thread::Builder::new().name(self.name.to_owned()).spawn(move || pool.work())?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self) {
        // Best effort.
        let _ = shorten_time_slice();
        let bell = Arc::new(Futex::new(0));
        let mut is_bored = false;
        let mut state = self.state.lock();
        loop {
            if let Some((lane, work)) = state.turns.take() {
                drop(state);
                work.run();
                is_bored = false;
                state = self.state.lock();
                state.turns.done(lane);
                continue;
            }
            if state.stopping || (is_bored && state.threads > 1) {
                break;
            }
            let silent = bell.load();
            state.idle.push(bell.clone());
            let patience = (state.threads > 1).then_some(IDLE);
            drop(state);
            bell.wait(silent, patience);
            state = self.state.lock();
            // Also where it was rung: for a moment in which we had given up waiting, and are on the list again.
            state.idle.retain(|other| !Arc::ptr_eq(other, &bell));
            is_bored = bell.load() == silent && patience.is_some();
        }
        state.threads -= 1;
    }
}

/// Wakes the thread whose bell it is, and tells it that somebody did.
fn ring(bell: &Futex) {
    bell.bump();
    bell.wake_one();
}

#[cfg(test)]
impl<W> Pool<W> {
    pub(super) fn threads(&self) -> usize {
        self.state.lock().threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Call(Box<dyn FnOnce() + Send>);

    impl Work for Call {
        fn run(self) {
            (self.0)();
        }
    }

    fn call(f: impl FnOnce() + Send + 'static) -> Call {
        Call(Box::new(f))
    }

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited too long until {what}");
    }

    #[test]
    fn threads_start_on_demand_and_one_lane_cannot_take_them_all() {
        let pool = Pool::new("test-pool", 4);
        pool.ensure_thread().unwrap();
        pool.ensure_thread().unwrap();
        assert_eq!(pool.threads(), 1);
        wait_until("it waits for work", || pool.state.lock().idle.len() == 1);
        let (started, starts) = mpsc::channel();
        let gate = Arc::new(Futex::new(0));
        for number in 0..6 {
            let (started, gate) = (started.clone(), gate.clone());
            let work = call(move || {
                started.send(number).unwrap();
                while gate.load() == 0 {
                    gate.wait(0, None);
                }
            });
            assert!(pool.push(0, 2, work).is_ok());
        }
        let mut first = [starts.recv().unwrap(), starts.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
        let (done, ends) = mpsc::channel();
        assert!(pool.push(1, 2, call(move || done.send(()).unwrap())).is_ok());
        ends.recv().unwrap();
        assert!(starts.try_recv().is_err(), "two of lane 0 are under way, and no more");
        gate.bump();
        gate.wake_all();
        let mut rest: Vec<i32> = starts.iter().take(4).collect();
        rest.sort_unstable();
        assert_eq!(rest, [2, 3, 4, 5]);
        assert!(pool.threads() <= 3);
        pool.stop();
        wait_until("the threads are gone", || pool.threads() == 0);
    }

    /// A thread that had given up waiting, and waits again, when the bell comes that was meant for the time before, stood there
    /// twice: whoever rang it the second time rang one that was busy.
    #[test]
    fn a_thread_that_waits_is_listed_once() {
        let pool = Pool::new("test-pool", 2);
        let (done, ends) = mpsc::channel();
        let work = |done: mpsc::Sender<()>| call(move || done.send(()).unwrap());
        let idle = || pool.state.lock().idle.clone();
        // At once, so that there are two.
        let gate = Arc::new(std::sync::Barrier::new(3));
        for lane in 0..2 {
            let gate = gate.clone();
            assert!(pool.push(lane, 1, call(move || _ = gate.wait())).is_ok());
        }
        gate.wait();
        for _ in 0..50 {
            wait_until("both wait", || idle().len() == 2);
            // Somebody is about to ring, and comes too late.
            let bell = pool.state.lock().idle.pop().unwrap();
            assert!(pool.state.lock().turns.push(0, 1, work(done.clone())));
            // As when its time is over.
            bell.wake_one();
            ends.recv().unwrap();
            wait_until("it waits again", || idle().iter().any(|other| Arc::ptr_eq(other, &bell)));
            ring(&bell);
            assert!(pool.push(0, 1, work(done.clone())).is_ok());
            ends.recv().unwrap();
            wait_until("both wait", || idle().len() >= 2);
            let listed = idle().iter().filter(|other| Arc::ptr_eq(other, &bell)).count();
            assert!(listed <= 1, "{listed} times");
        }
        pool.stop();
        wait_until("the threads are gone", || pool.threads() == 0);
    }

    #[test]
    fn a_lane_of_one_is_in_order() {
        let pool = Pool::new("test-pool", 4);
        let (done, ends) = mpsc::channel();
        for number in 0..1000 {
            let done = done.clone();
            assert!(pool.push(3, 1, call(move || done.send(number).unwrap())).is_ok());
        }
        assert!(ends.iter().take(1000).eq(0..1000));
        pool.stop();
        wait_until("the threads are gone", || pool.threads() == 0);
    }
}
