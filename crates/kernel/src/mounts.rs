//! The mounts that this process sees, from mountinfo (proc_pid_mountinfo(5)).

use std::io;
use std::path::PathBuf;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Type of the file system.
    pub kind: String,
}

/// All mounts, in their order.
///
/// # Errors
/// If mountinfo cannot be read.
pub fn all() -> io::Result<Vec<MountPoint>> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

/// Where the first file system of a type is mounted, if one is.
///
/// # Errors
/// If mountinfo cannot be read.
pub fn first_of(kind: &str) -> io::Result<Option<PathBuf>> {
    Ok(all()?.into_iter().find(|mount| mount.kind == kind).map(|mount| mount.point))
}

fn parse(line: &str) -> Option<MountPoint> {
    let (left, right) = line.split_once(" - ")?;
    Some(MountPoint { point: PathBuf::from(unescape(left.split(' ').nth(4)?)), kind: right.split(' ').next()?.to_owned() })
}

/// Undoes mountinfo's octal escapes of blank, tab, newline and backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_place_and_type() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(parse(line), Some(MountPoint { point: "/mnt 2".into(), kind: "ext3".into() }));
        let tree = r"41 31 0:38 / /sys/fs/my\040group rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(tree), Some(MountPoint { point: "/sys/fs/my group".into(), kind: "cgroup2".into() }));
        assert_eq!(parse("36 35 98:0 /mnt1 /mnt2 rw"), None);
    }
}
