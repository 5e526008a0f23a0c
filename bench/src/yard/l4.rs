//! The floor: bytes in, the same bytes out, one upstream connection per client connection, nothing parsed.
//!
//! Two tasks per connection, one per direction, each with one buffer that lives as long as the connection. A half that
//! ends is passed on as a half-close. Absent on purpose: deadlines, limits, any look at the bytes.

use anyhow::{Context, Result};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::{TcpListener, TcpStream};

use super::Flags;
use crate::rt;

/// One direction's buffer in bytes: measured the cheapest for 1 MB bodies, and no dearer than less for small ones.
const BUFFER_BYTES: usize = 256 * 1024;

/// Serves until killed.
///
/// # Errors
/// When the ring or the listener cannot be had.
pub fn run(flags: &Flags) -> Result<()> {
    rt::pin(flags.cpu)?;
    rt::run(async {
        let listener = TcpListener::bind(flags.listen).with_context(|| format!("listen on {}", flags.listen))?;
        rt::announce(listener.local_addr()?);
        let upstream = flags.upstream;
        loop {
            let (client, _) = listener.accept().await?;
            monoio::spawn(async move {
                // A failed connect or copy ends this connection; the generator counts it as a failure.
                if let Ok(server) = TcpStream::connect_addr(upstream).await {
                    join(client, server);
                }
            });
        }
    })
}

fn join(client: TcpStream, server: TcpStream) {
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    monoio::spawn(copy(client_read, server_write));
    monoio::spawn(copy(server_read, client_write));
}

async fn copy(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRent) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (read, filled) = from.read(buffer).await;
        if !matches!(read, Ok(n) if n > 0) {
            break;
        }
        let (written, emptied) = to.write_all(filled).await;
        if written.is_err() {
            break;
        }
        buffer = emptied;
    }
    // The peer may be gone already; there is nobody left to tell.
    let _ = to.shutdown().await;
}
