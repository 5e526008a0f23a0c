//! What a scripted answer does differently from a healthy one, and the small language in which tests write it.
//!
//! `status=503,retry_after=2,times=3`: pairs separated by commas, values percent-decoded, a bare word means `=1`. SIM.md lists
//! every control; an unknown one is an error, so that a misspelt test cannot pass by testing nothing.

use crate::sim::digest;

/// How a response ends when it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// TCP reset (`SO_LINGER` 0).
    Reset,
    /// Nothing more is sent; the connection stays open until the client leaves.
    Stall,
    /// An orderly FIN.
    Close,
}

/// Where a response is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before its first byte.
    BeforeHead,
    /// After this many bytes of the head (half of it by default).
    MidHead(Option<usize>),
    /// After this many bytes of the body (half of it by default; of a stream: 1).
    MidBody(Option<usize>),
    /// After this many events of the stream (half of them by default). In a unary answer: the same as `MidBody`.
    MidStream(Option<usize>),
}

/// A cut response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// How it ends.
    pub how: How,
    /// Where it ends.
    pub place: Place,
}

/// Which bytes are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The status line is not HTTP.
    StatusLine,
    /// A header line without a colon.
    Header,
    /// A NUL inside a header value.
    Nul,
    /// Two Content-Length fields that differ.
    TwoLengths,
    /// Content-Length and Transfer-Encoding together.
    LengthAndChunked,
    /// A chunk size that is not hexadecimal (the response becomes chunked if it is not).
    ChunkSize,
    /// The body is not the JSON it says it is.
    Json,
    /// One event of the stream (`malformed_at`, 1 by default) is not JSON.
    Event,
    /// One frame of an event-stream has a wrong message CRC (in other streams: the same as `Event`).
    Crc,
}

/// One scripted behaviour; the default is a healthy, immediate answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Behaviour {
    /// Wait before the response head, in milliseconds.
    pub latency_ms: u64,
    /// Wait between the response head and the first event of a stream, in milliseconds.
    pub first_token_ms: u64,
    /// Pace of a stream, in tokens per second; 0 is as fast as the client reads.
    pub tps: u32,
    /// Output tokens of the answer.
    pub tokens: Option<u32>,
    /// Input tokens reported and billed, instead of a quarter of the body's bytes.
    pub input_tokens: Option<u32>,
    /// Of the input tokens, how many are reported as read from the provider's prompt cache.
    pub cached_tokens: u32,
    /// Reasoning (thinking) tokens before the text; they count as output.
    pub reasoning: u32,
    /// Text bytes per token.
    pub token_bytes: usize,
    /// Stream events per write.
    pub chunks_per_write: usize,
    /// Longest piece written at once, in bytes; 0 is no limit.
    pub write_bytes: usize,
    /// Wait between two such pieces, in milliseconds.
    pub write_ms: u64,
    /// Size of a unary answer's body, in bytes.
    pub bytes: usize,
    /// Tool calls in the answer.
    pub tools: u32,
    /// The tool's name, instead of the first tool of the request.
    pub tool_name: Option<String>,
    /// The call's arguments, JSON.
    pub tool_args: Option<String>,
    /// The answer's text.
    pub say: Option<String>,
    /// Text with escapes and multi-byte characters.
    pub unicode: bool,
    /// The answer is a refusal.
    pub refusal: bool,
    /// The finish reason, as the dialect spells it.
    pub finish: Option<String>,
    /// Response status; 0 is the endpoint's own.
    pub status: u16,
    /// `Retry-After`, verbatim.
    pub retry_after: Option<String>,
    /// `retry-after-ms`.
    pub retry_after_ms: Option<u64>,
    /// The body, verbatim.
    pub body: Option<Vec<u8>>,
    /// The whole response, verbatim, head included.
    pub raw: Option<Vec<u8>>,
    /// The body's content type.
    pub content_type: Option<String>,
    /// Further header lines, `name: value`.
    pub headers: Vec<String>,
    /// The error's `code` (OpenAI) or `type` (Anthropic, Bedrock).
    pub error_code: Option<String>,
    /// The error's message.
    pub message: Option<String>,
    /// `Location` of a redirect.
    pub location: Option<String>,
    /// Cut the response short.
    pub cut: Option<Cut>,
    /// Content-Length says this much more than is sent; then FIN.
    pub truncate: usize,
    /// Send wrong bytes.
    pub malformed: Option<Malformed>,
    /// Which event is malformed, from 0.
    pub malformed_at: Option<usize>,
    /// Leave out the stream's terminator.
    pub no_done: bool,
    /// After this many events, an error inside the 200 stream.
    pub error_event: Option<usize>,
    /// This many extra header fields.
    pub many_headers: usize,
    /// One header whose value has this many bytes.
    pub giant_header: usize,
    /// Interim responses before the final one.
    pub interim: u32,
    /// Their status; 103 by default.
    pub interim_status: u16,
    /// Stray bytes after the response.
    pub trailing: usize,
    /// Answer `Connection: close` and close.
    pub close: bool,
    /// End a unary body by closing the connection, without a length.
    pub until_close: bool,
    /// Send a unary body chunked.
    pub chunked: bool,
    /// `x-ratelimit-remaining-requests` and its Anthropic twin.
    pub remaining_requests: Option<u64>,
    /// `x-ratelimit-remaining-tokens` and its Anthropic twin.
    pub remaining_tokens: Option<u64>,
    /// Answer with a description of the request.
    pub echo: bool,
    /// Bill nothing for this answer.
    pub unbilled: bool,
}

