//! Routing policy rules. uapi linux/fib_rules.h.

use bowline_dataplane::objects::net::RuleSelector;
use bowline_model::Family;

use super::{Netlink, NetlinkError, af_of, family_of, prefix};
use crate::wire::{Message, Received, flags};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;

/// Length of `struct fib_rule_hdr`.
const RULE_BYTES: usize = 12;

/// A rule as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// Family.
    pub family: Family,
    /// Preference.
    pub priority: u32,
    /// What it matches, where that is one of the ways that we use.
    pub selector: Option<RuleSelector>,
    /// The table that it asks.
    pub table: u32,
    /// Who made it.
    pub protocol: u8,
}

impl Netlink {
    /// All rules of both families.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn rules(&mut self) -> Result<Vec<RuleInfo>, NetlinkError> {
        let mut all = Vec::new();
        for family in Family::BOTH {
            let message = Message::new(RTM_GETRULE, flags::REQUEST | flags::DUMP, &header(family, 0, 0));
            all.extend(self.list("rules", message, parse)?);
        }
        Ok(all)
    }

    /// Adds a rule that asks a table; the same one there already is fine.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_rule(
        &mut self,
        family: Family,
        priority: u32,
        selector: &RuleSelector,
        table: u32,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let message = request(RTM_NEWRULE, flags::CREATE | flags::EXCLUSIVE, family, priority, selector, table, protocol);
        self.execute_unless(&[libc::EEXIST], "add", || rule_words(family, priority), message)
    }

    /// Removes a rule of that origin. Absent is fine.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_rule(
        &mut self,
        family: Family,
        priority: u32,
        selector: &RuleSelector,
        table: u32,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let message = request(RTM_DELRULE, 0, family, priority, selector, table, protocol);
        self.execute_unless(&[libc::ENOENT], "delete", || rule_words(family, priority), message)
    }
}

fn rule_words(family: Family, priority: u32) -> String {
    format!("{family} rule of preference {priority}")
}

/// `struct fib_rule_hdr`; the table is always an attribute.
fn header(family: Family, source_bits: u8, action: u8) -> [u8; RULE_BYTES] {
    [af_of(family), 0, source_bits, 0, 0, 0, 0, action, 0, 0, 0, 0]
}

fn request(kind: u16, extra_flags: u16, family: Family, priority: u32, selector: &RuleSelector, table: u32, protocol: u8) -> Message {
    let source_bits = match selector {
        RuleSelector::From(source) => source.prefix_len(),
        RuleSelector::Mark { .. } => 0,
    };
    let header = header(family, source_bits, FR_ACT_TO_TBL);
    let mut message = Message::new(kind, flags::REQUEST | flags::ACK | extra_flags, &header);
    message.attr_u32(FRA_PRIORITY, priority).attr_u32(FRA_TABLE, table).attr_u8(FRA_PROTOCOL, protocol);
    match selector {
        RuleSelector::Mark { value, mask } => message.attr_u32(FRA_FWMARK, *value).attr_u32(FRA_FWMASK, *mask),
        RuleSelector::From(source) => message.attr_ip(FRA_SRC, source.network()),
    };
    message
}

fn parse(message: &Received<'_>) -> Option<RuleInfo> {
    let (&[af, destination_bits, source_bits, tos, small_table], true) = (message.payload.first_chunk()?, message.kind == RTM_NEWRULE)
    else {
        return None;
    };
    let attrs = message.attrs(RULE_BYTES);
    let selector = match (attrs.u32(FRA_FWMARK), attrs.ip(FRA_SRC)) {
        (Some(value), None) => Some(RuleSelector::Mark { value, mask: attrs.u32(FRA_FWMASK).unwrap_or(u32::MAX) }),
        (None, Some(source)) => prefix(source, source_bits).map(RuleSelector::From),
        (Some(_), Some(_)) | (None, None) => None,
    };
    Some(RuleInfo {
        family: family_of(af)?,
        priority: attrs.u32(FRA_PRIORITY).unwrap_or(0),
        selector: selector.filter(|_| destination_bits == 0 && tos == 0),
        table: attrs.u32(FRA_TABLE).unwrap_or(u32::from(small_table)),
        protocol: attrs.u8(FRA_PROTOCOL).unwrap_or(0),
    })
}
