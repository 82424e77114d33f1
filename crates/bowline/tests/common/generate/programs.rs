//! The fast path's programs at the links of where this runs.

use anyhow::Result;
use bowline_kernel::bpf::Fastpath;
use serde_json::json;

/// Says which there are, by their numbers: another program has another.
pub(super) fn list() -> Result<()> {
    super::say(&json!(Fastpath::left()?).to_string())
}

/// Takes all of them off, as anybody could; says how many there were.
pub(super) fn take_off() -> Result<()> {
    super::say(&json!(Fastpath::uninstall()?).to_string())
}
