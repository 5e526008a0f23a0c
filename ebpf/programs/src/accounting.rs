//! Records what happens to a connection outside the gateway: handshakes, waiting to be accepted, waiting to be read, losses.
//!
//! Invariants: nothing but contexts and a socket's own storage is read, no structure of the kernel, so the object fits every
//! kernel that has the tracepoints; a socket without a tag costs one lookup; nothing here can change a packet or a connection.
//! Times are the kernel's monotonic clock. What is measured is the socket's truth: with keep-alive an exchange ends where the next
//! one begins. Of what is known from the time of another window nothing is used: the programs at the tracepoints may not have been
//! there meanwhile. Deliberately absent: requests (the gateway's own meter knows them), and when to measure (the gateway decides).

#![no_std]
#![no_main]

use core::ptr::null_mut;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_storage_get};
use aya_ebpf::macros::{btf_map, btf_tracepoint, sock_ops};
use aya_ebpf::programs::{BtfTracePointContext, SockOpsContext};
use sluice_ebpf_common::accounting::{
    BUCKETS, Counts, Histogram, LISTENER_SLOTS, ListenerKey, PHASE_ANSWERED, PHASE_ASKED, PHASE_IDLE, ROLE_LISTENER,
    ROLE_UPSTREAM, SEEN_ACCEPTED, SEEN_FIRST, SlotName, Tag, bucket, is_open,
};

/// Slots, as far as the loader does not say otherwise.
const SLOTS: usize = 32;
/// BPF_SK_STORAGE_GET_F_CREATE.
const CREATE: u64 = 1;
/// MSG_PEEK: what was read is still there.
const PEEK: i32 = 2;
/// The kernel keeps eight times the smoothed round-trip time.
const SRTT_SHIFT: u32 = 3;

/// What is remembered of each connection.
#[btf_map]
static TAGS: SkStorage<Tag> = SkStorage::new();

/// Our listening addresses, and the slot of each.
#[btf_map]
static LISTENERS: HashMap<ListenerKey, u32, { LISTENER_SLOTS as usize }> = HashMap::new();

/// What each slot stands for; only people read it.
#[btf_map]
static NAMES: Array<SlotName, SLOTS> = Array::new();

/// The number of the window; see `is_open`.
#[btf_map]
static WINDOW: Array<u32, 1> = Array::new();

/// What the programs have done.
#[btf_map]
static COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();

/// From connect(2) until the connection stands, in microseconds.
#[btf_map]
static CONNECT: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// Round-trip time of the handshake, in microseconds.
#[btf_map]
static HANDSHAKE_RTT: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// Smoothed round-trip time when the connection ends, in microseconds.
#[btf_map]
static SRTT: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// Segments sent again over the life of a connection.
#[btf_map]
static RETRANSMITS: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// Bytes that the peer has acknowledged over the life of a connection.
#[btf_map]
static BYTES_SENT: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// Bytes received over the life of a connection.
#[btf_map]
static BYTES_RECEIVED: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// From the end of the handshake until the gateway reads for the first time, in microseconds.
#[btf_map]
static ACCEPT_QUEUE: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// From the arrival of data until the gateway reads it, in microseconds: the lag of its event loop.
#[btf_map]
static READY_WAIT: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// From a request to the first byte of its answer, in microseconds.
#[btf_map]
static FIRST_BYTE: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();
/// From a request to the last byte of its answer, in microseconds.
#[btf_map]
static LAST_BYTE: PerCpuArray<Histogram, SLOTS> = PerCpuArray::new();

/// Connections begin, stand, and end.
#[sock_ops]
pub fn connection(ctx: SockOpsContext) -> u32 {
    // SAFETY: fields of the context, which the verifier checks.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return 1;
    }
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            if let Some(tag) = tag_of(socket.cast()) {
                tag.begun_ns = now();
                let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            }
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            if let Some(tag) = tag_of(socket.cast()) {
                record(CONNECT.get_ptr_mut(tag.slot), us_since(tag.begun_ns, now()));
                record(HANDSHAKE_RTT.get_ptr_mut(tag.slot), rtt_us(&ctx));
            }
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx, socket.cast()),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            if let Some(tag) = tag_of(socket.cast()) {
                ended(&ctx, tag);
            }
        }
        _ => {}
    }
    1
}

