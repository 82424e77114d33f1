//! A network configuration, as a container runtime gives it to the plugin.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bowline_cni::fuzz_config(bytes));
