//! The cache as a whole: what is served, what is not, and what is forgotten. [`property`] holds the promise over random requests.

mod golden;
mod property;
mod warm;

use super::entry::{Answer, Shape};
use super::key::{Eligible, Scope};
use super::*;
use bytes::Bytes;
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, Ingress};

pub(super) const NOW: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;

pub(super) fn brain() -> &'static Brain {
    static BRAIN: std::sync::OnceLock<Brain> = std::sync::OnceLock::new();
    BRAIN.get_or_init(|| Brain::new(Secret::new([9; 32])))
}

pub(super) fn cache() -> Cache {
    Cache::new(Limits {
        entries: 1000,
        bytes: 1 << 24,
    })
}

pub(super) fn rules() -> Rules {
    Rules {
        mode: Mode::On,
        agreements: 0,
        audit_per_million: 0,
        ..Rules::default()
    }
}

fn body(text: &str) -> String {
    serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string()
}

pub(super) fn prepared(body: &str, tenant: &str, context: &[(&str, Option<&str>)], epoch: u64) -> Query {
    let request = provider::parse_request(Dialect::OpenAi, body.as_bytes(), &Ingress::default()).unwrap();
    let scope = Scope {
        tenant,
        route: "r",
        dialect: Dialect::OpenAi,
        context,
        epoch,
    };
    let mut query = Query::default();
    query.prepare(&request, &scope, &Eligible::default(), brain()).unwrap();
    query
}

fn query(text: &str) -> Query {
    prepared(&body(text), "plant", &[], 0)
}

pub(super) fn answer(content: &str) -> Answer {
    Answer {
        shape: Shape::Whole,
        dialect: Dialect::OpenAi,
        body: Bytes::copy_from_slice(content.as_bytes()),
        tokens: [5, 1],
        cost_nano_usd: 1_000,
    }
}

pub(super) fn entry(mut query: Query, content: &str, now: u64) -> Arc<Entry> {
    query
        .ticket(brain())
        .unwrap()
        .entry(answer(content), "m", &["shift-1"], HOUR, now)
}

pub(super) fn look(cache: &mut Cache, query: &mut Query, rules: &Rules) -> Outcome {
    cache.lookup(query, brain(), rules, &Controls::default(), NOW, 0)
}

fn served(outcome: Outcome) -> Option<(By, Bytes)> {
    match outcome {
        Outcome::Hit(hit) => Some((hit.by, hit.entry.answer.body.clone())),
        _ => None,
    }
}

const ONE: &str = "Is the cap of housing H29 on station B6 closed? Torque class 2.";
const OTHER: &str = "Has the cap been closed on housing H29 at station B6, torque class 2?";
const TWIN: &str = "Is the cap of housing H28 on station B6 closed? Torque class 2.";

fn with(text: &str) -> Cache {
    let mut cache = cache();
    assert!(cache.insert(entry(query(text), "yes", NOW), NOW));
    cache
}

#[test]
fn the_same_request_the_same_meaning_and_nothing_else_is_served() {
    let mut cache = with(ONE);
    let yes = || Bytes::from_static(b"yes");
    assert_eq!(
        served(look(&mut cache, &mut query(ONE), &rules())),
        Some((By::Exact, yes()))
    );
    assert_eq!(
        served(look(&mut cache, &mut query(OTHER), &rules())),
        Some((By::Meaning, yes()))
    );
    assert_eq!(served(look(&mut cache, &mut query(TWIN), &rules())), None);
    // However it is written, a request is the same one.
    let spaced = body(ONE).replace(",\"", ", \"").replace("cap", "\\u0063ap");
    assert_eq!(
        served(look(&mut cache, &mut prepared(&spaced, "plant", &[], 0), &rules())),
        Some((By::Exact, yes()))
    );
}

#[test]
fn a_stream_and_a_whole_answer_are_one() {
    let mut cache = with(ONE);
    let stream = body(ONE).replacen('{', "{\"stream\":true,", 1);
    assert!(served(look(&mut cache, &mut prepared(&stream, "plant", &[], 0), &rules())).is_some());
}

