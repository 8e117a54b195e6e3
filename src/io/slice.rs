//! How long a thread may run before another one gets its turn.

use std::io;

/// The shortest that Linux knows, 100 µs.
const SLICE_NANOS: u64 = 100_000;

/// Asks the scheduler for the shortest time slice for this thread, 100 µs (Linux 6.12; earlier ones do not heed it). Its share of the
/// CPUs stays the same. But when it wakes, at the end of a write for one, it takes its turn at once from a program that was given the
/// usual slice and would have kept the CPU for up to 4 ms more. Threads that it starts later inherit it.
///
/// Threads of a [`Driver`](super::Driver) do so by themselves. For a thread that waits for its own appends it pays only where other
/// programs keep all CPUs busy: one record at a time took 114 to 120 µs instead of 3.9 ms in two runs of three, on Linux 6.18 with a
/// loop running on each of two CPUs.
///
/// ```
/// std::thread::spawn(|| {
///     // Nothing depends on it.
///     let _ = seawall::storage::shorten_time_slice();
///     // … append, wait …
/// });
/// ```
///
/// # Errors
/// What the system says, where a sandbox forbids it for one. Nothing has changed then; nor has it where the thread has another
/// scheduling policy than the usual one.
#[allow(unsafe_code)]
pub fn shorten_time_slice() -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.sched_runtime = SLICE_NANOS;
    // SAFETY: the kernel reads as many bytes there as the structure says it has.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const THIS_THREAD: libc::pid_t = 0;

#[allow(unsafe_code)]
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: a structure of integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let bytes = size_of_val(&attributes) as u32;
    // SAFETY: the kernel writes at most `bytes` there.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attributes, bytes, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::skip::skipped;
    use super::*;

    #[test]
    fn the_slice_is_short_and_nothing_else_has_changed() {
        // A thread of its own, which ends with what was done to it.
        std::thread::spawn(|| {
            rustix::process::nice(3).unwrap();
            let before = attributes().unwrap();
            assert_ne!(before.sched_nice, 0);
            if let Err(e) = shorten_time_slice() {
                return skipped(format_args!("time slices: {e}"));
            }
            let after = attributes().unwrap();
            assert_eq!(
                (after.sched_policy, after.sched_flags, after.sched_nice, after.sched_priority),
                (before.sched_policy, before.sched_flags, before.sched_nice, before.sched_priority)
            );
            // Kernels that do not heed it say 0, before and after.
            if before.sched_runtime != 0 {
                assert_eq!(after.sched_runtime, SLICE_NANOS);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn another_policy_is_left_alone() {
        std::thread::spawn(|| {
            let idle = libc::sched_attr { sched_policy: libc::SCHED_IDLE as u32, ..attributes().unwrap() };
            #[allow(unsafe_code)]
            // SAFETY: as above.
            let set = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const idle, 0) };
            assert_eq!(set, 0);
            let before = attributes().unwrap();
            shorten_time_slice().unwrap();
            let after = attributes().unwrap();
            assert_eq!((after.sched_policy, after.sched_runtime), (libc::SCHED_IDLE as u32, before.sched_runtime));
        })
        .join()
        .unwrap();
    }
}
