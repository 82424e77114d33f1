//! What the test programs that use a lab share: driving it, reading what is in a node's kernel, and making traffic.
//!
//! Each program takes the whole and uses its part.
#![allow(dead_code, reason = "each program uses its part")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]
#![allow(clippy::print_stdout, reason = "a test runner prints its rows")]
#![allow(clippy::disallowed_methods, reason = "it drives processes and waits for them")]

pub(crate) mod cluster;
pub(crate) mod generate;
pub(crate) mod generator;
pub(crate) mod lab;
pub(crate) mod node;
pub(crate) mod objects;
pub(crate) mod populate;
pub(crate) mod rows;
pub(crate) mod stations;
pub(crate) mod twin;
pub(crate) mod wire;
