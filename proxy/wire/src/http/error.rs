//! Why a message head is refused: one closed list, each with the error code that a client sees and the rule in plain words.
//!
//! Deliberately absent: the offending bytes, which may be credentials.

use std::fmt;

use crate::error::Code;

macro_rules! head_errors {
    ($( $variant:ident = $code:ident, $text:literal; )*) => {
        /// Why a head is refused; the documentation of each is its text. For a response, every one of them is
        /// [`Code::UpstreamProtocolError`], whatever [`HeadError::code`] says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HeadError { $( #[doc = $text] $variant, )* }

        impl HeadError {
            /// The error that a client sees.
            pub const fn code(self) -> Code { match self { $( Self::$variant => Code::$code, )* } }
            const fn text(self) -> &'static str { match self { $( Self::$variant => $text, )* } }
        }
    };
}

head_errors! {
    RequestLine = BadRequest, "the request line is not `METHOD target HTTP/1.1`";
    StatusLine = BadRequest, "the status line is not `HTTP/1.1 200 reason`";
    StatusRange = BadRequest, "the status is below 100";
    Version = VersionNotSupported, "only HTTP/1.0 and HTTP/1.1 are spoken here";
    LeadingEmptyLines = BadRequest, "more than one empty line stands before the message";
    BareLf = BadRequest, "a line ends with LF instead of CRLF";
    BareCr = BadRequest, "a CR is not followed by LF";
    FieldName = BadRequest, "a header field name is empty or holds an invalid character, or a line is folded";
    FieldValue = BadRequest, "a header field value holds a control character";
    HeadTooLarge = HeadersTooLarge, "the request line and header fields are too large";
    TooManyFields = HeadersTooLarge, "there are too many header fields";
    TargetTooLong = UriTooLong, "the request target is too long";
    TargetInvalid = BadRequest, "the request target holds a fragment, a control character or a byte outside ASCII";
    TargetForm = BadRequest, "the request target is neither a path, nor an absolute http(s) URI, nor `*` with OPTIONS";
    HostMissing = BadRequest, "the Host field is missing";
    HostRepeated = BadRequest, "there is more than one Host field";
    HostInvalid = BadRequest, "the host is empty or not `name`, `address` or `[address]`, with an optional `:port`";
    LengthInvalid = BadRequest, "Content-Length is not one decimal number";
    LengthRepeated = BadRequest, "there is more than one Content-Length field";
    LengthAndChunked = BadRequest, "both Content-Length and Transfer-Encoding are present";
    CodingUnknown = BadRequest, "Transfer-Encoding is not exactly `chunked`";
    CodingRepeated = BadRequest, "there is more than one Transfer-Encoding field";
    CodingInHttp10 = BadRequest, "Transfer-Encoding does not exist in HTTP/1.0";
    ConnectionNamesFraming = BadRequest, "the Connection field names Host or Content-Length, which are not hop-by-hop";
    Expectation = ExpectationFailed, "Expect holds something else than `100-continue`";
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for HeadError {}
