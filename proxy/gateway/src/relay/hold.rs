//! [`Held`]: the beginning of a stream that is held back, on a route that restarts streams, until enough of it is there.
//!
//! Invariants: without such a route nothing is held back, and asking costs a branch; what is held is bounded by bytes and, as
//! far as anything arrives, by time; the first token counts as heard when it arrives, not when it is sent. Deliberately absent:
//! the bytes (the relay keeps them), and who starts anew (`exchange/forward.rs`: nothing has been sent, so the next target).

use sluice_policy::snapshot::Hold;

use crate::exchange::{Context, Request};

/// How far the beginning of a stream has come.
pub struct Held {
    hold: Option<Hold>,
    /// When its first token came, in milliseconds of the core's clock.
    since_ms: Option<u64>,
}

impl Held {
    /// Nothing has come; `hold` says how much to hold back, if anything.
    pub fn new(hold: Option<Hold>) -> Self {
        Self { hold, since_ms: None }
    }

    /// Whether a first token has come and is held back, or was.
    pub fn has_begun(&self) -> bool {
        self.since_ms.is_some()
    }

    /// The stream has content, `bytes` of which are held: whether it may be sent now.
    pub fn is_enough(&mut self, context: &Context<'_>, request: &mut Request, bytes: usize) -> bool {
        let Some(hold) = self.hold else { return true };
        let now_ms = context.core.clock.tick_ms();
        let since_ms = *self.since_ms.get_or_insert_with(|| {
            request.heard(context.core.clock.now_us());
            now_ms
        });
        bytes >= hold.bytes || now_ms - since_ms >= u64::from(hold.time_ms)
    }

    /// The stream has failed, and the client has seen nothing of it.
    pub fn failed(&self, context: &Context<'_>) {
        if self.has_begun() {
            context.core.meter.restarts.add(1);
        }
    }
}
