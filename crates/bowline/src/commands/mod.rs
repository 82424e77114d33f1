//! The commands that look and report.

pub(crate) mod agents;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod output;
pub(crate) mod policy;
pub(crate) mod probe;
pub(crate) mod status;
pub(crate) mod uninstall;
