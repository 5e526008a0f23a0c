//! Single flight: of identical requests, the first asks the provider and the others wait for its answer.
//!
//! ```text
//!             join                  land
//!   (none) ─────────► in flight ────────────► (none), waiters are told
//!                      │   ▲  join: one more waiter
//!                      │   └───┘
//!                      └── deadline passed, join: the newcomer leads a new flight; the old one lands for nobody
//! ```
//! Invariants: a flight has one leader; whoever waits has a deadline, and asks for itself after it; both numbers are bounded.
//! Deliberately absent: waiting itself, and the answers; the caller owns both.

use std::collections::HashMap;

use sluice_wire::limits::{CACHE_FLIGHTS_MAX, CACHE_WAITERS_MAX};

use super::key::Key;

/// One provider call that others may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlightId(u64);

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// It asks the provider, and lands the flight.
    Lead(FlightId),
    /// It waits for this flight, until the deadline.
    Wait(FlightId),
    /// It asks the provider for itself: there are too many flights, or too many that wait.
    Alone,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    id: FlightId,
    deadline_ms: u64,
    waiters: u32,
}

/// The flights of one core.
#[derive(Debug, Default)]
pub struct Flights {
    flights: HashMap<Key, Flight>,
    last: u64,
}

impl Flights {
    /// Takes part in the flight of a key. Those that come after `wait_ms` start another.
    pub fn join(&mut self, key: Key, now_ms: u64, wait_ms: u64) -> Join {
        if let Some(flight) = self.flights.get_mut(&key)
            && now_ms < flight.deadline_ms
        {
            if flight.waiters >= CACHE_WAITERS_MAX {
                return Join::Alone;
            }
            flight.waiters += 1;
            return Join::Wait(flight.id);
        }
        if self.flights.len() >= CACHE_FLIGHTS_MAX && !self.flights.contains_key(&key) {
            self.flights.retain(|_, flight| now_ms < flight.deadline_ms);
            if self.flights.len() >= CACHE_FLIGHTS_MAX {
                return Join::Alone;
            }
        }
        self.last += 1;
        let flight = Flight {
            id: FlightId(self.last),
            deadline_ms: now_ms.saturating_add(wait_ms),
            waiters: 0,
        };
        self.flights.insert(key, flight);
        Join::Lead(flight.id)
    }

    /// Ends a flight, however it went, and says how many wait for it. Must be called by every leader, also when its client is gone.
    pub fn land(&mut self, key: Key, id: FlightId) -> u32 {
        match self.flights.get(&key) {
            Some(flight) if flight.id == id => self.flights.remove(&key).map_or(0, |flight| flight.waiters),
            _ => 0,
        }
    }

    /// Takes one that waited out of a flight: its client is gone, or its deadline passed.
    pub fn leave(&mut self, key: Key, id: FlightId) {
        if let Some(flight) = self.flights.get_mut(&key).filter(|flight| flight.id == id) {
            flight.waiters = flight.waiters.saturating_sub(1);
        }
    }

    /// Flights.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([1; 32]);

    fn lead(join: Join) -> FlightId {
        match join {
            Join::Lead(id) => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_leads_and_the_others_wait_until_it_lands() {
        let mut flights = Flights::default();
        let id = lead(flights.join(KEY, 0, 100));
        assert_eq!(
            [flights.join(KEY, 1, 100), flights.join(KEY, 99, 100)],
            [Join::Wait(id); 2]
        );
        lead(flights.join(Key([2; 32]), 1, 100));
        flights.leave(KEY, id);
        assert_eq!((flights.land(KEY, id), flights.land(KEY, id), flights.len()), (1, 0, 1));
        lead(flights.join(KEY, 2, 100));
    }

    #[test]
    fn after_the_deadline_a_newcomer_leads_and_the_late_one_lands_for_nobody() {
        let mut flights = Flights::default();
        let late = lead(flights.join(KEY, 0, 100));
        flights.join(KEY, 1, 100);
        let next = lead(flights.join(KEY, 100, 100));
        assert_eq!(flights.join(KEY, 101, 100), Join::Wait(next));
        assert_eq!(flights.land(KEY, late), 0);
        flights.leave(KEY, late);
        assert_eq!(flights.land(KEY, next), 1);
    }

    #[test]
    fn flights_and_waiters_are_bounded() {
        let mut flights = Flights::default();
        let key = |at: usize| {
            Key(std::array::from_fn(|byte| {
                at.to_le_bytes().get(byte).copied().unwrap_or(0)
            }))
        };
        let id = lead(flights.join(key(0), 0, 100));
        for _ in 0..CACHE_WAITERS_MAX {
            assert_eq!(flights.join(key(0), 0, 100), Join::Wait(id));
        }
        assert_eq!(flights.join(key(0), 0, 100), Join::Alone);
        (1..CACHE_FLIGHTS_MAX).for_each(|at| _ = lead(flights.join(key(at), 0, 100)));
        assert_eq!(flights.join(key(CACHE_FLIGHTS_MAX), 0, 100), Join::Alone);
        lead(flights.join(key(CACHE_FLIGHTS_MAX), 100, 100));
        assert_eq!(flights.len(), 1, "those whose deadline passed make room");
    }
}
