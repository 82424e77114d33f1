//! What was dropped at pods' links, by reason: the counters of the rules, read when somebody asks.
//!
//! Invariant: reasons are a closed list, so what is told is bounded whatever pods send. Counters begin anew with their rules: when another
//! build has other ones, or someone took the table away.

use std::collections::BTreeMap;

use bowline_dataplane::objects::nft::TableFamily;
use bowline_dataplane::pod::guard::{ARP_CHAIN, CHAINS, Reason, by_reason};
use bowline_kernel::nft::{NftDriver, NftError, RuleCounter};
use bowline_metrics::Page;

/// Packets by reason; nothing at all where the kernel does not say.
pub(crate) fn dropped() -> BTreeMap<Reason, u64> {
    match read() {
        Ok(counters) => by_reason(counters.iter().filter_map(|one| Some((one.comment.as_deref()?, one.packets)))),
        Err(error) => {
            tracing::debug!(%error, "counters of pods' links cannot be read");
            BTreeMap::new()
        }
    }
}

fn read() -> Result<Vec<RuleCounter>, NftError> {
    let (mut inet, mut arp) = (NftDriver::open()?, NftDriver::open_of(TableFamily::Arp)?);
    let mut all = arp.counters(ARP_CHAIN)?;
    for chain in CHAINS {
        all.extend(inet.counters(chain)?);
    }
    Ok(all)
}

/// Writes them on a page.
pub(crate) fn metrics(dropped: &BTreeMap<Reason, u64>, page: &mut Page) {
    let name = "bowline_pod_guard_dropped_packets_total";
    page.head(name, "counter", "Packets that pods sent and may not send, dropped at their links.");
    for (reason, packets) in dropped {
        page.sample(name, &[("reason", reason.word())], packets);
    }
}
