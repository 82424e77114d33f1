//! A KubeProxyConfiguration file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bowline_kubeproxy::fuzz_config(bytes);
});
