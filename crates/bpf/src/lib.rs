//! The programs that run in the kernel, compiled from C when this crate is built, and the layout of the maps that they share with Rust.
//!
//! Invariant: no I/O; bytes and their meaning only.

pub mod abi;
pub mod layout;

/// Bytes where the loader may read whole words.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static SOCKETS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sockets.o")));

static FASTPATH: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/fastpath.o")));

/// Version of the maps' layout: maps of another version are never taken over. To be raised with every change of `layout.rs` or of what a map
/// means.
pub const MAPS_VERSION: u32 = 2;

/// The programs at cgroup hooks that translate services at the socket, as an ELF object.
pub fn sockets() -> &'static [u8] {
    &SOCKETS.0
}

/// The hooks, each by the name of its program in [`sockets`].
pub const SOCKET_HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// The programs at links by which packets of pods pass without the stack, as an ELF object.
pub fn fastpath() -> &'static [u8] {
    &FASTPATH.0
}

/// The program of [`fastpath`] at a link's ingress.
pub const ENTER: &str = "bowline_enter";
/// The program of [`fastpath`] at the egress of a pod's link.
pub const TO_POD: &str = "bowline_to_pod";
/// The program of [`fastpath`] at the egress of a link to other nodes.
pub const TO_NODE: &str = "bowline_to_node";

/// The global of [`sockets`] that names the node's own network namespace by its cookie.
pub const NODE_NETNS: &str = "node_netns";
