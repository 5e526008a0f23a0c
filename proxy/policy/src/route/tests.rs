//! Order of targets, and the shares of weighted keys.

use super::*;
use crate::config;
use crate::snapshot::SecretRef;

/// Compiles with every variable set, except those whose name begins with `UNSET`.
fn compile(yaml: &str) -> Snapshot {
    let config = config::load(yaml, "test.yaml").unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let secrets = |reference: &SecretRef| match reference {
        SecretRef::Env(name) if !name.starts_with("UNSET") => Ok(Some(name.clone())),
        _ => Ok(None),
    };
    Snapshot::compile(&config, 1, &secrets).0
}

/// What is remembered beside a snapshot.
struct Memory {
    health: Health,
    keys: Vec<Arc<KeyState>>,
}

impl Memory {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            health: Health::new(7),
            keys: snapshot.key_states(None),
        }
    }

    fn situation(&self, random: u64) -> Situation<'_> {
        Situation {
            health: &self.health,
            keys: &self.keys,
            now_ms: 1_000_000,
            random,
            session: None,
            streamed: true,
        }
    }

    fn key(&self, provider: &Provider, excluded: u64, random: u64) -> Option<usize> {
        next_key(provider, 1, excluded, &self.situation(random), false)
            .ok()
            .map(|(index, _)| index)
    }

    fn state(&self, provider: &str, model: &str) -> &crate::health::Target {
        let tag = self.health.tag(provider, model);
        let slot = self.health.find(tag, provider, model, 1_000_000).unwrap();
        self.health.target(slot)
    }
}

fn first(snapshot: &Snapshot, model: &str, situation: &Situation<'_>) -> String {
    let resolved = snapshot.resolve(model).unwrap();
    let plan = plan(snapshot, &resolved, &[], situation).unwrap();
    let target = plan.target(snapshot, &resolved, &[], 0).unwrap();
    format!("{}/{}", target.provider.name, target.model)
}

fn targets(snapshot: &Snapshot, model: &str) -> Vec<String> {
    targets_with(snapshot, model, &[], &Memory::of(snapshot).situation(1))
}

fn targets_with(snapshot: &Snapshot, model: &str, own: &[Target], situation: &Situation<'_>) -> Vec<String> {
    let resolved = snapshot.resolve(model).unwrap();
    let plan = plan(snapshot, &resolved, own, situation).unwrap();
    let target = |index| plan.target(snapshot, &resolved, own, index);
    assert!(target(plan.len()).is_none());
    (0..plan.len())
        .map(|index| target(index).unwrap())
        .map(|t| format!("{}/{}", t.provider.name, t.model))
        .collect()
}

#[test]
fn the_users_chain_is_tried_in_its_order() {
    let snapshot = compile(include_str!("../../../../config/sluice.yaml"));
    let chain = [
        "openai/gpt-4o-mini",
        "anthropic/claude-sonnet-4-6",
        "bedrock/anthropic.claude-3-5-haiku",
    ];
    assert_eq!(targets(&snapshot, "openai/gpt-4o-mini"), chain);
    assert_eq!(targets(&snapshot, "openai/gpt-4o"), ["openai/gpt-4o"]);
    let resolved = snapshot.resolve("openai/gpt-4o-mini").unwrap();
    let memory = Memory::of(&snapshot);
    let plan = plan(&snapshot, &resolved, &[], &memory.situation(1)).unwrap();
    let is_fallback = |index| plan.target(&snapshot, &resolved, &[], index).unwrap().is_fallback;
    assert_eq!([is_fallback(0), is_fallback(1), is_fallback(2)], [false, true, true]);
}

#[test]
fn providers_without_a_usable_key_and_repeated_targets_are_left_out() {
    let snapshot = compile(
        "providers:
  openai: {keys: [{env: UNSET_A}]}
  anthropic: {keys: [{env: B, models: [only-this]}]}
  mistral: {keys: [{env: C}]}
routes:
  - {models: ['*'], fallbacks: [anthropic/other, anthropic/only-this, mistral/large]}",
    );
    assert_eq!(
        targets(&snapshot, "openai/gpt-4o"),
        ["anthropic/only-this", "mistral/large"]
    );
    assert_eq!(
        targets(&snapshot, "mistral/large"),
        ["mistral/large", "anthropic/only-this"]
    );
}

