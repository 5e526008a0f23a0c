//! Chooses the core for a connection when its SYN arrives, before any socket has been chosen for it.
//!
//! Invariants: no loop, no kernel structure, no clock: what may take long (is a core stuck? does it drain?) the control thread has
//! found out, and this program sees a list of cores. Whatever goes wrong, it passes the packet, and the kernel chooses by hash.
//! Deliberately absent: addresses; each listening address has a copy of this program with maps of its own.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::btf_maps::{Array, ReusePortSockArray};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_skb_load_bytes};
use aya_ebpf::macros::{btf_map, sk_reuseport};
use aya_ebpf::programs::SkReuseportContext;
use sluice_ebpf_common::steering::{CORES_MAX, CoreLoad, Mode, PROCESSORS_MAX, SteerConfig, unpack};

/// BPF_F_MMAPABLE: the gateway reads and writes it as memory, without system calls.
const MMAPABLE: usize = 1 << 10;
/// Where the flags are in a TCP header (RFC 9293 §3.1), and two of them.
const FLAGS_OFFSET: u32 = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// One listening socket for each core.
#[btf_map]
static SOCKETS: ReusePortSockArray<{ CORES_MAX as usize }, 0> = ReusePortSockArray::new();

/// What holds now.
#[btf_map]
static CONFIG: Array<SteerConfig, 1, MMAPABLE> = Array::new();

/// Two lists of cores that may get connections; the word in `CONFIG` says which of them holds.
#[btf_map]
static ACTIVE: Array<u64, { 2 * CORES_MAX as usize }, MMAPABLE> = Array::new();

/// The load of each core.
#[btf_map]
static LOAD: Array<CoreLoad, { CORES_MAX as usize }, MMAPABLE> = Array::new();

/// The core that runs on each processor, plus one; 0 if there is none that may get connections.
#[btf_map]
static ON_PROCESSOR: Array<u64, { PROCESSORS_MAX as usize }, MMAPABLE> = Array::new();

/// Kernels since 5.14, which ask again for connections of a listening socket that is closed.
#[sk_reuseport(migrate)]
pub fn steer_migrate(ctx: SkReuseportContext) -> u32 {
    let moves = ctx.migrating_sk().is_some();
    steer(&ctx, moves)
}

/// Older kernels.
#[sk_reuseport]
pub fn steer_plain(ctx: SkReuseportContext) -> u32 {
    steer(&ctx, false)
}

#[inline(always)]
fn steer(ctx: &SkReuseportContext, moves: bool) -> u32 {
    let Some(config) = CONFIG.get_ptr_mut(0) else {
        return SK_PASS;
    };
    // SAFETY: the map's only element; the word is read once, so that its parts belong together.
    let (mode, half, count) = unpack(unsafe { (&raw const (*config).word).read_volatile() });
    if count == 0 {
        return SK_PASS;
    }
    let base = half * CORES_MAX;
    let core = match mode {
        Mode::Hash => nth(base, scale(ctx.hash(), count)),
        Mode::RoundRobin => {
            // Read, then added to: an addition that gives the old value needs Linux 5.12, and for a relaxed one LLVM emits code
            // that does not. Two connections at one moment may go to one core.
            // SAFETY: a word that is valid for as long as the program runs.
            let turn = unsafe { (&raw const (*config).turn).read_volatile() };
            add_one(unsafe { &raw mut (*config).turn });
            nth(base, (turn as u32) % count)
        }
        Mode::Cpu => on_processor().or_else(|| less_loaded(base, count)),
        Mode::P2c => less_loaded(base, count),
    };
    let Some(core) = core else { return SK_PASS };
    if SOCKETS.select_reuseport(ctx, core).is_err() {
        // SAFETY: as above.
        add_one(unsafe { &raw mut (*config).unplaced });
        return SK_PASS;
    }
    if (moves || begins(ctx))
        && let Some(load) = LOAD.get_ptr_mut(core)
    {
        // SAFETY: as above.
        add_one(unsafe { &raw mut (*load).picked });
    }
    SK_PASS
}

/// Adds one to a word of a map, whoever else does at the same time.
#[inline(always)]
fn add_one(word: *mut u64) {
    // SAFETY: every caller has the word from a map's element, which is valid for as long as the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
}

/// The core at a place of the list.
#[inline(always)]
fn nth(base: u32, place: u32) -> Option<u32> {
    ACTIVE.get(base + place).map(|core| *core as u32)
}

/// The core on the processor that runs this.
#[inline(always)]
fn on_processor() -> Option<u32> {
    // SAFETY: a helper without arguments.
    let processor = unsafe { bpf_get_smp_processor_id() };
    let core = *ON_PROCESSOR.get(processor)?;
    if core == 0 { None } else { Some(core as u32 - 1) }
}

/// The less loaded of two different cores, chosen at random.
#[inline(always)]
fn less_loaded(base: u32, count: u32) -> Option<u32> {
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let first = ((random & 0xffff) * count) >> 16;
    if count == 1 {
        return nth(base, first);
    }
    let mut second = ((random >> 16) * (count - 1)) >> 16;
    if second >= first {
        second += 1;
    }
    let (first, second) = (nth(base, first)?, nth(base, second)?);
    let (one, other) = (LOAD.get(first)?, LOAD.get(second)?);
    Some(if open(other) < open(one) { second } else { first })
}

/// Connections of a core, which for a moment may seem fewer than none.
#[inline(always)]
fn open(load: &CoreLoad) -> i64 {
    load.picked.wrapping_sub(load.drift).wrapping_sub(load.closed) as i64
}

/// `hash` in 0..2^32 to 0..count, without a division.
#[inline(always)]
fn scale(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

/// True for the packet that begins a connection, not for one that belongs to none any more.
#[inline(always)]
fn begins(ctx: &SkReuseportContext) -> bool {
    let mut flags = 0u8;
    // SAFETY: the helper writes one byte, for which there is room.
    let failed = unsafe { bpf_skb_load_bytes(ctx.md.cast(), FLAGS_OFFSET, (&raw mut flags).cast(), 1) };
    failed == 0 && flags & (SYN | ACK) == SYN
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
