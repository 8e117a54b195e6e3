//! What [`super`] hands out under `--cfg shuttle`: parking_lot's signatures over the primitives of the scheduler.
//!
//! Time does not exist there. The clock stands still but for small steps, and leaps where somebody has waited until a
//! time: a wait that may end by itself does so after a few turns of the others, or is notified before. Waits of
//! [`FOREVER`] and longer never end by themselves: no lost wake-up hides behind a patience of hours.
//!
//! Atomics are sequentially consistent, whatever ordering is asked for: a missing barrier is not found here.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, PoisonError};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};
pub use shuttle::sync::atomic;

/// Nobody waits that long.
pub const FOREVER: Duration = Duration::from_secs(5);
/// A wait for less ends after at most so many turns of the others.
const TURNS_MAX: u32 = 24;

std::thread_local! {
    /// Of this scheduler, all of whose threads are one to the operating system.
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time: it passes slowly.
#[must_use]
pub fn now() -> Instant {
    advance(Duration::from_micros(thread_rng().gen_range(0..8)));
    *START + ELAPSED.get()
}

/// Puts the clock back to its start: schedules do not depend on those before.
pub fn reset_clock() {
    ELAPSED.set(Duration::ZERO);
}

/// Lets time pass.
pub fn advance(by: Duration) {
    ELAPSED.set(ELAPSED.get() + by);
}

/// Lets the others go on for a while.
pub fn sleep(time: Duration) {
    yield_some();
    advance(time);
}

/// A few turns of the others, often none.
pub fn yield_some() {
    (0..turns()).for_each(|_| shuttle::thread::yield_now());
}

fn turns() -> u32 {
    thread_rng().gen_range(0..=TURNS_MAX) * thread_rng().gen_range(0..2)
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// As parking_lot's.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while it is given back for a while.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A mutex that nobody holds.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    /// Waits until nobody else holds it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.hold()) }
    }

    /// Does not wait.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|held| MutexGuard { mutex: self, held: Some(held) })
    }

    fn hold(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> MutexGuard<'_, T> {
    /// Gives it back while `f` runs.
    pub fn unlocked<U>(guard: &mut Self, f: impl FnOnce() -> U) -> U {
        guard.held = None;
        let result = f();
        guard.held = Some(guard.mutex.hold());
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held")
    }
}

/// As parking_lot's, without `notify_one`.
#[derive(Debug, Default)]
pub struct Condvar {
    sleepers: shuttle::sync::Condvar,
    /// Notifications so far. Looked at and changed without a scheduler's leave: not a step of the program.
    notified: std::sync::atomic::AtomicU64,
}

/// Whether a wait ended by itself.
#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// It did.
    #[must_use]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// One without sleepers.
    pub const fn new() -> Condvar {
        Condvar { sleepers: shuttle::sync::Condvar::new(), notified: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Wakes whoever waits.
    pub fn notify_all(&self) {
        self.notified.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.sleepers.notify_all();
    }

    /// Sleeps until notified.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held");
        guard.held = Some(self.sleepers.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// Sleeps until notified, or for a few turns of the others.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> WaitTimeoutResult {
        let seen = self.notified();
        if patience >= FOREVER {
            self.wait(guard);
            return WaitTimeoutResult(false);
        }
        let is_notified = MutexGuard::unlocked(guard, || wait_some(patience, || self.notified() != seen));
        WaitTimeoutResult(!is_notified)
    }

    /// The same, until a time.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, until.saturating_duration_since(now()))
    }

    fn notified(&self) -> u64 {
        self.notified.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A few turns of the others, or fewer when `is_over` by then; otherwise the patience is spent. Tells whether it was over.
pub(crate) fn wait_some(patience: Duration, is_over: impl Fn() -> bool) -> bool {
    for _ in 0..turns() {
        shuttle::thread::yield_now();
        if is_over() {
            return true;
        }
    }
    advance(patience);
    false
}
