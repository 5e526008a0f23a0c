//! A minimal HTTP reverse proxy on monoio: heads parsed and rebuilt, bodies passed on, a pool of upstream connections.
//!
//! A head and the first part of its body leave in one write, from one buffer: at these sizes copying is cheaper than a
//! second iovec. The rest of a body goes out of the buffer it came in. The pool is last in, first out.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use super::Flags;
use super::rewrite::{self, Left, Passed};
use crate::rt;

/// Read buffer of one side in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// Most idle upstream connections.
const IDLE_MAX: usize = 4096;

struct Side {
    stream: TcpStream,
    /// Received and not yet passed on.
    held: Vec<u8>,
}

impl Side {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            held: Vec::with_capacity(BUFFER_BYTES),
        })
    }

    /// Reads more behind what is held; false at the end of the connection.
    async fn read(&mut self) -> Result<bool> {
        let held = std::mem::take(&mut self.held);
        let filled = held.len();
        ensure!(filled < held.capacity(), "a head larger than the buffer");
        let (read, slice) = self.stream.read(held.slice_mut(filled..)).await;
        self.held = slice.into_inner();
        Ok(read? > 0)
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let (written, mut bytes) = self.stream.write_all(bytes).await;
        written?;
        bytes.clear();
        Ok(bytes)
    }
}

struct Proxy {
    flags: Flags,
    host: Vec<u8>,
    idle: RefCell<Vec<Side>>,
}

/// Serves until killed.
///
/// # Errors
/// When the ring or the listener cannot be had.
pub fn run(flags: &Flags) -> Result<()> {
    rt::pin(flags.cpu)?;
    let proxy = Proxy {
        flags: flags.clone(),
        host: flags.upstream.to_string().into_bytes(),
        idle: RefCell::default(),
    };
    let proxy = Rc::new(proxy);
    rt::run(async {
        let listener = TcpListener::bind(flags.listen).with_context(|| format!("listen on {}", flags.listen))?;
        rt::announce(listener.local_addr()?);
        loop {
            let (client, _) = listener.accept().await?;
            let proxy = Rc::clone(&proxy);
            // What ends a connection is of no interest here; the generator counts what it did not get.
            monoio::spawn(async move { serve(&proxy, Side::new(client)?).await });
        }
    })
}

async fn serve(proxy: &Proxy, mut client: Side) -> Result<()> {
    let mut out = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let request = loop {
            if let Some(head) = rewrite::request(&client.held, &proxy.host, &mut out)? {
                break head;
            }
            if !client.read().await? {
                return Ok(());
            }
        };
        let pooled = proxy.idle.borrow_mut().pop();
        let mut server = match pooled {
            Some(server) => server,
            None => Side::new(TcpStream::connect_addr(proxy.flags.upstream).await?)?,
        };
        out = pass(&mut client, &mut server, request, out).await?;
        let response = loop {
            if let Some(head) = rewrite::response(&server.held, &mut out)? {
                break head;
            }
            if !server.read().await? {
                bail!("the upstream closed before it answered");
            }
        };
        out = pass(&mut server, &mut client, response, out).await?;
        if !response.close && proxy.idle.borrow().len() < IDLE_MAX {
            proxy.idle.borrow_mut().push(server);
        }
        if request.close {
            return Ok(());
        }
    }
}

/// Passes a message on: the new head in `out`, then the body; returns `out`, empty.
async fn pass(from: &mut Side, to: &mut Side, head: Passed, mut out: Vec<u8>) -> Result<Vec<u8>> {
    let mut left = Left::new(head.framing);
    let first = left.take(&from.held[head.len..])?;
    out.extend_from_slice(&from.held[head.len..head.len + first]);
    from.held.drain(..head.len + first);
    out = to.write(out).await?;
    while !left.is_done() {
        if !from.read().await? {
            ensure!(matches!(left, Left::All), "cut off inside a body");
            return Ok(out);
        }
        let take = left.take(&from.held)?;
        ensure!(
            take == from.held.len(),
            "pipelined bytes behind a body are not supported"
        );
        from.held = to.write(std::mem::take(&mut from.held)).await?;
    }
    Ok(out)
}
