//! The fast path's programs at the links of where this runs, by their numbers: another program has another.

use anyhow::Result;
use bowline_kernel::bpf::Fastpath;
use serde_json::json;

pub(super) fn run() -> Result<()> {
    super::say(&json!(Fastpath::left()?).to_string())
}
