//! Network policy: who may talk to the pods of this node. A folder for each mode.

pub mod nftables;
