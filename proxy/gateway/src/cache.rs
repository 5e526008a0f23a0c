//! The cache of one core: entries, the working memory of a lookup, and the requests in flight that others may wait for.
//!
//! Invariants: all methods are synchronous, so no borrow crosses an await; without configuration there is nothing, and asking costs
//! a comparison; what comes from other cores is taken over on the tick, a bounded number at a time. Deliberately absent: the
//! decision (`sluice_policy::cache`), and what happens around it (`exchange/cached.rs`).

pub mod flight;
pub mod prepare;
pub mod verbatim;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sluice_policy::cache::entry::Entry;
use sluice_policy::cache::flight::{FlightId, Flights, Join};
use sluice_policy::cache::key::{Key, Scope};
use sluice_policy::cache::{Brain, Cache, Controls, Hit, Outcome, Query, Settled, Ticket};
use sluice_policy::meter::CoreMeter;
use sluice_policy::snapshot::Caching;
use sluice_wire::chat::ChatRequest;
use sluice_wire::limits::{CACHE_NEWS_PER_TICK, CACHE_SWEEP_PER_TICK};

use self::flight::Flight;
use self::prepare::{Helper, Prepared};
use self::verbatim::{Requests, Verbatim};
use crate::mesh::{CacheEnd, News, Note};
use crate::plane::CachePlane;

/// The cache of one core.
pub struct CoreCache {
    state: RefCell<Option<Box<State>>>,
    end: RefCell<CacheEnd>,
    /// Notes that there was no room for.
    untold: Cell<u64>,
}

struct State {
    brain: Arc<Brain>,
    cache: Cache,
    query: Query,
    flights: Flights,
    tapes: HashMap<FlightId, Rc<Flight>>,
    requests: Requests,
    helper: Helper,
    /// The last change that was applied.
    change: u64,
    /// How long after its time an answer may still be served.
    stale_ms: u64,
}

/// What is looked for.
pub struct Lookup<'a> {
    /// The request.
    pub request: &'a ChatRequest<'a>,
    /// Tenant, route and context; the epoch is filled in here.
    pub scope: Scope<'a>,
    /// The context as `name=value`.
    pub labels: &'a [Box<str>],
    /// How its route caches.
    pub caching: &'a Caching,
    /// What the client asks.
    pub controls: &'a Controls,
    /// Whether it asks for a stream, and for one that says what was used.
    pub form: (bool, bool),
    /// Whether it may wait for an identical request.
    pub may_wait: bool,
    /// Whether it has frames that may be matched.
    pub has_frames: bool,
    /// What was prepared for it, if anything was.
    pub prepared: Option<&'a Prepared>,
    /// Milliseconds since the epoch.
    pub now_ms: u64,
    /// Any number.
    pub random: u32,
}

/// What was found.
pub enum Looked {
    /// The request is none of the cache's business.
    Bypass,
    /// This answers it.
    Hit(Hit),
    /// It is not answered by itself, and before anything like it is looked for, this is to be prepared: a text's vector, by a service
    /// that is waited for so many milliseconds; and frames.
    Prepare(Option<(Box<str>, u64)>, Helper),
    /// The provider must be asked.
    Ask(Box<Found>),
    /// An identical request is with the provider already.
    Wait(Key, FlightId, Rc<Flight>),
}

/// What is kept of a request that the provider is asked.
pub struct Found {
    /// To make an entry of the answer.
    pub ticket: Ticket,
    /// Its flight, if others may wait for it.
    pub led: Option<(Key, FlightId)>,
    /// Where its answer is written down.
    pub flight: Rc<Flight>,
    /// A match to compare the answer with.
    pub compare: Option<Hit>,
    /// The last change when the request began: what is forgotten meanwhile must not come back with its answer.
    pub change: u64,
}

impl CoreCache {
    /// Nothing, until a plane says otherwise.
    pub fn new(end: CacheEnd) -> Self {
        Self {
            state: RefCell::new(None),
            end: RefCell::new(end),
            untold: Cell::new(0),
        }
    }

    /// Follows a new plane.
    pub fn follow(&self, plane: Option<&CachePlane>) {
        let mut state = self.state.borrow_mut();
        let Some(plane) = plane else {
            // Flights that are under way end by themselves; nobody new joins.
            *state = None;
            return;
        };
        match &mut *state {
            Some(state) => {
                state.cache.set_limits(plane.limits);
                state.stale_ms = plane.stale_ms;
                state.helper = plane.helper.clone();
                state.requests.clear();
            }
            None => {
                *state = Some(Box::new(State {
                    brain: plane.brain.clone(),
                    cache: Cache::new(plane.limits),
                    query: Query::default(),
                    flights: Flights::default(),
                    tapes: HashMap::new(),
                    requests: Requests::new(),
                    helper: plane.helper.clone(),
                    change: plane.change,
                    stale_ms: plane.stale_ms,
                }));
            }
        }
    }

