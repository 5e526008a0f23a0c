//! A limit of concurrency that follows latency: it grows while more requests at a time do not make answers later, and
//! shrinks when they do.
//!
//! The rule is that of gradient limiters: the limit is multiplied by the ratio of what an answer takes at best to what it takes
//! now, within 1/2 and 1, and given room for a small queue on top. What it takes at best is the least mean of a window; now
//! and then it is measured anew at half the limit, so that a provider that became slower for good is not throttled for ever,
//! and lasting overload does not pass for the usual. Invariants: the limit stays between 1 and its ceiling; it does not grow
//! on the word of a provider that is not being used to the limit; one slow answer does not move it, only the mean of a
//! window. Deliberately absent: clocks.

/// Samples that a window has at least.
const WINDOW_SAMPLES: u32 = 16;
/// How long a window is at least, in milliseconds.
const WINDOW_MS: u64 = 100;
/// How much later than usual answers may be without any consequence.
const TOLERANCE: f64 = 1.5;
/// Share of a new limit in the next one.
const SMOOTHING: f64 = 0.2;
/// Windows after which the best is measured anew.
const PROBE_WINDOWS: u32 = 256;
/// Windows that this takes: in the first, answers to what was asked before still come.
const PROBE_LENGTH: u32 = 2;
/// What a refusal leaves of the limit, once a window.
const BACKOFF: f64 = 0.9;
/// Where the search for a limit begins, if the ceiling allows it.
const START: u32 = 32;

/// A limit that follows latency.
#[derive(Clone, Debug)]
pub struct Gradient {
    ceiling: u32,
    limit: f64,
    /// What an answer takes at best, in microseconds; 0 before the first window.
    best_us: f64,
    /// Windows since that was last measured.
    age: u32,
    /// Whether it is being measured now, at half the limit.
    probing: bool,
    begun_ms: u64,
    samples: u32,
    sum_us: u64,
    most_in_flight: u32,
    refused: bool,
}

