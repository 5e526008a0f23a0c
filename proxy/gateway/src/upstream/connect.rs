//! Connecting to the first address that answers, in the spirit of RFC 8305 (happy eyeballs): the addresses come in the
//! order in which to try them, and the next one starts when the one before failed or kept silent for [`STAGGER_MS`].
//!
//! Invariants: every attempt ends by the deadline; the losers are closed. Deliberately absent: resolution and sorting
//! (the control thread's work).

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::core::Core;
use crate::net::{self, Stream};
use crate::plane::OriginRuntime;

/// How long an address may keep silent before the next one is tried beside it, in milliseconds (RFC 8305 §5).
const STAGGER_MS: u64 = 250;

/// Connects to one of the origin's addresses before `deadline_ms` of the core's clock.
///
/// # Errors
/// The last error, if every address failed.
pub async fn race(core: &Rc<Core>, origin: &OriginRuntime, deadline_ms: u64) -> io::Result<Stream> {
    let tag = |socket: BorrowedFd<'_>| {
        if let Some(tagger) = &origin.tagger {
            tagger.tag(socket);
        }
    };
    let mut running = FuturesUnordered::new();
    let mut waiting = origin.addresses.iter();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(&address) => running.push(net::connect(address, &core.net, tag, move |deadline| {
                deadline.set(deadline_ms)
            })),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let patience = (!waiting.as_slice().is_empty()).then_some(STAGGER_MS);
        match next_result(&mut running, patience).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => {}
        }
    }
}

/// The next attempt that ends; `None` if the patience ends first, or if there is nothing to wait for.
async fn next_result<F>(running: &mut FuturesUnordered<F>, patience_ms: Option<u64>) -> Option<io::Result<Stream>>
where
    F: Future<Output = io::Result<Stream>>,
{
    let Some(patience_ms) = patience_ms else {
        return running.next().await;
    };
    let mut timer = pin!(net::sleep_ms(patience_ms));
    std::future::poll_fn(|context| match running.poll_next_unpin(context) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => timer.as_mut().poll(context).map(|()| None),
    })
    .await
}
