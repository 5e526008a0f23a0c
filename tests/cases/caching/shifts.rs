//! Two shifts at a line with cameras: near-identical part numbers, a variant that changes in mid-shift, one poisoned answer.
//!
//! Each request carries what would be the right answer at that moment, in a header field that the simulator heeds and the cache knows
//! nothing of: whatever the client gets can be held against it.

use std::fmt::Write as _;

use sluice_tests::{Gateway, Request, Sim, json};

use super::{caching, said, use_of};

/// Part numbers that differ in one character, or in two exchanged ones.
const SKUS: [&str; 6] = ["4711-B", "4711-C", "4711-8", "4171-B", "4711-BB", "4712-B"];
/// Ways of asking for one thing.
const PHRASES: [&str; 4] = [
    "What is the tightening torque for part {sku} at station {station}?",
    "What's the tightening torque for part {sku} at station {station}",
    "Please tell me: what is the tightening torque for part {sku} at station {station}?",
    "what is the tightening torque for part {sku} at station {station}",
];
const STATIONS: usize = 3;
const REQUESTS_PER_SHIFT: usize = 240;
/// Requests into the second shift after which a part's variant changes.
const CHANGE_AT: usize = 100;

/// What a run has come to.
#[derive(Default)]
struct Tally {
    hits: usize,
    semantic: usize,
    wrong: usize,
    asked: usize,
}

/// A line: a generator of questions, and the truth about them.
struct Line {
    state: u64,
    /// Changed variants have other torques.
    changed: bool,
}

impl Line {
    fn draw(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.state >> 33) as usize % below
    }

    fn truth(&self, sku: usize, station: usize, frame: Option<usize>) -> String {
        let variant = usize::from(self.changed && sku == 0) * 40;
        match frame {
            Some(frame) => format!("Frame {} of {}: seat {}", frame, SKUS[sku], frame % 2 + variant),
            None => format!("{} Nm", 10 + sku * 3 + station + variant),
        }
    }

    /// The next question: its request, and the right answer.
    fn next(&mut self) -> (Request, String) {
        let (sku, station) = (self.draw(SKUS.len()), self.draw(STATIONS));
        if self.draw(4) == 0 {
            // One of a few frames; the camera sends some of them twice.
            let frame = self.draw(5);
            let truth = self.truth(sku, station, Some(frame));
            return (frame_request(SKUS[sku], frame, &truth), truth);
        }
        let phrase = PHRASES[self.draw(PHRASES.len())];
        let truth = self.truth(sku, station, None);
        (text_request(phrase, SKUS[sku], station, &truth), truth)
    }
}

fn text_request(phrase: &str, sku: &str, station: usize, truth: &str) -> Request {
    let text = phrase.replace("{sku}", sku).replace("{station}", &station.to_string());
    let body = json!({"model": "openai/m", "messages": [
        {"role": "system", "content": "You answer for assembly line 7."},
        {"role": "user", "content": text}]});
    told(&body, sku, truth)
}

fn frame_request(sku: &str, frame: usize, truth: &str) -> Request {
    // Frames of one part differ in a few bytes, as those of one scene do.
    let mut bytes = String::from("/9j/4AAQSkZJRgABAQ");
    for at in 0..64 {
        let _ = write!(bytes, "{:02}", if at == 40 { frame } else { at });
    }
    let url = format!("data:image/jpeg;base64,{bytes}");
    let body = json!({"model": "openai/m", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Is the seal of the part in this frame seated?"}]}]});
    told(&body, sku, truth)
}

/// The part's number is a context key as well; the truth is for the simulator alone.
fn told(body: &sluice_tests::Value, sku: &str, truth: &str) -> Request {
    let truth = truth.replace(' ', "%20").replace(',', "%2C");
    Request::post("/v1/chat/completions", body.to_string())
        .field("x-variant", sku)
        .field("x-sim", &format!("say={truth}"))
}

fn two_shifts(gateway: &Gateway, poison: bool) -> Tally {
    let mut line = Line {
        state: 20_261_122,
        changed: false,
    };
    let (mut tally, mut client) = (Tally::default(), gateway.client());
    if poison {
        // The provider errs once: nobody has asked for this station yet.
        let answer = client.ask(&text_request(PHRASES[0], SKUS[1], 9, "99 Nm"));
        assert_eq!((use_of(&answer), said(&answer)), ("miss", "99 Nm".to_owned()));
        for phrase in [PHRASES[1], PHRASES[2], PHRASES[0]] {
            let answer = client.ask(&text_request(phrase, SKUS[1], 9, "13 Nm"));
            assert_ne!(said(&answer), "99 Nm", "a poisoned answer was served to {phrase:?}");
        }
    }
    for at in 0..REQUESTS_PER_SHIFT * 2 {
        if at == REQUESTS_PER_SHIFT + CHANGE_AT {
            line.changed = true;
            let order = json!({"tenant": "default", "context": format!("x-variant={}", SKUS[0])});
            let bumped = gateway.admin_post("/admin/cache/bump", &order);
            assert_eq!(bumped.json()["confirmed"], true, "{bumped:?}");
        }
        let (request, truth) = line.next();
        let answer = client.ask(&request);
        match use_of(&answer) {
            "hit" => tally.hits += 1,
            "semantic" => tally.semantic += 1,
            _ => tally.asked += 1,
        }
        if said(&answer) != truth {
            eprintln!("wrong: {:?} instead of {truth:?}", said(&answer));
            tally.wrong += 1;
        }
    }
    tally
}

#[test]
fn two_shifts_with_near_identical_parts_see_no_wrong_answer() {
    let sim = Sim::start();
    let run = |mode: &str, audit: f64, poison: bool| {
        let gateway = caching(&sim, mode)
            .set(
                "/cache/default/context",
                json!({"headers": ["x-variant"], "required": true}),
            )
            .set("/cache/default/agreements", 3)
            .set("/cache/default/audit", audit)
            .start();
        let tally = two_shifts(&gateway, poison);
        let stats = gateway.admin("/admin/cache").json();
        (tally, stats)
    };
    let (exact, _) = run("exact", 0.0, false);
    let (semantic, stats) = run("semantic", 0.02, false);
    let (poisoned, caught) = run("semantic", 1.0, true);
    let all = REQUESTS_PER_SHIFT * 2;
    let rate = |tally: &Tally| 100.0 * (tally.hits + tally.semantic) as f64 / all as f64;
    eprintln!(
        "of {all} requests answered from the cache: exact only {:.1} %, by meaning {:.1} % ({} of them by meaning); wrong: {} and {}",
        rate(&exact),
        rate(&semantic),
        semantic.semantic,
        exact.wrong,
        semantic.wrong
    );
    assert_eq!((exact.wrong, semantic.wrong, poisoned.wrong), (0, 0, 0));
    assert!(rate(&semantic) > rate(&exact) + 5.0, "{stats}");
    assert_eq!(stats["disagreed"], 0, "{stats}");
    // The poisoned answer was compared with the provider's next one, and found out.
    assert!(
        caught["disagreed"].as_u64() >= Some(1) && poisoned.semantic == 0,
        "{caught}"
    );
}
