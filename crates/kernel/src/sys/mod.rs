//! The few calls for which no safe wrapper exists: all `unsafe` of this crate.
#![allow(unsafe_code, reason = "this is the room for it")]

pub(crate) mod bpf;

use std::io;

/// Moves the calling thread into a network namespace of its own, new and empty but for a loopback device that is down.
///
/// # Errors
/// What unshare(2) says: EPERM without CAP_SYS_ADMIN.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only CLONE_FILES and CLONE_FS can surprise other code of the process; CLONE_NEWNET changes nothing but where this thread
    // opens sockets, and the callers pass threads that they started themselves.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
