//! Entry for fuzzing: whatever a file holds, it is read or refused.

use crate::Config;

/// Reads any bytes as a configuration file.
///
/// # Panics
/// If what was read breaks a promise of [`Config`]: that is what fuzzers are to look for.
pub fn fuzz_config(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match Config::read("file", &text) {
        Ok(read) => {
            let config = read.value;
            assert!(config.healthz.port() != 0 && config.metrics.port() != 0, "{config:?}");
            assert!(config.cluster_cidrs.len() <= 2, "{config:?}");
            assert!(config.node_name.as_deref() != Some(""), "{config:?}");
            for (key, value) in config.conntrack.sysctls(2) {
                assert!(key.starts_with("net/netfilter/") && value.parse::<u64>().is_ok(), "{key} = {value}");
            }
            true
        }
        Err(problem) => {
            assert!(!problem.what.is_empty() && !problem.fix.is_empty(), "{problem}");
            false
        }
    }
}
