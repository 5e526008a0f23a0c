//! Programs that measure the cache: how good its decisions are, and how fast they are made.

pub mod eval;
