//! What the kernel's side and the gateway share: layouts of map values, and the arithmetic of the histograms.
//!
//! Invariants: every type is `repr(C)` without padding, of a size that is asserted, and any bytes are a value of it; a change of
//! a layout is a change of [`ABI`]. Deliberately absent: maps and programs (`ebpf/programs`), and whoever loads them
//! (`proxy/gateway/src/ebpf.rs`).

#![no_std]

pub mod accounting;
pub mod steering;

/// Version of the layouts; part of the path under which maps are pinned.
pub const ABI: u32 = 1;
