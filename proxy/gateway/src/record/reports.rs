//! [`Reports`]: a core's end of the rings by which the control thread learns of requests.
//!
//! Invariants: a record is in its ring only with all that goes with it in the others, in the same order; without room it is
//! dropped whole, and nothing is changed. Deliberately absent: waiting, and who counts what was dropped (`core.rs`).

use rtrb::{Producer, RingBuffer};
use sluice_wire::limits::RING_ENTRIES;

use super::{Extra, Introduced, Names, Paid, Record};
use crate::mesh::ReportsEnd;

/// A core's end of the rings.
pub struct Reports {
    records: Producer<Record>,
    names: Producer<Names>,
    paid: Producer<Paid>,
    extras: Producer<Box<Extra>>,
    introduced: Introduced,
}

impl Reports {
    /// The rings of one core.
    pub fn rings() -> (Self, ReportsEnd) {
        let (records, records_end) = RingBuffer::new(RING_ENTRIES);
        let (names, names_end) = RingBuffer::new(RING_ENTRIES);
        let (paid, paid_end) = RingBuffer::new(RING_ENTRIES);
        let (extras, extras_end) = RingBuffer::new(RING_ENTRIES);
        let core = Self {
            records,
            names,
            paid,
            extras,
            introduced: Introduced::default(),
        };
        let control = ReportsEnd {
            records: records_end,
            names: names_end,
            paid: paid_end,
            extras: extras_end,
        };
        (core, control)
    }

    /// Sends a record with what goes with it; false if there is no room.
    pub fn send(&mut self, mut record: Record, names: &Names, paid: Option<Paid>, extra: Option<Box<Extra>>) -> bool {
        // What goes with records is taken out of its ring before they are, so there is room for it if there is for them.
        if self.records.is_full() {
            return false;
        }
        (record.names, record.named) = self.introduced.place(names);
        if record.named {
            record.named = self.names.push(names.clone()).is_ok();
        }
        if let Some(paid) = paid {
            record.paid = self.paid.push(paid).is_ok();
        }
        if let Some(extra) = extra {
            record.extra = self.extras.push(extra).is_ok();
        }
        self.records.push(record).is_ok()
    }
}
