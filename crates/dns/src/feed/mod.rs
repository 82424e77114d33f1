//! The local socket between the node's agent and its DNS server: JSON, a message a line.
//!
//! Invariant: a connection begins with a snapshot, and each change applies to what went before it; whoever misses one
//! connects again. The server of names keeps what it knows for as long as nobody tells it better.

mod client;
mod server;

pub use client::follow;
pub use server::FeedServer;

#[cfg(test)]
mod tests;
