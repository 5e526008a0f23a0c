//! Which behaviour a request gets: control header, model name, key, then the rule table, first match wins.
//!
//! A script that does not apply (its `times` are used up, its time is over, the dice fell otherwise) leaves the request to the
//! next source, at last to a healthy answer. Counting is per script text, so two tests that differ in their `tag` never share a
//! counter. All of it is behind one mutex, taken only by requests that carry a script or while rules exist.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking::Lock;
use serde_json::Value;

use crate::sim::behaviour::{self, Behaviour, When};

/// Most rules held at once.
pub const RULES_MAX: usize = 4096;
/// Most distinct scripts whose uses are counted.
const SCRIPTS_MAX: usize = 100_000;

/// The scripted part of the simulator's state, shared by its threads.
#[derive(Debug)]
pub struct Scripts {
    /// True while the table holds rules: the fast path looks at this alone.
    has_rules: AtomicBool,
    seed: u64,
    inner: Lock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<Rule>,
    used: HashMap<String, Used>,
}

#[derive(Debug)]
struct Rule {
    model: Option<String>,
    key: Option<String>,
    path: Option<String>,
    behaviour: Arc<Behaviour>,
    when: When,
    used: Used,
}

/// How often a script has matched, and when it did first.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    matches: u64,
    first_us: Option<u64>,
}

/// What a request offers to choose by.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The `x-sim` header.
    pub control: Option<&'a str>,
    /// The model as received, script included.
    pub model: &'a str,
    /// The provider key as received, script included.
    pub key: &'a str,
    /// The request target's path.
    pub path: &'a str,
    /// Monotonic time in microseconds.
    pub now_us: u64,
}

/// Splits `name+script` at the first `+`.
#[must_use]
pub fn split(name: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'+', name.as_bytes()) {
        Some(at) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    }
}

impl Scripts {
    /// An empty table whose dice follow `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            has_rules: AtomicBool::new(false),
            seed,
            inner: Lock::default(),
        }
    }

    /// The behaviour for a request; `None` is a healthy answer.
    ///
    /// # Errors
    /// A sentence about a script that does not parse; the request is then answered 400 with it.
    pub fn choose(&self, asked: Asked<'_>) -> Result<Option<Arc<Behaviour>>, String> {
        for script in [asked.control, split(asked.model).1, split(asked.key).1]
            .into_iter()
            .flatten()
        {
            let (behaviour, when) = behaviour::parse(script)?;
            if when == When::default() || self.applies(script, &when, asked.now_us) {
                return Ok(Some(Arc::new(behaviour)));
            }
        }
        if !self.has_rules.load(Ordering::Acquire) {
            return Ok(None);
        }
        let seed = self.seed;
        let mut inner = self.inner.lock();
        for (index, rule) in inner.rules.iter_mut().enumerate() {
            let matches =
                |pattern: &Option<String>, text: &str| pattern.as_ref().is_none_or(|pattern| glob(pattern, text));
            if matches(&rule.model, asked.model)
                && matches(&rule.key, asked.key)
                && matches(&rule.path, asked.path)
                && rule.used.applies(&rule.when, asked.now_us, seed ^ (index as u64) << 32)
            {
                return Ok(Some(Arc::clone(&rule.behaviour)));
            }
        }
        Ok(None)
    }

    fn applies(&self, script: &str, when: &When, now_us: u64) -> bool {
        let mut inner = self.inner.lock();
        if inner.used.len() >= SCRIPTS_MAX {
            inner.used.clear();
        }
        let seed = script.bytes().fold(self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        inner
            .used
            .entry(script.to_owned())
            .or_default()
            .applies(when, now_us, seed)
    }

    /// Replaces the rule table by a JSON list of rules (SIM.md).
    ///
    /// # Errors
    /// A sentence about the first rule that is wrong; the old table then stays.
    pub fn replace(&self, json: &[u8]) -> Result<usize, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| format!("not JSON: {error}"))?;
        let list = value.as_array().ok_or("a JSON list of rules is expected")?;
        if list.len() > RULES_MAX {
            return Err(format!("at most {RULES_MAX} rules"));
        }
        let rules = list
            .iter()
            .enumerate()
            .map(|(index, rule)| read_rule(rule).map_err(|error| format!("rule {index}: {error}")));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        let count = rules.len();
        self.inner.lock().rules = rules;
        self.has_rules.store(count > 0, Ordering::Release);
        Ok(count)
    }

    /// How often each rule has matched, in their order.
    #[must_use]
    pub fn matches(&self) -> Vec<u64> {
        self.inner.lock().rules.iter().map(|rule| rule.used.matches).collect()
    }

    /// Forgets all rules and all counts.
    pub fn reset(&self) {
        *self.inner.lock() = Inner::default();
        self.has_rules.store(false, Ordering::Release);
    }
}

impl Used {
    /// Counts one match and says whether the script applies to it.
    fn applies(&mut self, when: &When, now_us: u64, seed: u64) -> bool {
        let nth = self.matches;
        self.matches += 1;
        let since_ms = now_us.saturating_sub(*self.first_us.get_or_insert(now_us)) / 1000;
        let in_count = nth >= when.after && when.times.is_none_or(|times| nth - when.after < times);
        let in_time =
            when.until_ms.is_none_or(|until| since_ms < until) && when.from_ms.is_none_or(|from| since_ms >= from);
        let in_phase = when
            .flap_ms
            .is_none_or(|period| (since_ms / period.max(1)).is_multiple_of(2));
        let by_chance = when
            .probability
            .is_none_or(|p| fastrand::Rng::with_seed(seed.wrapping_add(nth)).f64() < p);
        in_count && in_time && in_phase && by_chance
    }
}

