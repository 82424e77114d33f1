//! Worlds for tests, of this crate and of others: a notation of one object a line, and random objects in it.
//!
//! Only there for tests and with the feature `testing`; nothing here is meant to be given bad text.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::missing_panics_doc, reason = "a test may fail loudly")]

pub mod dice;
pub mod flows;
pub mod notation;
pub mod policies;
