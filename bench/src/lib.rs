//! bench

pub mod sim;
