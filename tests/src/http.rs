//! A raw HTTP/1.1 client over any byte stream: full control of what is sent, and a strict reader of what comes back.
//!
//! Invariants: bytes behind a response stay for the next one; a response says whether it was complete, so that a test cannot
//! take a cut one for whole. Deliberately absent: anything automatic.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::wait::PATIENCE;

/// A connection to the gateway, or to anything else that speaks HTTP.
pub struct Client<S = TcpStream> {
    /// The byte stream.
    pub stream: S,
    pending: Vec<u8>,
}

/// How the rest of a response's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Done,
    Length(usize),
    Chunked,
    UntilClose,
}

/// A response, or what has come of it.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The whole head, as text.
    pub head: String,
    /// Header fields in order: name in lower case, value.
    pub fields: Vec<(String, String)>,
    /// The body so far, without its framing.
    pub body: Vec<u8>,
    /// Sizes of the chunks that it came in.
    pub chunks: Vec<usize>,
    rest: Rest,
}

/// A request, to be turned into bytes.
#[derive(Clone, Debug)]
pub struct Request {
    line: String,
    fields: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            line: format!("{method} {target} HTTP/1.1"),
            fields: vec!["Host: gateway.test".into()],
            body: Vec::new(),
        }
    }

    /// `GET target`.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `POST target` with a JSON body.
    #[must_use]
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::with_body("POST", target, body)
    }

    /// Any method, with a JSON body.
    #[must_use]
    pub fn with_body(method: &str, target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::with_type(method, target, "application/json", body)
    }

    /// Any method, with a body of any type.
    #[must_use]
    pub fn with_type(method: &str, target: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::new(method, target).field("Content-Type", content_type);
        request.body = body.into();
        let length = request.body.len().to_string();
        request.field("Content-Length", &length)
    }

    /// A chat completion of `model`, unary.
    #[must_use]
    pub fn chat(model: &str) -> Self {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}"#);
        Self::post("/v1/chat/completions", body)
    }

    /// A chat completion of `model`, streamed.
    #[must_use]
    pub fn stream(model: &str) -> Self {
        let body = format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}"#);
        Self::post("/v1/chat/completions", body)
    }

    /// Adds a header field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push(format!("{name}: {value}"));
        self
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The bytes of the head.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        format!("{}\r\n{}\r\n\r\n", self.line, self.fields.join("\r\n")).into_bytes()
    }

    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("the gateway accepts connections");
        stream.set_nodelay(true).expect("a socket takes TCP_NODELAY");
        Self::over(stream)
    }

    /// Sets how long a read waits at most, as a socket option.
    fn patient(stream: &TcpStream) {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket takes a read timeout");
    }

    fn over(stream: TcpStream) -> Self {
        Self::patient(&stream);
        Self::new(stream)
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
    }
}

