//! What goes wrong while a damaged log is opened, and is well again at the next open.

use seawall::RecoveryMode;

use super::super::sim::{CrashChoice, Effect, Fault, KillChoice, OpKind, Rng, SimDisk, errno};

/// An open that falls short, and how its process ends.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub mode: RecoveryMode,
    what: What,
    end: End,
}

#[derive(Clone, Debug)]
enum What {
    /// Files may grow by so many bytes.
    Full(u64),
    /// A call fails.
    Fails(Fault),
    /// Flushes say yes and do nothing.
    Lies,
}

#[derive(Clone, Debug)]
enum End {
    Killed,
    /// Power is lost, and with it all that was not flushed.
    PowerLost,
}

impl Trouble {
    pub fn any(rng: &mut Rng) -> Trouble {
        let mode = if rng.one_in(3) { RecoveryMode::Strict } else { RecoveryMode::Quarantine };
        let what = match rng.below(2) {
            0 => What::Full([0, 4096, 70_000, 200_000][rng.below(4) as usize]),
            _ => What::Fails(fault(rng)),
        };
        Trouble { mode, what, end: if rng.one_in(2) { End::Killed } else { End::PowerLost } }
    }

    /// The control: nothing outlives it, whatever was promised.
    pub fn lies() -> Trouble {
        Trouble { mode: RecoveryMode::Strict, what: What::Lies, end: End::PowerLost }
    }

    pub fn begin(&self, disk: &SimDisk) {
        match &self.what {
            What::Full(more) => disk.set_capacity(Some((disk.used_bytes() + more, errno::ENOSPC))),
            What::Fails(fault) => disk.fail(fault.clone()),
            What::Lies => disk.set_flushes_lie(true),
        }
    }

    /// The process ends, and all is well again.
    pub fn end(&self, disk: SimDisk) -> SimDisk {
        disk.kill(&KillChoice::Landed);
        disk.heal();
        disk.set_capacity(None);
        disk.set_flushes_lie(false);
        match self.end {
            End::Killed => disk,
            End::PowerLost => disk.crash(&CrashChoice::lost()),
        }
    }
}

fn fault(rng: &mut Rng) -> Fault {
    let kinds = [OpKind::Flush, OpKind::WriteFlushed, OpKind::Write, OpKind::Allocate, OpKind::SyncDir, OpKind::Create];
    let kind = kinds[rng.below(kinds.len() as u64) as usize];
    let errno = if rng.one_in(2) { errno::EIO } else { errno::ENOSPC };
    let effect = [Effect::Before, Effect::AfterPartial, Effect::AfterFull][rng.below(3) as usize];
    let fault = Fault::new(kind, rng.below(6), errno).effect(effect);
    if rng.one_in(2) { fault.forever() } else { fault }
}
