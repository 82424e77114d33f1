//! Tests of the whole: objects in, expectation out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod cases;
mod explain_properties;
mod explain_table;
mod facts;
mod flows;
mod policies;
mod policy_table;
mod properties;
mod service_table;
