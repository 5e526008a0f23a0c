//! A minimal HTTP reverse proxy on glommio: the same heads, the same pool and the same bodies as the one on monoio.
//!
//! It exists to put a figure on the choice of runtime.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use super::Flags;
use super::rewrite::{self, Left, Passed};
use crate::rt;

/// Read buffer of one side in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// Most idle upstream connections.
const IDLE_MAX: usize = 4096;

struct Side {
    stream: TcpStream,
    /// Received and not yet passed on: the first `filled` bytes.
    buffer: Vec<u8>,
    filled: usize,
}

impl Side {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true).map_err(|error| anyhow!("{error}"))?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0,
        })
    }

    /// Reads more behind what is held; false at the end of the connection.
    async fn read(&mut self) -> Result<bool> {
        ensure!(self.filled < self.buffer.len(), "a head larger than the buffer");
        let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
        self.filled += count;
        Ok(count > 0)
    }

    fn held(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
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
/// When the executor or the listener cannot be had.
pub fn run(flags: &Flags) -> Result<()> {
    let proxy = Proxy {
        flags: flags.clone(),
        host: flags.upstream.to_string().into_bytes(),
        idle: RefCell::default(),
    };
    let placement = flags.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .make()
        .map_err(|error| anyhow!("glommio: {error}"))?;
    executor.run(accept(Rc::new(proxy)))
}

async fn accept(proxy: Rc<Proxy>) -> Result<()> {
    let listener = TcpListener::bind(proxy.flags.listen)
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("listen on {}", proxy.flags.listen))?;
    rt::announce(listener.local_addr().map_err(|error| anyhow!("{error}"))?);
    loop {
        let client = listener.accept().await.map_err(|error| anyhow!("{error}"))?;
        let proxy = Rc::clone(&proxy);
        // What ends a connection is of no interest here; the generator counts what it did not get.
        glommio::spawn_local(async move { serve(&proxy, Side::new(client)?).await }).detach();
    }
}

async fn serve(proxy: &Proxy, mut client: Side) -> Result<()> {
    let mut out = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let request = loop {
            if let Some(head) = rewrite::request(client.held(), &proxy.host, &mut out)? {
                break head;
            }
            if !client.read().await? {
                return Ok(());
            }
        };
        let pooled = proxy.idle.borrow_mut().pop();
        let mut server = match pooled {
            Some(server) => server,
            None => Side::new(
                TcpStream::connect(proxy.flags.upstream)
                    .await
                    .map_err(|error| anyhow!("{error}"))?,
            )?,
        };
        pass(&mut client, &mut server, request, &mut out).await?;
        let response = loop {
            if let Some(head) = rewrite::response(server.held(), &mut out)? {
                break head;
            }
            if !server.read().await? {
                bail!("the upstream closed before it answered");
            }
        };
        pass(&mut server, &mut client, response, &mut out).await?;
        if !response.close && proxy.idle.borrow().len() < IDLE_MAX {
            proxy.idle.borrow_mut().push(server);
        }
        if request.close {
            return Ok(());
        }
    }
}

/// Passes a message on: the new head in `out`, then the body; leaves `out` empty.
async fn pass(from: &mut Side, to: &mut Side, head: Passed, out: &mut Vec<u8>) -> Result<()> {
    let mut left = Left::new(head.framing);
    let first = left.take(&from.held()[head.len..])?;
    out.extend_from_slice(&from.held()[head.len..head.len + first]);
    from.consume(head.len + first);
    to.stream.write_all(out).await?;
    out.clear();
    while !left.is_done() {
        if !from.read().await? {
            ensure!(matches!(left, Left::All), "cut off inside a body");
            return Ok(());
        }
        let take = left.take(from.held())?;
        to.stream.write_all(&from.held()[..take]).await?;
        from.consume(take);
    }
    Ok(())
}
