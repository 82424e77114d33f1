//! Tests of the whole: objects in, expectation out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod cases;
mod cluster_policy_table;
mod explain_policies;
mod explain_properties;
mod explain_questions;
mod explain_table;
mod explain_tiers;
mod facts;
mod flows;
mod policies;
mod policy_table;
mod properties;
mod service_table;
mod turns;
