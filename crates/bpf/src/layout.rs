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
    ("way", 28, &[("link", 0, 4), ("mtu", 4, 4), ("to", 8, 6), ("from", 14, 6), ("station", 20, 6), ("peer", 26, 1), ("zero", 27, 1)]),
    ("carried", 64, &[("tie", 0, 12), ("way", 12, 28), ("epoch", 40, 8), ("judged_ns", 48, 8), ("confirmed", 56, 1), ("zero", 57, 7)]),
    (
        "opening",
        96,
        &[
            ("tie", 0, 12),
            ("there", 12, 28),
            ("back", 40, 28),
            ("zero", 68, 4),
            ("epoch", 72, 8),
            ("judged_ns", 80, 8),
            ("answered", 88, 1),
            ("translated", 89, 1),
            ("zeros", 90, 6),
        ],
    ),
    (
        "direct",
        88,
        &[
            ("opened_ns", 0, 8),
            ("ended_ns", 8, 8),
            ("answered", 16, 1),
            ("done", 17, 2),
            ("zero", 19, 1),
            ("tie", 20, 12),
            ("there", 32, 28),
            ("back", 60, 28),
        ],
    ),
];
