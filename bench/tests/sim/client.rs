//! A client that shows everything: raw bytes, how the connection ended, and both framings taken off.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use sluice_bench::sim::{self, SimHandle, SimOptions};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An orderly FIN.
    Eof,
    /// A reset.
    Reset,
    /// Nothing more within the client's patience.
    Silence,
}

/// A response as it came.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Payloads of the chunks, when it was chunked.
    pub chunks: Vec<Vec<u8>>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(held, _)| held.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The `data:` lines of an SSE body.
    pub fn data(&self) -> Vec<String> {
        self.text()
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(str::to_owned)
            .collect()
    }

    /// The `event:` lines of an SSE body.
    pub fn events(&self) -> Vec<String> {
        self.text()
            .lines()
            .filter_map(|line| line.strip_prefix("event: "))
            .map(str::to_owned)
            .collect()
    }
}

pub fn start() -> SimHandle {
    sim::spawn(&SimOptions::default()).expect("the simulator starts")
}

/// A request with the headers that every dialect accepts.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    {
        head.push_str("Authorization: Bearer sk-test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// A client connection.
pub struct Client {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Client {
    pub fn new(sim: &SimHandle) -> Self {
        let stream = TcpStream::connect(sim.addr).expect("the simulator listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// How long to wait before a stall is a stall.
    pub fn patience(self, wait: Duration) -> Self {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        self
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the simulator reads");
    }

    /// Reads once more; `Some` when that is not possible.
    fn fill(&mut self) -> Option<End> {
        let mut piece = [0u8; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => Some(End::Eof),
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                None
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => Some(End::Reset),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Some(End::Silence),
                kind => panic!("unexpected {kind}"),
            },
        }
    }

    /// Reads until `count` times `needle` have come.
    pub fn until(&mut self, needle: &str, count: usize) {
        while String::from_utf8_lossy(&self.buffer).matches(needle).count() < count {
            assert_eq!(self.fill(), None);
        }
    }

    /// Everything until the connection ends or falls silent.
    pub fn drain(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Some(end) = self.fill() {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    /// One whole response; panics when it ends early.
    pub fn receive(&mut self) -> Response {
        self.try_receive()
            .unwrap_or_else(|end| panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.buffer)))
    }

    pub fn try_receive(&mut self) -> Result<Response, End> {
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if let Some(end) = self.fill() {
                return Err(end);
            }
        };
        let head = String::from_utf8(self.buffer.drain(..head_end).collect()).expect("an ASCII head");
        let status = head[9..12].parse().expect("a status");
        let mut response = Response {
            status,
            head,
            body: Vec::new(),
            chunks: Vec::new(),
        };
        if status < 200 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                response.body.extend_from_slice(&chunk);
                response.chunks.push(chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().expect("a length");
            response.body = self.take(length)?;
        } else {
            let (body, end) = self.drain();
            assert_eq!(end, End::Eof);
            response.body = body;
        }
        Ok(response)
    }

    fn chunk(&mut self) -> Result<Option<Vec<u8>>, End> {
        let line_end = loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                break at;
            }
            if let Some(end) = self.fill() {
                return Err(end);
            }
        };
        let line = self.take(line_end + 2)?;
        let size = usize::from_str_radix(std::str::from_utf8(&line[..line_end]).unwrap(), 16).expect("a chunk size");
        let data = self.take(size)?;
        assert_eq!(self.take(2)?, b"\r\n");
        Ok((size > 0).then_some(data))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < count {
            if let Some(end) = self.fill() {
                return Err(end);
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }
}

/// One request on a connection of its own.
pub fn call(sim: &SimHandle, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut client = Client::new(sim);
    client.send(&request(method, target, headers, body));
    client.receive()
}

/// An OpenAI chat request for `model`.
pub fn chat(model: &str, stream: bool) -> Vec<u8> {
    let body = format!(
        "{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"stream\":{stream}}}"
    );
    request("POST", "/v1/chat/completions", &[], body.as_bytes())
}

/// Sends a chat request and reads until the connection ends or falls silent.
pub fn raw(sim: &SimHandle, model: &str, stream: bool) -> (Vec<u8>, End) {
    let mut client = Client::new(sim).patience(Duration::from_millis(300));
    client.send(&chat(model, stream));
    client.drain()
}

/// A page of the simulator.
pub fn page(sim: &SimHandle, path: &str) -> Value {
    call(sim, "GET", path, &[], b"").json()
}
