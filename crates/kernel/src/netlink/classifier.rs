//! BPF programs as classifiers at the ingress and egress of links (clsact, Linux 4.5), for kernels without tcx. uapi linux/pkt_sched.h,
//! linux/pkt_cls.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Netlink, NetlinkError};
use crate::sys::tcx::Hook;
use crate::wire::{Message, Received, flags, u32_at};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;

/// The program's answer is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_MIN_INGRESS: u32 = 0xffff_fff2;
const TC_H_MIN_EGRESS: u32 = 0xffff_fff3;
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// `ETH_P_ALL` of linux/if_ether.h.
const ETH_P_ALL: u16 = 3;

/// Ours run after those of others, who choose small numbers or take what the kernel gives, from 49152 downwards.
const PRIORITY: u32 = 50_000;

/// Kind of the queueing discipline that does nothing, which links without a queue have.
const NOQUEUE: &str = "noqueue";

/// Length of `struct tcmsg`.
const TCMSG_BYTES: usize = 20;

/// A BPF classifier at a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Classifier {
    /// The kernel's number for its program.
    pub(crate) program: u32,
    handle: u32,
    /// Priority in the upper half, protocol in the lower.
    info: u32,
}

/// A queueing discipline of a link: at its root, at one of its classes, or that of the hooks of ingress and egress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discipline {
    /// Index of the link.
    pub(crate) link: u32,
    kind: String,
}

impl Discipline {
    /// Whether it has classifiers at the two hooks, and does nothing without any.
    pub(crate) fn is_clsact(&self) -> bool {
        self.kind == "clsact"
    }

    /// Whether packets may have to wait in it, are counted or may be dropped by it, or go elsewhere.
    pub(crate) fn acts(&self) -> bool {
        self.kind != NOQUEUE && !self.is_clsact()
    }
}

fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => TC_H_MIN_INGRESS,
        Hook::Egress => TC_H_MIN_EGRESS,
    }
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    [index, handle, parent, info].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
    bytes
}

impl Netlink {
    /// The queueing disciplines of all links.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn disciplines(&mut self) -> Result<Vec<Discipline>, NetlinkError> {
        let message = Message::new(RTM_GETQDISC, flags::REQUEST | flags::DUMP, &tcmsg(0, 0, 0, 0));
        self.list("queueing disciplines", message, |received| {
            let kind = received.attrs(TCMSG_BYTES).text(TCA_KIND)?;
            (received.kind == RTM_NEWQDISC).then_some(Discipline { link: u32_at(received.payload, 4)?, kind })
        })
    }

    /// How many classifiers there are at one hook of a link, of any kind and whoever's.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn count_classifiers(&mut self, index: u32, hook: Hook) -> Result<usize, NetlinkError> {
        let message = Message::new(RTM_GETTFILTER, flags::REQUEST | flags::DUMP, &tcmsg(index, 0, parent(hook), 0));
        // The head of each priority's list has no handle.
        let one = |received: &Received<'_>| (received.kind == RTM_NEWTFILTER && u32_at(received.payload, 8)? != 0).then_some(());
        Ok(self.list("classifiers", message, one)?.len())
    }

    /// The BPF classifiers at one hook of a link, whoever's they are.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn classifiers(&mut self, index: u32, hook: Hook) -> Result<Vec<Classifier>, NetlinkError> {
        let message = Message::new(RTM_GETTFILTER, flags::REQUEST | flags::DUMP, &tcmsg(index, 0, parent(hook), 0));
        self.list("classifiers", message, parse)
    }

    /// Attaches a program, and makes the place for it where there is none.
    ///
    /// # Errors
    /// The kernel's refusal: EEXIST where a queueing discipline of another kind has the place.
    pub(crate) fn add_classifier(&mut self, program: BorrowedFd<'_>, index: u32, hook: Hook, name: &str) -> Result<(), NetlinkError> {
        let mut place = Message::new(
            RTM_NEWQDISC,
            flags::REQUEST | flags::ACK | flags::CREATE | flags::EXCLUSIVE,
            &tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0),
        );
        place.attr_str(TCA_KIND, "clsact");
        self.execute_unless(&[libc::EEXIST], "make", || format!("clsact of link {index}"), place)?;
        let info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        let mut message = Message::new(
            RTM_NEWTFILTER,
            flags::REQUEST | flags::ACK | flags::CREATE | flags::EXCLUSIVE,
            &tcmsg(index, 0, parent(hook), info),
        );
        let fd = u32::try_from(program.as_raw_fd()).unwrap_or(u32::MAX);
        message.attr_str(TCA_KIND, "bpf").nested(TCA_OPTIONS, |options| {
            options.attr_u32(TCA_BPF_FD, fd).attr_str(TCA_BPF_NAME, name).attr_u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
        });
        self.execute("make", || format!("classifier of link {index}"), message)
    }

    /// Takes one off, and its place with the last. Absent is fine, of the link too.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn delete_classifier(&mut self, one: Classifier, index: u32, hook: Hook) -> Result<(), NetlinkError> {
        let header = tcmsg(index, one.handle, parent(hook), one.info);
        let mut message = Message::new(RTM_DELTFILTER, flags::REQUEST | flags::ACK, &header);
        message.attr_str(TCA_KIND, "bpf");
        let absent = [libc::ENOENT, libc::ENODEV, libc::EINVAL];
        self.execute_unless(&absent, "delete", || format!("classifier of link {index}"), message)?;
        for hook in [Hook::Ingress, Hook::Egress] {
            // Of any kind: a dump that is not of BPF alone.
            let message = Message::new(RTM_GETTFILTER, flags::REQUEST | flags::DUMP, &tcmsg(index, 0, parent(hook), 0));
            if !self.list("classifiers", message, |received| (received.kind == RTM_NEWTFILTER).then_some(()))?.is_empty() {
                return Ok(());
            }
        }
        let place = Message::new(RTM_DELQDISC, flags::REQUEST | flags::ACK, &tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0));
        self.execute_unless(&absent, "delete", || format!("clsact of link {index}"), place)
    }
}

fn parse(message: &Received<'_>) -> Option<Classifier> {
    let attrs = message.attrs(TCMSG_BYTES);
    if message.kind != RTM_NEWTFILTER || attrs.text(TCA_KIND)? != "bpf" {
        return None;
    }
    // The head of each priority's list comes too, without a program.
    let program = attrs.nested(TCA_OPTIONS).u32(TCA_BPF_ID)?;
    Some(Classifier { program, handle: u32_at(message.payload, 8)?, info: u32_at(message.payload, 16)? })
}