impl Gradient {
    /// Begins the search below `ceiling`.
    pub fn new(ceiling: u32) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            limit: f64::from(START.min(ceiling)),
            best_us: 0.0,
            age: 0,
            probing: false,
            begun_ms: 0,
            samples: 0,
            sum_us: 0,
            most_in_flight: 0,
            refused: false,
        }
    }

    /// The limit as of now.
    pub fn limit(&self) -> u32 {
        // Between 1 and a `u32`, see `set`.
        let limit = if self.probing { self.limit / 2.0 } else { self.limit };
        limit.max(1.0) as u32
    }

    /// An answer began `latency_us` after its request, with `in_flight` requests at the provider.
    pub fn sample(&mut self, now_ms: u64, latency_us: u64, in_flight: u32) {
        if self.samples == 0 {
            self.begun_ms = now_ms;
        }
        self.samples += 1;
        self.sum_us = self.sum_us.saturating_add(latency_us);
        self.most_in_flight = self.most_in_flight.max(in_flight);
        if self.samples >= WINDOW_SAMPLES && now_ms.saturating_sub(self.begun_ms) >= WINDOW_MS {
            self.close_window();
        }
    }

    /// The provider refused, or kept silent.
    pub fn refused(&mut self, now_ms: u64) {
        if !self.refused {
            self.refused = true;
            self.set(self.limit * BACKOFF);
        }
        if now_ms.saturating_sub(self.begun_ms) >= WINDOW_MS {
            // Without this, a provider that only refuses would shrink the limit once and never again.
            self.begun_ms = now_ms;
            self.refused = false;
        }
    }

    fn close_window(&mut self) {
        let now_us = self.sum_us as f64 / f64::from(self.samples);
        self.age += 1;
        if self.best_us == 0.0 || now_us <= self.best_us {
            self.best_us = now_us;
            self.age = 0;
        }
        if self.probing && self.age >= PROBE_WINDOWS + PROBE_LENGTH {
            self.best_us = now_us;
            self.age = 0;
        }
        let was_probing = self.probing;
        self.probing = self.age >= PROBE_WINDOWS;
        let used = f64::from(self.most_in_flight) * 2.0 >= self.limit;
        if used && !self.refused && !was_probing && !self.probing {
            let gradient = (TOLERANCE * self.best_us / now_us.max(1.0)).clamp(0.5, 1.0);
            let wanted = self.limit * gradient + self.limit.sqrt();
            self.set(self.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING);
        }
        self.samples = 0;
        self.sum_us = 0;
        self.most_in_flight = 0;
        self.refused = false;
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, f64::from(self.ceiling));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider whose answers take `base_us` up to `capacity` at a time, and proportionally longer beyond.
    fn run(gradient: &mut Gradient, capacity: u32, from_ms: u64, windows: u64) -> u64 {
        let mut now_ms = from_ms;
        for _ in 0..windows {
            let load = gradient.limit();
            let latency_us = 100_000 * u64::from(load.max(capacity)) / u64::from(capacity);
            for _ in 0..WINDOW_SAMPLES {
                now_ms += WINDOW_MS / u64::from(WINDOW_SAMPLES) + 1;
                gradient.sample(now_ms, latency_us, load);
            }
        }
        now_ms
    }

    #[test]
    fn the_limit_finds_what_a_provider_can_do_at_once() {
        for capacity in [20, 100, 400] {
            let mut gradient = Gradient::new(10_000);
            let mut now_ms = 0;
            for windows in [200, 2000, 2000] {
                now_ms = run(&mut gradient, capacity, now_ms, windows);
                let found = gradient.limit();
                assert!(
                    found >= capacity * 3 / 4 && found <= capacity * 3,
                    "{found} for a capacity of {capacity}"
                );
            }
        }
    }

    #[test]
    fn the_limit_follows_a_provider_that_slows_down_and_recovers() {
        let mut gradient = Gradient::new(10_000);
        let now_ms = run(&mut gradient, 200, 0, 200);
        let before = gradient.limit();
        let now_ms = run(&mut gradient, 20, now_ms, 25);
        let during = gradient.limit();
        assert!(during * 2 < before, "{before} then {during}");
        run(&mut gradient, 200, now_ms, 400);
        assert!(gradient.limit() >= 200, "{}", gradient.limit());
    }

    #[test]
    fn answers_that_take_longer_for_good_are_forgiven() {
        let mut gradient = Gradient::new(100);
        let mut now_ms = run(&mut gradient, 1000, 0, 100);
        // Longer answers, and not for want of capacity.
        for _ in 0..WINDOW_SAMPLES * (PROBE_WINDOWS + 200) {
            now_ms += 10;
            gradient.sample(now_ms, 700_000, gradient.limit());
        }
        assert_eq!(gradient.limit(), 100);
    }

    #[test]
    fn a_provider_that_is_not_used_to_the_limit_does_not_raise_it() {
        let mut gradient = Gradient::new(10_000);
        let before = gradient.limit();
        for ms in 0..10_000 {
            gradient.sample(ms, 1000, 1);
        }
        assert_eq!(gradient.limit(), before);
    }

    #[test]
    fn refusals_shrink_the_limit_to_one_and_no_further() {
        let mut gradient = Gradient::new(64);
        for ms in 0..50_000 {
            gradient.refused(ms);
        }
        assert_eq!(gradient.limit(), 1);
        let mut gradient = Gradient::new(64);
        for _ in 0..1000 {
            gradient.refused(5);
        }
        assert!(gradient.limit() >= 28, "a burst counts once: {}", gradient.limit());
    }

    #[test]
    fn the_ceiling_holds() {
        let mut gradient = Gradient::new(8);
        assert_eq!(gradient.limit(), 8);
        run(&mut gradient, 1000, 0, 100);
        assert_eq!(gradient.limit(), 8);
        assert_eq!(Gradient::new(0).limit(), 1);
    }
}
