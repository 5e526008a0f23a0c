//! The floor for answering without an upstream: reads a request to its end, sends one fixed answer, on io_uring.
//!
//! The end of a request is found by its `Content-Length` alone. Absent on purpose: a parser, deadlines, limits, chunked bodies.

use anyhow::{Context, Result};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use super::ResponderFlags;
use crate::rt;

/// One connection's buffer, in bytes; a request must fit.
const BUFFER_BYTES: usize = 64 * 1024;

/// Serves until killed.
///
/// # Errors
/// When the ring or the listener cannot be had.
pub fn run(flags: &ResponderFlags) -> Result<()> {
    rt::pin(flags.cpu)?;
    // An object, so that a load generator that looks at answers finds one.
    let body = format!("{{\"x\":\"{}\"}}", "x".repeat(flags.body_bytes.saturating_sub(8)));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
    // Shared for as long as the process runs.
    let answer: &'static [u8] = format!("{head}{}\r\n\r\n{body}", body.len()).into_bytes().leak();
    rt::run(async {
        let listener = TcpListener::bind(flags.listen).with_context(|| format!("listen on {}", flags.listen))?;
        rt::announce(listener.local_addr()?);
        loop {
            let (client, _) = listener.accept().await?;
            monoio::spawn(serve(client, answer));
        }
    })
}

async fn serve(mut client: TcpStream, answer: &'static [u8]) {
    if client.set_nodelay(true).is_err() {
        return;
    }
    let mut piece = Vec::with_capacity(BUFFER_BYTES);
    let mut request = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (read, filled) = client.read(piece).await;
        if !matches!(read, Ok(count) if count > 0) {
            return;
        }
        request.extend_from_slice(&filled);
        piece = filled;
        if !is_whole(&request) {
            if request.len() > BUFFER_BYTES {
                return;
            }
            continue;
        }
        request.clear();
        if client.write_all(answer).await.0.is_err() {
            return;
        }
    }
}

/// Whether all of a request is there.
fn is_whole(request: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(request, b"\r\n\r\n") else {
        return false;
    };
    let lower = request[..head].to_ascii_lowercase();
    let length = memchr::memmem::find(&lower, b"content-length:").map_or(0, |at| {
        let rest = &lower[at + "content-length:".len()..];
        let digits = rest
            .iter()
            .skip_while(|byte| **byte == b' ')
            .take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_usize, |length, digit| {
            length.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
        })
    });
    request.len() >= head.saturating_add(4).saturating_add(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_last_byte() {
        let request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..request.len() {
            assert!(!is_whole(&request[..cut]), "{cut}");
        }
        assert!(is_whole(request) && is_whole(b"GET / HTTP/1.1\r\n\r\n"));
    }
}
