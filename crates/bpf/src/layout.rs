//! The layout of what both sides of a map see: of each C structure its size in bytes, and each field with its offset and size.
//!
//! The build script turns this table into assertions in front of the C sources; the encoders of `abi.rs` are held against it by their types'
//! lengths and by tests. So a change of one side alone does not compile.

/// A structure: its name in C, its size, its fields (name, offset, size).
pub type Layout = (&'static str, usize, &'static [(&'static str, usize, usize)]);

/// All structures that are keys or values of maps.
pub const LAYOUTS: &[Layout] = &[
    ("frontend_key", 20, &[("address", 0, 16), ("port", 16, 2), ("protocol", 18, 1), ("kind", 19, 1)]),
    ("frontend", 8, &[("generation", 0, 4), ("endpoints", 4, 4)]),
    ("endpoint_key", 28, &[("frontend", 0, 20), ("generation", 20, 4), ("index", 24, 4)]),
    ("endpoint", 20, &[("address", 0, 16), ("port", 16, 2), ("zero", 18, 2)]),
    ("peer_key", 32, &[("socket", 0, 8), ("endpoint", 8, 20), ("zero", 28, 4)]),
    ("live_key", 40, &[("frontend", 0, 20), ("endpoint", 20, 20)]),
    (
        "carried_key",
        44,
        &[
            ("source", 0, 16),
            ("destination", 16, 16),
            ("source_port", 32, 2),
            ("destination_port", 34, 2),
            ("link", 36, 4),
            ("protocol", 40, 1),
            ("zero", 41, 3),
        ],
    ),
    (
        "carried",
        64,
        &[
            ("tie", 0, 12),
            ("link", 12, 4),
            ("epoch", 16, 8),
            ("judged_ns", 24, 8),
            ("mtu", 32, 4),
            ("to", 36, 6),
            ("from", 42, 6),
            ("station", 48, 6),
            ("peer", 54, 1),
            ("confirmed", 55, 1),
            ("zero", 56, 8),
        ],
    ),
];
