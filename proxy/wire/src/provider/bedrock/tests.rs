//! Tests of the Bedrock dialect that need more than a golden case.

use super::*;
use crate::chat::{
    ChatEvent, ChatRequest, ChatResponse, Content, ErrorKind, Finish, Notes, Out, Source, StreamEnd, Text, ToolChoice,
    Usage,
};
use crate::error::{ApiError, Code, Retry};
use crate::eventstream;
use crate::provider::{ErrorHead, Ingress, Quirks, Reply, Target};
use serde_json::{Value, json};

mod answers;
mod requests;
mod streams;
mod tuning;

const CLAUDE: &str = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0";
const REPLY: Reply<'_> = Reply {
    model: "m",
    id: "id",
    created: 0,
    include_usage: true,
};

fn target(model: &str) -> Target<'_> {
    Target {
        model,
        max_tokens_default: 4096,
        quirks: Quirks::default(),
    }
}

#[test]
fn a_path_names_model_and_operation_and_comes_back() {
    let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f";
    for (model, encoded) in [
        (CLAUDE, "eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0"),
        (
            arn,
            "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fmi1dadi0g15f",
        ),
    ] {
        for stream in [false, true] {
            let mut path = Vec::new();
            request_path(&target(model), stream, &mut path);
            let path = String::from_utf8(path).unwrap();
            assert_eq!(
                path,
                format!("/model/{encoded}/converse{}", if stream { "-stream" } else { "" })
            );
            assert_eq!(parse_path(&path), Some((Cow::Borrowed(model), stream)));
        }
    }
    assert_eq!(
        parse_path(&format!("/model/{arn}/converse")),
        Some((Cow::Borrowed(arn), false)),
        "an ARN as it is"
    );
    for other in [
        "/model/x/invoke",
        "/model//converse",
        "/model/converse",
        "/x/model/y/converse",
        "/model/%zz/converse",
        "/model/%e/converse",
        "/model/%ff/converse",
        "/",
    ] {
        assert_eq!(parse_path(other), None, "{other}");
    }
}

/// (status, `x-amzn-ErrorType`, message, kind, rule).
type ErrorCase = (u16, Option<&'static str>, &'static str, ErrorKind, Retry);
const ERRORS: &[ErrorCase] = &[
    (
        400,
        Some("ValidationException"),
        "bad",
        ErrorKind::InvalidRequest,
        Retry::Never,
    ),
    (
        400,
        Some("ValidationException:http://internal.amazon.com/"),
        "Input is too long for requested model.",
        ErrorKind::ContextLength,
        Retry::Never,
    ),
    (
        400,
        None,
        "The provided model identifier is invalid.",
        ErrorKind::NotFound,
        Retry::Never,
    ),
    (
        429,
        Some("ThrottlingException"),
        "slow",
        ErrorKind::RateLimit,
        Retry::OtherTarget,
    ),
    (
        429,
        Some("com.amazon.coral#ThrottlingException"),
        "slow",
        ErrorKind::RateLimit,
        Retry::OtherTarget,
    ),
    (
        429,
        Some("ModelNotReadyException"),
        "wait",
        ErrorKind::Overloaded,
        Retry::SameTarget,
    ),
    (
        503,
        Some("ServiceUnavailableException"),
        "busy",
        ErrorKind::Overloaded,
        Retry::SameTarget,
    ),
    (
        500,
        Some("InternalServerException"),
        "oops",
        ErrorKind::Server,
        Retry::SameTarget,
    ),
    (
        408,
        Some("ModelTimeoutException"),
        "slow",
        ErrorKind::Timeout,
        Retry::SameTarget,
    ),
    (
        424,
        Some("ModelErrorException"),
        "oops",
        ErrorKind::Server,
        Retry::SameTarget,
    ),
    (424, None, "oops", ErrorKind::Server, Retry::SameTarget),
    (
        404,
        Some("ResourceNotFoundException"),
        "gone",
        ErrorKind::NotFound,
        Retry::Never,
    ),
    (
        403,
        Some("AccessDeniedException"),
        "no",
        ErrorKind::Permission,
        Retry::OtherTarget,
    ),
    (
        403,
        Some("UnrecognizedClientException"),
        "who",
        ErrorKind::Authentication,
        Retry::OtherTarget,
    ),
    (
        403,
        Some("ExpiredTokenException"),
        "old",
        ErrorKind::Authentication,
        Retry::OtherTarget,
    ),
    (502, None, "", ErrorKind::Server, Retry::SameTarget),
];

#[test]
fn an_error_has_a_kind_by_its_exception_and_keeps_its_message() {
    for &(status, name, message, kind, retry) in ERRORS {
        let head = ErrorHead {
            status,
            retry_after_s: Some(3),
            error_type: name,
        };
        let error = parse_error(&head, json!({ "message": message }).to_string().as_bytes());
        assert_eq!(
            (error.status, error.kind, error.retry()),
            (status, kind, retry),
            "{status} {name:?}"
        );
        assert_eq!((error.message.as_str(), error.retry_after_s), (message, Some(3)));
    }
    let head = ErrorHead {
        status: 400,
        ..ErrorHead::default()
    };
    for (body, message) in [
        ("<html>", ""),
        ("", ""),
        ("[]", ""),
        (r#"{"Message":"upper"}"#, "upper"),
        (r#"{"message":1}"#, ""),
    ] {
        let error = parse_error(&head, body.as_bytes());
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::InvalidRequest, message),
            "{body}"
        );
    }
    let error = parse_error(&head, br#"{"__type":"ThrottlingException","message":"m"}"#);
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (ErrorKind::RateLimit, Some("ThrottlingException"))
    );
}

#[test]
fn errors_are_written_as_the_sdk_reads_them() {
    let mut out = Out::default();
    let error = parse_error(
        &ErrorHead {
            status: 429,
            ..ErrorHead::default()
        },
        br#"{"message":"say \"please\""}"#,
    );
    write_error(&error, &mut out);
    assert_eq!(
        serde_json::from_slice::<Value>(&out.buf).unwrap(),
        json!({"message": "say \"please\""})
    );
    assert_eq!(error_type(&error), "ThrottlingException");
    out.begin(&[]);
    write_own_error(&ApiError::new(Code::BudgetExceeded, "no money"), &mut out);
    assert_eq!(out.buf, br#"{"message":"no money"}"#);
    for code in Code::ALL {
        let error_type = own_error_type(&ApiError::new(*code, ""));
        assert!(error_type.ends_with("Exception"), "{code:?}");
    }
    assert_eq!(
        own_error_type(&ApiError::new(Code::ModelNotAllowed, "")),
        "AccessDeniedException"
    );
}
