//! The HTTP surface: which paths exist, which methods they take, and where a request says which model it wants.
//!
//! Invariants: a path is classified by its exact bytes; one that could be read in two ways (dot segments, empty segments,
//! encoded slashes) is refused, because a provider would be asked for something else than was checked.
//! Deliberately absent: what a body means (that is the dialects' `provider` modules).

use crate::dialect::Dialect;
use crate::error::{ApiError, Code};
use crate::http::Method;
use crate::provider::bedrock;

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `GET /health`: the process is alive.
    Health,
    /// `GET /ready`: it has a usable provider and is not draining.
    Ready,
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `/v1/chat/completions/{id}…`: answers that the provider stored.
    StoredCompletions,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/responses`.
    Responses,
    /// `/v1/responses/{id}…`.
    StoredResponses,
    /// `POST /v1/moderations`.
    Moderations,
    /// `POST /v1/images/*`.
    Images,
    /// `POST /v1/audio/*`.
    Audio,
    /// `/v1/files*`.
    Files,
    /// `POST /v1/batches`.
    Batches,
    /// `GET /v1/batches`, and `/v1/batches/{id}…`.
    StoredBatches,
    /// `/v1/models*`.
    Models,
    /// `POST /v1/messages`, also below `/anthropic`.
    Messages,
    /// `POST /v1/messages/count_tokens`, also below `/anthropic`.
    CountTokens,
    /// `POST /model/{id}/converse`, also below `/bedrock`.
    Converse,
    /// `POST /model/{id}/converse-stream`, also below `/bedrock`.
    ConverseStream,
}

/// Where a request says which model it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelField {
    /// In the body, and the request is wrong without it.
    Required,
    /// In the body, if it says so at all.
    Optional,
    /// In the path.
    Path,
    /// The request is not about one model: it goes to the default provider.
    Absent,
}

impl Endpoint {
    /// Where a request to it says which model it wants.
    pub const fn model_field(self) -> ModelField {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::Messages | Self::CountTokens => {
                ModelField::Required
            }
            Self::Converse | Self::ConverseStream => ModelField::Path,
            Self::Responses | Self::Moderations | Self::Images | Self::Audio => ModelField::Optional,
            _ => ModelField::Absent,
        }
    }

    /// The dialect that its clients speak.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            Self::Converse | Self::ConverseStream => Dialect::Bedrock,
            _ => Dialect::OpenAi,
        }
    }

    /// True if providers charge for it. What they keep (files, answers) and lists are not looked at; the price of batches,
    /// images and sound is, which may come to there being none.
    pub const fn is_charged(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Embeddings
                | Self::Responses
                | Self::Images
                | Self::Audio
                | Self::Batches
                | Self::Messages
                | Self::Converse
                | Self::ConverseStream
        )
    }

    /// True if what a request to it costs follows from what it asks for and what its answer says. What a batch costs is known
    /// when it has been worked off, a day later, and in an answer that nobody may ask for.
    pub const fn is_priced(self) -> bool {
        self.is_charged() && !matches!(self, Self::Batches)
    }

    /// True if what a request to it costs follows from its tokens alone.
    pub const fn is_charged_by_tokens(self) -> bool {
        self.is_charged() && !matches!(self, Self::Images | Self::Audio | Self::Batches)
    }

    /// True if a provider of any dialect can answer it, by translation.
    pub const fn is_translatable(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions | Self::Messages | Self::Converse | Self::ConverseStream
        )
    }

    /// True if its streams end with `data: [DONE]`
    /// (<https://platform.openai.com/docs/api-reference/chat-streaming>).
    pub const fn stream_ends_with_done(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }
}

/// The path below `/v1`, as providers know it: `/chat/completions` of `/openai/v1/chat/completions`.
pub fn below_version(path: &[u8]) -> Option<&[u8]> {
    let path = path.strip_prefix(b"/openai").unwrap_or(path);
    path.strip_prefix(b"/v1").filter(|rest| rest.first() == Some(&b'/'))
}

/// The dialect of whoever asks for a path, known or not: that of the errors it understands.
pub fn dialect_of(path: &[u8]) -> Dialect {
    if path.starts_with(b"/anthropic/") || path.starts_with(b"/v1/messages") {
        Dialect::Anthropic
    } else if path.starts_with(b"/bedrock/") || path.starts_with(b"/model/") {
        Dialect::Bedrock
    } else {
        Dialect::OpenAi
    }
}

/// A Converse path without the alias before it, if it is one.
pub fn converse_path(path: &[u8]) -> Option<&str> {
    let path = path.strip_prefix(b"/bedrock").unwrap_or(path);
    if !path.starts_with(b"/model/") {
        return None;
    }
    std::str::from_utf8(path).ok()
}

/// The path behind a provider's base URL that asks a provider of the client's own dialect for what `path` asks the gateway
/// for; `None` if it must be rebuilt because it names the model (Bedrock).
pub fn forwarded_path(endpoint: Endpoint, path: &[u8]) -> Option<&[u8]> {
    match endpoint.dialect() {
        Dialect::OpenAi => Some(below_version(path).unwrap_or(path)),
        Dialect::Anthropic => Some(path.strip_prefix(b"/anthropic").unwrap_or(path)),
        Dialect::Bedrock => None,
    }
}

/// Says what a path is for.
///
/// # Errors
/// [`Code::BadRequest`] for an ambiguous path, [`Code::UnknownPath`], [`Code::MethodNotAllowed`].
pub fn classify(method: Method, path: &[u8]) -> Result<Endpoint, ApiError> {
    let (endpoint, allowed): (Endpoint, &[Method]) = match path {
        b"/health" => (Endpoint::Health, &[Method::Get, Method::Head]),
        b"/ready" => (Endpoint::Ready, &[Method::Get, Method::Head]),
        b"/v1/chat/completions" => (Endpoint::ChatCompletions, &[Method::Post]),
        b"/v1/messages" | b"/anthropic/v1/messages" => (Endpoint::Messages, &[Method::Post]),
        b"/v1/messages/count_tokens" | b"/anthropic/v1/messages/count_tokens" => {
            (Endpoint::CountTokens, &[Method::Post])
        }
        // The model's name in it may hold an encoded slash (an ARN, or `provider/model`): it is rebuilt, not forwarded.
        _ if converse_path(path).is_some() => converse(path)?,
        _ => versioned(method, path)?,
    };
    if allowed.contains(&method) {
        return Ok(endpoint);
    }
    let names: Vec<&str> = allowed.iter().map(|method| method.as_str()).collect();
    Err(ApiError::new(
        Code::MethodNotAllowed,
        format!("{} takes {}", String::from_utf8_lossy(path), names.join(", ")),
    ))
}

fn converse(path: &[u8]) -> Result<(Endpoint, &'static [Method]), ApiError> {
    match converse_path(path).and_then(bedrock::parse_path) {
        Some((_, false)) => Ok((Endpoint::Converse, &[Method::Post])),
        Some((_, true)) => Ok((Endpoint::ConverseStream, &[Method::Post])),
        None => Err(ApiError::new(
            Code::UnknownPath,
            format!(
                "no such path: {}. Known are /model/{{id}}/converse and /model/{{id}}/converse-stream",
                String::from_utf8_lossy(path)
            ),
        )),
    }
}

fn versioned(method: Method, path: &[u8]) -> Result<(Endpoint, &'static [Method]), ApiError> {
    const POST: &[Method] = &[Method::Post];
    const READ: &[Method] = &[Method::Get, Method::Head, Method::Delete];
    const ANY: &[Method] = &[Method::Get, Method::Head, Method::Post, Method::Delete];
    if path.len() > 1 && is_ambiguous(path) {
        return Err(ApiError::new(
            Code::BadRequest,
            "the path holds an empty, `.` or `..` segment, or an encoded slash, backslash or dot; send it in its plain form",
        ));
    }
    let unknown = || {
        ApiError::new(
            Code::UnknownPath,
            format!(
                "no such path: {}. Known are /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, \
                 /v1/moderations, /v1/images/*, /v1/audio/*, /v1/files*, /v1/batches*, /v1/models, /v1/messages and /model/*/converse",
                String::from_utf8_lossy(path)
            ),
        )
    };
    let rest = below_version(path).ok_or_else(unknown)?;
    let rest = &rest[1..];
    let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    let (first, below) = (&rest[..end], &rest[end..]);
    Ok(match (first, below) {
        (b"chat", b"/completions") => (Endpoint::ChatCompletions, POST),
        (b"chat", below) if below.starts_with(b"/completions/") => (Endpoint::StoredCompletions, ANY),
        (b"completions", b"") => (Endpoint::Completions, POST),
        (b"embeddings", b"") => (Endpoint::Embeddings, POST),
        (b"responses", b"") => (Endpoint::Responses, POST),
        (b"responses", _) => (Endpoint::StoredResponses, ANY),
        (b"moderations", b"") => (Endpoint::Moderations, POST),
        (b"images", below) if below.len() > 1 => (Endpoint::Images, POST),
        (b"audio", below) if below.len() > 1 => (Endpoint::Audio, POST),
        (b"files", _) => (Endpoint::Files, ANY),
        (b"batches", b"") if method == Method::Post => (Endpoint::Batches, ANY),
        (b"batches", _) => (Endpoint::StoredBatches, ANY),
        (b"models", _) => (Endpoint::Models, READ),
        _ => return Err(unknown()),
    })
}

