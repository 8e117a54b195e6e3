//! What these tests need of a machine, and loop devices and mounts that go away with their owner.

mod ioctl;
mod loop_device;
mod mount;

use std::path::Path;

pub use loop_device::LoopDevice;
pub use mount::{FsKind, Mount};

/// Something that not every machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The right to mount.
    Root,
    /// `/dev/fuse`, and the right to open it.
    Fuse,
    /// `/dev/loop-control`, and the right to open it.
    Loop,
    /// A kernel and a `mkfs` for this.
    Fs(FsKind),
}

/// It was not tested, because this machine cannot: a reason to skip, loudly, and never one to pass.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot run here because {0}")]
pub struct Cannot(pub(crate) String);

/// Says which of these is the first that this machine does not have.
///
/// # Errors
/// With the reason, for people.
pub fn require(needs: &[Need]) -> Result<(), Cannot> {
    needs.iter().try_for_each(|need| match need {
        Need::Root if rustix::process::geteuid().is_root() => Ok(()),
        Need::Root => Err(Cannot("mounting takes root".to_owned())),
        Need::Fuse => opens("/dev/fuse"),
        Need::Loop => opens("/dev/loop-control"),
        Need::Fs(kind) => kind.is_there(),
    })
}

fn opens(path: &str) -> Result<(), Cannot> {
    let opened = std::fs::File::options().read(true).write(true).open(Path::new(path));
    opened.map(drop).map_err(|e| Cannot(format!("{path} cannot be opened: {e}")))
}
