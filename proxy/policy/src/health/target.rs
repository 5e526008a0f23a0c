//! What is remembered of the targets, each a model at a provider: one table for all cores, found by name.
//!
//! Invariants: bounded and without locks, whatever names clients invent: a name takes a slot, a slot that nobody used for a
//! while goes to the next name, and a target that finds no slot counts as healthy; names outlive a reload of the
//! configuration, and so does what is known of them. Deliberately absent: anything about a key.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sluice_wire::limits::{HEALTH_NAME_BYTES_MAX, HEALTH_TARGETS};

use super::breaker::{Admission, Blocked, Breaker, Change, Permit, Standing};
use super::budget::ExtraBudget;
use super::late::Late;
use super::window::Call;
use super::{BreakerSettings, RetrySettings};

/// Slots that are looked at for one name.
const REACH: usize = 8;
/// A slot that was not used for as long may go to another name, in milliseconds.
const IDLE_MS: u64 = 60_000;
/// What is known of a latency halves in this time without news, in milliseconds.
const LATENCY_HALF_LIFE_MS: u64 = 10_000;
/// Requests that may use a target as their last resort at a time: a provider that fails fast is tried by everyone, one that
/// hangs holds no more than these.
const LAST_RESORTS_MAX: u32 = 16;

/// Second targets beside a target that each second allows, beyond the share of its requests.
const HEDGES_PER_SECOND: u16 = 1;

/// Shortest time for a probe, in milliseconds.
const PROBE_MS_MIN: u32 = 1_000;
/// The same at a target that has never answered.
const PROBE_MS_UNKNOWN: u32 = 5_000;

/// Words of a name.
const NAME_WORDS: usize = HEALTH_NAME_BYTES_MAX / 8;

/// The state of one target.
#[derive(Debug)]
#[repr(align(128))]
pub struct Target {
    tag: AtomicU64,
    used_at_ms: AtomicU64,
    breaker: Breaker,
    retries: ExtraBudget,
    hedges: ExtraBudget,
    in_flight: AtomicU32,
    last_resorts: AtomicU32,
    first_byte: Latency,
    first_token: Latency,
    late_byte: Late,
    late_token: Late,
    name: [AtomicU64; NAME_WORDS],
}

/// An exponentially weighted mean in microseconds in the lower 32 bits; when it was last told, in milliseconds, above.
#[derive(Debug, Default)]
struct Latency(AtomicU64);

impl Latency {
    fn add(&self, us: u32, now_ms: u64) {
        let old = self.0.load(Ordering::Relaxed) as u32;
        let new = if old == 0 {
            us.max(1)
        } else {
            (i64::from(old) + (i64::from(us) - i64::from(old)) / 8).max(1) as u32
        };
        // Of two cores at once one is not heard: the mean does not mind.
        self.0.store(now_ms << 32 | u64::from(new), Ordering::Relaxed);
    }

    fn get(&self, now_ms: u64) -> u32 {
        let word = self.0.load(Ordering::Relaxed);
        let age_ms = u64::from((now_ms as u32).wrapping_sub((word >> 32) as u32));
        (word as u32)
            .checked_shr((age_ms / LATENCY_HALF_LIFE_MS) as u32)
            .unwrap_or(0)
    }

    fn last(&self) -> u32 {
        self.0.load(Ordering::Relaxed) as u32
    }
}

/// What the admin interface shows of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetReport {
    /// `PROVIDER/MODEL`, cut after `limits::HEALTH_NAME_BYTES_MAX` bytes.
    pub name: String,
    /// Its breaker.
    pub standing: Standing,
    /// Attempts under way.
    pub in_flight: u32,
    /// Mean time to the first token of streamed answers, in microseconds; 0: none seen.
    pub first_token_us: u32,
    /// Mean time to the first byte of other answers, in microseconds; 0: none seen.
    pub first_byte_us: u32,
}

impl Target {
    fn empty() -> Self {
        Self {
            tag: AtomicU64::new(0),
            used_at_ms: AtomicU64::new(0),
            breaker: Breaker::default(),
            retries: ExtraBudget::default(),
            hedges: ExtraBudget::default(),
            in_flight: AtomicU32::new(0),
            last_resorts: AtomicU32::new(0),
            first_byte: Latency::default(),
            first_token: Latency::default(),
            late_byte: Late::default(),
            late_token: Late::default(),
            name: [const { AtomicU64::new(0) }; NAME_WORDS],
        }
    }

