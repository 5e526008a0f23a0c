//! [`Table`]: from the digest of a credential to whose it is.
//!
//! Invariants: a key is one cache line, found by the first bytes of its digest, which are as good as random, and at most a few
//! lines behind; more than a third of the places stay free; of two keys with one digest the first holds.
//! Deliberately absent: removal.

use super::{Caller, Digest, ScopeId};

/// All keys.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: Box<[Option<Card>]>,
    len: usize,
}

/// One credential.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Card {
    digest: Digest,
    /// The second from which on it does not hold.
    pub until_s: u64,
    key: ScopeId,
    team: Option<Scoped>,
    customer: Option<Scoped>,
    /// It, its team or its customer is disabled.
    pub disabled: bool,
}

const _: () = assert!(size_of::<Option<Card>>() == 64);

/// A scope's number and one, so that none takes no room.
type Scoped = std::num::NonZeroU32;

impl Card {
    pub fn new(digest: Digest, caller: Caller, until_s: u64, disabled: bool) -> Self {
        let scoped = |id: Option<ScopeId>| id.and_then(|id| Scoped::new(id.0.saturating_add(1)));
        Self {
            digest,
            until_s,
            key: caller.key,
            team: scoped(caller.team),
            customer: scoped(caller.customer),
            disabled,
        }
    }

    pub fn caller(&self) -> Caller {
        let id = |scoped: Option<Scoped>| scoped.map(|scoped| ScopeId(scoped.get() - 1));
        Caller {
            key: self.key,
            team: id(self.team),
            customer: id(self.customer),
        }
    }
}

impl Table {
    /// A table of these cards.
    pub fn new(cards: Vec<Card>) -> Self {
        let places = (cards.len() + cards.len() / 2 + 1).next_power_of_two();
        let mut table = Self {
            places: vec![None; places].into(),
            len: 0,
        };
        for card in cards {
            let at = table.place(&card.digest);
            if let Some(place @ None) = table.places.get_mut(at) {
                *place = Some(card);
                table.len += 1;
            }
        }
        table
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn find(&self, digest: &Digest) -> Option<&Card> {
        self.places.get(self.place(digest))?.as_ref()
    }

    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.places.iter().flatten().map(|card| &card.digest)
    }

    /// Where the digest stands, or would.
    fn place(&self, digest: &Digest) -> usize {
        let mask = self.places.len().wrapping_sub(1);
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        let mut at = u64::from_le_bytes([a, b, c, d, e, f, g, h]) as usize & mask;
        // There are free places: this ends.
        while let Some(Some(card)) = self.places.get(at)
            && card.digest != *digest
        {
            at = (at + 1) & mask;
        }
        at
    }
}