/// A client's handshake is complete.
#[inline(always)]
fn accepted(ctx: &SockOpsContext, socket: *mut core::ffi::c_void) {
    let key = ListenerKey {
        port: ctx.local_port(),
        family: ctx.family(),
    };
    // SAFETY: the value is a word that user space replaces whole.
    let Some(&slot) = (unsafe { LISTENERS.get(key) }) else {
        return;
    };
    let mut tag = Tag {
        slot,
        role: ROLE_LISTENER,
        window: window(),
        begun_ns: now(),
        ..Tag::default()
    };
    // SAFETY: the map, the socket of the context, and a value of the map's type.
    let made = unsafe { bpf_sk_storage_get(storage(), socket, (&raw mut tag).cast(), CREATE) };
    if made.is_null() {
        return;
    }
    record(HANDSHAKE_RTT.get_ptr_mut(slot), rtt_us(ctx));
    let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

/// A connection that has a tag is over.
#[inline(always)]
fn ended(ctx: &SockOpsContext, tag: &mut Tag) {
    let slot = tag.slot;
    // SAFETY: fields of the context, which the verifier checks.
    let (again, sent, received) = unsafe {
        (
            (*ctx.ops).total_retrans,
            (*ctx.ops).bytes_acked,
            (*ctx.ops).bytes_received,
        )
    };
    record(SRTT.get_ptr_mut(slot), rtt_us(ctx));
    record(RETRANSMITS.get_ptr_mut(slot), u64::from(again));
    record(BYTES_SENT.get_ptr_mut(slot), sent);
    record(BYTES_RECEIVED.get_ptr_mut(slot), received);
    let window = window();
    if is_open(window) && tag.window == window {
        end_of_exchange(tag, counts());
    }
    tag.phase = PHASE_IDLE;
}

/// send(2) and its kind, over any socket of the machine.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sent(ctx: BtfTracePointContext) -> i32 {
    let counts = counts();
    let length: i32 = ctx.arg(1);
    if length <= 0 {
        return 0;
    }
    let Some(tag) = measured(ctx.arg(0)) else { return 0 };
    let now = now();
    if tag.role == ROLE_UPSTREAM {
        if tag.phase != PHASE_ASKED {
            begin_exchange(tag, counts);
        }
        tag.turn_ns = now;
        return 0;
    }
    if tag.phase == PHASE_ASKED {
        record(FIRST_BYTE.get_ptr_mut(tag.slot), us_since(tag.turn_ns, now));
        tag.phase = PHASE_ANSWERED;
    }
    tag.last_ns = now;
    0
}

/// recv(2) and its kind.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn received(ctx: BtfTracePointContext) -> i32 {
    let counts = counts();
    let Some(tag) = measured(ctx.arg(0)) else { return 0 };
    let is_first = tag.role == ROLE_LISTENER && tag.seen & SEEN_ACCEPTED == 0;
    let (length, flags): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let is_data = length > 0 && flags & PEEK == 0;
    if !is_first && !is_data {
        return 0;
    }
    let now = now();
    if is_first {
        tag.seen |= SEEN_ACCEPTED;
        record(ACCEPT_QUEUE.get_ptr_mut(tag.slot), us_since(tag.begun_ns, now));
    }
    if !is_data {
        return 0;
    }
    let ready = tag.ready_ns;
    tag.ready_ns = 0;
    if ready != 0 {
        record(READY_WAIT.get_ptr_mut(tag.slot), us_since(ready, now));
    }
    if tag.role == ROLE_UPSTREAM {
        if tag.phase == PHASE_ASKED {
            tag.phase = PHASE_ANSWERED;
        }
        tag.last_ns = now;
    } else if tag.phase != PHASE_ASKED {
        begin_exchange(tag, counts);
        tag.turn_ns = if ready != 0 { ready } else { now };
    }
    0
}