    /// Whether a request may be sent there now; if so, its attempt begins.
    pub fn admit(&self, now_ms: u64, settings: &BreakerSettings) -> Admission {
        let admission = self.breaker.admit(now_ms, settings);
        if let Admission::Go(_) = admission {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        admission
    }

    /// The same for a request that has no other target left.
    ///
    /// # Errors
    /// When to come back: the provider itself named a time, or too many such requests wait for it already.
    pub fn admit_last_resort(&self, now_ms: u64) -> Result<Permit, Blocked> {
        let until_ms = match self.breaker.standing() {
            Standing::Open(until_ms) => until_ms.max(now_ms + 1),
            _ => now_ms + 1000,
        };
        let Some(permit) = self.breaker.last_resort(now_ms) else {
            return Err(Blocked { until_ms, said: true });
        };
        if self.last_resorts.fetch_add(1, Ordering::Relaxed) >= LAST_RESORTS_MAX {
            self.last_resorts.fetch_sub(1, Ordering::Relaxed);
            return Err(Blocked { until_ms, said: false });
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(permit)
    }

    /// An attempt that [`Target::admit`] let through has ended, whatever became of it; `last_resort` says which way it came.
    pub fn leave(&self, last_resort: bool) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if last_resort {
            self.last_resorts.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What became of an attempt; returns what that changed, and the permit for what else the same attempt may report.
    pub fn report(
        &self,
        permit: Permit,
        call: Call,
        now_ms: u64,
        settings: &BreakerSettings,
    ) -> (Option<Change>, Permit) {
        self.breaker.report(permit, call, now_ms, settings)
    }

    /// An attempt ended without saying anything about the target.
    pub fn abandon(&self, permit: Permit, now_ms: u64) {
        self.breaker.abandon(permit, now_ms);
    }

    /// The provider said when to come back, in milliseconds of the shared clock.
    pub fn hold(&self, until_ms: u64) -> Option<Change> {
        self.breaker.hold(until_ms)
    }

    /// An operator closes the breaker.
    pub fn reset(&self, now_ms: u64) {
        self.breaker.reset(now_ms);
    }

    /// A request begins that may need a retry: it earns its share of one.
    pub fn earn_retry(&self, settings: &RetrySettings) {
        self.retries.earn(settings.budget_milli);
    }

    /// Takes a retry out of the budget; false if it is spent.
    pub fn take_retry(&self, now_ms: u64, settings: &RetrySettings) -> bool {
        self.retries.take(now_ms, settings.per_second)
    }

    /// A request begins beside which another target may be asked: it earns its share of that, in thousandths.
    pub fn earn_hedge(&self, milli: u16) {
        self.hedges.earn(milli);
    }

    /// Takes a second target beside this one out of the budget; false if it is spent.
    pub fn take_hedge(&self, now_ms: u64) -> bool {
        self.hedges.take(now_ms, HEDGES_PER_SECOND)
    }

    /// An answer was given up after that many microseconds, because another target began sooner. The time that 95 of 100
    /// answers need does not follow: should only some answers be late, it would wait for more and more of them.
    pub fn observe_given_up(&self, us: u32, streamed: bool, now_ms: u64) {
        let latency = if streamed { &self.first_token } else { &self.first_byte };
        latency.add(us, now_ms);
    }

    /// How long an answer took to begin, in microseconds: its first token if it was streamed.
    pub fn observe(&self, us: u32, streamed: bool, now_ms: u64) {
        let (latency, late) = if streamed {
            (&self.first_token, &self.late_token)
        } else {
            (&self.first_byte, &self.late_byte)
        };
        latency.add(us, now_ms);
        late.add(us);
    }

    /// The time that 95 of 100 answers need at most to begin, in microseconds; `None`: too few were seen.
    pub fn late_us(&self, streamed: bool) -> Option<u32> {
        let late = if streamed { &self.late_token } else { &self.late_byte };
        late.get()
    }

    /// How long answers take to begin, in microseconds, fading towards 0 without news.
    pub fn latency_us(&self, streamed: bool, now_ms: u64) -> u32 {
        let (own, other) = if streamed {
            (&self.first_token, &self.first_byte)
        } else {
            (&self.first_byte, &self.first_token)
        };
        match own.get(now_ms) {
            0 => other.get(now_ms),
            us => us,
        }
    }

    /// How long a probe may take when other targets wait, in milliseconds: four times what answers took to begin when they
    /// last did, at least a second, and five if they never did. Twice as long after each probe that failed: should answers
    /// have become slower meanwhile, a probe must be able to find that out.
    pub fn probe_patience_ms(&self, streamed: bool) -> u32 {
        let latency = if streamed { &self.first_token } else { &self.first_byte };
        let patience_ms = match latency.last() {
            0 => PROBE_MS_UNKNOWN,
            us => (us / 1000).saturating_mul(4).max(PROBE_MS_MIN),
        };
        patience_ms.saturating_mul(1 << self.breaker.doublings().min(16))
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a request would be let through now.
    pub fn is_passable(&self, now_ms: u64) -> bool {
        self.breaker.is_passable(now_ms)
    }

    fn write_name(&self, provider: &str, model: &str) {
        let mut bytes = [0_u8; HEALTH_NAME_BYTES_MAX];
        let parts = provider.bytes().chain([b'/']).chain(model.bytes());
        bytes.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
        for (word, piece) in self.name.iter().zip(bytes.chunks_exact(8)) {
            let piece = piece.try_into().expect("chunks of eight");
            word.store(u64::from_le_bytes(piece), Ordering::Relaxed);
        }
    }

    fn report_of(&self) -> TargetReport {
        let bytes: Vec<u8> = self
            .name
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        TargetReport {
            name: String::from_utf8_lossy(&bytes).into_owned(),
            standing: self.breaker.standing(),
            in_flight: self.in_flight(),
            first_token_us: self.first_token.last(),
            first_byte_us: self.first_byte.last(),
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Health {
    seed: u64,
    slots: Box<[Target]>,
}

impl Health {
    /// An empty table; `seed` keeps clients from choosing names that share a slot.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            slots: (0..HEALTH_TARGETS).map(|_| Target::empty()).collect(),
        }
    }

    /// What a target is known by: never 0.
    pub fn tag(&self, provider: &str, model: &str) -> u64 {
        super::hash::hash(self.seed, provider.as_bytes(), model.as_bytes()) | 1
    }

    /// Where the target with that tag is remembered, taking a slot for it if it is new. `None`: every slot within reach is in
    /// use; the target is then not remembered.
    pub fn find(&self, tag: u64, provider: &str, model: &str, now_ms: u64) -> Option<usize> {
        let from = (tag >> 40) as usize;
        let mut spare = None;
        for step in 0..REACH {
            let index = (from + step) % HEALTH_TARGETS;
            let slot = &self.slots[index];
            let found = slot.tag.load(Ordering::Relaxed);
            if found == tag {
                if now_ms.saturating_sub(slot.used_at_ms.load(Ordering::Relaxed)) > 1000 {
                    slot.used_at_ms.store(now_ms, Ordering::Relaxed);
                }
                return Some(index);
            }
            let idle = now_ms.saturating_sub(slot.used_at_ms.load(Ordering::Relaxed)) > IDLE_MS
                && slot.in_flight() == 0
                && slot.breaker.standing() == Standing::Closed;
            if spare.is_none() && (found == 0 || idle) {
                spare = Some((index, found));
            }
        }
        let (index, found) = spare?;
        self.claim(index, found, tag, now_ms, provider, model)
    }

    #[cold]
    fn claim(&self, index: usize, found: u64, tag: u64, now_ms: u64, provider: &str, model: &str) -> Option<usize> {
        let slot = &self.slots[index];
        match slot
            .tag
            .compare_exchange(found, tag, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => {
                slot.used_at_ms.store(now_ms, Ordering::Relaxed);
                slot.breaker.reset(now_ms);
                slot.first_byte.0.store(0, Ordering::Relaxed);
                slot.first_token.0.store(0, Ordering::Relaxed);
                slot.late_byte.forget();
                slot.late_token.forget();
                slot.write_name(provider, model);
                Some(index)
            }
            // Another core was faster, perhaps with the same target.
            Err(now) => (now == tag).then_some(index),
        }
    }

    /// The target in that slot.
    pub fn target(&self, index: usize) -> &Target {
        &self.slots[index]
    }

    /// Every target that is remembered, by slot.
    pub fn report(&self) -> Vec<TargetReport> {
        let known = |slot: &&Target| slot.tag.load(Ordering::Relaxed) != 0;
        self.slots.iter().filter(known).map(Target::report_of).collect()
    }

    /// Closes the breaker of every target.
    pub fn reset_all(&self, now_ms: u64) {
        self.slots.iter().for_each(|slot| slot.reset(now_ms));
    }

    /// Closes the breaker of the target of that name, as [`TargetReport::name`] writes it; false if it is not remembered.
    pub fn reset(&self, name: &str, now_ms: u64) -> bool {
        let known = |slot: &&Target| slot.tag.load(Ordering::Relaxed) != 0 && slot.report_of().name == name;
        self.slots.iter().find(known).map(|slot| slot.reset(now_ms)).is_some()
    }
}

const _: () = assert!(HEALTH_NAME_BYTES_MAX.is_multiple_of(8), "a name is whole words");

#[cfg(test)]
mod tests {
    use super::*;

    fn find(health: &Health, model: &str, now_ms: u64) -> Option<usize> {
        health.find(health.tag("p", model), "p", model, now_ms)
    }

    #[test]
    fn a_target_keeps_its_place_and_two_have_two() {
        let health = Health::new(7);
        let place = find(&health, "a", 1).unwrap();
        assert_eq!(find(&health, "a", 2), Some(place));
        assert_ne!(find(&health, "b", 2), Some(place));
        assert_ne!(health.tag("p", "a"), health.tag("pa", ""));
        let names: Vec<String> = health.report().into_iter().map(|report| report.name).collect();
        assert!(
            names.contains(&"p/a".to_owned()) && names.contains(&"p/b".to_owned()),
            "{names:?}"
        );
        assert!(health.reset("p/a", 3));
        assert!(!health.reset("p/c", 3));
    }

    #[test]
    fn invented_names_are_bounded_and_displace_nobody_who_is_in_use() {
        let health = Health::new(7);
        let place = find(&health, "used", 1).unwrap();
        for index in 0..100_000_u64 {
            let now_ms = 1 + index * 10;
            let _ = find(&health, &format!("invented-{index}"), now_ms);
            assert_eq!(find(&health, "used", now_ms), Some(place));
        }
        assert!(health.report().len() <= HEALTH_TARGETS);
    }

    #[test]
    fn latency_follows_what_is_seen_and_fades_without_news() {
        let target = Target::empty();
        assert_eq!(target.latency_us(true, 5), 0);
        for _ in 0..100 {
            target.observe(8_000, true, 1_000);
        }
        assert_eq!(target.latency_us(true, 1_000), 8_000);
        assert_eq!(target.latency_us(false, 1_000), 8_000, "better than knowing nothing");
        target.observe(16_000, true, 1_000);
        assert_eq!(target.latency_us(true, 1_000), 9_000);
        assert_eq!(target.latency_us(true, 11_000), 4_500);
        assert_eq!(target.latency_us(true, 10_000_000), 0);
    }

    #[test]
    fn a_probe_gets_a_multiple_of_the_usual_time_and_more_after_each_that_failed() {
        let target = Target::empty();
        assert_eq!(target.probe_patience_ms(true), PROBE_MS_UNKNOWN);
        target.observe(10_000, true, 1_000);
        assert_eq!(target.probe_patience_ms(true), PROBE_MS_MIN);
        assert_eq!(
            target.probe_patience_ms(false),
            PROBE_MS_UNKNOWN,
            "whole answers take longer"
        );
        target.observe(2_000_000, false, 1_000);
        assert_eq!(target.probe_patience_ms(false), 8_000);
        let settings = BreakerSettings::default();
        let mut now_ms = 2_000;
        for expected_ms in [8_000, 16_000, 32_000] {
            assert_eq!(target.probe_patience_ms(false), expected_ms);
            // The first round opens it, each later one is a failed probe.
            for _ in 0..settings.consecutive_failures {
                if let Admission::Go(permit) = target.admit(now_ms, &settings) {
                    let _ = target.report(permit, Call::Failed, now_ms, &settings);
                    target.leave(false);
                }
            }
            if let Standing::Open(until_ms) = target.breaker.standing() {
                now_ms = until_ms;
            }
            if expected_ms == 8_000 {
                let Admission::Go(permit) = target.admit(now_ms, &settings) else {
                    panic!("a probe is due")
                };
                assert!(permit.is_probe);
                let _ = target.report(permit, Call::Failed, now_ms, &settings);
                now_ms += 60_000;
            }
        }
    }

    #[test]
    fn last_resorts_are_bounded_by_how_many_wait() {
        let target = Target::empty();
        let permits: Vec<_> = (0..LAST_RESORTS_MAX)
            .map(|_| target.admit_last_resort(5).unwrap())
            .collect();
        let refused = target.admit_last_resort(5).unwrap_err();
        assert!(!refused.said && refused.until_ms > 5);
        assert_eq!(target.in_flight(), LAST_RESORTS_MAX);
        permits.iter().for_each(|_| target.leave(true));
        assert!(target.admit_last_resort(5).is_ok());
        let _ = target.hold(100);
        assert_eq!(
            target.admit_last_resort(6),
            Err(Blocked {
                until_ms: 100,
                said: true
            })
        );
    }
}
