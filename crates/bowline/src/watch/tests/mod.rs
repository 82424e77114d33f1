//! The watches against an API server that is in trouble, in simulated time: no sockets, no waiting (but for `ways`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, reason = "a test may fail loudly")]

mod answers;
mod hour;
mod script;
mod shared;
mod ways;