    /// Looks for an answer; `fits` says whether a stored one can be given in the form that the client asks for.
    pub fn look(&self, lookup: &Lookup<'_>, fits: impl Fn(&Entry) -> bool) -> Option<Looked> {
        let mut state = self.state.borrow_mut();
        state.as_mut().map(|state| state.look(lookup, fits))
    }

    /// The answer to a request that was answered before, byte for byte, in this very form.
    pub fn again(
        &self,
        request: &Verbatim<'_>,
        max_age_ms: Option<u64>,
        now_ms: u64,
        fits: impl Fn(&Entry) -> bool,
    ) -> Option<Hit> {
        let mut state = self.state.borrow_mut();
        let state = state.as_mut()?;
        let place = state.requests.find(request)?;
        let hit = state.cache.again(place, max_age_ms, now_ms)?;
        fits(&hit.entry).then_some(hit)
    }

    /// Takes note of what answered a request.
    pub fn note(&self, request: &Verbatim<'_>, key: Key) {
        if let Some(state) = self.state.borrow_mut().as_mut()
            && let Some(id) = state.cache.place(key)
        {
            state.requests.keep(request, (id, key));
        }
    }

    /// Keeps an answer, and tells the other cores; whether it was kept. Nothing that was asked for before a change is.
    pub fn store(&self, entry: Arc<Entry>, change: u64, now_ms: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(state) = state.as_mut().filter(|state| state.change == change) else {
            return false;
        };
        if !state.cache.insert(entry.clone(), now_ms) {
            return false;
        }
        // Without room, the other cores ask the provider for themselves.
        self.tell(Note::Stored(entry, change));
        true
    }

    /// Takes note of a comparison, and tells the other cores.
    pub fn settle(&self, settled: Settled) {
        if let Some(state) = self.state.borrow_mut().as_mut() {
            state.cache.take_note(&settled);
        }
        self.tell(Note::Settled(settled));
    }

    fn tell(&self, note: Note) {
        let told = self.end.borrow_mut().notes.push(note).is_ok();
        self.untold.set(self.untold.get() + u64::from(!told));
    }

    /// Whether two answers agree.
    pub fn agrees(&self, one: &str, other: &str) -> bool {
        let state = self.state.borrow();
        state.as_ref().is_some_and(|state| state.brain.agrees(one, other))
    }

    /// A flight has ended.
    pub fn land(&self, key: Key, id: FlightId) {
        if let Some(state) = self.state.borrow_mut().as_mut() {
            state.flights.land(key, id);
            state.tapes.remove(&id);
        }
    }

    /// Somebody no longer waits for a flight.
    pub fn leave(&self, key: Key, id: FlightId) {
        if let Some(state) = self.state.borrow_mut().as_mut() {
            state.flights.leave(key, id);
        }
    }

    /// Takes over what the control thread says, forgets what has expired, and counts.
    pub fn tick(&self, now_ms: u64, meter: &CoreMeter) {
        let mut state = self.state.borrow_mut();
        let mut end = self.end.borrow_mut();
        for _ in 0..CACHE_NEWS_PER_TICK {
            let Ok(news) = end.news.pop() else { break };
            let Some(state) = state.as_mut() else { continue };
            match news {
                News::Stored(entry) => _ = state.cache.insert(entry, now_ms),
                News::Settled(settled) => state.cache.take_note(&settled),
                News::Restored(snapshot) => {
                    state.cache.restore(&snapshot);
                    state.requests.clear();
                }
                News::Changed(change, number) => {
                    change.apply(&mut state.cache);
                    state.requests.clear();
                    state.change = number;
                    meter.cache_change.set(number);
                }
            }
        }
        if let Some(state) = state.as_mut() {
            state
                .cache
                .sweep(now_ms.saturating_sub(state.stale_ms), CACHE_SWEEP_PER_TICK);
            let size = state.cache.size();
            meter.cache_entries.set(size.entries as u64);
            meter.cache_bytes.set((size.entry_bytes + size.index_bytes) as u64);
            meter.cache_index_bytes.set(size.index_bytes as u64);
            meter.cache_evicted.set(size.evicted);
            meter.cache_flights.set(state.flights.len() as u64);
            meter.cache_notes_dropped.set(self.untold.get());
        }
    }
}

