//! What is remembered of a socket, and the histograms that its life is recorded in.
//!
//! Invariants: a histogram has four buckets per power of two, so a value is known to within a fifth of itself; times in them
//! are microseconds. Deliberately absent: names; a slot's name is in the gateway and beside the pinned maps.

/// Buckets of a histogram.
pub const BUCKETS: usize = 128;
/// Slots that listening addresses use: the first ones.
pub const LISTENER_SLOTS: u32 = 16;
/// Most bytes of a slot's name, the rest being zero.
pub const NAME_BYTES: usize = 48;

/// Values counted by size, and their sum. One per processor and slot.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Histogram {
    /// How many values each bucket holds; see [`bucket`].
    pub buckets: [u64; BUCKETS],
    /// Sum of all values.
    pub sum: u64,
}

/// A connection that a client opened to us.
pub const ROLE_LISTENER: u32 = 1;
/// A connection that we opened to a provider.
pub const ROLE_UPSTREAM: u32 = 2;

/// What is remembered of one socket, in its own storage.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tag {
    /// Which histograms it counts in.
    pub slot: u32,
    /// [`ROLE_LISTENER`] or [`ROLE_UPSTREAM`].
    pub role: u32,
    /// Where the exchange under way stands: [`PHASE_IDLE`] and the following.
    pub phase: u32,
    /// Bits: [`SEEN_ACCEPTED`], [`SEEN_FIRST`].
    pub seen: u32,
    /// The number of the window in which the rest of this was true; see [`is_open`].
    pub window: u32,
    /// Nothing.
    pub reserved: u32,
    /// When the connection was asked for (upstream) or established (listener).
    pub begun_ns: u64,
    /// When data became readable that has not been read yet; 0 if there is none.
    pub ready_ns: u64,
    /// When the exchange under way began: the request's arrival (listener), or its last byte sent (upstream).
    pub turn_ns: u64,
    /// When its last byte of the answer was sent (listener) or read (upstream).
    pub last_ns: u64,
}

/// No exchange has begun.
pub const PHASE_IDLE: u32 = 0;
/// A request arrives (listener) or is sent (upstream).
pub const PHASE_ASKED: u32 = 1;
/// Its answer is sent (listener) or arrives (upstream).
pub const PHASE_ANSWERED: u32 = 2;

/// The gateway has read from the connection for the first time.
pub const SEEN_ACCEPTED: u32 = 1;
/// The first byte of the answer under way has been recorded.
pub const SEEN_FIRST: u32 = 2;
/// What the programs of one processor have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    /// How often those at the tracepoints ran, for whichever socket of the machine.
    pub runs: u64,
    /// Exchanges that have begun.
    pub begun: u64,
    /// Of them, those that were recorded to the end.
    pub ended: u64,
}

/// Whether exchanges are measured in the window of that number: they are in every second one.
#[must_use]
pub const fn is_open(window: u32) -> bool {
    window % 2 == 1
}

/// Which of our listening addresses a connection belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListenerKey {
    /// The port, in the host's byte order.
    pub port: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
}

/// The name of a slot, for whoever reads the pinned maps.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SlotName {
    /// UTF-8, then zeros.
    pub name: [u8; NAME_BYTES],
}

/// The bucket of a value: 0 to 3 have one each, then four for each power of two; values from 2^33 on share the last.
#[must_use]
pub const fn bucket(value: u64) -> u32 {
    const LARGEST: u64 = (1 << 33) - 1;
    let value = if value > LARGEST { LARGEST } else { value };
    if value < 4 {
        return value as u32;
    }
    let octave = 63 - value.leading_zeros();
    ((octave - 1) << 2) + ((value >> (octave - 2)) & 3) as u32
}

/// The smallest value of a bucket.
#[must_use]
pub const fn lower_bound(bucket: u32) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    ((4 + (bucket & 3)) as u64) << (bucket / 4 - 1)
}

const _: () = assert!(size_of::<Histogram>() == 8 * (BUCKETS + 1));
const _: () = assert!(size_of::<Tag>() == 56);
const _: () = assert!(size_of::<Counts>() == 24);
const _: () = assert!(size_of::<ListenerKey>() == 8);
const _: () = assert!(size_of::<SlotName>() == NAME_BYTES);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain words without padding; any bytes are a value.
    unsafe impl aya::Pod for super::Histogram {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Tag {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ListenerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SlotName {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_one_another_without_gaps() {
        for index in 0..BUCKETS as u32 {
            assert_eq!(bucket(lower_bound(index)), index);
            if index > 0 {
                assert_eq!(bucket(lower_bound(index) - 1), index - 1);
            }
        }
    }

    #[test]
    fn the_last_bucket_takes_whatever_is_larger() {
        assert_eq!(bucket(u64::MAX), BUCKETS as u32 - 1);
    }

    #[test]
    fn a_bucket_is_no_wider_than_a_quarter_of_its_lower_bound() {
        for index in 4..BUCKETS as u32 - 1 {
            let (low, high) = (lower_bound(index), lower_bound(index + 1));
            assert!((high - low) * 4 <= low, "{index}");
        }
    }
}