#[test]
fn a_client_can_only_narrow_what_its_route_allows() {
    let mut cache = with(ONE);
    let mut ask = |text: &str, controls: Controls, rules: &Rules, now: u64| {
        served(cache.lookup(&mut query(text), brain(), rules, &controls, now, 0)).map(|(by, _)| by)
    };
    let controls = Controls::default();
    let strict = |similarity| Controls {
        similarity: Some(similarity),
        ..controls
    };
    assert_eq!(ask(OTHER, strict(0.999), &rules(), NOW), None);
    assert_eq!(ask(OTHER, strict(f32::NAN), &rules(), NOW), Some(By::Meaning));
    let demanding = Rules {
        similarity: 0.999,
        ..rules()
    };
    assert_eq!(ask(OTHER, strict(0.1), &demanding, NOW), None, "lowered");
    let exact_only = Controls {
        exact_only: true,
        ..controls
    };
    assert_eq!(ask(OTHER, exact_only, &rules(), NOW), None);
    assert_eq!(ask(ONE, exact_only, &rules(), NOW), Some(By::Exact));
    let no_lookup = Controls {
        no_lookup: true,
        ..controls
    };
    assert_eq!(ask(ONE, no_lookup, &rules(), NOW), None);
    let young = Controls {
        max_age_ms: Some(10),
        ..controls
    };
    assert_eq!(ask(ONE, young, &rules(), NOW + 10), Some(By::Exact));
    assert_eq!(ask(ONE, young, &rules(), NOW + 11), None);
    let off = Rules::default();
    assert_eq!(ask(OTHER, controls, &off, NOW), None);
    assert_eq!(ask(ONE, controls, &off, NOW), Some(By::Exact));
}

#[test]
fn what_is_no_longer_fresh_is_served_stale_if_the_route_says_so_and_then_no_more() {
    let mut cache = with(ONE);
    let stale = Rules {
        stale_ms: 1_000,
        ..rules()
    };
    let mut at =
        |now: u64, rules: &Rules| match cache.lookup(&mut query(ONE), brain(), rules, &Controls::default(), now, 0) {
            Outcome::Hit(hit) => Some((hit.age_ms, hit.is_stale)),
            _ => None,
        };
    assert_eq!(at(NOW + HOUR, &rules()), Some((HOUR, false)));
    assert_eq!(at(NOW + HOUR + 1, &rules()), None);
    assert_eq!(at(NOW + HOUR + 1_000, &stale), Some((HOUR + 1_000, true)));
    assert_eq!(at(NOW + HOUR + 1_001, &stale), None);
    assert_eq!(at(NOW - 5, &rules()), Some((0, false)), "a clock that went back");
    assert_eq!(cache.sweep(NOW + HOUR + 1, 10), 1);
    assert_eq!(cache.size().entries, 0);
}

#[test]
fn a_new_way_of_saying_it_is_compared_until_it_is_trusted() {
    let mut cache = with(ONE);
    let cautious = Rules {
        agreements: 2,
        ..rules()
    };
    for _ in 0..2 {
        let Outcome::Shadow(hit) = look(&mut cache, &mut query(OTHER), &cautious) else {
            panic!("served untested")
        };
        assert!(hit.similarity > 0.85 && hit.pair.is_some());
        cache.settle(&hit, true);
    }
    let Outcome::Hit(hit) = look(&mut cache, &mut query(OTHER), &cautious) else {
        panic!("not trusted")
    };
    cache.settle(&hit, false);
    assert_eq!(cache.evidence().quarantined().count(), 1);
    // The answer itself is gone, and so is the trust in this way of saying it.
    assert!(matches!(look(&mut cache, &mut query(ONE), &cautious), Outcome::Miss(_)));
    cache.insert(entry(query(ONE), "yes", NOW), NOW);
    assert!(matches!(
        look(&mut cache, &mut query(OTHER), &cautious),
        Outcome::Miss(None)
    ));
}

#[test]
fn a_poisoned_answer_switches_meaning_off_until_checks_are_clean_again() {
    let mut cache = with(ONE);
    let Outcome::Hit(hit) = look(&mut cache, &mut query(OTHER), &rules()) else {
        panic!("not served")
    };
    cache.settle(&hit, false);
    let other = "Check the pins of housing H7 on line 4, please.";
    cache.insert(entry(query(other), "ok", NOW), NOW);
    let again = "check the pins of housing H7 on line 4";
    let Outcome::Shadow(hit) = look(&mut cache, &mut query(again), &rules()) else {
        panic!("served while off")
    };
    assert!(
        served(look(&mut cache, &mut query(other), &rules())).is_some(),
        "exact hits go on"
    );
    (0..500).for_each(|_| cache.settle(&hit, true));
    assert!(matches!(look(&mut cache, &mut query(again), &rules()), Outcome::Hit(_)));
}

