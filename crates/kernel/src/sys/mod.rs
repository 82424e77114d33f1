//! The few calls for which no safe wrapper exists: all `unsafe` of this crate.
#![allow(unsafe_code, reason = "this is the room for it")]

pub(crate) mod bpf;
pub(crate) mod tcx;

use std::io;

/// Gives the calling thread a view of its own of the mounts: what is mounted then is seen by it and by threads that it starts, and goes with
/// the last of them.
///
/// # Errors
/// What unshare(2) says: EPERM without CAP_SYS_ADMIN.
#[cfg(test)]
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: a mount namespace brings CLONE_FS with it, which parts this thread's working directory and umask from those of the others;
    // the callers are tests' threads of their own, which use neither.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// Waits until every processor has left whatever it was doing in the kernel when this was called, BPF programs among it (membarrier(2),
/// Linux 4.3).
///
/// # Errors
/// EINVAL where processors run without ticks (`nohz_full`).
pub(crate) fn wait_for_processors() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call has no pointers, and changes nothing but how long it takes.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves the calling thread into a network namespace of its own, new and empty but for a loopback device that is down.
///
/// # Errors
/// What unshare(2) says: EPERM without CAP_SYS_ADMIN.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only CLONE_FILES and CLONE_FS can surprise other code of the process; CLONE_NEWNET changes nothing but where this thread
    // opens sockets, and the callers pass threads that they started themselves.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
