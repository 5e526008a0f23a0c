//! Requests that were answered before, byte for byte as they came: the same bytes are answered again without being read.
//!
//! Invariants: a request is the same only if its body is compared byte by byte, and if tenant, dialect and the route's compiled
//! rules are the same as well, so that reading it would lead to the same key; only a request that says nothing else about the
//! cache comes here. It names an entry and holds none: whoever finds it asks whether the entry is still there. Everything is
//! forgotten with a new configuration and with every purge, bump and restart. Memory: [`CACHE_VERBATIM_SLOTS`] bodies of at most
//! [`CACHE_VERBATIM_BYTES_MAX`] bytes. Deliberately absent: any defence against crafted collisions, which cost a place and no more.

use std::hash::BuildHasher;
use std::sync::Arc;

use sluice_policy::cache::index::EntryId;
use sluice_policy::cache::key::Key;
use sluice_policy::snapshot::Caching;
use sluice_wire::dialect::Dialect;
use sluice_wire::limits::{CACHE_VERBATIM_BYTES_MAX, CACHE_VERBATIM_SLOTS};

/// A request as it came.
#[derive(Clone, Copy)]
pub struct Verbatim<'a> {
    /// How its route caches.
    pub caching: &'a Arc<Caching>,
    /// Whose answers it may share.
    pub tenant: &'a str,
    /// The dialect that it is read in.
    pub dialect: Dialect,
    /// Its body.
    pub body: &'a [u8],
}

struct Slot {
    digest: u64,
    caching: Arc<Caching>,
    tenant: Box<str>,
    dialect: Dialect,
    body: Vec<u8>,
    place: (EntryId, Key),
}

/// The requests.
#[derive(Default)]
pub struct Requests {
    slots: Vec<Option<Slot>>,
    seed: foldhash::fast::RandomState,
}

impl Requests {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the entry is that answered the same request, if it is still there.
    pub fn find(&self, request: &Verbatim<'_>) -> Option<(EntryId, Key)> {
        if self.slots.is_empty() {
            return None;
        }
        let digest = self.seed.hash_one(request.body);
        let slot = self.slots[digest as usize % CACHE_VERBATIM_SLOTS].as_ref()?;
        let same = slot.digest == digest
            && Arc::ptr_eq(&slot.caching, request.caching)
            && slot.dialect == request.dialect
            && *slot.tenant == *request.tenant
            && slot.body == request.body;
        same.then_some(slot.place)
    }

    /// Takes note of what answered a request; another one may lose its place.
    pub fn keep(&mut self, request: &Verbatim<'_>, place: (EntryId, Key)) {
        if request.body.len() > CACHE_VERBATIM_BYTES_MAX {
            return;
        }
        self.slots.resize_with(CACHE_VERBATIM_SLOTS, || None);
        let digest = self.seed.hash_one(request.body);
        let slot = &mut self.slots[digest as usize % CACHE_VERBATIM_SLOTS];
        let mut body = slot.take().map(|slot| slot.body).unwrap_or_default();
        body.clear();
        body.extend_from_slice(request.body);
        *slot = Some(Slot {
            digest,
            caching: request.caching.clone(),
            tenant: request.tenant.into(),
            dialect: request.dialect,
            body,
            place,
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caching() -> Arc<Caching> {
        let yaml = "providers: {p: {dialect: openai, base_url: \"http://a.test\", auth: none}}\ncache: {default: {mode: exact}}";
        let config = sluice_policy::config::load(yaml, "test.yaml").unwrap();
        let snapshot = sluice_policy::snapshot::Snapshot::compile(&config, 1, &|_| Ok(None)).0;
        let resolved = snapshot.resolve_for("p/m", Dialect::OpenAi).unwrap();
        snapshot.caching(&resolved).unwrap().clone()
    }

    #[test]
    fn only_the_very_same_request_is_found() {
        let (caching, other) = (caching(), caching());
        let body: Vec<u8> = (0..1_000_u32).map(|at| at as u8).collect();
        let request = Verbatim {
            caching: &caching,
            tenant: "plant",
            dialect: Dialect::OpenAi,
            body: &body,
        };
        let mut requests = Requests::new();
        assert_eq!(requests.find(&request), None);
        let place = (7, Key([1; 32]));
        requests.keep(&request, place);
        assert_eq!(requests.find(&request), Some(place));
        for at in 0..body.len() {
            let mut body = body.clone();
            body[at] ^= 1;
            assert_eq!(requests.find(&Verbatim { body: &body, ..request }), None, "{at}");
            assert_eq!(
                requests.find(&Verbatim {
                    body: &body[..at],
                    ..request
                }),
                None,
                "{at}"
            );
        }
        let tenant = "plant2";
        assert_eq!(requests.find(&Verbatim { tenant, ..request }), None);
        let dialect = Dialect::Anthropic;
        assert_eq!(requests.find(&Verbatim { dialect, ..request }), None);
        assert_eq!(
            requests.find(&Verbatim {
                caching: &other,
                ..request
            }),
            None
        );
        requests.clear();
        assert_eq!(requests.find(&request), None);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let (caching, body) = (caching(), vec![b'x'; CACHE_VERBATIM_BYTES_MAX + 1]);
        let request = |len| Verbatim {
            caching: &caching,
            tenant: "",
            dialect: Dialect::OpenAi,
            body: &body[..len],
        };
        let mut requests = Requests::new();
        requests.keep(&request(body.len()), (0, Key([0; 32])));
        assert_eq!(requests.find(&request(body.len())), None);
        requests.keep(&request(CACHE_VERBATIM_BYTES_MAX), (0, Key([0; 32])));
        assert!(requests.find(&request(CACHE_VERBATIM_BYTES_MAX)).is_some());
    }
}
