//! What a request cost in tokens, in parts that do not overlap.
//!
//! Invariant: the four input fields are disjoint, so a sum is never counted twice whatever a vendor's totals include; each
//! dialect module documents and tests its own mapping. Deliberately absent: prices.

/// Tokens of one request. Input is the sum of the four input fields; `reasoning` is part of `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input read in full, neither from a cache nor into one.
    pub input: u64,
    /// Input read from a prompt cache.
    pub cache_read: u64,
    /// Input written to a prompt cache, one-hour entries excluded.
    pub cache_write: u64,
    /// Input written to a prompt cache that keeps it for one hour.
    pub cache_write_1h: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Of the output: reasoning. `None` if the provider does not say.
    pub reasoning: Option<u64>,
    /// Of the input: sound, which some models price apart.
    pub input_audio: u64,
    /// Of the output: sound.
    pub output_audio: u64,
}

impl Usage {
    /// All input, cached or not.
    pub fn input_total(&self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
            .saturating_add(self.cache_write_1h)
    }

    /// All input written to a cache.
    pub fn cache_write_total(&self) -> u64 {
        self.cache_write.saturating_add(self.cache_write_1h)
    }

    /// Input and output.
    pub fn total(&self) -> u64 {
        self.input_total().saturating_add(self.output)
    }
}
