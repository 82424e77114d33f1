//! A Corefile.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bowline_dns::fuzz_corefile(bytes));