impl State {
    /// Whether a lookup needs something that this core does not do itself.
    fn needs(&self, lookup: &Lookup<'_>) -> bool {
        let caching = lookup.caching;
        let of_meaning = self.helper.embedding.is_some() && caching.by_meaning();
        (of_meaning || lookup.has_frames) && !lookup.controls.exact_only && !lookup.controls.no_lookup
    }

    /// The decision; or, before matches by meaning and by frames are looked for, what they need: a text to be embedded, and how long to
    /// wait for it in milliseconds.
    fn decide(&mut self, lookup: &Lookup<'_>) -> Result<Outcome, Option<(Box<str>, u64)>> {
        let Lookup { caching, controls, .. } = *lookup;
        let first = lookup.prepared.is_none() && self.needs(lookup);
        if let Some(prepared) = lookup.prepared {
            if let Some((embedding, _)) = self.helper.embedding {
                self.query.give_vector(embedding, prepared.vector);
            }
            if let Some(frames) = &prepared.frames {
                self.query.set_frames(&self.brain, frames.clone());
            }
        }
        let narrowed = Controls {
            exact_only: controls.exact_only || first,
            ..*controls
        };
        let outcome = self.cache.lookup(
            &mut self.query,
            &self.brain,
            &caching.rules,
            &narrowed,
            lookup.now_ms,
            lookup.random,
        );
        if first && matches!(outcome, Outcome::Miss(_)) {
            let text = self.helper.embedding.and_then(|(_, wait_ms)| {
                let text = self.query.text().filter(|_| caching.by_meaning())?;
                Some((text.into(), wait_ms))
            });
            return Err(text);
        }
        Ok(outcome)
    }

    fn look(&mut self, lookup: &Lookup<'_>, fits: impl Fn(&Entry) -> bool) -> Looked {
        let Lookup {
            request,
            caching,
            controls,
            now_ms,
            ..
        } = *lookup;
        let epoch = self
            .cache
            .epoch(lookup.scope.tenant, lookup.labels.iter().map(|label| &**label));
        let scope = Scope { epoch, ..lookup.scope };
        if self
            .query
            .prepare(request, &scope, &caching.eligible, &self.brain)
            .is_err()
        {
            return Looked::Bypass;
        }
        let outcome = match self.decide(lookup) {
            Ok(outcome) => outcome,
            Err(text) => return Looked::Prepare(text, self.helper.clone()),
        };
        let (compare, stale) = match outcome {
            Outcome::Hit(hit) if !fits(&hit.entry) => (None, None),
            // One in so many is answered by the provider all the same, and compared.
            Outcome::Hit(hit) if hit.is_audited => (Some(hit), None),
            Outcome::Hit(hit) if hit.is_stale => (None, Some(hit)),
            Outcome::Hit(hit) => return Looked::Hit(hit),
            Outcome::Shadow(hit) => (Some(hit), None),
            Outcome::Miss(_) => (None, None),
        };
        // Before anything else is prepared in the same memory.
        let ticket = if caching.by_meaning() && !controls.exact_only {
            self.query.ticket(&self.brain)
        } else {
            self.query.exact_ticket()
        };
        let Some(ticket) = ticket else {
            return Looked::Bypass;
        };
        let key = ticket.key();
        let join = if lookup.may_wait {
            self.flights.join(key, now_ms, caching.flight_wait_ms)
        } else {
            Join::Alone
        };
        let led = match (join, stale) {
            (Join::Lead(id), _) => Some((key, id)),
            // Another request fetches a new answer: this one is good enough meanwhile.
            (Join::Wait(id), Some(hit)) => {
                self.flights.leave(key, id);
                return Looked::Hit(hit);
            }
            (Join::Alone, Some(hit)) if lookup.may_wait => return Looked::Hit(hit),
            (Join::Wait(id), None) => match self.tapes.get(&id) {
                Some(flight) => return Looked::Wait(key, id, flight.clone()),
                None => None,
            },
            (Join::Alone, _) => None,
        };
        let flight = Rc::new(Flight::new(lookup.form));
        if let Some((_, id)) = led {
            self.tapes.insert(id, flight.clone());
        }
        Looked::Ask(Box::new(Found {
            ticket,
            led,
            flight,
            compare,
            change: self.change,
        }))
    }
}
