//! Whether a directory's file system really does direct I/O, and in which units.
//!
//! Some refuse the flag, some accept it and then fail every read and write, some ask for more than 4096 bytes. So it is
//! tried: on a nameless file where the directory may be written, otherwise on a file that is there.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::super::Buffer;
use super::{Access, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN};

/// The file to try on, where none can be nameless. One name for all: so at most one is ever left behind.
const NAME: &str = "probe.new";
/// Times to try when others try at the same moment.
const NAME_TRIES: usize = 8;

/// What was found.
#[derive(Debug)]
pub(super) enum Direct {
    Works { block_bytes: usize },
    Refused(String),
}

/// How a try ended that was not an error.
enum Tried {
    Found(Direct),
    /// It says nothing about direct I/O, for this reason.
    Inconclusive(String),
}

pub(super) fn probe(dir: BorrowedFd<'_>, access: Access) -> io::Result<Direct> {
    let mut why = String::new();
    if matches!(access, Access::ReadWrite { .. }) {
        match try_new_file(dir)? {
            Tried::Found(direct) => return Ok(direct),
            Tried::Inconclusive(reason) => why = reason,
        }
    }
    match try_existing_file(dir)? {
        Tried::Found(direct) => Ok(direct),
        Tried::Inconclusive(reason) if why.is_empty() => Ok(Direct::Refused(reason)),
        Tried::Inconclusive(reason) => Ok(Direct::Refused(format!("{why}; {reason}"))),
    }
}

fn try_new_file(dir: BorrowedFd<'_>) -> io::Result<Tried> {
    let file = match new_file(dir) {
        Ok(file) => file,
        Err(Errno::INVAL) => return Ok(refused("the file system refuses O_DIRECT")),
        // A full disk must still be opened: recovery makes room.
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::ACCESS)) => {
            return Ok(Tried::Inconclusive(format!("no file to try O_DIRECT on: {e}")));
        }
        Err(e) => return Err(e.into()),
    };
    let mut block_bytes = match stated_block(&file) {
        Ok(block_bytes) => block_bytes,
        Err(reason) => return Ok(refused(&reason)),
    };
    loop {
        let mut block = Buffer::new(block_bytes);
        block.set_len(block_bytes);
        let written = rustix::io::pwrite(&file, &block, 0)
            .and_then(|written| Ok(written == block_bytes && rustix::io::pread(&file, &mut block[..], 0)? == written));
        match written {
            Ok(true) => return Ok(Tried::Found(Direct::Works { block_bytes })),
            Ok(false) => return Ok(refused("direct writes are short")),
            Err(Errno::INVAL) if block_bytes < BLOCK_BYTES_MAX => block_bytes *= 2,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                return Ok(refused("the file system takes O_DIRECT but fails the write"));
            }
            Err(e @ (Errno::NOSPC | Errno::DQUOT)) => {
                return Ok(Tried::Inconclusive(format!("no room to try O_DIRECT: {e}")));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// A file that has no name by the time this returns.
fn new_file(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::openat(dir, ".", flags | OFlags::TMPFILE, mode) {
        // No nameless files here.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
        opened => return opened,
    }
    for _ in 0..NAME_TRIES {
        let opened = rustix::fs::openat(dir, NAME, flags | OFlags::CREATE | OFlags::EXCL, mode);
        // Also after an error: some kernels create the file before they refuse the flag. And what is there already was
        // left by a power loss that undid its removal, or is another process's, which has it open and needs no name.
        let _ = rustix::fs::unlinkat(dir, NAME, AtFlags::empty());
        if !matches!(opened, Err(Errno::EXIST)) {
            return opened;
        }
    }
    Err(Errno::EXIST)
}

fn try_existing_file(dir: BorrowedFd<'_>) -> io::Result<Tried> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(dir, entry.file_name(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::INVAL) => return Ok(refused("the file system refuses O_DIRECT")),
            Err(_) => continue,
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let block_bytes = match stated_block(&file) {
            Ok(block_bytes) => block_bytes,
            Err(reason) => return Ok(refused(&reason)),
        };
        // At the end of a file some answer without a look at the alignment.
        if (stat.st_size as u64) < block_bytes as u64 {
            continue;
        }
        return Ok(try_reading(&file, block_bytes));
    }
    Ok(Tried::Inconclusive("no file of a block's size to try O_DIRECT on".to_owned()))
}

fn try_reading(file: &OwnedFd, mut block_bytes: usize) -> Tried {
    loop {
        let mut block = Buffer::new(block_bytes);
        block.set_len(block_bytes);
        match rustix::io::pread(file, &mut block[..], 0) {
            Ok(_) => return Tried::Found(Direct::Works { block_bytes }),
            Err(Errno::INVAL) if block_bytes < BLOCK_BYTES_MAX => block_bytes *= 2,
            Err(e) => return Tried::Inconclusive(format!("the file system takes O_DIRECT but fails the read: {e}")),
        }
    }
}

/// The unit the kernel states (Linux 6.1, not for every file system), at least 4096.
fn stated_block(file: &OwnedFd) -> Result<usize, String> {
    let stated = match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stated) if stated.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => stated,
        _ => return Ok(BLOCK_BYTES_MIN),
    };
    let (offset_align, memory_align) = (stated.stx_dio_offset_align as usize, stated.stx_dio_mem_align as usize);
    if offset_align == 0 {
        return Err("the file system says that it does no direct I/O here".to_owned());
    }
    if !offset_align.is_power_of_two() || offset_align > BLOCK_BYTES_MAX || memory_align > BLOCK_BYTES_MIN {
        return Err(format!("direct I/O wants blocks of {offset_align} bytes and memory aligned to {memory_align}"));
    }
    Ok(offset_align.max(BLOCK_BYTES_MIN))
}

fn refused(reason: &str) -> Tried {
    Tried::Found(Direct::Refused(reason.to_owned()))
}
