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
    /// `is_past_caches`: there is no cache that it might go through all the same.
    Works {
        block_bytes: usize,
        is_past_caches: bool,
    },
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
    let Stated { mut block_bytes, is_past_caches } = match stated(&file) {
        Ok(stated) => stated,
        Err(reason) => return Ok(refused(&reason)),
    };
    loop {
        let mut block = Buffer::new(block_bytes);
        block.set_len(block_bytes);
        let written = rustix::io::pwrite(&file, &block, 0)
            .and_then(|written| Ok(written == block_bytes && rustix::io::pread(&file, &mut block[..], 0)? == written));
        match written {
            Ok(true) => return Ok(Tried::Found(Direct::Works { block_bytes, is_past_caches })),
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
        let stated = match stated(&file) {
            Ok(stated) => stated,
            Err(reason) => return Ok(refused(&reason)),
        };
        // At the end of a file some answer without a look at the alignment.
        if (stat.st_size as u64) < stated.block_bytes as u64 {
            continue;
        }
        return Ok(try_reading(&file, stated));
    }
    Ok(Tried::Inconclusive("no file of a block's size to try O_DIRECT on".to_owned()))
}

fn try_reading(file: &OwnedFd, stated: Stated) -> Tried {
    let Stated { mut block_bytes, is_past_caches } = stated;
    loop {
        let mut block = Buffer::new(block_bytes);
        block.set_len(block_bytes);
        match rustix::io::pread(file, &mut block[..], 0) {
            Ok(_) => return Tried::Found(Direct::Works { block_bytes, is_past_caches }),
            Err(Errno::INVAL) if block_bytes < BLOCK_BYTES_MAX => block_bytes *= 2,
            Err(e) => return Tried::Inconclusive(format!("the file system takes O_DIRECT but fails the read: {e}")),
        }
    }
}

/// What the kernel says of a file's direct I/O.
struct Stated {
    /// Its unit, at least 4096.
    block_bytes: usize,
    is_past_caches: bool,
}

/// File systems that state a unit for a file (Linux 6.1) only if its direct writes do not go through the page cache: ext4, which
/// takes O_DIRECT and uses the cache where it journals or encrypts data, then states none; XFS; F2FS.
///
/// Of others it is not known, whatever they state: NFS states a unit, and whoever serves it may have a cache; so it is with FUSE; overlayfs
/// passes on what the one below says; btrfs uses the cache where data has checksums, and states nothing.
const SAY_SO: [u32; 3] = [0xef53, 0x5846_5342, 0xf2f5_2010];

fn stated(file: &OwnedFd) -> Result<Stated, String> {
    let stated = match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stated) if stated.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => stated,
        _ => return Ok(Stated { block_bytes: BLOCK_BYTES_MIN, is_past_caches: false }),
    };
    let (offset_align, memory_align) = (stated.stx_dio_offset_align as usize, stated.stx_dio_mem_align as usize);
    if offset_align == 0 {
        return Err("the file system says that it does no direct I/O here".to_owned());
    }
    if !offset_align.is_power_of_two() || offset_align > BLOCK_BYTES_MAX || memory_align > BLOCK_BYTES_MIN {
        return Err(format!("direct I/O wants blocks of {offset_align} bytes and memory aligned to {memory_align}"));
    }
    let is_past_caches = rustix::fs::fstatfs(file).is_ok_and(|system| SAY_SO.contains(&(system.f_type as u32)));
    Ok(Stated { block_bytes: offset_align.max(BLOCK_BYTES_MIN), is_past_caches })
}

fn refused(reason: &str) -> Tried {
    Tried::Found(Direct::Refused(reason.to_owned()))
}
