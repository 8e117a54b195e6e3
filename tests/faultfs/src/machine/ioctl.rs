//! The three requests of the loop driver. All unsafe code of the crate is here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

// <linux/loop.h>
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config`, with `struct loop_info64` written out, and nothing of it that stays zero named.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info_numbers: [u64; 5],
    number: u32,
    encrypt: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(std::mem::offset_of!(LoopConfig, flags) == 8 + 52);

/// The number of a loop device that nobody used a moment ago.
pub(super) fn free_device(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Lays the device over a file, until its last user closes it.
pub(super) fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block: u32, direct: bool) -> io::Result<()> {
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: block,
        info_numbers: [0; 5],
        number: 0,
        encrypt: [0; 2],
        flags: LO_FLAGS_AUTOCLEAR | if direct { LO_FLAGS_DIRECT_IO } else { 0 },
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one `struct loop_config`, whose layout this is (asserted above), while it is borrowed.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the device off its file, now or when its last user closes it.
pub(super) fn clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
