//! How a program gets to a link: by tcx (Linux 6.6), or as a classifier of clsact where the kernel is older.

use std::io;
use std::os::fd::BorrowedFd;

use crate::netlink::{Netlink, NetlinkError};
use crate::sys::tcx::{self, Hook};

/// One of the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Tcx,
    Clsact,
}

impl How {
    /// The better one that the kernel has, asked at a link that is there.
    pub(super) fn of_kernel(link: u32) -> io::Result<How> {
        match tcx::attached(link, Hook::Ingress) {
            Ok(_) => Ok(How::Tcx),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(How::Clsact),
            Err(error) => Err(error),
        }
    }

    /// Numbers of the BPF programs at a link, whoever's they are; none at a link that is gone.
    pub(super) fn attached(self, netlink: &mut Netlink, index: u32, hook: Hook) -> io::Result<Vec<u32>> {
        let ids = match self {
            How::Tcx => tcx::attached(index, hook),
            How::Clsact => netlink.classifiers(index, hook).map_err(io_error).map(|all| all.iter().map(|one| one.program).collect()),
        };
        match ids {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Attaches a program behind those of others.
    pub(super) fn attach(self, netlink: &mut Netlink, program: BorrowedFd<'_>, index: u32, hook: Hook, name: &str) -> io::Result<()> {
        match self {
            How::Tcx => tcx::attach(program, index, hook),
            How::Clsact => netlink.add_classifier(program, index, hook, name).map_err(io_error),
        }
    }

    /// Takes a program off. Absent is fine, of the link too.
    pub(super) fn detach(self, netlink: &mut Netlink, id: u32, index: u32, hook: Hook) -> io::Result<()> {
        match self {
            How::Tcx => match tcx::detach(id, index, hook) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
                other => other,
            },
            How::Clsact => {
                let all = netlink.classifiers(index, hook).map_err(io_error)?;
                all.into_iter()
                    .filter(|one| one.program == id)
                    .try_for_each(|one| netlink.delete_classifier(one, index, hook))
                    .map_err(io_error)
            }
        }
    }
}

fn io_error(error: NetlinkError) -> io::Error {
    match error.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}
