//! bpf(2): what the loader's library does not offer. Layouts are those of `union bpf_attr` in linux/bpf.h.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;

/// `SO_NETNS_COOKIE` of asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The part of `union bpf_attr` for single elements.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part for batches.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part for objects of the BPF file system.
#[repr(C)]
#[derive(Default)]
struct PathAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
    path_fd: i32,
    padding: u32,
}

/// The part for questions about an object.
#[repr(C)]
#[derive(Default)]
pub(super) struct InfoAttr {
    pub(super) bpf_fd: u32,
    pub(super) info_len: u32,
    pub(super) info: u64,
}

/// The head of `struct bpf_link_info` and its part for cgroups.
#[repr(C)]
#[derive(Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    cgroup_id: u64,
    attach_type: u32,
    padding2: u32,
}

pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

pub(super) fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` for this command and outlives the call, and its size is given; the pointers in it are
    // set by the callers from slices that outlive the call and whose lengths fit the map's sizes times the count.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// How many elements a buffer holds; all buffers must agree.
fn elements(key_bytes: usize, keys: &[u8], value_bytes: usize, values: &[u8]) -> io::Result<u32> {
    let count = keys.len().checked_div(key_bytes).unwrap_or(0);
    if count * key_bytes != keys.len() || count * value_bytes != values.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    u32::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A map and the sizes of its elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements<'a> {
    /// The map.
    pub(crate) map: BorrowedFd<'a>,
    /// Bytes of a key, as the map has them.
    pub(crate) key_bytes: usize,
    /// Bytes of a value, as the map has them.
    pub(crate) value_bytes: usize,
}

impl Elements<'_> {
    /// Sets elements, keys and values one after the other; says how many were set before the first that failed, if one did.
    ///
    /// # Errors
    /// What bpf(2) says, with the number of elements that were set: E2BIG if the map is full.
    pub(crate) fn update(self, keys: &[u8], values: &[u8]) -> Result<(), (usize, io::Error)> {
        let count = elements(self.key_bytes, keys, self.value_bytes, values).map_err(|error| (0, error))?;
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count,
            map_fd: number(self.map),
            ..BatchAttr::default()
        };
        call(MAP_UPDATE_BATCH, &mut attr).map(|_| ()).map_err(|error| (attr.count as usize, error))
    }

    /// Removes elements; says how many were removed before the first that failed, if one did.
    ///
    /// # Errors
    /// What bpf(2) says, with the number of elements that were removed: ENOENT for one that is not there.
    pub(crate) fn delete(self, keys: &[u8]) -> Result<(), (usize, io::Error)> {
        let count = elements(self.key_bytes, keys, 0, &[]).map_err(|error| (0, error))?;
        let mut attr = BatchAttr { keys: keys.as_ptr() as u64, count, map_fd: number(self.map), ..BatchAttr::default() };
        call(MAP_DELETE_BATCH, &mut attr).map(|_| ()).map_err(|error| (attr.count as usize, error))
    }

    /// The value of a key, if the map has it.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(crate) fn get(self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.element(MAP_LOOKUP_ELEM, key)
    }

    /// The same, and the map has it no longer. On kernels before 5.14, that have no such call for hash maps, a change in between is not seen.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(crate) fn take(self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.element(MAP_LOOKUP_AND_DELETE_ELEM, key) {
            // ENOTSUPP, which the C library does not know.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | 524)) => {
                let value = self.get(key)?;
                match self.delete(key) {
                    Err((_, error)) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
                    _ => Ok(value),
                }
            }
            other => other,
        }
    }

    fn element(self, command: libc::c_long, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if key.len() != self.key_bytes {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut value = vec![0_u8; self.value_bytes];
        let mut attr =
            ElementAttr { map_fd: number(self.map), key: key.as_ptr() as u64, value: value.as_mut_ptr() as u64, ..ElementAttr::default() };
        match call(command, &mut attr) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with key and value of every element of a hash map. One that comes or goes meanwhile may be missed.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(crate) fn read(self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut room = 4096_usize;
        let mut token: Option<u32> = None;
        loop {
            let (mut keys, mut values) = (vec![0_u8; room * self.key_bytes], vec![0_u8; room * self.value_bytes]);
            let (before, mut next) = (token.unwrap_or(0), 0_u32);
            let mut attr = BatchAttr {
                in_batch: token.map_or(0, |_| std::ptr::from_ref(&before) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: u32::try_from(room).unwrap_or(u32::MAX),
                map_fd: number(self.map),
                ..BatchAttr::default()
            };
            let done = match call(MAP_LOOKUP_BATCH, &mut attr) {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket holds more than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 22 => {
                    room *= 4;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let found = keys.chunks_exact(self.key_bytes).zip(values.chunks_exact(self.value_bytes));
            found.take(attr.count as usize).for_each(|(key, value)| each(key, value));
            if done {
                return Ok(());
            }
            token = Some(next);
        }
    }
}

/// Whether the link that is pinned at `path` is attached to a cgroup still: someone may have detached it by force.
///
/// # Errors
/// ENOENT if nothing is pinned there; what bpf(2) says else.
pub(crate) fn cgroup_link_is_attached(path: &Path) -> io::Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PathAttr { pathname: name.as_ptr() as u64, ..PathAttr::default() };
    let fd = i32::try_from(call(OBJ_GET, &mut attr)?).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = CgroupLinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: number(link.as_fd()),
        info_len: u32::try_from(size_of::<CgroupLinkInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.cgroup_id != 0)
}

/// The cookie of the network namespace that a socket is in (Linux 5.14).
///
/// # Errors
/// What getsockopt(2) says.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(0);
    // SAFETY: `cookie` is as large as `length` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// A kind of program: its type, and where it is to be attached, by their numbers in linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgramKind {
    program: u32,
    attach: u32,
}

impl ProgramKind {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    pub(crate) const CLASSIFIER: ProgramKind = ProgramKind { program: 3, attach: 0 };
    /// `BPF_CGROUP_INET4_CONNECT` and the others at sockets.
    pub(crate) const CONNECT4: ProgramKind = ProgramKind::at_sockets(10);
    pub(crate) const CONNECT6: ProgramKind = ProgramKind::at_sockets(11);
    pub(crate) const SENDMSG4: ProgramKind = ProgramKind::at_sockets(14);
    pub(crate) const SENDMSG6: ProgramKind = ProgramKind::at_sockets(15);
    pub(crate) const RECVMSG4: ProgramKind = ProgramKind::at_sockets(19);
    pub(crate) const RECVMSG6: ProgramKind = ProgramKind::at_sockets(20);
    pub(crate) const GETPEERNAME4: ProgramKind = ProgramKind::at_sockets(29);
    pub(crate) const GETPEERNAME6: ProgramKind = ProgramKind::at_sockets(30);

    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    const fn at_sockets(attach: u32) -> ProgramKind {
        ProgramKind { program: 18, attach }
    }
}

/// The part of `union bpf_attr` for loading.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    program: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    link: u32,
    attach: u32,
}

/// `struct bpf_insn`: code, registers (destination in the lower half), offset, and a number.
fn instruction(code: u8, register: u8, number: i32) -> [u8; 8] {
    let [a, b, c, d] = number.to_ne_bytes();
    [code, register, 0, 0, a, b, c, d]
}

/// Loads the least program of a kind, which may call a helper with so many zeros (with none of them, with what the program was given), and
/// drops it at once.
///
/// # Errors
/// EPERM without the right to load; EINVAL or EACCES where the kernel knows no such kind, or its programs may not call that helper.
pub(crate) fn load_and_drop(kind: ProgramKind, helper: Option<(i32, u8)>) -> io::Result<()> {
    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    let mut program: Vec<[u8; 8]> = Vec::new();
    if let Some((number, zeros)) = helper {
        program.extend((1..=zeros).map(|register| instruction(MOVE, register, 0)));
        program.push(instruction(CALL, 0, number));
    }
    // A program at a socket says with 1 that it has no objection.
    program.extend([instruction(MOVE, 0, 1), instruction(EXIT, 0, 0)]);
    let mut attr = LoadAttr {
        program: kind.program,
        instruction_count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        attach: kind.attach,
        ..LoadAttr::default()
    };
    let fd = call(PROG_LOAD, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this number, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
