//! The semantic cache.

pub mod embed;
pub mod guard;