#[test]
fn served_matches_are_audited_at_the_rate_asked_for() {
    let mut cache = with(ONE);
    let audited = Rules {
        audit_per_million: 1_000_000,
        ..rules()
    };
    let Outcome::Hit(hit) = look(&mut cache, &mut query(OTHER), &audited) else {
        panic!("not served")
    };
    assert!(hit.is_audited);
    let Outcome::Hit(hit) = look(&mut cache, &mut query(ONE), &audited) else {
        panic!("not served")
    };
    assert!(!hit.is_audited, "the same request needs no check");
}

#[test]
fn purges_remove_what_they_name_and_nothing_else() {
    let texts = ["Is line 1 clear?", "Is line 2 clear?", "Is line 3 clear?"];
    let fill = || {
        let mut cache = cache();
        for (at, text) in texts.iter().enumerate() {
            let context = [("variant", Some(["a", "b", "b"][at]))];
            let mut asked = prepared(&body(text), ["plant", "plant", "office"][at], &context, 0);
            let entry = asked.ticket(brain()).unwrap().entry(
                answer("x"),
                ["m", "n", "n"][at],
                &[["t", "t", "u"][at]],
                HOUR,
                NOW,
            );
            cache.insert(entry, NOW);
        }
        cache
    };
    let left = |tenant: Option<&str>, what: What<'_>| {
        let mut cache = fill();
        let removed = cache.purge(&Purge { tenant, what });
        assert_eq!(removed + cache.size().entries, 3);
        cache.size().entries
    };
    assert_eq!(left(None, What::All), 0);
    assert_eq!(left(Some("plant"), What::All), 1);
    assert_eq!(left(None, What::Tag("t")), 1);
    assert_eq!(left(None, What::Model("n")), 1);
    assert_eq!(left(Some("office"), What::Model("n")), 2);
    assert_eq!(left(None, What::Context("variant=b")), 1);
    assert_eq!(left(Some("plant"), What::Context("variant=b")), 2);
    let key = prepared(&body(texts[0]), "plant", &[("variant", Some("a"))], 0)
        .key()
        .unwrap();
    assert_eq!(left(None, What::Key(key)), 2);
    assert_eq!(left(Some("office"), What::Key(key)), 3);
}

#[test]
fn a_variant_change_hides_what_was_asked_before_it_even_if_it_is_answered_after() {
    let mut cache = cache();
    let context = [("variant", Some("a"))];
    let ask = |cache: &Cache| prepared(&body(ONE), "plant", &context, cache.epoch("plant", ["variant=a"]));
    let under_way = entry(ask(&cache), "old", NOW);
    cache.insert(entry(ask(&cache), "old", NOW), NOW);
    let before = cache.epoch("plant", ["variant=b"]);
    assert_eq!(cache.bump("plant", Some("variant=a")), 1);
    assert_eq!(cache.epoch("plant", ["variant=b"]), before, "another variant");
    cache.insert(under_way, NOW);
    let mut asked = ask(&cache);
    assert!(matches!(look(&mut cache, &mut asked, &rules()), Outcome::Miss(_)));
    assert_eq!(cache.bump("plant", None), 1, "the late one");
    assert_ne!(cache.epoch("plant", ["variant=b"]), before);
    assert_eq!(cache.epoch("office", ["variant=a"]), 0);
}

