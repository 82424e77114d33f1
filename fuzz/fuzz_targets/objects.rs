//! Kubernetes objects, one a line; what they are compiled to is lowered too, and the kernel must be able to load it.

#![no_main]

use bowline_dataplane::interpret::Table;
use bowline_dataplane::{HostFacts, lower};
use bowline_model::intent::Intent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let intent = bowline_compile::fuzz_objects(bytes);
    let objects = lower(&Intent::default(), &intent, &HostFacts::default()).value;
    assert_eq!(Table::from_objects(&objects.nft.set).faults(), []);
});
