//! Runs a command whose every io_uring_setup is refused with EPERM, as a container's seccomp profile does.
//! Needs no privileges and no crates: `rustc .ci/forbid_io_uring.rs`.

use std::os::unix::process::CommandExt;
use std::process::Command;

#[repr(C)]
struct Instruction(u16, u8, u8, u32);

#[repr(C)]
struct Program(u16, *const Instruction);

unsafe extern "C" {
    fn prctl(option: i32, ...) -> i32;
}

const PR_SET_SECCOMP: i32 = 22;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const SECCOMP_MODE_FILTER: usize = 2;
/// The same on every architecture.
const IO_URING_SETUP: u32 = 425;

fn main() {
    let program = [
        Instruction(0x20, 0, 0, 0),              // load the system call's number
        Instruction(0x15, 0, 1, IO_URING_SETUP), // another one: skip the next
        Instruction(0x06, 0, 0, 0x0005_0001),    // EPERM
        Instruction(0x06, 0, 0, 0x7fff_0000),    // allow
    ];
    let program = Program(program.len() as u16, program.as_ptr());
    // SAFETY: plain numbers; the program outlives the call, which copies it.
    let refused = unsafe {
        prctl(PR_SET_NO_NEW_PRIVS, 1usize, 0usize, 0usize, 0usize) != 0
            || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    let mut arguments = std::env::args_os().skip(1);
    let Some(command) = arguments.next().filter(|_| !refused) else {
        eprintln!("no command, or no seccomp: {}", std::io::Error::last_os_error());
        std::process::exit(125);
    };
    let error = Command::new(command).args(arguments).exec();
    eprintln!("{error}");
    std::process::exit(126);
}
