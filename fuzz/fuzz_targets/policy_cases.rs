//! A file of policy cases; what is explained must be what the oracle says.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bowline_compile::cases::fuzz_cases(bytes);
});