/// True if another reader could see another path in these bytes.
fn is_ambiguous(path: &[u8]) -> bool {
    let segments = path.split(|&byte| byte == b'/').skip(1);
    let mut odd = path.contains(&b'\\');
    for segment in segments {
        odd |= matches!(segment, b"" | b"." | b"..");
    }
    // `%2e`, `%2f` and `%5c` in either case.
    odd |= path.windows(3).any(|window| {
        window[0] == b'%'
            && matches!(
                (window[1], window[2].to_ascii_lowercase()),
                (b'2', b'e') | (b'2', b'f') | (b'5', b'c')
            )
    });
    odd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_surface_is_known_under_both_prefixes() {
        for (method, path, endpoint) in [
            (Method::Post, "/chat/completions", Endpoint::ChatCompletions),
            (
                Method::Get,
                "/chat/completions/chatcmpl-1/messages",
                Endpoint::StoredCompletions,
            ),
            (Method::Post, "/completions", Endpoint::Completions),
            (Method::Post, "/embeddings", Endpoint::Embeddings),
            (Method::Post, "/responses", Endpoint::Responses),
            (Method::Delete, "/responses/resp_1", Endpoint::StoredResponses),
            (Method::Post, "/moderations", Endpoint::Moderations),
            (Method::Post, "/images/generations", Endpoint::Images),
            (Method::Post, "/audio/transcriptions", Endpoint::Audio),
            (Method::Post, "/files", Endpoint::Files),
            (Method::Get, "/files/file-1/content", Endpoint::Files),
            (Method::Post, "/batches", Endpoint::Batches),
            (Method::Get, "/batches", Endpoint::StoredBatches),
            (Method::Post, "/batches/b/cancel", Endpoint::StoredBatches),
            (Method::Get, "/models", Endpoint::Models),
            (Method::Get, "/models/gpt-4o-mini", Endpoint::Models),
        ] {
            for prefix in ["/v1", "/openai/v1"] {
                let full = format!("{prefix}{path}");
                assert_eq!(classify(method, full.as_bytes()).unwrap(), endpoint, "{full}");
                assert_eq!(below_version(full.as_bytes()).unwrap(), path.as_bytes());
            }
        }
    }

    #[test]
    fn the_other_dialects_paths_are_known_with_and_without_their_alias() {
        for (path, endpoint) in [
            ("/v1/messages", Endpoint::Messages),
            ("/anthropic/v1/messages", Endpoint::Messages),
            ("/v1/messages/count_tokens", Endpoint::CountTokens),
            (
                "/model/anthropic.claude-3-5-haiku-20241022-v1%3A0/converse",
                Endpoint::Converse,
            ),
            (
                "/bedrock/model/openai%2Fgpt-4o-mini/converse-stream",
                Endpoint::ConverseStream,
            ),
        ] {
            assert_eq!(classify(Method::Post, path.as_bytes()).unwrap(), endpoint, "{path}");
        }
        let error = classify(Method::Post, b"/model/x/invoke").unwrap_err();
        assert_eq!(error.code, Code::UnknownPath);
    }

    #[test]
    fn paths_that_could_be_read_in_two_ways_are_refused() {
        for path in [
            "/v1/files/../models",
            "/v1/files/%2e%2e/models",
            "/v1//models",
            "/v1/./models",
            "/v1/files/a%2Fb",
            "/v1/files/a%5cb",
            "/v1/files\\models",
            "/v1/models/",
        ] {
            assert_eq!(
                classify(Method::Get, path.as_bytes()).unwrap_err().code,
                Code::BadRequest,
                "{path}"
            );
        }
    }

    #[test]
    fn unknown_paths_and_wrong_methods_say_what_would_be_right() {
        let error = classify(Method::Get, b"/v1/chat/completions").unwrap_err();
        assert_eq!(
            (error.code, &*error.message),
            (Code::MethodNotAllowed, "/v1/chat/completions takes POST")
        );
        for path in [
            "/",
            "/v1",
            "/v2/chat/completions",
            "/v1x/models",
            "/v1/chat",
            "/v1/images",
            "*",
        ] {
            assert_eq!(
                classify(Method::Post, path.as_bytes()).unwrap_err().code,
                Code::UnknownPath,
                "{path}"
            );
        }
    }
}
