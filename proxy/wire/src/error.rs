//! The one closed list of what can go wrong for a client, and its OpenAI-shaped and Anthropic-shaped JSON.
//!
//! Invariants: every error names whose fault it is and whether another attempt may help; no message carries a provider key,
//! an upstream URL or a stack. Deliberately absent: how an error travels (that is `gateway`'s `reply.rs`).

use std::borrow::Cow;

/// Whose fault an error is; routing and metrics act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request itself is wrong: no other target would answer it better.
    Client,
    /// The gateway refuses or fails: overload, draining, its own defect.
    Gateway,
    /// The provider, or the way to it, failed.
    Upstream,
}

/// Whether another attempt may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same request will fail again everywhere.
    Never,
    /// Another target may answer; this one should not be asked again for this request.
    OtherTarget,
    /// The same target may answer after a pause.
    SameTarget,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $kind:literal, $fault:ident, $retry:ident; )*) => {
        /// `error.code` of every error that the gateway itself makes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $( $(#[$doc])* $variant, )* }

        impl Code {
            /// All codes, in order of definition.
            pub const ALL: &[Code] = &[$( Code::$variant, )*];
            /// The text of `error.code`.
            pub const fn as_str(self) -> &'static str { match self { $( Code::$variant => $text, )* } }
            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 { match self { $( Code::$variant => $status, )* } }
            /// The text of `error.type` on the OpenAI surface.
            pub const fn kind(self) -> &'static str { match self { $( Code::$variant => $kind, )* } }
            /// Whose fault it is.
            pub const fn fault(self) -> Fault { match self { $( Code::$variant => Fault::$fault, )* } }
            /// Whether another attempt may help.
            pub const fn retry(self) -> Retry { match self { $( Code::$variant => Retry::$retry, )* } }
        }
    };
}

codes! {
    /// The bytes are not HTTP/1.x, or their framing is ambiguous (RFC 9112 §6).
    BadRequest = "bad_request", 400, "invalid_request_error", Client, Never;
    /// The body is not the JSON (or multipart) that the path asks for.
    InvalidBody = "invalid_body", 400, "invalid_request_error", Client, Never;
    /// A parameter is missing, has a wrong value, or cannot be carried to the target.
    InvalidParameter = "invalid_parameter", 400, "invalid_request_error", Client, Never;
    /// A parameter that the chosen target's dialect cannot express.
    UnsupportedParameter = "unsupported_parameter", 400, "invalid_request_error", Client, Never;
    /// Unknown or revoked virtual key.
    InvalidApiKey = "invalid_api_key", 401, "authentication_error", Client, Never;
    /// A budget is used up.
    BudgetExceeded = "budget_exceeded", 402, "insufficient_quota", Client, Never;
    /// Nobody knows what the request would cost, and whoever pays for it has a budget.
    PriceUnknown = "price_unknown", 402, "insufficient_quota", Client, Never;
    /// A valid key without the right to this model.
    ModelNotAllowed = "model_not_allowed", 403, "permission_error", Client, Never;
    /// A valid key without the right to this provider.
    ProviderNotAllowed = "provider_not_allowed", 403, "permission_error", Client, Never;
    /// No such path.
    UnknownPath = "unknown_path", 404, "invalid_request_error", Client, Never;
    /// No provider serves this model.
    ModelNotFound = "model_not_found", 404, "invalid_request_error", Client, Never;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "invalid_request_error", Client, Never;
    /// The head or the body did not arrive in time.
    RequestTimeout = "request_timeout", 408, "invalid_request_error", Client, Never;
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, "invalid_request_error", Client, Never;
    /// The request target is longer than the limit.
    UriTooLong = "uri_too_long", 414, "invalid_request_error", Client, Never;
    /// `Content-Encoding` on a request is not enabled.
    UnsupportedEncoding = "unsupported_encoding", 415, "invalid_request_error", Client, Never;
    /// `Expect` holds something else than `100-continue`.
    ExpectationFailed = "expectation_failed", 417, "invalid_request_error", Client, Never;
    /// A request, token or concurrency limit is reached.
    RateLimitExceeded = "rate_limit_exceeded", 429, "rate_limit_error", Client, Never;
    /// Too many or too large header fields.
    HeadersTooLarge = "headers_too_large", 431, "invalid_request_error", Client, Never;
    /// A defect of the gateway.
    Internal = "internal_error", 500, "server_error", Gateway, OtherTarget;
    /// The request is sound, and no target of its route speaks a dialect that the gateway can carry it to.
    UnsupportedRoute = "unsupported_route", 501, "invalid_request_error", Gateway, Never;
    /// Connection refused, or not made in time.
    UpstreamConnectFailed = "upstream_connect_failed", 502, "server_error", Upstream, OtherTarget;
    /// The provider closed or reset the connection before it answered.
    UpstreamReset = "upstream_reset", 502, "server_error", Upstream, OtherTarget;
    /// The provider's name does not resolve.
    UpstreamDns = "upstream_dns", 502, "server_error", Upstream, OtherTarget;
    /// The provider answered 5xx; only ever seen if its own answer could not be passed on.
    UpstreamError = "upstream_error", 502, "server_error", Upstream, OtherTarget;
    /// The provider answered 429; only ever seen if its own answer could not be passed on.
    UpstreamRateLimited = "upstream_rate_limited", 429, "rate_limit_error", Upstream, OtherTarget;
    /// The provider failed so often of late, or said so itself, that it is left alone for a while.
    UpstreamUnavailable = "upstream_unavailable", 503, "server_error", Upstream, SameTarget;
    /// The conversation does not fit the model; here only ever the reason for a fallback.
    ContextLengthExceeded = "context_length_exceeded", 400, "invalid_request_error", Client, OtherTarget;
    /// The provider's policy forbids the content; here only ever the reason for a fallback.
    ContentPolicyViolation = "content_policy_violation", 400, "invalid_request_error", Client, OtherTarget;
    /// TLS or certificate failure towards the provider.
    UpstreamTls = "upstream_tls", 502, "server_error", Upstream, OtherTarget;
    /// The provider refused the gateway's own credentials.
    UpstreamAuth = "upstream_auth", 502, "server_error", Upstream, OtherTarget;
    /// The provider's answer cannot be understood, or was a redirect.
    UpstreamProtocolError = "upstream_protocol_error", 502, "server_error", Upstream, OtherTarget;
    /// A stream ended before it was complete; only ever sent as an event inside it.
    UpstreamStreamInterrupted = "upstream_stream_interrupted", 502, "server_error", Upstream, Never;
    /// The HTTP version of the request is not supported.
    VersionNotSupported = "http_version_not_supported", 505, "invalid_request_error", Client, Never;
    /// No target has a usable key.
    NoProviderAvailable = "no_provider_available", 503, "server_error", Gateway, Never;
    /// The gateway is at its limit.
    Overloaded = "overloaded", 503, "server_error", Gateway, SameTarget;
    /// The budget store cannot be reached.
    BudgetStoreUnavailable = "budget_store_unavailable", 503, "server_error", Gateway, SameTarget;
    /// The gateway is stopping.
    Draining = "draining", 503, "server_error", Gateway, SameTarget;
    /// The provider did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, "server_error", Upstream, OtherTarget;
}

