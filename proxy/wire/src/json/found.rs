//! What [`TopKeys`] has found so far.
//!
//! Invariants: what is absent, and what has another type than its meaning needs, is `None`. Deliberately absent: scanning.

use super::{Located, Range, TopKeys};

impl TopKeys {
    /// `model`, as soon as it has gone by.
    pub fn model(&self) -> Option<&Located> {
        self.found.model.then_some(&self.model)
    }

    /// `stream`; false if absent or null.
    pub fn stream(&self) -> bool {
        self.found.stream
    }

    /// `stream_options.include_usage`, if it is a boolean.
    pub fn include_usage(&self) -> Option<bool> {
        self.found.include_usage.map(|(value, _)| value)
    }

    /// Where the boolean of [`Self::include_usage`] stands.
    pub fn include_usage_range(&self) -> Option<Range> {
        self.found.include_usage.map(|(_, range)| range)
    }

    /// Where the value of `stream_options` stands, brackets included.
    pub fn stream_options(&self) -> Option<Range> {
        self.found.stream_options
    }

    /// `max_tokens`, in tokens. A fraction is rounded up; anything that is not a number counts as absent, here and below.
    pub fn max_tokens(&self) -> Option<u64> {
        self.found.max_tokens
    }

    /// `max_completion_tokens`, in tokens.
    pub fn max_completion_tokens(&self) -> Option<u64> {
        self.found.max_completion_tokens
    }

    /// `max_output_tokens` (Responses API), in tokens.
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.found.max_output_tokens
    }

    /// Where the value of `max_tokens` stands, whatever it is.
    pub fn max_tokens_range(&self) -> Option<Range> {
        self.found.limits_at[0]
    }

    /// Where the value of `max_completion_tokens` stands.
    pub fn max_completion_tokens_range(&self) -> Option<Range> {
        self.found.limits_at[1]
    }

    /// Where the value of `max_output_tokens` stands.
    pub fn max_output_tokens_range(&self) -> Option<Range> {
        self.found.limits_at[2]
    }

    /// `best_of` (legacy completions), the number of answers that are made to choose from.
    pub fn best_of(&self) -> Option<u64> {
        self.found.best_of
    }

    /// Where the value of `prompt` (legacy completions) stands.
    pub fn prompt(&self) -> Option<Range> {
        self.found.prompt
    }

    /// Where the value of `input` (speech, embeddings, responses) stands.
    pub fn input(&self) -> Option<Range> {
        self.found.input
    }

    /// Where the value of `service_tier` stands, quotes included.
    pub fn service_tier(&self) -> Option<Range> {
        self.found.service_tier
    }

    /// Where the value of `metadata` stands, brackets included.
    pub fn metadata(&self) -> Option<Range> {
        self.found.metadata
    }

    /// Where the value of `inferenceConfig` (Bedrock) stands, brackets included.
    pub fn inference_config(&self) -> Option<Range> {
        self.found.inference_config
    }

    /// `n`, the number of choices asked for; the largest number if it stands in a string.
    pub fn n(&self) -> Option<u64> {
        self.found.n
    }

    /// Where the value of `user` stands, quotes included.
    pub fn user(&self) -> Option<Range> {
        self.found.user
    }

    /// Where the value of `fallbacks` stands, brackets included.
    pub fn fallbacks(&self) -> Option<Range> {
        self.found.fallbacks.map(|(value, _)| value)
    }

    /// What to cut out of the body so that `fallbacks` is gone: the member with one of the commas beside it.
    pub fn fallbacks_member(&self) -> Option<Range> {
        self.found.fallbacks.map(|(_, member)| member)
    }

    /// Offset just after the object's `{`, where members may be inserted; 0 if it has not come yet.
    pub fn object_start(&self) -> u64 {
        self.found.object_start
    }

    /// Whether the object has members, so that one inserted at [`Self::object_start`] needs a comma after it.
    pub fn has_members(&self) -> bool {
        self.found.has_members
    }
}
