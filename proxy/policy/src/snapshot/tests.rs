//! What the user's own file compiles to, what happens without keys, and that secrets stay secret.

use super::*;
use crate::config;

const USERS_FILE: &str = include_str!("../../../../config/sluice.yaml");

/// Every variable is set to its own name in lower case with `sk-` before it.
fn all_set(reference: &SecretRef) -> Result<Option<String>, String> {
    match reference {
        SecretRef::Env(name) => Ok(Some(format!("sk-{}\n", name.to_lowercase()))),
        SecretRef::File(path) => Err(format!("{path} is not readable")),
    }
}

fn compile(yaml: &str) -> (Snapshot, Vec<Warning>) {
    let config = config::load(yaml, "test.yaml").unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    Snapshot::compile(&config, 7, &all_set)
}

fn text(secret: &Secret) -> &str {
    std::str::from_utf8(secret.expose()).unwrap()
}

#[test]
fn the_users_file_gives_exactly_its_providers_and_routes() {
    let (snapshot, warnings) = compile(USERS_FILE);
    assert_eq!(warnings, []);
    assert!(snapshot.ready());
    assert_eq!(snapshot.generation(), 7);
    assert_eq!(snapshot.keys_len(), 4);
    let [openai, anthropic, bedrock] = snapshot.providers() else {
        panic!("three providers")
    };
    assert_eq!((&*openai.name, openai.dialect), ("openai", Dialect::OpenAi));
    assert_eq!((&*anthropic.name, anthropic.dialect), ("anthropic", Dialect::Anthropic));
    assert_eq!((&*bedrock.name, bedrock.dialect), ("bedrock", Dialect::Bedrock));
    let weights: Vec<u32> = openai.keys.iter().map(|key| key.weight).collect();
    assert_eq!(weights, [700_000, 300_000]);
    assert_eq!(
        text(&openai.keys[0].head),
        "host: api.openai.com\r\nauthorization: Bearer sk-openai_key_primary\r\n"
    );
    assert_eq!(&*openai.keys[0].path_prefix, "/v1");
    assert_eq!(text(&anthropic.keys[0].auth_header), "x-api-key: sk-anthropic_key\r\n");
    assert_eq!(&*anthropic.keys[0].path_prefix, "");
    assert_eq!(
        text(&bedrock.keys[0].auth_header),
        "authorization: Bearer sk-bedrock_key\r\n"
    );
    assert_eq!(&*bedrock.keys[0].host, "bedrock-runtime.eu-central-1.amazonaws.com");
    assert_eq!(openai.keys[0].origin, openai.keys[1].origin);
    assert_eq!(snapshot.origins().len(), 3);

    let resolved = snapshot.resolve("openai/gpt-4o-mini").unwrap();
    assert_eq!((resolved.provider, resolved.model), (openai.id, "gpt-4o-mini"));
    let fallbacks = snapshot.fallbacks(&resolved);
    assert_eq!(
        fallbacks,
        [
            Target {
                provider: anthropic.id,
                model: "claude-sonnet-4-6".into()
            },
            Target {
                provider: bedrock.id,
                model: "anthropic.claude-3-5-haiku".into()
            },
        ]
    );
    // The bare name means the same model, other names have no route.
    assert_eq!(snapshot.resolve("gpt-4o-mini").unwrap(), resolved);
    assert_eq!(snapshot.resolve("openai/gpt-4o").unwrap().route, None);
}

#[test]
fn the_region_may_stand_at_either_place_and_each_region_has_its_own_origin() {
    let (at_key, _) = compile("providers: {bedrock: {keys: [{env: K, region: eu-central-1}]}}");
    let (at_provider, _) = compile("providers: {bedrock: {region: eu-central-1, keys: [{env: K}]}}");
    for snapshot in [&at_key, &at_provider] {
        let key = &snapshot.providers()[0].keys[0];
        assert_eq!(key.region.as_deref(), Some("eu-central-1"));
        assert_eq!(
            &*snapshot.origins()[key.origin.index()].host,
            "bedrock-runtime.eu-central-1.amazonaws.com"
        );
    }
    let (both, _) = compile("providers: {bedrock: {region: eu-west-1, keys: [{env: A}, {env: A, region: us-east-1}]}}");
    let keys = &both.providers()[0].keys;
    assert_ne!(keys[0].origin, keys[1].origin);
    assert_eq!((&*keys[0].name, &*keys[1].name), ("A", "A-2"));
}