#[test]
fn what_saves_least_per_byte_goes_first_and_limits_hold() {
    let mut cache = Cache::new(Limits {
        entries: 3,
        bytes: 1 << 20,
    });
    let texts: Vec<String> = (0..4).map(|line| format!("Is line {line} clear?")).collect();
    for (at, text) in texts.iter().enumerate() {
        let cost = [5_000, 1_000, 9_000, 4_000][at];
        let answer = Answer {
            cost_nano_usd: cost,
            ..answer("x")
        };
        let entry = query(text).ticket(brain()).unwrap().entry(answer, "m", &[], HOUR, NOW);
        assert!(cache.insert(entry, NOW));
        assert!(cache.size().entries <= 3);
    }
    let is_there = |cache: &mut Cache, at: usize| served(look(cache, &mut query(&texts[at]), &rules())).is_some();
    assert_eq!(
        (0..4).map(|at| is_there(&mut cache, at)).collect::<Vec<_>>(),
        [true, false, true, true]
    );
    assert_eq!(cache.size().evicted, 1);
    cache.set_limits(Limits {
        entries: 1000,
        bytes: 2_000,
    });
    let size = cache.size();
    assert!(size.entry_bytes + size.index_bytes <= 2_000 && size.entries < 3);
    let large = query("large")
        .ticket(brain())
        .unwrap()
        .entry(answer(&"x".repeat(3_000)), "m", &[], HOUR, NOW);
    assert!(!cache.insert(large, NOW), "larger than all there is room for");
}

#[test]
fn memory_is_given_back_to_the_last_byte() {
    let mut cache = cache();
    for line in 0..200 {
        cache.insert(entry(query(&format!("Is line {line} clear of parts?")), "x", NOW), NOW);
        cache.insert(entry(query(&format!("word{line} something alike")), "x", NOW), NOW);
    }
    assert!(cache.size().index_bytes > 0 && cache.size().entries == 400);
    let everything = Purge {
        tenant: None,
        what: What::All,
    };
    assert_eq!(cache.purge(&everything), 400);
    assert_eq!(cache.size(), Size::default());
}

#[test]
fn a_newer_answer_is_not_overtaken_by_an_older_one_from_another_core() {
    let mut cache = cache();
    let (old, new) = (entry(query(ONE), "old", NOW - 10), entry(query(ONE), "new", NOW));
    assert!(cache.insert(new, NOW) && !cache.insert(old, NOW));
    let (_, body) = served(look(&mut cache, &mut query(ONE), &rules())).unwrap();
    assert_eq!((&body[..], cache.size().entries), (&b"new"[..], 1));
}

#[test]
fn near_frames_are_served_for_the_original_alone() {
    let image = |bytes: &str| {
        let url = format!("data:image/png;base64,{bytes}");
        let parts =
            serde_json::json!([{"type": "text", "text": ONE}, {"type": "image_url", "image_url": {"url": url}}]);
        serde_json::json!({"model": "m", "messages": [{"role": "user", "content": parts}]}).to_string()
    };
    let frame = |level: u8| image::FrameMap::from_luma(16, 16, &[level; 256]).unwrap();
    let ask = |bytes: &str, level: u8| {
        let mut query = prepared(&image(bytes), "plant", &[], 0);
        query.set_frames(brain(), vec![frame(level)]);
        query
    };
    let framed = Rules {
        frames: Some(FrameRules::default()),
        ..rules()
    };
    let mut cache = cache();
    cache.insert(entry(ask("AAAA", 100), "yes", NOW), NOW);
    let found = |cache: &mut Cache, bytes: &str, level: u8, rules: &Rules| {
        served(look(cache, &mut ask(bytes, level), rules)).map(|hit| hit.0)
    };
    assert_eq!(found(&mut cache, "AAAB", 107, &framed), Some(By::Frames));
    assert_eq!(found(&mut cache, "AAAB", 107, &rules()), None, "not asked for");
    assert_eq!(found(&mut cache, "AAAC", 108, &framed), None);
    assert_eq!(found(&mut cache, "AAAA", 108, &framed), Some(By::Exact));
    // The same scene and another question.
    let mut other = prepared(&image("AAAB").replace("H29", "H28"), "plant", &[], 0);
    other.set_frames(brain(), vec![frame(100)]);
    assert_eq!(served(look(&mut cache, &mut other, &framed)), None);
}

#[test]
fn explanations_say_how_near_and_why_not() {
    let explained = brain().explain(ONE, TWIN, Level::G2);
    assert!(explained.similarity > 0.95);
    assert_eq!(explained.verdict, Err(Refusal::Signature));
    assert_eq!(brain().explain(ONE, OTHER, Level::G2).verdict, Ok(()));
}
