//! Writes by system call: one thread per write in flight, the calling thread alone at depth 1.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::aligned::AlignedBytes;
use crate::clients::Group;
use crate::file::LimitFile;
use crate::{LimitError, Method, Run};

pub(crate) fn drive(run: &mut Run<'_>) -> Result<(), LimitError> {
    let buffers = std::mem::take(&mut run.buffers);
    if let [buffer] = &buffers[..] { drive_alone(run, buffer) } else { drive_threads(run, &buffers) }
}

fn drive_alone(run: &mut Run<'_>, buffer: &AlignedBytes) -> Result<(), LimitError> {
    let mut group = Group::default();
    while !run.tally.is_over() {
        let Some((offset, bytes)) = run.take(&mut group) else {
            break;
        };
        write_durably(&run.files[0], run.method, &buffer.as_slice()[..bytes], offset)?;
        run.acknowledge(&mut group, bytes);
    }
    Ok(())
}

struct Shared<'r, 'f> {
    run: &'r mut Run<'f>,
    failed: Option<LimitError>,
}

fn drive_threads(run: &mut Run<'_>, buffers: &[AlignedBytes]) -> Result<(), LimitError> {
    let (files, method) = (run.files, run.method);
    let shared = Mutex::new(Shared { run, failed: None });
    let records_wait = Condvar::new();
    let writer = |number: usize, buffer: &AlignedBytes| {
        let file = &files[number % files.len()];
        let mut group = Group::default();
        let mut guard = lock(&shared);
        while !guard.run.tally.is_over() && guard.failed.is_none() {
            let Some((offset, bytes)) = guard.run.take(&mut group) else {
                guard = records_wait.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(guard);
            let written = write_durably(file, method, &buffer.as_slice()[..bytes], offset);
            guard = lock(&shared);
            match written {
                Ok(()) => guard.run.acknowledge(&mut group, bytes),
                Err(error) => guard.failed = Some(error),
            }
            records_wait.notify_one();
        }
        drop(guard);
        records_wait.notify_all();
    };
    thread::scope(|scope| {
        for (number, buffer) in buffers.iter().enumerate() {
            let writer = &writer;
            scope.spawn(move || writer(number, buffer));
        }
    });
    match lock(&shared).failed.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_durably(file: &LimitFile, method: Method, bytes: &[u8], offset: u64) -> Result<(), LimitError> {
    let failed = |op| move |source| LimitError::Write { op, offset, source };
    let written_bytes = match method {
        Method::PwriteDsync => {
            let dsync = file.dsync().ok_or(LimitError::Unavailable { method })?;
            dsync.write_at(bytes, offset).map_err(failed("pwrite O_DSYNC"))?
        }
        Method::PwriteRwfDsync => pwritev2_dsync(file, bytes, offset).map_err(failed("pwritev2 RWF_DSYNC"))?,
        Method::PwriteFdatasync => {
            let written_bytes = file.plain().write_at(bytes, offset).map_err(failed("pwrite"))?;
            file.plain().sync_data().map_err(failed("fdatasync"))?;
            written_bytes
        }
        Method::UringDsync | Method::UringFdatasync => {
            return Err(LimitError::Unavailable { method });
        }
    };
    if written_bytes < bytes.len() {
        return Err(LimitError::ShortWrite { offset, wanted_bytes: bytes.len(), written_bytes });
    }
    Ok(())
}

fn pwritev2_dsync(file: &LimitFile, bytes: &[u8], offset: u64) -> io::Result<usize> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let fd = file.plain().as_raw_fd();
    let offset = offset as libc::off_t;
    // SAFETY: one iovec that describes `bytes`, which outlives the call and is only read by it.
    let written = unsafe { libc::pwritev2(fd, &part, 1, offset, libc::RWF_DSYNC) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}
