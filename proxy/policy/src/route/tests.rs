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

fn targets(snapshot: &Snapshot, model: &str) -> Vec<String> {
    let resolved = snapshot.resolve(model).unwrap();
    let plan = plan(snapshot, &resolved).unwrap();
    let target = |index| plan.target(snapshot, &resolved, index);
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
    let plan = plan(&snapshot, &resolved).unwrap();
    let is_fallback = |index| plan.target(&snapshot, &resolved, index).unwrap().is_fallback;
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
    let refused = |model: &str| plan(&snapshot, &snapshot.resolve(model).unwrap()).unwrap_err();
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
    let mut hits = [0_u32; 2];
    for seed in 0..100_000 {
        hits[next_key(provider, 0, seed).unwrap()] += 1;
    }
    assert!(hits[0].abs_diff(70_000) < 1_000, "{hits:?}");
    // Seeds that differ in their high bits only are as good.
    let mut hits = [0_u32; 2];
    for seed in 0..100_000_u64 {
        hits[next_key(provider, 0, seed << 40).unwrap()] += 1;
    }
    assert!(hits[0].abs_diff(70_000) < 1_000, "{hits:?}");
}

#[test]
fn every_key_is_tried_once_and_those_left_share_by_their_weights() {
    let snapshot =
        compile("providers: {openai: {keys: [{env: A, weight: 5}, {env: B, weight: 3}, {env: C, weight: 1}]}}");
    let provider = &snapshot.providers()[0];
    for seed in 0..1000 {
        let mut excluded = 0;
        for attempt in 0..3 {
            let index = next_key(provider, excluded, seed + attempt).unwrap();
            assert_eq!(excluded >> index & 1, 0, "key {index} was tried already");
            excluded |= 1 << index;
        }
        assert_eq!(next_key(provider, excluded, seed), None);
    }
    let second = (0..100_000)
        .filter(|seed| next_key(provider, 0b001, *seed) == Some(1))
        .count();
    assert!(second.abs_diff(75_000) < 1_000, "{second}");
}

#[test]
fn a_key_of_weight_zero_is_the_last_resort() {
    let snapshot = compile("providers: {openai: {keys: [{env: A, weight: 0}, {env: B}, {env: C, weight: 0}]}}");
    let provider = &snapshot.providers()[0];
    let mut hits = [0_u32; 3];
    for seed in 0..1000 {
        assert_eq!(next_key(provider, 0, seed), Some(1));
        hits[next_key(provider, 0b010, seed).unwrap()] += 1;
    }
    assert!(hits[1] == 0 && hits[0] > 400 && hits[2] > 400, "{hits:?}");
}

#[test]
fn sixty_four_keys_are_all_reached() {
    let keys: Vec<String> = (0..limits::KEYS_MAX).map(|n| format!("{{env: K{n}}}")).collect();
    let snapshot = compile(&format!("providers: {{openai: {{keys: [{}]}}}}", keys.join(", ")));
    let provider = &snapshot.providers()[0];
    let reached = (0..10_000).fold(0_u64, |mask, seed| mask | 1 << next_key(provider, 0, seed).unwrap());
    assert_eq!(reached, u64::MAX);
    assert_eq!(next_key(provider, u64::MAX, 1), None);
}

#[test]
fn a_plan_stays_small() {
    assert!(size_of::<Plan>() <= 16);
}