#[test]
fn a_key_without_its_secret_is_skipped_with_a_warning_and_the_others_keep_their_weight() {
    let config = config::load(USERS_FILE, "sluice.yaml").unwrap();
    let only_failover = |reference: &SecretRef| match reference {
        SecretRef::Env(name) if name == "OPENAI_KEY_FAILOVER" => Ok(Some("sk-2".to_owned())),
        SecretRef::Env(name) if name == "ANTHROPIC_KEY" => Ok(Some("  ".to_owned())),
        _ => Ok(None),
    };
    let (snapshot, warnings) = Snapshot::compile(&config, 1, &only_failover);
    let [openai, anthropic, bedrock] = snapshot.providers() else {
        panic!("three providers")
    };
    assert_eq!(openai.keys.len(), 1);
    assert_eq!(
        (&*openai.keys[0].name, openai.keys[0].weight),
        ("OPENAI_KEY_FAILOVER", 300_000)
    );
    assert!(openai.available() && !anthropic.available() && !bedrock.available());
    assert!(snapshot.ready());
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "provider openai: variable OPENAI_KEY_PRIMARY is not set: its key is skipped",
            "provider anthropic: variable ANTHROPIC_KEY is empty: its key is skipped",
            "provider anthropic: no key is usable: the provider is unavailable",
            "provider bedrock: variable BEDROCK_KEY is not set: its key is skipped",
            "provider bedrock: no key is usable: the provider is unavailable",
        ]
    );
    let (nothing, _) = Snapshot::compile(&config, 1, &|_| Ok(None));
    assert!(!nothing.ready());
}

#[test]
fn a_secret_that_would_break_out_of_its_header_is_refused() {
    let config = config::load("providers: {openai: {keys: [{env: A}, {file: /run/b}]}}", "x.yaml").unwrap();
    let (snapshot, warnings) = Snapshot::compile(&config, 1, &|reference| match reference {
        SecretRef::Env(_) => Ok(Some("sk\r\nx-evil: 1".to_owned())),
        SecretRef::File(path) => Err(format!("{path}: permission denied")),
    });
    assert!(!snapshot.ready());
    assert_eq!(
        warnings[0].message,
        "variable A holds characters that no key has: its key is skipped"
    );
    assert_eq!(
        warnings[1].message,
        "file /run/b cannot be read: /run/b: permission denied: its key is skipped"
    );
}

#[test]
fn no_debug_output_shows_a_secret() {
    let (snapshot, warnings) = compile(USERS_FILE);
    let shown = format!("{snapshot:?} {snapshot:#?} {warnings:?}");
    assert!(shown.contains("***"));
    assert!(!shown.contains("sk-"), "{shown}");
    // The bytes of a secret as numbers would be one, too.
    assert!(!shown.contains("115, 107, 45"), "{shown}");
}

#[test]
fn bare_names_go_to_the_provider_that_lists_them_then_to_the_default() {
    let (snapshot, _) = compile(
        "providers:
           openai: {keys: [{env: A}]}
           anthropic: {keys: [{env: B}], models: [claude-sonnet-4-6, shared]}
           mistral: {keys: [{env: C}], models: [shared, 'org/odd']}",
    );
    let to = |model: &str| {
        let resolved = snapshot.resolve(model).unwrap();
        (&*snapshot.provider(resolved.provider).name, resolved.model.to_owned())
    };
    assert_eq!(to("claude-sonnet-4-6"), ("anthropic", "claude-sonnet-4-6".into()));
    assert_eq!(to("shared"), ("anthropic", "shared".into()));
    assert_eq!(to("gpt-4o"), ("openai", "gpt-4o".into()));
    assert_eq!(to("anthropic/new-model"), ("anthropic", "new-model".into()));
    assert_eq!(to("org/odd"), ("mistral", "org/odd".into()));
    assert_eq!(to("mistral/org/odd"), ("mistral", "org/odd".into()));
}