fn read_rule(value: &Value) -> Result<Rule, String> {
    let rule = value.as_object().ok_or("not an object")?;
    let (mut behaviour, mut when) = (Behaviour::default(), When::default());
    let mut patterns = [None, None, None];
    for (key, value) in rule {
        match (key.as_str(), value) {
            ("match", Value::Object(fields)) => {
                for (name, pattern) in fields {
                    let slot = match name.as_str() {
                        "model" => 0,
                        "key" => 1,
                        "path" => 2,
                        _ => return Err(format!("unknown field `match.{name}`")),
                    };
                    patterns[slot] = Some(pattern.as_str().ok_or("patterns are strings")?.to_owned());
                }
            }
            ("do", Value::String(script)) => (behaviour, when) = behaviour::parse(script)?,
            ("do", Value::Object(controls)) => {
                for (name, value) in controls {
                    behaviour::set(&mut behaviour, &mut when, name, &text(value))?;
                }
            }
            ("do" | "match", _) => return Err(format!("`{key}` has the wrong type")),
            _ => {}
        }
    }
    // Beside `do`, so that they hold whatever the order of the members.
    for (key, value) in rule.iter().filter(|(key, _)| *key != "do" && *key != "match") {
        if !matches!(
            key.as_str(),
            "times" | "after" | "until_ms" | "from_ms" | "flap_ms" | "probability"
        ) {
            return Err(format!("unknown field `{key}`"));
        }
        behaviour::set(&mut behaviour, &mut when, key, &text(value))?;
    }
    let [model, key, path] = patterns;
    Ok(Rule {
        model,
        key,
        path,
        behaviour: Arc::new(behaviour),
        when,
        used: Used::default(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for piece in pieces {
        if let Some(piece) = last.replace(piece) {
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |last: &str| rest.ends_with(last))
}

/// A mutex that survives a panicking holder: the state is counters, never half-written structures.
pub mod parking {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    #[derive(Debug, Default)]
    /// The mutex.
    pub struct Lock<T>(Mutex<T>);

    impl<T> Lock<T> {
        /// Locks it, whatever became of its last holder.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(control: Option<&'a str>, model: &'a str, key: &'a str, now_us: u64) -> Asked<'a> {
        Asked {
            control,
            model,
            key,
            path: "/v1/chat/completions",
            now_us,
        }
    }

    fn status(scripts: &Scripts, asked: Asked<'_>) -> u16 {
        scripts.choose(asked).expect("valid scripts").map_or(200, |b| b.status)
    }

    #[test]
    fn header_then_model_then_key_then_rules() {
        let scripts = Scripts::new(1);
        scripts
            .replace(br#"[{"match":{"model":"m*"},"do":"status=504"}]"#)
            .expect("valid");
        assert_eq!(
            status(&scripts, asked(Some("status=501"), "m+status=502", "k+status=503", 0)),
            501
        );
        assert_eq!(status(&scripts, asked(None, "m+status=502", "k+status=503", 0)), 502);
        assert_eq!(status(&scripts, asked(None, "m", "k+status=503", 0)), 503);
        assert_eq!(status(&scripts, asked(None, "m", "k", 0)), 504);
        assert_eq!(status(&scripts, asked(None, "x", "k", 0)), 200);
    }

    #[test]
    fn times_and_after_count_matches() {
        let scripts = Scripts::new(1);
        let seen: Vec<u16> = (0..5)
            .map(|_| status(&scripts, asked(None, "m+status=503,after=1,times=2", "k", 0)))
            .collect();
        assert_eq!(seen, [200, 503, 503, 200, 200]);
    }

    #[test]
    fn time_windows_start_at_the_first_match() {
        let scripts = Scripts::new(1);
        let model = "m+status=503,until_ms=10";
        assert_eq!(status(&scripts, asked(None, model, "k", 5_000_000)), 503);
        assert_eq!(status(&scripts, asked(None, model, "k", 5_009_999)), 503);
        assert_eq!(status(&scripts, asked(None, model, "k", 5_010_000)), 200);
        let flapping = "m+status=503,flap_ms=10";
        let seen: Vec<u16> = [0, 9_999, 10_000, 19_999, 20_000]
            .iter()
            .map(|us| status(&scripts, asked(None, flapping, "k", *us)))
            .collect();
        assert_eq!(seen, [503, 503, 200, 200, 503]);
    }

    #[test]
    fn probability_follows_the_seed() {
        let run = |seed| {
            let scripts = Scripts::new(seed);
            (0..200)
                .map(|_| status(&scripts, asked(None, "m+status=503,probability=0.3", "k", 0)))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let failed = run(1).iter().filter(|status| **status == 503).count();
        assert!((30..90).contains(&failed), "{failed} of 200 at 0.3");
    }

    #[test]
    fn a_wrong_rule_leaves_the_table_alone() {
        let scripts = Scripts::new(1);
        assert_eq!(
            scripts.replace(br#"[{"do":{"status":429,"retry_after":1},"times":1}]"#),
            Ok(1)
        );
        assert!(scripts.replace(br#"[{"do":"status=1"},{"tmes":1}]"#).is_err());
        assert_eq!(status(&scripts, asked(None, "m", "k", 0)), 429);
        assert_eq!(status(&scripts, asked(None, "m", "k", 0)), 200);
        assert_eq!(scripts.matches(), [2]);
    }

    #[test]
    fn globs_match_prefix_middle_and_suffix() {
        for (pattern, text, matches) in [
            ("gpt*", "gpt-4o", true),
            ("*mini", "gpt-4o-mini", true),
            ("g*4*i", "gpt-4o-mini", true),
            ("gpt", "gpt-4o", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} on {text}");
        }
    }
}