/// When a behaviour applies, among the requests that match it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct When {
    /// Only this many times (after `after`); `None` is always.
    pub times: Option<u64>,
    /// Not for the first so many.
    pub after: u64,
    /// Only within this many milliseconds of the first match.
    pub until_ms: Option<u64>,
    /// Only from this many milliseconds after the first match on.
    pub from_ms: Option<u64>,
    /// Alternate: on for this long, off for this long, in milliseconds.
    pub flap_ms: Option<u64>,
    /// With this probability, by the seeded generator.
    pub probability: Option<f64>,
}

/// Parses `script`.
///
/// # Errors
/// A sentence naming the control that is unknown or has a bad value.
pub fn parse(script: &str) -> Result<(Behaviour, When), String> {
    let (mut behaviour, mut when) = (Behaviour::default(), When::default());
    for pair in script.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "1"));
        set(&mut behaviour, &mut when, key.trim(), &digest::percent_decode(value))?;
    }
    Ok((behaviour, when))
}

/// Sets the control `key` to `value`.
///
/// # Errors
/// A sentence naming the control that is unknown or has a bad value.
pub fn set(b: &mut Behaviour, when: &mut When, key: &str, value: &str) -> Result<(), String> {
    if set_timing(b, when, key, value)? || set_answer(b, key, value)? || set_fault(b, key, value)? {
        return Ok(());
    }
    Err(format!("unknown control `{key}`"))
}

fn num<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value
        .trim()
        .parse()
        .map_err(|_| format!("`{key}` has the bad value `{value}`"))
}

fn flag(value: &str) -> bool {
    !matches!(value, "0" | "false")
}

