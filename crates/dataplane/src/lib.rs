//! Intent → kernel objects; pure.
//!
//! Each backend is a folder with a `lower` function that turns two intents, the old and the new, into the objects to set and to remove.
//! `lower(empty, new)` is the full form. Nothing here reads the kernel, the clock or the environment.

pub mod objects;