/// One error for a client: what happened, what to do, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// From the closed list.
    pub code: Code,
    /// What was wrong, where, and what to do; a sentence in plain English.
    pub message: Cow<'static, str>,
    /// The request parameter at fault, as a path (`messages[0].content`).
    pub param: Option<Cow<'static, str>>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error with the code's own status.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after_s: None,
        }
    }

    /// Names the parameter at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn with_retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// Appends `{"error":{"message","type","param","code"}}`
    /// (<https://platform.openai.com/docs/guides/error-codes>).
    pub fn write_openai(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":{\"message\":");
        write_string(&self.message, out);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(self.code.kind().as_bytes());
        out.extend_from_slice(b"\",\"param\":");
        match &self.param {
            Some(param) => write_string(param, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"code\":\"");
        out.extend_from_slice(self.code.as_str().as_bytes());
        out.extend_from_slice(b"\"}}");
    }

    /// Appends `{"type":"error","error":{"type","message"}}` (<https://docs.anthropic.com/en/api/errors>).
    pub fn write_anthropic(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"error\",\"error\":{\"type\":\"");
        out.extend_from_slice(anthropic_kind(self.status()).as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        write_string(&self.message, out);
        out.extend_from_slice(b"}}");
    }
}

/// Anthropic's `error.type` for a status.
pub const fn anthropic_kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// Appends `text` as a JSON string, quotes included (RFC 8259 §7).
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    write_utf8(text.as_bytes(), out);
}

/// How many bytes [`write_string`] writes.
pub fn string_bytes(text: &str) -> usize {
    let bytes = text.as_bytes();
    if is_plain(bytes) {
        return bytes.len() + 2;
    }
    let mut written = Vec::new();
    write_string(text, &mut written);
    written.len()
}

/// Whether a string of JSON holds them as they are. Nearly all are; the loop has no branch, so that it vectorises.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |plain, &byte| {
        plain & (byte >= 0x20) & (byte != b'"') & (byte != b'\\')
    })
}

/// The same for bytes that the caller knows to be UTF-8, and does not want to have checked again.
pub fn write_utf8(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x00..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(escape);
        }
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_string_is_what_is_written() {
        for text in [
            "",
            "gpt-4o-mini",
            "é\u{1F600}",
            "a\"b\\c",
            "\n\r\t\u{1}\u{1f}",
            "tail\"",
        ] {
            let mut written = Vec::new();
            write_string(text, &mut written);
            assert_eq!(string_bytes(text), written.len(), "{text:?}");
        }
    }

    #[test]
    fn openai_shape_is_valid_json_whatever_the_message_holds() {
        let error = ApiError::new(Code::ModelNotFound, "no \"x\"\n\u{1}\\ ü").with_param("model");
        let mut out = Vec::new();
        error.write_openai(&mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["error"]["message"], "no \"x\"\n\u{1}\\ ü");
        assert_eq!(value["error"]["code"], "model_not_found");
        assert_eq!(value["error"]["param"], "model");
        assert_eq!(value["error"]["type"], "invalid_request_error");
    }

    #[test]
    fn every_code_has_its_own_text_and_an_error_status() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code:?}");
            assert!((400..600).contains(&code.status()), "{code:?}");
        }
    }
}
