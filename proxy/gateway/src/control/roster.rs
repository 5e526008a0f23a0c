//! [`Roster`]: what one core's records are about, as the log and the ledger want it.
//!
//! Invariants: a slot holds what the core has put there as of the record that is being read; what can be derived from names
//! alone is derived when they are introduced, not with each record. Deliberately absent: how slots are chosen (`record/names.rs`).

use sluice_wire::error::write_utf8;

use super::accounts::Office;
use super::admin::spent::{Row, Spent};
use super::log::RequestLog;
use crate::mesh::ReportsEnd;
use crate::record::{Names, Record};

/// What the records of one core are about.
#[derive(Default)]
pub struct Roster {
    core: u16,
    slots: Vec<Named>,
}

/// What records are about.
pub struct Named {
    /// The texts.
    pub names: Names,
    /// They, and the core, as members of a JSON object, each with a comma before it.
    pub members: Vec<u8>,
    /// Where their times are added up.
    pub row: Row,
}

impl Roster {
    /// That of the core with this number.
    pub fn of(core: usize) -> Self {
        Self {
            core: core as u16,
            slots: Vec::new(),
        }
    }

    /// Takes what the core has reported since, and gives it to those whom it concerns.
    pub fn read(
        &mut self,
        end: &mut ReportsEnd,
        spent: &mut Spent,
        log: &mut RequestLog,
        mut office: Option<&mut Office>,
    ) {
        let Ok(chunk) = end.records.read_chunk(end.records.slots()) else {
            return;
        };
        let (first, rest) = chunk.as_slices();
        for record in first.iter().chain(rest) {
            let names = if record.named { end.names.pop().ok() } else { None };
            let paid = if record.paid { end.paid.pop().ok() } else { None };
            let extra = if record.extra { end.extras.pop().ok() } else { None };
            let named = self.named(record, names, spent);
            spent.add(named.row, record);
            log.add(record, named, paid.as_ref(), extra.as_deref());
            if let (Some(paid), Some(office)) = (&paid, &mut office) {
                office.enter(record, &named.names, paid, extra.as_deref());
            }
        }
        chunk.commit_all();
    }

    /// What a record is about: what stands in its slot, or the names that came with it, which stand there from now on.
    fn named(&mut self, record: &Record, names: Option<Names>, spent: &mut Spent) -> &Named {
        let slot = usize::from(record.names);
        if slot >= self.slots.len() {
            let core = self.core;
            let nothing = || Named::of(core, Names::default(), &mut Spent::default());
            self.slots.resize_with(slot + 1, nothing);
        }
        if let Some(names) = names {
            self.slots[slot] = Named::of(self.core, names, spent);
        }
        &self.slots[slot]
    }
}

impl Named {
    /// What is to be known of these names.
    pub fn of(core: u16, names: Names, spent: &mut Spent) -> Self {
        let mut members = Vec::new();
        let texts: [(&[u8], &str); 6] = [
            (b",\"method\":", names.method()),
            (b",\"path\":", names.path()),
            (b",\"model\":", names.model()),
            (b",\"route\":", names.route()),
            (b",\"provider\":", names.provider()),
            (b",\"key\":", names.key()),
        ];
        for (name, text) in texts {
            if !text.is_empty() {
                members.extend_from_slice(name);
                write_utf8(text.as_bytes(), &mut members);
            }
        }
        members.extend_from_slice(b",\"core\":");
        members.extend_from_slice(itoa::Buffer::new().format(core).as_bytes());
        Self {
            row: spent.row(names.provider()),
            names,
            members,
        }
    }
}