#[test]
fn the_default_provider_is_the_first_unless_it_is_named() {
    let yaml = "providers: {openai: {keys: [{env: A}]}, anthropic: {keys: [{env: B}]}}";
    assert_eq!(&*compile(yaml).0.default_provider().unwrap().name, "openai");
    let (snapshot, _) = compile(&format!("default_provider: anthropic\n{yaml}"));
    assert_eq!(&*snapshot.default_provider().unwrap().name, "anthropic");
    assert_eq!(
        snapshot.resolve("some-model").unwrap().provider,
        snapshot.provider_by_name("anthropic").unwrap().id
    );
}

#[test]
fn a_name_that_means_nothing_is_refused_with_the_closest_one() {
    let (snapshot, _) = compile(USERS_FILE);
    let message = |model: &str| {
        let error = snapshot.resolve(model).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("model"));
        (error.code.as_str(), error.message.into_owned())
    };
    assert_eq!(
        message("opnai/gpt-4o"),
        (
            "model_not_found",
            r#"no provider "opnai"; did you mean "openai/gpt-4o"?"#.into()
        )
    );
    assert_eq!(
        message("groq/llama"),
        (
            "model_not_found",
            r#"no provider serves the model "groq/llama"; providers: anthropic, bedrock, openai"#.into()
        )
    );
    assert_eq!(
        message("openai/"),
        (
            "model_not_found",
            r#"the model "openai/" names a provider but no model; write openai/MODEL"#.into()
        )
    );
    assert_eq!(message("").0, "invalid_parameter");
    assert_eq!(message(&"x".repeat(257)).0, "invalid_parameter");
    assert!(!message("a\r\nb/c").1.contains('\n'));
}

#[test]
fn a_default_provider_whose_own_names_hold_slashes_gets_unknown_prefixes() {
    let (snapshot, _) = compile("providers: {openrouter: {keys: [{env: A}]}}");
    assert_eq!(
        snapshot.resolve("meta-llama/llama-4").unwrap().model,
        "meta-llama/llama-4"
    );
}

#[test]
fn exact_routes_come_before_patterns_and_then_the_first_wins() {
    let (snapshot, _) = compile(
        "providers: {openai: {keys: [{env: A}]}, anthropic: {keys: [{env: B}]}}
routes:
  - {models: ['openai/gpt-4*'], fallbacks: [anthropic/pattern]}
  - {models: ['openai/*'], fallbacks: [anthropic/later]}
  - {models: [gpt-4o], fallbacks: [anthropic/exact]}
  - {models: ['claude-*'], fallbacks: [openai/bare]}
  - {models: ['*'], fallbacks: [openai/any]}",
    );
    let first = |model: &str| {
        let resolved = snapshot.resolve(model).unwrap();
        snapshot.fallbacks(&resolved)[0].model.to_string()
    };
    assert_eq!(first("openai/gpt-4o"), "exact");
    assert_eq!(first("gpt-4o"), "exact");
    assert_eq!(first("gpt-4o-mini"), "pattern");
    assert_eq!(first("openai/o3"), "later");
    assert_eq!(first("anthropic/claude-sonnet-4-6"), "bare");
    assert_eq!(first("anthropic/other"), "any");
}

#[test]
fn a_route_overrides_a_provider_and_that_the_global_timeouts() {
    let (snapshot, _) = compile(
        "timeouts: {connect: 1s, first_byte: 2s}
providers: {openai: {keys: [{env: A}], timeouts: {first_byte: 3s, total: 4s}}}
routes: [{models: [openai/slow], timeouts: {total: 1h}}]",
    );
    let of = |model: &str| {
        let resolved = snapshot.resolve(model).unwrap();
        let timeouts = snapshot.timeouts(resolved.route, resolved.provider);
        (
            timeouts.connect_ms,
            timeouts.first_byte_ms,
            timeouts.first_token_ms,
            timeouts.total_ms,
        )
    };
    assert_eq!(of("openai/fast"), (1000, 3000, 60_000, 4000));
    assert_eq!(of("openai/slow"), (1000, 3000, 60_000, 3_600_000));
}