/// Data, or the end, has arrived.
#[btf_tracepoint(function = "sk_data_ready")]
pub fn ready(ctx: BtfTracePointContext) -> i32 {
    let _ = counts();
    let Some(tag) = measured(ctx.arg(0)) else { return 0 };
    // What arrives before a connection is accepted waits for that: see ACCEPT_QUEUE.
    let waits_for_accept = tag.role == ROLE_LISTENER && tag.seen & SEEN_ACCEPTED == 0;
    if waits_for_accept || tag.ready_ns != 0 {
        return 0;
    }
    let now = now();
    tag.ready_ns = now;
    if tag.role == ROLE_UPSTREAM && tag.phase == PHASE_ASKED && tag.seen & SEEN_FIRST == 0 {
        tag.seen |= SEEN_FIRST;
        record(FIRST_BYTE.get_ptr_mut(tag.slot), us_since(tag.turn_ns, now));
    }
    0
}

/// The next exchange begins; what is known of the one before it is complete.
#[inline(always)]
fn begin_exchange(tag: &mut Tag, counts: Option<*mut Counts>) {
    end_of_exchange(tag, counts);
    tag.phase = PHASE_ASKED;
    tag.seen &= !SEEN_FIRST;
    if let Some(counts) = counts {
        // SAFETY: as in `counts`.
        unsafe { (*counts).begun += 1 };
    }
}

/// Records an answer that is complete as far as the socket can tell.
#[inline(always)]
fn end_of_exchange(tag: &mut Tag, counts: Option<*mut Counts>) {
    // An answer whose question was not seen has no time at which it began.
    if tag.phase != PHASE_ANSWERED || tag.turn_ns == 0 {
        return;
    }
    record(LAST_BYTE.get_ptr_mut(tag.slot), us_since(tag.turn_ns, tag.last_ns));
    if let Some(counts) = counts {
        // SAFETY: as in `counts`.
        unsafe { (*counts).ended += 1 };
    }
}

/// The tag of a socket that has one, in a window in which exchanges are measured. What another window left in it is forgotten.
#[inline(always)]
fn measured(socket: *mut core::ffi::c_void) -> Option<&'static mut Tag> {
    let window = window();
    if !is_open(window) {
        return None;
    }
    let tag = tag_of(socket)?;
    if tag.window != window {
        tag.window = window;
        tag.phase = PHASE_IDLE;
        // When it was accepted can no longer be told.
        tag.seen = SEEN_ACCEPTED;
        tag.ready_ns = 0;
        tag.turn_ns = 0;
    }
    Some(tag)
}

/// The number of the window now.
#[inline(always)]
fn window() -> u32 {
    // SAFETY: a word that user space replaces whole.
    unsafe { WINDOW.get_ptr(0).map_or(0, |window| *window) }
}

/// Counts a run; gives this processor's counters.
#[inline(always)]
fn counts() -> Option<*mut Counts> {
    let counts = COUNTS.get_ptr_mut(0)?;
    // SAFETY: this processor's element of the map. An interrupt may come between reading and writing, and a count be lost; they
    // are estimates.
    unsafe { (*counts).runs += 1 };
    Some(counts)
}

/// The storage of a socket, if it has any.
#[inline(always)]
fn tag_of(socket: *mut core::ffi::c_void) -> Option<&'static mut Tag> {
    // SAFETY: the map and a socket of the context; the storage lives for as long as the program runs.
    unsafe {
        bpf_sk_storage_get(storage(), socket, null_mut(), 0)
            .cast::<Tag>()
            .as_mut()
    }
}

#[inline(always)]
fn storage() -> *mut core::ffi::c_void {
    (&raw const TAGS).cast_mut().cast()
}

/// Counts a value.
#[inline(never)]
fn record(histogram: Option<*mut Histogram>, value: u64) {
    let Some(histogram) = histogram else { return };
    // Opaque to the compiler, which would otherwise prove the bound by ways that the verifier does not follow.
    let index = core::hint::black_box(bucket(value)) as usize & (BUCKETS - 1);
    // SAFETY: this processor's element of the map; the index is within it.
    unsafe {
        (*histogram).buckets[index] += 1;
        (*histogram).sum += value;
    }
}

/// Microseconds from one time to another; 0 if the first is not known or later.
#[inline(always)]
fn us_since(begin_ns: u64, end_ns: u64) -> u64 {
    if begin_ns == 0 || end_ns < begin_ns {
        return 0;
    }
    (end_ns - begin_ns) / 1000
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn rtt_us(ctx: &SockOpsContext) -> u64 {
    // SAFETY: a field of the context, which the verifier checks.
    u64::from(unsafe { (*ctx.ops).srtt_us } >> SRTT_SHIFT)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