fn set_timing(b: &mut Behaviour, when: &mut When, key: &str, value: &str) -> Result<bool, String> {
    match key {
        "times" => when.times = Some(num(key, value)?),
        "after" => when.after = num(key, value)?,
        "until_ms" => when.until_ms = Some(num(key, value)?),
        "from_ms" => when.from_ms = Some(num(key, value)?),
        "flap_ms" => when.flap_ms = Some(num(key, value)?),
        "probability" => when.probability = Some(num(key, value)?),
        "tag" => {}
        "latency_ms" => b.latency_ms = num(key, value)?,
        "first_token_ms" => b.first_token_ms = num(key, value)?,
        "tps" => b.tps = num(key, value)?,
        "chunks_per_write" => b.chunks_per_write = num(key, value)?,
        "write_bytes" => b.write_bytes = num(key, value)?,
        "write_ms" => b.write_ms = num(key, value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_answer(b: &mut Behaviour, key: &str, value: &str) -> Result<bool, String> {
    match key {
        "tokens" => b.tokens = Some(num::<u32>(key, value)?.min(10_000_000)),
        "input_tokens" => b.input_tokens = Some(num(key, value)?),
        "cached_tokens" => b.cached_tokens = num(key, value)?,
        "reasoning" => b.reasoning = num::<u32>(key, value)?.min(1_000_000),
        "chunk_bytes" => b.token_bytes = num::<usize>(key, value)?.min(1 << 20),
        "bytes" => b.bytes = num::<usize>(key, value)?.min(256 << 20),
        "tool" | "tools" => b.tools = num::<u32>(key, value)?.min(64),
        "tool_name" => b.tool_name = Some(value.to_owned()),
        "tool_args" => b.tool_args = Some(value.to_owned()),
        "say" => b.say = Some(value.to_owned()),
        "unicode" => b.unicode = flag(value),
        "refusal" => b.refusal = flag(value),
        "finish" => b.finish = Some(value.to_owned()),
        "status" => b.status = num(key, value)?,
        "retry_after" => b.retry_after = Some(value.to_owned()),
        "retry_after_ms" => b.retry_after_ms = Some(num(key, value)?),
        "body" => b.body = Some(value.as_bytes().to_vec()),
        "body_b64" => b.body = Some(digest::base64_decode(value).ok_or("`body_b64` is not base64")?),
        "raw_b64" => b.raw = Some(digest::base64_decode(value).ok_or("`raw_b64` is not base64")?),
        "content_type" => b.content_type = Some(value.to_owned()),
        "header" => b.headers.push(value.to_owned()),
        "code" => b.error_code = Some(value.to_owned()),
        "message" => b.message = Some(value.to_owned()),
        "location" => b.location = Some(value.to_owned()),
        "remaining_requests" => b.remaining_requests = Some(num(key, value)?),
        "remaining_tokens" => b.remaining_tokens = Some(num(key, value)?),
        "echo" => b.echo = flag(value),
        "unbilled" => b.unbilled = flag(value),
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_fault(b: &mut Behaviour, key: &str, value: &str) -> Result<bool, String> {
    match key {
        "reset" => {
            b.cut = Some(Cut {
                how: How::Reset,
                place: place(value)?,
            })
        }
        "stall" => {
            b.cut = Some(Cut {
                how: How::Stall,
                place: place(value)?,
            })
        }
        "close" => {
            b.cut = Some(Cut {
                how: How::Close,
                place: place(value)?,
            })
        }
        "truncate" => b.truncate = num(key, value)?,
        "malformed" => b.malformed = Some(malformed(value)?),
        "malformed_at" => b.malformed_at = Some(num(key, value)?),
        "no_done" => b.no_done = flag(value),
        "error_event" => b.error_event = Some(num(key, value)?),
        "many_headers" => b.many_headers = num::<usize>(key, value)?.min(100_000),
        "giant_header" => b.giant_header = num::<usize>(key, value)?.min(64 << 20),
        "interim" => b.interim = num::<u32>(key, value)?.min(10_000),
        "interim_status" => b.interim_status = num(key, value)?,
        "trailing" => b.trailing = num::<usize>(key, value)?.min(1 << 20),
        "keep_alive" => b.close = !flag(value),
        "until_close" => b.until_close = flag(value),
        "chunked" => b.chunked = flag(value),
        _ => return Ok(false),
    }
    Ok(true)
}

fn place(value: &str) -> Result<Place, String> {
    let (name, at) = match value.split_once(':') {
        Some((name, at)) => (name, Some(num(name, at)?)),
        None => (value, None),
    };
    match name {
        "before_head" | "1" => Ok(Place::BeforeHead),
        "mid_head" => Ok(Place::MidHead(at)),
        "mid_body" => Ok(Place::MidBody(at)),
        "mid_stream" => Ok(Place::MidStream(at)),
        _ => Err(format!(
            "unknown place `{value}`: before_head, mid_head, mid_body or mid_stream"
        )),
    }
}

fn malformed(value: &str) -> Result<Malformed, String> {
    Ok(match value {
        "status_line" => Malformed::StatusLine,
        "header" => Malformed::Header,
        "nul" => Malformed::Nul,
        "two_lengths" => Malformed::TwoLengths,
        "length_and_chunked" => Malformed::LengthAndChunked,
        "chunk_size" => Malformed::ChunkSize,
        "json" => Malformed::Json,
        "event" => Malformed::Event,
        "crc" => Malformed::Crc,
        _ => return Err(format!("unknown kind of malformed `{value}`")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_parse_into_behaviours() {
        let (behaviour, when) = parse("status=503,retry_after=2,times=3,reset=mid_body:10,say=a%2Cb").expect("valid");
        assert_eq!((behaviour.status, behaviour.retry_after.as_deref()), (503, Some("2")));
        assert_eq!(
            behaviour.cut,
            Some(Cut {
                how: How::Reset,
                place: Place::MidBody(Some(10))
            })
        );
        assert_eq!(behaviour.say.as_deref(), Some("a,b"));
        assert_eq!(when.times, Some(3));
        assert_eq!(parse("").expect("empty"), (Behaviour::default(), When::default()));
    }

    #[test]
    fn unknown_controls_and_bad_values_are_errors() {
        assert!(parse("statuss=1").is_err());
        assert!(parse("status=abc").is_err());
        assert!(parse("reset=somewhere").is_err());
        assert!(parse("malformed=everything").is_err());
        assert!(parse("body_b64=***").is_err());
    }
}
