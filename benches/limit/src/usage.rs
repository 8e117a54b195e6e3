use std::mem::MaybeUninit;
use std::ops::Sub;
use std::time::Duration;

/// What this process has cost so far, all its threads together. Subtract two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Context switches, voluntary and involuntary.
    pub context_switches: u64,
}

impl Usage {
    /// Now, since the process started. Work of the kernel's own threads is nobody's.
    pub fn of_process() -> Usage {
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the pointer is valid for writing one `rusage`; RUSAGE_SELF is a valid target.
        let code = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        assert_eq!(code, 0, "getrusage(RUSAGE_SELF) has no way to fail with a valid pointer");
        // SAFETY: the call succeeded, so the kernel filled the whole structure.
        let usage = unsafe { usage.assume_init() };
        Usage {
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            context_switches: (usage.ru_nvcsw + usage.ru_nivcsw) as u64,
        }
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            context_switches: self.context_switches.saturating_sub(earlier.context_switches),
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}
