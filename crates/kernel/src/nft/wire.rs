//! Many netlink messages in one buffer, as a transaction of nftables needs them, and the reading of replies to them.
//!
//! Invariant: messages and attributes start at multiples of four; lengths in headers count the header and not the padding; what is too
//! long for its length field is noticed and never sent.
//! Reference: Linux uapi `netlink.h` (headers in host order), `nfnetlink.h`.

use bowline_dataplane::objects::nft::TableFamily;

use super::uapi;
use crate::wire::{Attrs, HEADER_BYTES, Received, u32_at};

/// Length of `nfgenmsg`, which stands between the netlink header and the attributes.
pub(super) const FAMILY_HEADER_BYTES: usize = 4;

/// Writes messages one after another into one buffer.
#[derive(Debug, Default)]
pub(super) struct Writer {
    buffer: Vec<u8>,
    /// Of the table that messages are about.
    family: TableFamily,
    /// An attribute or message was longer than its length field can say.
    overflow: bool,
}

impl Writer {
    pub(super) fn new() -> Self {
        Writer::default()
    }

    /// For messages about the table of a family.
    pub(super) fn about(family: TableFamily) -> Self {
        Writer { family, ..Writer::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Begins anew, with the room that was had.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.overflow = false;
    }

    /// Whether something was too long to be written; the bytes are of no use then.
    pub(super) fn overflowed(&self) -> bool {
        self.overflow
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    /// A message on nftables objects of the table's family.
    pub(super) fn nft(&mut self, operation: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Writer)) {
        self.message((uapi::NFNL_SUBSYS_NFTABLES << 8) | operation, flags, sequence, uapi::family(self.family), 0, body);
    }

    /// The begin or end of a transaction.
    pub(super) fn batch_mark(&mut self, kind: u16, sequence: u32) {
        self.message(kind, 0, sequence, uapi::NFPROTO_UNSPEC, uapi::NFNL_SUBSYS_NFTABLES, |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | uapi::NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
        body(self);
        match u32::try_from(self.buffer.len() - start) {
            Ok(length) => self.patch(start, &length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    /// An attribute with these bytes.
    pub(super) fn attr(&mut self, kind: u16, value: &[u8]) {
        self.nested_as(kind, |w| w.buffer.extend_from_slice(value));
    }

    /// A name with its closing zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.nested_as(kind, |w| {
            w.buffer.extend_from_slice(value.as_bytes());
            w.buffer.push(0);
        });
    }

    /// A number in network order, as nearly all of nftables' are.
    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A number in network order.
    pub(super) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        self.nested_as(kind | uapi::NLA_F_NESTED, body);
    }

    fn nested_as(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        match u16::try_from(self.buffer.len() - start) {
            Ok(length) => self.patch(start, &length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// What an error reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelReply {
    /// Sequence number of the request.
    pub(super) sequence: u32,
    /// 0 for an acknowledgement, else a positive errno.
    pub(super) errno: i32,
    /// The kernel's own words, if it had any.
    pub(super) words: Option<String>,
}

/// Reads an error reply; the sequence number is that of the echoed request.
pub(super) fn kernel_reply(message: &Received<'_>) -> Option<KernelReply> {
    let code = u32_at(message.payload, 0)?.cast_signed();
    let request_bytes = usize::try_from(u32_at(message.payload, 4)?).ok()?;
    let echoed = if message.flags & uapi::NLM_F_CAPPED != 0 || code == 0 { HEADER_BYTES } else { request_bytes };
    let words = (message.flags & uapi::NLM_F_ACK_TLVS != 0)
        .then(|| message.payload.get(echoed.checked_add(4)?.checked_next_multiple_of(4)?..))
        .flatten()
        .and_then(|details| Attrs::of(details).text(uapi::NLMSGERR_ATTR_MSG));
    Some(KernelReply { sequence: u32_at(message.payload, 12)?, errno: code.saturating_neg(), words })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use proptest::prelude::*;

    use super::*;
    use crate::wire::messages;

    #[test]
    fn what_is_written_is_read_back() {
        let mut w = Writer::new();
        w.batch_mark(uapi::NFNL_MSG_BATCH_BEGIN, 7);
        w.nft(uapi::msg::NEWSET, uapi::NLM_F_CREATE, 8, |w| {
            w.text(1, "abc");
            w.nest(2, |w| {
                w.attr(1, &[9; 5]);
                w.be32(3, 77);
                w.be64(4, 1 << 40);
            });
        });
        assert!(!w.overflowed());
        let bytes = w.into_bytes();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].sequence), (uapi::NFNL_MSG_BATCH_BEGIN, 7));
        assert_eq!(all[0].payload, &[0, 0, 0, 10]);
        assert_eq!((all[1].kind, all[1].flags, all[1].sequence), (0x0a09, 0x401, 8));
        let top = all[1].attrs(FAMILY_HEADER_BYTES);
        assert_eq!(top.text(1).as_deref(), Some("abc"));
        assert_eq!(top.nested(2).get(1), Some(&[9_u8; 5][..]));
        assert_eq!(top.nested(2).be32(3), Some(77));
        assert_eq!(top.nested(2).get(4), Some(&(1_u64 << 40).to_be_bytes()[..]));
    }

    #[test]
    fn an_attribute_too_long_is_noticed() {
        let mut w = Writer::new();
        w.attr(1, &vec![0; 65_531]);
        assert!(!w.overflowed());
        w.attr(1, &vec![0; 65_532]);
        assert!(w.overflowed());
    }

    #[test]
    fn an_error_reply_names_request_and_reason() {
        let mut payload = (-libc::ENOENT).to_ne_bytes().to_vec();
        payload.extend(100_u32.to_ne_bytes());
        payload.extend([0; 4]);
        payload.extend(42_u32.to_ne_bytes());
        payload.extend([0; 4]);
        let mut words = Writer::new();
        words.text(uapi::NLMSGERR_ATTR_MSG, "no such chain");
        payload.extend(words.into_bytes());
        let flags = uapi::NLM_F_CAPPED | uapi::NLM_F_ACK_TLVS;
        let message = Received { kind: uapi::NLMSG_ERROR, flags, sequence: 42, port: 0, payload: &payload };
        let reply = kernel_reply(&message).unwrap();
        assert_eq!(reply, KernelReply { sequence: 42, errno: libc::ENOENT, words: Some("no such chain".into()) });
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down(payload in proptest::collection::vec(any::<u8>(), 0..64), flags: u16) {
            kernel_reply(&Received { kind: uapi::NLMSG_ERROR, flags, sequence: 1, port: 0, payload: &payload });
        }
    }
}
