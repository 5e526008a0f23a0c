//! The closed set of request and response formats that the gateway speaks, on either side.
//!
//! Invariants: a vendor that is compatible with one of these is a row of configuration, not a variant. Deliberately absent:
//! what each dialect's bytes mean (one module each below `provider`).

/// A provider's request, response and stream format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's HTTP API (<https://platform.openai.com/docs/api-reference>) and all that are compatible with it.
    OpenAi,
    /// Anthropic's Messages API (<https://docs.anthropic.com/en/api/messages>).
    Anthropic,
    /// Amazon Bedrock's Converse and ConverseStream (<https://docs.aws.amazon.com/bedrock/latest/APIReference/>).
    Bedrock,
}

impl Dialect {
    /// Every dialect, in order of definition.
    pub const ALL: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Bedrock];

    /// The name in configuration, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Dialect::OpenAi => "openai",
            Dialect::Anthropic => "anthropic",
            Dialect::Bedrock => "bedrock",
        }
    }
}