#[test]
fn a_request_without_any_usable_target_is_refused() {
    let snapshot = compile("providers: {openai: {keys: [{env: UNSET}]}, mistral: {keys: [{env: A, models: [x]}]}}");
    let memory = Memory::of(&snapshot);
    let refused =
        |model: &str| plan(&snapshot, &snapshot.resolve(model).unwrap(), &[], &memory.situation(1)).unwrap_err();
    assert_eq!(refused("openai/gpt-4o").code, Code::NoProviderAvailable);
    assert_eq!(
        refused("openai/gpt-4o").message,
        r#"the provider "openai" has no usable key, and there is no fallback"#
    );
    assert_eq!(
        refused("mistral/y").message,
        r#"the provider "mistral" has no key that may be used for this model, and there is no fallback"#
    );
}

#[test]
fn keys_get_their_share_within_one_percent() {
    let snapshot = compile(include_str!("../../../../config/sluice.yaml"));
    let provider = &snapshot.providers()[0];
    let memory = Memory::of(&snapshot);
    let mut hits = [0_u32; 2];
    for seed in 0..100_000 {
        hits[memory.key(provider, 0, seed).unwrap()] += 1;
    }
    assert!(hits[0].abs_diff(70_000) < 1_000, "{hits:?}");
    // Seeds that differ in their high bits only are as good.
    let mut hits = [0_u32; 2];
    for seed in 0..100_000_u64 {
        hits[memory.key(provider, 0, seed << 40).unwrap()] += 1;
    }
    assert!(hits[0].abs_diff(70_000) < 1_000, "{hits:?}");
}

#[test]
fn every_key_is_tried_once_and_those_left_share_by_their_weights() {
    let snapshot =
        compile("providers: {openai: {keys: [{env: A, weight: 5}, {env: B, weight: 3}, {env: C, weight: 1}]}}");
    let provider = &snapshot.providers()[0];
    let memory = Memory::of(&snapshot);
    for seed in 0..1000 {
        let mut excluded = 0;
        for attempt in 0..3 {
            let index = memory.key(provider, excluded, seed + attempt).unwrap();
            assert_eq!(excluded >> index & 1, 0, "key {index} was tried already");
            excluded |= 1 << index;
        }
        assert_eq!(memory.key(provider, excluded, seed), None);
    }
    let second = (0..100_000)
        .filter(|seed| memory.key(provider, 0b001, *seed) == Some(1))
        .count();
    assert!(second.abs_diff(75_000) < 1_000, "{second}");
}

#[test]
fn a_key_of_weight_zero_is_the_last_resort() {
    let snapshot = compile("providers: {openai: {keys: [{env: A, weight: 0}, {env: B}, {env: C, weight: 0}]}}");
    let provider = &snapshot.providers()[0];
    let memory = Memory::of(&snapshot);
    let mut hits = [0_u32; 3];
    for seed in 0..1000 {
        assert_eq!(memory.key(provider, 0, seed), Some(1));
        hits[memory.key(provider, 0b010, seed).unwrap()] += 1;
    }
    assert!(hits[1] == 0 && hits[0] > 400 && hits[2] > 400, "{hits:?}");
}

#[test]
fn sixty_four_keys_are_all_reached() {
    let keys: Vec<String> = (0..limits::KEYS_MAX).map(|n| format!("{{env: K{n}}}")).collect();
    let snapshot = compile(&format!("providers: {{openai: {{keys: [{}]}}}}", keys.join(", ")));
    let provider = &snapshot.providers()[0];
    let memory = Memory::of(&snapshot);
    let reached = (0..10_000).fold(0_u64, |mask, seed| mask | 1 << memory.key(provider, 0, seed).unwrap());
    assert_eq!(reached, u64::MAX);
    assert_eq!(memory.key(provider, u64::MAX, 1), None);
}

#[test]
fn a_plan_stays_small() {
    assert!(size_of::<Plan>() <= 24);
}

