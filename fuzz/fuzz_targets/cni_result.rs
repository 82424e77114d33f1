//! A result of an earlier plugin, as a runtime hands it back.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bowline_cni::fuzz_result(bytes));
