//! The floor of answering without an upstream: a bare io_uring HTTP responder with one pre-rendered answer.
//!
//! It reads a head, skips the body to its end, then writes the same bytes each time. Absent on purpose: routing, streams, any
//! look at the request beyond its framing. Also the upstream of a trial run when nothing better is at hand.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use crate::h1::{self, Framing};
use crate::rt;

/// Room for one head and what comes with it, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// The flags of the responder.
#[derive(Debug, Clone, clap::Parser)]
pub struct Flags {
    /// Address to listen on; port 0 lets the kernel choose, and the choice is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Core to pin to.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Bytes of the answer's body.
    #[arg(long, default_value_t = 700)]
    pub bytes: usize,
}

/// Serves until killed.
///
/// # Errors
/// When the ring or the listener cannot be had.
pub fn run(flags: &Flags) -> Result<()> {
    rt::pin(flags.cpu)?;
    rt::run(async {
        let listener = TcpListener::bind(flags.listen).with_context(|| format!("listen on {}", flags.listen))?;
        rt::announce(listener.local_addr()?);
        let answer: &'static [u8] = answer(flags.bytes).leak();
        loop {
            let (client, _) = listener.accept().await?;
            monoio::spawn(serve(client, answer));
        }
    })
}

/// A JSON string answer whose body is `bytes` long (at least 12).
fn answer(bytes: usize) -> Vec<u8> {
    let body = format!("{{\"content\":\"{}\"}}", "x".repeat(bytes.saturating_sub(14)));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

async fn serve(mut client: TcpStream, answer: &'static [u8]) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    // Bytes of the current request's body still to come; `None` between requests.
    let mut skip: Option<u64> = None;
    if client.set_nodelay(true).is_err() {
        return;
    }
    loop {
        if let Some(left) = skip {
            let skipped = left.min(buffer.len() as u64);
            buffer.drain(..skipped as usize);
            skip = Some(left - skipped);
            if left == skipped {
                skip = None;
                if client.write_all(answer).await.0.is_err() {
                    return;
                }
            }
        }
        if skip.is_none() {
            let Ok(head) = h1::request_head(&buffer) else { return };
            if let Some(head) = head {
                let Framing::Length(length) = head.framing else { return };
                buffer.drain(..head.len);
                skip = Some(length);
                continue;
            }
        }
        let filled = buffer.len();
        let (read, slice) = client.read(buffer.slice_mut(filled..)).await;
        buffer = slice.into_inner();
        if !matches!(read, Ok(n) if n > 0) {
            return;
        }
    }
}
