//! Services: where the packets of a virtual address go. A folder for each mode.

pub mod ebpf;
pub mod nftables;
