//! Waiting for an identical request's answer, and giving it on as it comes.
//!
//! Invariants: who waits has a deadline, and asks for itself after it; a stream that fails after its first byte ends with an error event
//! and without its end, like any other; who leaves gives its place back. Deliberately absent: the request that leads.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use sluice_policy::cache::entry::{Entry, Shape};
use sluice_policy::cache::flight::FlightId;
use sluice_policy::cache::key::Key;
use sluice_policy::snapshot::{Caching, Resolved};
use sluice_wire::chat::Out;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::provider::{Reply, StreamEncoder};

use super::reply::{self, Form, Live};
use crate::cache::flight::{Flight, Read};
use crate::connection::Downstream;
use crate::core::Core;
use crate::exchange::{Context, End, Request};
use crate::net;
use crate::record::CacheUse;
use crate::scratch::Work;

/// A place among those who wait for an answer.
#[must_use = "the place is held only while this lives"]
pub struct Following {
    core: Rc<Core>,
    key: Key,
    id: FlightId,
    flight: Rc<Flight>,
    place: usize,
}

impl Following {
    /// Takes a place.
    pub fn new(core: &Rc<Core>, key: Key, id: FlightId, flight: Rc<Flight>) -> Self {
        Self {
            core: core.clone(),
            key,
            id,
            place: flight.follow(),
            flight,
        }
    }

    async fn read(&self, from: usize, whole: bool) -> Read {
        poll_fn(|context| self.flight.poll_read(self.place, from, whole, context)).await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.flight.leave(self.place);
        self.core.cache.leave(self.key, self.id);
    }
}

/// Waits for the answer and gives it to the client; `false` if there is none to give, and nothing has been sent.
///
/// # Errors
/// When the client is gone, or its stream was cut.
pub async fn wait(
    context: &Context<'_>,
    (caching, resolved): (&Caching, &Resolved<'_>),
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    following: Following,
) -> Result<bool, End> {
    let core = context.core;
    core.meter.cache_waited.add(1);
    // The other may be asked for in another form: then all of it is needed, to be put into this one.
    let whole = !following.flight.streams_to(Form::asked(context).pair());
    let Some(read) = first(context, caching, down, &following, whole).await? else {
        return Ok(false);
    };
    request.record.cache = Some(CacheUse::Hit);
    let bytes = match read {
        Read::Failed => {
            request.record.cache = Some(CacheUse::Miss);
            return Ok(false);
        }
        Read::Landed(entry) => {
            let cost_nano_usd = entry.answer.cost_nano_usd;
            work.payment.hold_stored(context, caching, resolved, cost_nano_usd)?;
            if !reply::write(context, work, request, &entry, None) {
                work.payment.release_stored();
                request.record.cache = Some(CacheUse::Miss);
                return Ok(false);
            }
            work.payment.settle_stored(core);
            note(core, &entry);
            let write_ms = context.plane.snapshot.downstream().write_ms;
            down.send(core, &mut work.parts, write_ms).await?;
            return Ok(true);
        }
        Read::More(bytes) => bytes,
    };
    work.payment.may_follow(context, caching, resolved)?;
    let cost_nano_usd = follow(context, down, work, request, &following, bytes).await?;
    work.payment.followed(context, caching, resolved, cost_nano_usd);
    Ok(true)
}

/// The first of the answer; `None` if it is not there in time.
async fn first(
    context: &Context<'_>,
    caching: &Caching,
    down: &mut Downstream,
    following: &Following,
    whole: bool,
) -> Result<Option<Read>, End> {
    let left_ms = context.limit_at_ms().saturating_sub(context.core.clock.tick_ms());
    let patience_ms = caching.flight_wait_ms.min(left_ms);
    let mut reading = pin!(following.read(0, whole));
    let mut sleep = pin!(net::sleep_ms(patience_ms));
    let either = poll_fn(|task| {
        if let Poll::Ready(read) = reading.as_mut().poll(task) {
            return Poll::Ready(Some(read));
        }
        sleep.as_mut().poll(task).map(|()| None)
    });
    Ok(down.while_present(either).await?)
}

/// Gives a stream on as it comes; says what it cost, in nano-dollars.
async fn follow(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    following: &Following,
    mut bytes: Vec<u8>,
) -> Result<u64, End> {
    let live = Live::begin(context, work, request, None, None);
    let mut sent = 0;
    loop {
        live.write(work, request, &bytes);
        sent += bytes.len();
        live.send(context, down, work).await?;
        match down.while_present(following.read(sent, false)).await? {
            Read::More(more) => bytes = more,
            Read::Landed(entry) if entry.answer.shape != Shape::Whole => {
                live.write(work, request, entry.answer.body.get(sent..).unwrap_or_default());
                live.finish(work);
                note(context.core, &entry);
                live.send(context, down, work).await?;
                return Ok(entry.answer.cost_nano_usd);
            }
            Read::Landed(_) | Read::Failed => {
                request.keep_alive = false;
                live.write(work, request, &interruption(context));
                live.send(context, down, work).await?;
                return Err(End::Interrupted);
            }
        }
    }
}

fn note(core: &Core, entry: &Entry) {
    core.meter.cache_hits_flight.add(1);
    super::note_saved(core, &entry.answer);
}

fn interruption(context: &Context<'_>) -> Vec<u8> {
    let reply = Reply {
        model: "",
        id: "",
        created: 0,
        include_usage: false,
    };
    let error = ApiError::new(
        Code::UpstreamStreamInterrupted,
        "the provider's stream ended before it was complete; what was received is not the whole answer",
    );
    let mut out = Out::default();
    StreamEncoder::new(context.dialect, &reply).interrupt(&error, &mut out);
    out.buf
}
