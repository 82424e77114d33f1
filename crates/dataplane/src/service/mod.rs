//! Services: where the packets of a virtual address go. A folder for each mode.

pub mod ebpf;
pub mod nftables;

use bowline_model::intent::pods::PodsIntent;
use imbl::ordmap::DiffItem;

/// Whether pods differ in their host ports.
fn concerns_host_ports(old: &PodsIntent, new: &PodsIntent) -> bool {
    old.pods.diff(&new.pods).any(|item| match item {
        DiffItem::Add(_, pod) | DiffItem::Remove(_, pod) => !pod.host_ports.is_empty(),
        DiffItem::Update { old: (_, was), new: (_, is) } => !was.host_ports.is_empty() || !is.host_ports.is_empty(),
    })
}