const GROUP: &str = "providers:
  a: {vendor: vllm, base_url: 'http://a.test'}
  b: {vendor: vllm, base_url: 'http://b.test'}
  c: {vendor: vllm, base_url: 'http://c.test'}
routes:
  - models: [a/chat]
    targets: [{model: a/chat, weight: 3}, {model: b/chat}, {model: c/chat, priority: 1}]
    fallbacks: [c/spare, a/chat]
  - models: [a/busy]
    targets: [{model: a/busy}, {model: b/busy}]
    balance: least_busy
  - models: [a/fast]
    targets: [{model: a/fast}, {model: b/fast}]
    balance: fastest
  - models: [a/new]
    canary: {model: b/new, share: 0.05}
    shadow: {model: c/new, share: 0.25}";

#[test]
fn a_routes_targets_share_by_weight_and_the_others_follow() {
    let snapshot = compile(GROUP);
    let memory = Memory::of(&snapshot);
    let mut hits = [0_u32; 2];
    for random in 0..10_000 {
        let order = targets_with(&snapshot, "a/chat", &[], &memory.situation(random));
        assert_eq!(
            order[2..],
            ["c/chat", "c/spare"],
            "then the next priority, then fallbacks, none twice"
        );
        hits[usize::from(order[0] == "b/chat")] += 1;
    }
    assert!(hits[1].abs_diff(2_500) < 150, "{hits:?}");
}

#[test]
fn a_target_that_is_left_alone_comes_last_of_its_group() {
    let snapshot = compile(GROUP);
    let memory = Memory::of(&snapshot);
    let _ = memory.state("a", "chat").hold(1_000_500);
    for random in 0..100 {
        let order = targets_with(&snapshot, "a/chat", &[], &memory.situation(random));
        assert_eq!(order[..3], ["b/chat", "c/chat", "a/chat"]);
    }
}

#[test]
fn the_less_busy_and_the_faster_of_two_is_chosen() {
    let snapshot = compile(GROUP);
    let memory = Memory::of(&snapshot);
    let _ = memory
        .state("a", "busy")
        .admit(1_000_000, &crate::health::BreakerSettings::default());
    memory.state("a", "fast").observe(200_000, true, 1_000_000);
    memory.state("b", "fast").observe(100_000, true, 1_000_000);
    for random in 0..100 {
        assert_eq!(first(&snapshot, "a/busy", &memory.situation(random)), "b/busy");
        assert_eq!(first(&snapshot, "a/fast", &memory.situation(random)), "b/fast");
    }
    for _ in 0..2 {
        let _ = memory
            .state("b", "fast")
            .admit(1_000_000, &crate::health::BreakerSettings::default());
    }
    assert_eq!(
        first(&snapshot, "a/fast", &memory.situation(1)),
        "a/fast",
        "three would wait there"
    );
}

#[test]
fn a_session_keeps_to_its_target_and_key_while_they_are_well() {
    let text = GROUP.replace(
        "a: {vendor: vllm,",
        "a: {vendor: groq, keys: [{env: A}, {env: B}, {env: C}],",
    );
    let snapshot = compile(&text);
    let memory = Memory::of(&snapshot);
    let provider = snapshot.provider_by_name("a").unwrap();
    let mut targets_seen = std::collections::BTreeSet::new();
    let mut keys_seen = [0; 3];
    for session in 0..200_u64 {
        let of = |random| Situation {
            session: Some(session_hash(&session.to_le_bytes())),
            ..memory.situation(random)
        };
        let target = first(&snapshot, "a/chat", &of(0));
        let (key, _) = next_key(provider, 1, 0, &of(0), false).unwrap();
        keys_seen[key] += 1;
        for random in 1..20 {
            assert_eq!(first(&snapshot, "a/chat", &of(random)), target);
            assert_eq!(next_key(provider, 1, 0, &of(random), false).unwrap().0, key);
        }
        // Without another key, it keeps its own.
        let other = (key + 1) % 3;
        assert_eq!(next_key(provider, 1, 1 << other, &of(0), false).unwrap().0, key);
        assert_ne!(next_key(provider, 1, 1 << key, &of(0), false).unwrap().0, key);
        targets_seen.insert(target);
    }
    assert_eq!(targets_seen.len(), 2);
    assert!(keys_seen.iter().all(|&seen| seen > 30), "{keys_seen:?}");
}

