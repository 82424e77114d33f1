//! bpf(2): programs at the ingress and egress of links (tcx, Linux 6.6), and what programs are. Layouts are those of `union bpf_attr` and
//! `struct bpf_prog_info` in linux/bpf.h.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use super::bpf::{InfoAttr, call, number};

const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;

/// Where at a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    /// What comes from it.
    Ingress,
    /// What goes to it.
    Egress,
}

impl Hook {
    /// `enum bpf_attach_type`: BPF_TCX_INGRESS, BPF_TCX_EGRESS.
    fn number(self) -> u32 {
        match self {
            Hook::Ingress => 46,
            Hook::Egress => 47,
        }
    }
}

/// The part of `union bpf_attr` for attaching and detaching.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

/// The part for the question what is attached.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The part for objects by their number.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
    padding: u32,
}

/// The head of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// Maps that a program of ours may use.
const MAPS: usize = 16;

/// What a program is, whoever loaded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The kernel's number for it.
    pub(crate) id: u32,
    /// Its name, at most 15 bytes.
    pub(crate) name: String,
    /// A digest of its instructions.
    pub(crate) tag: [u8; 8],
    /// The kernel's numbers for its maps, sorted; of the first sixteen.
    pub(crate) maps: Vec<u32>,
}

/// Attaches a program behind those that are there.
///
/// # Errors
/// What bpf(2) says: EINVAL on a kernel without such hooks, ENODEV without such a link, EEXIST if the program is there already.
pub(crate) fn attach(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<()> {
    let attach_type = hook.number();
    let mut attr = AttachAttr { target_ifindex: ifindex, attach_bpf_fd: number(program), attach_type, ..AttachAttr::default() };
    call(PROG_ATTACH, &mut attr).map(|_| ())
}

/// Takes a program off.
///
/// # Errors
/// What bpf(2) says: ENODEV without such a link, ENOENT if the program is not there.
pub(crate) fn detach(id: u32, ifindex: u32, hook: Hook) -> io::Result<()> {
    let program = by_id(id)?;
    let attach_type = hook.number();
    let mut attr = AttachAttr { target_ifindex: ifindex, attach_bpf_fd: number(program.as_fd()), attach_type, ..AttachAttr::default() };
    call(PROG_DETACH, &mut attr).map(|_| ())
}

/// Numbers of the programs at a link, in the order in which they run.
///
/// # Errors
/// What bpf(2) says: EINVAL on a kernel without such hooks, ENODEV without such a link.
pub(crate) fn attached(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut room = 16_usize;
    loop {
        let mut ids = vec![0_u32; room];
        let mut attr = QueryAttr {
            target_ifindex: ifindex,
            attach_type: hook.number(),
            prog_ids: ids.as_mut_ptr() as u64,
            count: u32::try_from(room).unwrap_or(u32::MAX),
            ..QueryAttr::default()
        };
        match call(PROG_QUERY, &mut attr) {
            Ok(_) => {
                ids.truncate(attr.count as usize);
                return Ok(ids);
            }
            // Where nobody ever attached anything.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1024 => room *= 4,
            Err(error) => return Err(error),
        }
    }
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let fd = i32::try_from(call(PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() })?);
    let fd = fd.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the program with this number is.
///
/// # Errors
/// What bpf(2) says: ENOENT if it is gone.
pub(crate) fn program(id: u32) -> io::Result<Program> {
    describe(by_id(id)?.as_fd())
}

/// What a program is.
///
/// # Errors
/// What bpf(2) says.
pub(crate) fn describe(program: BorrowedFd<'_>) -> io::Result<Program> {
    let mut maps = [0_u32; MAPS];
    let room = u32::try_from(MAPS).unwrap_or(0);
    let mut info = RawInfo { map_count: room, maps: maps.as_mut_ptr() as u64, ..RawInfo::default() };
    let mut attr = InfoAttr {
        bpf_fd: number(program),
        info_len: u32::try_from(size_of::<RawInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut maps: Vec<u32> = maps.into_iter().take(info.map_count.min(room) as usize).collect();
    maps.sort_unstable();
    Ok(Program { id: info.id, name: String::from_utf8_lossy(name).into_owned(), tag: info.tag, maps })
}