impl<S: Read + Write> Client<S> {
    /// A client over an open byte stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When the peer does not take them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the gateway takes what is sent");
    }

    /// Sends bytes to a peer that may have closed.
    ///
    /// # Errors
    /// What the socket says.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends a request and reads the whole response.
    pub fn ask(&mut self, request: &Request) -> Response {
        self.send(request.bytes());
        self.response()
    }

    /// Reads one whole response.
    ///
    /// # Panics
    /// When it is cut.
    pub fn response(&mut self) -> Response {
        let response = self.response_or_cut();
        assert!(response.is_complete(), "the response is cut: {response:?}");
        response
    }

    /// Reads one response to its end, or to the connection's.
    pub fn response_or_cut(&mut self) -> Response {
        let mut response = self.begin();
        while self.more(&mut response) {}
        response
    }

    /// Reads the response to a HEAD request: it has no body, whatever its head says.
    pub fn response_to_head(&mut self) -> Response {
        let mut response = self.begin();
        response.rest = Rest::Done;
        response
    }

    /// Reads the head of a response.
    ///
    /// # Panics
    /// When the connection ends before, or the head makes no sense.
    pub fn begin(&mut self) -> Response {
        let end = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            let so_far = String::from_utf8_lossy(&self.pending).into_owned();
            assert!(self.fill(), "the connection ended within a head: {so_far:?}");
        };
        let head: Vec<u8> = self.pending.drain(..end).collect();
        Response::parse(String::from_utf8(head).expect("a head is text"))
    }

    /// Reads more of a body: one chunk, or what the socket has; false at its end.
    pub fn more(&mut self, response: &mut Response) -> bool {
        match response.rest {
            Rest::Done => false,
            Rest::Chunked => self.chunk(response),
            Rest::Length(left) => {
                if self.pending.is_empty() && !self.fill() {
                    return false;
                }
                let take = left.min(self.pending.len());
                response.body.extend(self.pending.drain(..take));
                response.rest = if take == left {
                    Rest::Done
                } else {
                    Rest::Length(left - take)
                };
                response.rest != Rest::Done
            }
            Rest::UntilClose => {
                response.body.append(&mut self.pending);
                if self.fill() {
                    return true;
                }
                response.rest = Rest::Done;
                false
            }
        }
    }

    fn chunk(&mut self, response: &mut Response) -> bool {
        let Some(line_end) = self.find_or_fill(b"\r\n", 0) else {
            return false;
        };
        let line = std::str::from_utf8(&self.pending[..line_end]).expect("a chunk's size is text");
        let size = usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("not a chunk's size: {line:?}"));
        let total = line_end + 2 + size + 2;
        while self.pending.len() < total {
            if !self.fill() {
                return false;
            }
        }
        assert_eq!(&self.pending[total - 2..total], b"\r\n", "a chunk ends with CRLF");
        response.body.extend_from_slice(&self.pending[line_end + 2..total - 2]);
        self.pending.drain(..total);
        if size == 0 {
            response.rest = Rest::Done;
        } else {
            response.chunks.push(size);
        }
        size > 0
    }

    fn find_or_fill(&mut self, needle: &[u8], from: usize) -> Option<usize> {
        loop {
            if let Some(at) = find(&self.pending[from..], needle) {
                return Some(from + at);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads the body on until it holds `needle`.
    ///
    /// # Panics
    /// When it ends before.
    pub fn until(&mut self, response: &mut Response, needle: &str) {
        while find(&response.body, needle.as_bytes()).is_none() {
            assert!(self.more(response), "the body ended without {needle:?}: {response:?}");
        }
    }

    /// Reads until the peer closes; what it still sent.
    pub fn until_closed(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.pending)
    }

    /// Reads until something has come, or the peer has closed; what came.
    pub fn until_closed_or_answer(&mut self) -> Vec<u8> {
        let _ = self.fill();
        std::mem::take(&mut self.pending)
    }

    /// Checks that the peer closes without another byte.
    ///
    /// # Panics
    /// When it sends something.
    pub fn expect_closed(&mut self) {
        let rest = self.until_closed();
        assert!(
            rest.is_empty(),
            "bytes before the close: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }

    /// Reads once; false if the connection has ended, in whatever way.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        loop {
            return match self.stream.read(&mut piece) {
                Ok(0) => false,
                Ok(count) => {
                    self.pending.extend_from_slice(&piece[..count]);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let so_far = String::from_utf8_lossy(&self.pending);
                    panic!("nothing came within {PATIENCE:?}; before that: {so_far:?}")
                }
                Err(_) => false,
            };
        }
    }
}

impl Response {
    fn parse(head: String) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let fields: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("not a header field: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let mut response = Self {
            status,
            head,
            fields,
            body: Vec::new(),
            chunks: Vec::new(),
            rest: Rest::Done,
        };
        response.rest = match (response.field("transfer-encoding"), response.field("content-length")) {
            _ if status < 200 || status == 204 || status == 304 => Rest::Done,
            (Some("chunked"), None) => Rest::Chunked,
            (None, Some(length)) => match length.parse().expect("Content-Length is a number") {
                0 => Rest::Done,
                left => Rest::Length(left),
            },
            (None, None) => Rest::UntilClose,
            other => panic!("framing that no gateway may send: {other:?}"),
        };
        response
    }

    /// Whether the body has come to the end that its framing says.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rest == Rest::Done
    }

    /// The value of a field, by its name in lower case.
    ///
    /// # Panics
    /// When there are several.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(own, _)| own == name);
        let value = values.next().map(|(_, value)| &**value);
        assert!(values.next().is_none(), "{name} is there twice: {}", self.head);
        value
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// `error.code` of an error in the OpenAI shape, whose form is checked.
    ///
    /// # Panics
    /// When it is no such error.
    #[must_use]
    pub fn error_code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/json"), "{self:?}");
        assert!(self.field("x-request-id").is_some(), "{self:?}");
        let body = self.json();
        let error = &body["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
        assert!(error.get("param").is_some(), "{body}");
        error["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
    }

    /// The data of the server-sent events in the body, complete ones only.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        let mut events: Vec<&str> = text.split("\n\n").collect();
        events.pop();
        let data = events.into_iter().filter_map(|event| {
            let line = event.lines().find(|line| line.starts_with("data:"))?;
            Some(line["data:".len()..].trim_start().to_owned())
        });
        data.collect()
    }
}

/// Where `needle` begins in `bytes`.
#[must_use]
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