#[test]
fn headers_tls_and_base_url_of_a_provider_are_rendered() {
    let (snapshot, warnings) = compile(
        "providers:
  house:
    dialect: openai
    base_url: http://models.example.org:9000/api/v1/
    auth: api-key
    keys: [{env: A}]
    headers: {X-Team: cameras}
  vault:
    vendor: openai
    keys: [{env: B}]
    tls: {ca_file: own.pem}
  openai: {keys: [{env: C}]}
  vllm:",
    );
    let [house, vault, openai, vllm] = snapshot.providers() else {
        panic!("four providers")
    };
    let key = &house.keys[0];
    assert_eq!(
        text(&key.head),
        "host: models.example.org:9000\r\napi-key: sk-a\r\nx-team: cameras\r\n"
    );
    assert_eq!(&*key.path_prefix, "/api/v1");
    assert_eq!(
        house.header_names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["host", "x-team"]
    );
    let origin = |provider: &Provider| &snapshot.origins()[provider.keys[0].origin.index()];
    assert_eq!(
        origin(house),
        &Origin {
            tls: None,
            host: "models.example.org".into(),
            port: 9000
        }
    );
    // The same host with other authorities is another origin: their connections must not be mixed.
    assert_eq!(
        (&origin(vault).host, &origin(openai).host),
        (&"api.openai.com".into(), &"api.openai.com".into())
    );
    assert_ne!(origin(vault), origin(openai));
    let tls = origin(vault).tls.unwrap();
    assert_eq!(snapshot.tls_settings()[tls.index()].ca_file.as_deref(), Some("own.pem"));
    // A provider that needs no key has one that sends nothing.
    assert_eq!(
        (&*vllm.keys[0].name, text(&vllm.keys[0].head)),
        ("none", "host: 127.0.0.1:8000\r\n")
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("unencrypted"), "{warnings:?}");
}

const SIGNING_FILE: &str = "
providers:
  bedrock:
    region: eu-central-1
    keys:
      - aws: {access_key_id: {env: ID}, secret_access_key: {env: SECRET}}
      - aws: {access_key_id: {env: ID}, secret_access_key: {env: SECRET}, session_token: {env: TOKEN}}
        region: us-east-1
      - aws: instance";

#[test]
fn a_key_of_aws_credentials_signs_and_sends_no_secret() {
    let (snapshot, warnings) = compile(SIGNING_FILE);
    assert_eq!(warnings, []);
    let [lasting, temporary, instance] = &*snapshot.providers()[0].keys else {
        panic!("three keys")
    };
    assert_eq!(
        [&*lasting.name, &*temporary.name, &*instance.name],
        ["ID", "ID-2", "instance"]
    );
    for key in [lasting, temporary, instance] {
        assert_eq!(text(&key.head), format!("host: {}\r\n", key.host));
        assert!(key.secret.expose().is_empty());
    }
    let scope = |key: &Key| {
        let signing = key.signing.as_ref().unwrap();
        (signing.region.to_string(), signing.service)
    };
    assert_eq!(scope(lasting), ("eu-central-1".into(), "bedrock"));
    assert_eq!(scope(temporary), ("us-east-1".into(), "bedrock"));
    let Some(SignedBy::AccessKey {
        access_key_id,
        secret_access_key,
        session_token: Some(token),
    }) = temporary.signing.as_ref().map(|signing| &signing.by)
    else {
        panic!("an access key with a token")
    };
    assert_eq!(&**access_key_id, "sk-id");
    assert_eq!((text(secret_access_key), text(token)), ("sk-secret", "sk-token"));
    assert!(snapshot.needs_instance_credentials());
    assert!(!compile(USERS_FILE).0.needs_instance_credentials());
    assert!(!format!("{snapshot:?}").contains("sk-secret"));
}

#[test]
fn aws_credentials_with_a_part_that_is_not_set_are_skipped_with_a_warning() {
    let config = config::load(SIGNING_FILE, "x.yaml").unwrap();
    let (snapshot, warnings) = Snapshot::compile(&config, 1, &|reference| match reference {
        SecretRef::Env(name) if name == "TOKEN" => Ok(None),
        _ => Ok(Some("set".to_owned())),
    });
    assert_eq!(snapshot.providers()[0].keys.len(), 2);
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["provider bedrock: variable TOKEN is not set: its key is skipped"]
    );
}

