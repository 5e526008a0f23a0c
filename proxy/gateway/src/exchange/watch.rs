//! [`Watch`]: that no request goes without a record, not even one that a drain's deadline cuts.
//!
//! Invariants: a request that is dropped in the middle, with its core's runtime, is charged what it holds, counted and recorded as
//! interrupted. Deliberately absent: answers, which nobody would get.

use std::rc::Rc;

use super::{Request, count};
use crate::core::Core;
use crate::record::{Outcome, Record};
use crate::scratch::{Asked, Scratch, Work};

/// Sees to it that a request is charged and recorded that is cut because its core ends.
pub(super) struct Watch<'a> {
    core: &'a Rc<Core>,
    pub scratch: &'a mut Scratch,
    pub request: &'a mut Request,
    is_over: bool,
}

impl<'a> Watch<'a> {
    /// Watches over a request from its begin.
    pub fn new(core: &'a Rc<Core>, scratch: &'a mut Scratch, request: &'a mut Request) -> Self {
        Self {
            core,
            scratch,
            request,
            is_over: false,
        }
    }

    /// The request is over, and somebody else records it.
    pub fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (core, Scratch { asked, work }) = (self.core, &mut *self.scratch);
        self.request.ticket = None;
        self.request.record.outcome = Outcome::Interrupted;
        self.request.record.total_us = self.request.since(core);
        record(core, &self.request.record, work, asked);
    }
}

/// Charges what is still to be charged, counts the request, and leaves its record.
pub(super) fn record(core: &Core, record: &Record, work: &mut Work, asked: &Asked) {
    work.payment.close(core);
    count::request(core, record, &work.payment);
    match work.payment.paid(asked) {
        Some(paid) => core.record_paid(*record, paid),
        None => core.record(*record),
    }
}
