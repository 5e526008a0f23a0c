//! Why a JSON body is refused, in plain words and with the parameter at fault.
//!
//! Deliberately absent: where in the body; the bytes may be a customer's secrets, and the scanner keeps none of them.

use std::fmt;

use crate::error::Code;
use crate::limits::{JSON_DEPTH_MAX, MODEL_BYTES_MAX};

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JsonError {
    /// The body does not begin with `{`.
    NotAnObject,
    /// The body begins with a byte order mark (RFC 8259 §8.1).
    ByteOrderMark,
    /// Something stands where JSON does not allow it.
    Syntax,
    /// A bracket is closed by the other kind.
    BracketMismatch,
    /// Arrays and objects nest deeper than [`JSON_DEPTH_MAX`].
    TooDeep,
    /// The body ended inside the object.
    Truncated,
    /// Something follows the object.
    TrailingBytes,
    /// A key that the gateway acts on stands twice; which one counts depends on the parser.
    DuplicateKey(&'static str),
    /// `model` is not a string.
    ModelNotString,
    /// `model` is longer than [`MODEL_BYTES_MAX`].
    ModelTooLong,
    /// `model` holds a control character, a bad escape, half a surrogate pair or invalid UTF-8.
    ModelText,
    /// `stream` (or `include_usage`) is neither true, false nor null.
    NotBoolean(&'static str),
}

impl JsonError {
    /// The error that a client sees.
    pub const fn code(self) -> Code {
        match self {
            Self::ModelNotString | Self::ModelTooLong | Self::ModelText | Self::NotBoolean(_) => Code::InvalidParameter,
            _ => Code::InvalidBody,
        }
    }

    /// The parameter at fault, if it is one.
    pub const fn param(self) -> Option<&'static str> {
        match self {
            Self::ModelNotString | Self::ModelTooLong | Self::ModelText => Some("model"),
            Self::NotBoolean(key) | Self::DuplicateKey(key) => Some(key),
            _ => None,
        }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("the body is not a JSON object"),
            Self::ByteOrderMark => f.write_str("the body begins with a byte order mark"),
            Self::Syntax => f.write_str("the body is not valid JSON"),
            Self::BracketMismatch => f.write_str("the body is not valid JSON: brackets do not match"),
            Self::TooDeep => write!(f, "the JSON body nests deeper than {JSON_DEPTH_MAX} levels"),
            Self::Truncated => f.write_str("the JSON body ends too early"),
            Self::TrailingBytes => f.write_str("something follows the JSON object in the body"),
            Self::DuplicateKey(key) => write!(f, "the key `{key}` stands more than once in the body"),
            Self::ModelNotString => f.write_str("`model` must be a string"),
            Self::ModelTooLong => write!(f, "`model` is longer than {MODEL_BYTES_MAX} bytes"),
            Self::ModelText => f.write_str("`model` holds a control character or invalid Unicode"),
            Self::NotBoolean(key) => write!(f, "`{key}` must be true or false"),
        }
    }
}

impl std::error::Error for JsonError {}
