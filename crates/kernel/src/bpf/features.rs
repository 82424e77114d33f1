//! What the programs need of a kernel, asked for one by one where it does not take them: an operator is told what is missing, and since which
//! Linux it is there, not what a verifier says of the first program that it meets.

use std::io;

use super::hooks::BpfError;
use crate::sys::bpf::{ProgramKind, load_and_drop};

/// Something that a kernel may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Feature {
    /// As an operator finds it in the kernel's documentation.
    name: &'static str,
    /// The first Linux that has it.
    since: &'static str,
    kind: ProgramKind,
    /// The helper that a program of that kind calls, by its number in linux/bpf.h, and how many numbers it is given; none for the kind itself.
    helper: Option<(i32, u8)>,
}

const fn kind(name: &'static str, since: &'static str, kind: ProgramKind) -> Feature {
    Feature { name, since, kind, helper: None }
}

const fn helper(name: &'static str, since: &'static str, kind: ProgramKind, number: i32, numbers: u8) -> Feature {
    Feature { name, since, kind, helper: Some((number, numbers)) }
}

/// What the programs at the socket hooks need.
pub(super) const OF_HOOKS: &[Feature] = &[
    kind("cgroup/connect4", "4.17", ProgramKind::CONNECT4),
    kind("cgroup/connect6", "4.17", ProgramKind::CONNECT6),
    kind("cgroup/sendmsg4", "4.18", ProgramKind::SENDMSG4),
    kind("cgroup/sendmsg6", "4.18", ProgramKind::SENDMSG6),
    kind("cgroup/recvmsg4", "5.2", ProgramKind::RECVMSG4),
    kind("cgroup/recvmsg6", "5.2", ProgramKind::RECVMSG6),
    kind("cgroup/getpeername4", "5.8", ProgramKind::GETPEERNAME4),
    kind("cgroup/getpeername6", "5.8", ProgramKind::GETPEERNAME6),
    helper("bpf_get_socket_cookie at cgroup/connect4", "4.12", ProgramKind::CONNECT4, 46, 0),
    helper("bpf_get_netns_cookie at cgroup/connect4", "5.7", ProgramKind::CONNECT4, 122, 0),
    helper("bpf_set_retval at cgroup/connect4", "6.1", ProgramKind::CONNECT4, 187, 1),
];

/// What the programs at links need.
pub(super) const OF_LINKS: &[Feature] = &[
    kind("classifiers (sched_cls)", "4.1", ProgramKind::CLASSIFIER),
    helper("bpf_redirect_peer", "5.10", ProgramKind::CLASSIFIER, 155, 2),
    helper("bpf_ktime_get_coarse_ns", "5.11", ProgramKind::CLASSIFIER, 160, 0),
];

/// Capabilities that loading and attaching take, by their bits in `CapEff`; CAP_SYS_ADMIN stands for the first two.
const CAPABILITIES: [(u32, &str); 3] = [(39, "BPF"), (38, "PERFMON"), (12, "NET_ADMIN")];
const SYS_ADMIN: u32 = 21;

/// Says with an error what is missing, where something is.
pub(super) fn explained(error: BpfError, needed: &[Feature]) -> BpfError {
    let BpfError::Load { reason } = error else { return error };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing(needed, &lacking(&status), |feature| load_and_drop(feature.kind, feature.helper));
    match missing.is_empty() {
        true => BpfError::Load { reason },
        false => BpfError::Load { reason: format!("{reason}; missing: {}", missing.join(", ")) },
    }
}

/// Capabilities that a process with this `/proc/self/status` does not have.
fn lacking(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let Some(effective) = effective else { return Vec::new() };
    let has = |bit: u32| effective >> bit & 1 == 1;
    let given = |bit: u32, name: &str| has(bit) || (name != "NET_ADMIN" && has(SYS_ADMIN));
    CAPABILITIES.into_iter().filter(|(bit, name)| !given(*bit, name)).map(|(_, name)| name).collect()
}

/// What is missing, by asking for each feature. Without the right to ask the capabilities alone are told: nothing can be said of the kernel.
fn missing(needed: &[Feature], capabilities: &[&str], ask: impl Fn(&Feature) -> io::Result<()>) -> Vec<String> {
    let mut missing: Vec<String> = capabilities.iter().map(|name| format!("capability {name}")).collect();
    for feature in needed {
        match ask(feature) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => break,
            Err(_) => missing.push(format!("{} (Linux {})", feature.name, feature.since)),
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    fn refused(errno: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn each_missing_feature_is_named() {
        assert_eq!(missing(OF_HOOKS, &[], |_| Ok(())), Vec::<String>::new());
        let old = |feature: &Feature| if feature.since == "6.1" || feature.since == "5.8" { refused(libc::EINVAL) } else { Ok(()) };
        let said = missing(OF_HOOKS, &[], old);
        assert_eq!(
            said,
            ["cgroup/getpeername4 (Linux 5.8)", "cgroup/getpeername6 (Linux 5.8)", "bpf_set_retval at cgroup/connect4 (Linux 6.1)"]
        );
        let said = missing(OF_LINKS, &[], |feature| if feature.helper.is_some() { refused(libc::EINVAL) } else { Ok(()) });
        assert_eq!(said, ["bpf_redirect_peer (Linux 5.10)", "bpf_ktime_get_coarse_ns (Linux 5.11)"]);
    }

    #[test]
    fn who_may_not_ask_is_told_of_the_right() {
        let of = |capabilities: u64| lacking(&format!("Name:\tx\nCapEff:\t{capabilities:016x}\n"));
        assert_eq!(of(u64::MAX), Vec::<&str>::new());
        assert_eq!(of(1 << SYS_ADMIN | 1 << 12), Vec::<&str>::new(), "the old capability stands for the new ones");
        assert_eq!(of(1 << 12), ["BPF", "PERFMON"]);
        assert_eq!(missing(OF_LINKS, &of(1 << 39), |_| refused(libc::EPERM)), ["capability PERFMON", "capability NET_ADMIN"]);
    }

    #[test]
    fn this_kernel_is_asked_and_answers() {
        let ask = |feature: &Feature| load_and_drop(feature.kind, feature.helper);
        let nonsense = Feature { helper: Some((i32::MAX, 0)), ..*OF_LINKS.first().unwrap() };
        match ask(&nonsense) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => eprintln!("skipped: loading programs takes a right"),
            answer => {
                assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EINVAL), "no kernel has such a helper");
                assert_eq!(missing(OF_LINKS, &[], ask), Vec::<String>::new());
                assert_eq!(missing(OF_HOOKS, &[], ask), Vec::<String>::new());
                let error = explained(BpfError::Load { reason: "so".to_owned() }, &[nonsense]);
                assert!(error.to_string().ends_with("so; missing: classifiers (sched_cls) (Linux 4.1)"), "{error}");
            }
        }
    }
}
