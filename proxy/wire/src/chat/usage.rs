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
    /// Of the input: images, which some models price apart.
    pub input_image: u64,
    /// Of the output: sound.
    pub output_audio: u64,
    /// Of the output: images.
    pub output_image: u64,
    /// Seconds of sound that were listened to, begun ones included, where that is what is counted, not tokens.
    pub audio_seconds: u64,
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

/// The name of a tier of processing, as a provider says it; one that is longer than any known is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTier {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

impl ServiceTier {
    const BYTES_MAX: usize = 15;

    /// From the text between its quotes.
    pub fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        std::str::from_utf8(name).ok()?;
        Some(Self {
            bytes,
            len: name.len() as u8,
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}