#[test]
fn a_vendors_quirks_hold_for_its_usual_dialect_under_any_name() {
    let (snapshot, _) = compile(
        "providers:
  ours: {vendor: mistral, keys: [{env: A}], max_tokens_default: 16000}
  mistral: {dialect: anthropic, keys: [{env: B}]}
  house: {dialect: openai, base_url: https://models.example.org/v1, keys: [{env: C}]}",
    );
    let [ours, foreign, house] = snapshot.providers() else {
        panic!("three providers")
    };
    assert_eq!(ours.quirks, crate::vendors::find("mistral").unwrap().quirks);
    assert_eq!((foreign.quirks, house.quirks), (Quirks::default(), Quirks::default()));
    assert_eq!((ours.max_tokens_default, house.max_tokens_default), (16_000, 4096));
}

#[test]
fn a_configuration_that_was_never_checked_compiles_without_panic() {
    let mut config = config::load(USERS_FILE, "x.yaml").unwrap();
    config.routes[0].fallbacks = vec!["nowhere/x".into(), String::new(), "anthropic/ok".into()];
    config.routes[0].models.push("nowhere/*".into());
    config.default_provider = Some("nowhere".into());
    let broken = config::Provider {
        keys: vec![config::Key::default(); 100],
        ..config::Provider::default()
    };
    config.providers.insert("broken".into(), broken);
    let (snapshot, warnings) = Snapshot::compile(&config, 1, &all_set);
    assert!(snapshot.default_provider().is_none());
    assert!(snapshot.resolve("bare").is_err());
    let resolved = snapshot.resolve("openai/gpt-4o-mini").unwrap();
    assert_eq!(snapshot.fallbacks(&resolved).len(), 1);
    assert!(warnings.iter().any(|warning| &*warning.provider == "broken"));
}

#[test]
fn a_key_may_be_for_certain_models_only() {
    let (snapshot, _) =
        compile("providers: {openai: {keys: [{env: A, models: ['gpt-4*', o3]}, {env: B}, {env: C, models: [x]}]}}");
    let provider = &snapshot.providers()[0];
    assert_eq!(provider.excluded_keys("gpt-4o"), 0b100);
    assert_eq!(provider.excluded_keys("o3"), 0b100);
    assert_eq!(provider.excluded_keys("o3-mini"), 0b101);
    assert_eq!(provider.excluded_keys("x"), 0b001);
}

#[test]
fn an_origin_is_found_again_after_a_reload_only_if_nothing_about_it_changed() {
    let (older, _) =
        compile("providers: {openai: {keys: [{env: A}]}, anthropic: {keys: [{env: B}]}, mistral: {keys: [{env: C}]}}");
    let (newer, _) = compile(
        "providers:
  mistral: {keys: [{env: C}], tls: {ca_file: own.pem}}
  anthropic: {keys: [{env: D}]}
  groq: {keys: [{env: E}]}",
    );
    let origin = |snapshot: &Snapshot, name: &str| snapshot.provider_by_name(name).unwrap().keys[0].origin;
    let anthropic = newer.same_origin(origin(&newer, "anthropic"), &older);
    assert_eq!(anthropic, Some(origin(&older, "anthropic")));
    assert_eq!(newer.same_origin(origin(&newer, "mistral"), &older), None);
    assert_eq!(newer.same_origin(origin(&newer, "groq"), &older), None);
    let (trusting, _) = compile("upstream: {ca_file: x.pem}\nproviders: {anthropic: {keys: [{env: B}]}}");
    assert_eq!(trusting.same_origin(origin(&trusting, "anthropic"), &older), None);
}

#[test]
fn proxy_headers_are_trusted_from_the_listed_networks_only() {
    let (snapshot, _) = compile("server: {proxy_protocol: {trusted: [10.0.0.0/8, '::1']}}\nproviders: {vllm: }");
    let trusted = |address: &str| snapshot.trusts_proxy(address.parse().unwrap());
    assert!(trusted("10.1.2.3") && trusted("::ffff:10.1.2.3") && trusted("::1"));
    assert!(!trusted("11.1.2.3") && !trusted("127.0.0.1"));
    assert!(!compile(USERS_FILE).0.trusts_proxy("10.1.2.3".parse().unwrap()));
}