#[test]
fn a_canary_and_a_shadow_get_their_share() {
    let snapshot = compile(GROUP);
    let memory = Memory::of(&snapshot);
    let resolved = snapshot.resolve("a/new").unwrap();
    let (mut canaries, mut shadows) = (0_u32, 0_u32);
    for seed in 0..20_000_u64 {
        let random = crate::health::hash::mix(seed);
        let order = targets_with(&snapshot, "a/new", &[], &memory.situation(random));
        assert_eq!(order.last().map(String::as_str), Some("a/new"));
        canaries += u32::from(order.len() == 2);
        let copied = shadow(&snapshot, &resolved, random);
        shadows += u32::from(copied.is_some_and(|target| &*target.provider.name == "c"));
    }
    assert!(canaries.abs_diff(1_000) < 150, "{canaries}");
    assert!(shadows.abs_diff(5_000) < 300, "{shadows}");
    let _ = memory.state("b", "new").hold(2_000_000);
    let canaries = (0..20_000).filter(|&seed| {
        targets_with(
            &snapshot,
            "a/new",
            &[],
            &memory.situation(crate::health::hash::mix(seed)),
        )
        .len()
            == 2
    });
    assert_eq!(canaries.count(), 0, "not while it is left alone");
}

#[test]
fn fallbacks_that_the_request_brings_stand_in_place_of_the_routes() {
    let snapshot = compile(GROUP);
    let memory = Memory::of(&snapshot);
    let own = ["c/x", "b/chat"].map(|name| {
        let resolved = snapshot.resolve(name).unwrap();
        Target {
            provider: resolved.provider,
            model: resolved.model.into(),
        }
    });
    let mut order = targets_with(&snapshot, "a/chat", &own, &memory.situation(1));
    order[..2].sort();
    assert_eq!(order, ["a/chat", "b/chat", "c/chat", "c/x"]);
    assert_eq!(
        targets_with(&snapshot, "b/any", &own, &memory.situation(1)),
        ["b/any", "c/x", "b/chat"]
    );
}

#[test]
fn a_key_near_its_limit_gets_less_and_one_at_rest_nothing() {
    let snapshot = compile("providers: {openai: {keys: [{env: A}, {env: B}]}}");
    let provider = &snapshot.providers()[0];
    let memory = Memory::of(&snapshot);
    memory.keys[0].observe(20, 1_000_000);
    let count = |memory: &Memory| {
        (0..10_000)
            .filter(|&seed| memory.key(provider, 0, seed) == Some(0))
            .count()
    };
    // A tenth against one.
    assert!(count(&memory).abs_diff(909) < 120, "{}", count(&memory));
    let settings = crate::health::KeySettings::default();
    let (index, permit) = next_key(provider, 1, 0b10, &memory.situation(1), false).unwrap();
    assert_eq!(index, 0);
    let limited = crate::health::KeyVerdict::Limited(Some(7_000));
    assert!(!memory.keys[0].report(permit, limited, 1_000_000, 0, &settings));
    assert_eq!(count(&memory), 0);
    let out = next_key(provider, 1, 0b10, &memory.situation(1), false).unwrap_err();
    assert_eq!(out.said_ms, Some(1_007_000));
    assert!(!out.refused);
}

#[test]
fn what_is_known_of_a_key_survives_a_reload_and_not_a_new_secret() {
    let yaml = "providers: {openai: {keys: [{env: A, name: one}, {env: B, name: two}]}}";
    let old = compile(yaml);
    let states = old.key_states(None);
    let reordered =
        compile("providers: {mistral: {keys: [{env: X}]}, openai: {keys: [{env: B, name: two}, {env: C, name: one}]}}");
    let taken = reordered.key_states(Some((&old, &states)));
    assert_eq!(taken.len(), 3);
    assert!(Arc::ptr_eq(&taken[1], &states[1]), "the same key at another place");
    assert!(
        !Arc::ptr_eq(&taken[2], &states[0]),
        "another secret under the same name"
    );
}
