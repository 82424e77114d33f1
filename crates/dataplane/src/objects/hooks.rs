//! Programs of the fast path at links.

use std::sync::Arc;

/// A link that has them, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookKey(pub Arc<str>);

/// What is at the link's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A pod, in a namespace of its own.
    Pod,
    /// Other nodes, over Ethernet or a tunnel that looks like it.
    Nodes,
}
