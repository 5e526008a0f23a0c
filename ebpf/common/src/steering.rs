//! Which core gets a connection: the words that the gateway writes and the program reads, and the other way round.
//!
//! Invariants: each word has one writer; [`SteerConfig::word`] is replaced whole, so that the program sees the old choice of
//! cores or the new one and nothing in between. Deliberately absent: addresses; there is one set of maps for each of them.

/// Most cores that connections are steered to.
pub const CORES_MAX: u32 = 256;
/// Most processors that mode [`Mode::Cpu`] knows.
pub const PROCESSORS_MAX: u32 = 1024;

/// How a core is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// By the hash of addresses and ports, as the kernel would.
    Hash = 0,
    /// The less loaded of two that are chosen at random.
    P2c = 1,
    /// The one that runs on the processor on which the packet arrived.
    Cpu = 2,
    /// One after the other.
    RoundRobin = 3,
}

/// What the gateway tells the program.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SteerConfig {
    /// See [`word`].
    pub word: u64,
    /// Whose turn it is in mode [`Mode::RoundRobin`]; written by the program.
    pub turn: u64,
    /// Connections that the chosen core's socket could not take; written by the program.
    pub unplaced: u64,
    /// Nothing.
    pub reserved: u64,
}

/// What is known of one core's load: connections open or on their way to it are `picked - drift - closed`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct CoreLoad {
    /// Connections sent to it; written by the program.
    pub picked: u64,
    /// Connections that it accepted; written by the core.
    pub accepted: u64,
    /// Of those, connections that have ended; written by the core.
    pub closed: u64,
    /// Connections that were sent to it and never arrived; written by the control thread.
    pub drift: u64,
    /// Keeps two cores off one cache line.
    pub reserved: [u64; 4],
}

/// The word of [`SteerConfig`]: the mode, which half of the list of cores holds, and how many cores that half lists.
#[must_use]
pub const fn word(mode: Mode, half: u32, count: u32) -> u64 {
    mode as u64 | ((half as u64 & 1) << 8) | ((count as u64 & 0xffff) << 16)
}

/// The mode, the half and the count that a word holds; a mode that is none is [`Mode::Hash`].
#[must_use]
pub const fn unpack(word: u64) -> (Mode, u32, u32) {
    let mode = match word & 0xff {
        1 => Mode::P2c,
        2 => Mode::Cpu,
        3 => Mode::RoundRobin,
        _ => Mode::Hash,
    };
    (mode, (word >> 8) as u32 & 1, (word >> 16) as u32 & 0xffff)
}

const _: () = assert!(size_of::<SteerConfig>() == 32);
const _: () = assert!(size_of::<CoreLoad>() == 64);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain words without padding; any bytes are a value.
    unsafe impl aya::Pod for super::SteerConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::CoreLoad {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_it_was_made_of() {
        for mode in [Mode::Hash, Mode::P2c, Mode::Cpu, Mode::RoundRobin] {
            for half in [0, 1] {
                for count in [0, 1, 7, CORES_MAX] {
                    assert_eq!(unpack(word(mode, half, count)), (mode, half, count));
                }
            }
        }
    }
}
