//! An error that a provider reported, in terms that routing can act on and that any dialect can pass on.
//!
//! Invariant: the provider's own message is kept, and nothing else that it sent. Deliberately absent: the gateway's own
//! errors ([`crate::error::ApiError`]).

use crate::error::{Fault, Retry};

/// What kind of error a provider reported, whatever its dialect calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong.
    InvalidRequest,
    /// The conversation does not fit the model.
    ContextLength,
    /// The provider's policy forbids the content.
    ContentPolicy,
    /// The gateway's own key is not accepted.
    Authentication,
    /// The gateway's own key may not do this.
    Permission,
    /// The gateway's own account has no credit left.
    Billing,
    /// No such model or path.
    NotFound,
    /// The body is too large.
    TooLarge,
    /// Too many requests or tokens.
    RateLimit,
    /// The provider has no capacity.
    Overloaded,
    /// The provider took too long.
    Timeout,
    /// The provider failed.
    Server,
}

impl ErrorKind {
    /// From a status alone.
    pub const fn from_status(status: u16) -> Self {
        match status {
            401 => Self::Authentication,
            402 => Self::Billing,
            403 => Self::Permission,
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            413 => Self::TooLarge,
            429 => Self::RateLimit,
            503 | 529 => Self::Overloaded,
            400..=499 => Self::InvalidRequest,
            _ => Self::Server,
        }
    }

    /// The status that fits, where none was given (an error inside a 200 stream).
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::ContextLength | Self::ContentPolicy => 400,
            Self::Authentication => 401,
            Self::Billing => 402,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::TooLarge => 413,
            Self::RateLimit => 429,
            Self::Overloaded => 503,
            Self::Timeout => 504,
            Self::Server => 500,
        }
    }
}

/// One error of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    /// The status that it came with, or that fits its kind.
    pub status: u16,
    /// What kind it is.
    pub kind: ErrorKind,
    /// The provider's own words.
    pub message: String,
    /// The provider's own code (OpenAI `code`, Anthropic `type`, Bedrock's exception name).
    pub code: Option<String>,
    /// The parameter at fault, as the provider names it.
    pub param: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
}

impl UpstreamError {
    /// Whose fault it is: a refused credential is the gateway's business, never the client's.
    pub const fn fault(&self) -> Fault {
        match self.kind {
            ErrorKind::InvalidRequest
            | ErrorKind::ContextLength
            | ErrorKind::ContentPolicy
            | ErrorKind::NotFound
            | ErrorKind::TooLarge => Fault::Client,
            ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing => Fault::Gateway,
            ErrorKind::RateLimit | ErrorKind::Overloaded | ErrorKind::Timeout | ErrorKind::Server => Fault::Upstream,
        }
    }

    /// Whether another attempt may help.
    pub const fn retry(&self) -> Retry {
        match self.kind {
            ErrorKind::InvalidRequest | ErrorKind::ContextLength | ErrorKind::ContentPolicy => Retry::Never,
            ErrorKind::NotFound | ErrorKind::TooLarge => Retry::Never,
            ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing => Retry::OtherTarget,
            ErrorKind::RateLimit => Retry::OtherTarget,
            ErrorKind::Overloaded | ErrorKind::Timeout | ErrorKind::Server => Retry::SameTarget,
        }
    }

    /// The status for the client, once no target is left: a refused credential is not the client's (502), and 529 is no
    /// registered status (503).
    pub const fn client_status(&self) -> u16 {
        match (self.kind, self.status) {
            (ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing, _) => 502,
            (_, 529) => 503,
            (_, status @ 400..=599) => status,
            (kind, _) => kind.status(),
        }
    }

    /// The message for the client. A refused credential is described, not quoted: providers echo parts of keys.
    pub fn client_message(&self) -> &str {
        match self.kind {
            ErrorKind::Authentication => "The provider refused the gateway's credentials.",
            ErrorKind::Permission => "The provider does not allow this to the gateway's credentials.",
            ErrorKind::Billing => "The gateway's account with the provider has no credit left.",
            _ if self.message.is_empty() => "The provider reported an error without a message.",
            _ => &self.message,
        }
    }
}
