//! A FUSE mount of this process, and its end.

use std::io;
use std::path::{Path, PathBuf};

use fuser::{BackgroundSession, Config, Filesystem, MountOption, Session};
use rustix::mount::{UnmountFlags, unmount};

/// Served by a thread of this process until it is dropped.
pub(crate) struct Mounted {
    at: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    pub(crate) fn new(served: impl Filesystem + 'static, at: &Path) -> io::Result<Mounted> {
        let mut config = Config::default();
        // One thread: each request is answered before the next is looked at, which is what makes "before" and "after"
        // a power cut, and the order of a recording, mean something.
        config.n_threads = Some(1);
        config.mount_options = vec![MountOption::FSName("seawall-faultfs".to_owned()), MountOption::NoAtime];
        let session = Session::new(served, at, &config)?.spawn()?;
        Ok(Mounted { at: at.to_owned(), session: Some(session) })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = unmount(&self.at, UnmountFlags::empty());
        if unmounted.is_err() {
            // Somebody still has a file open. The last close ends the thread; waiting for it here might be for ever.
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
        if let (Some(session), Ok(())) = (self.session.take(), unmounted) {
            let _ = session.join();
        }
    }
}
