//! The golden mistakes, and that schema, reference and code say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn good(text: &str) -> Config {
    load(text, "test.yaml").unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

/// Every `tests/golden/config/CASE/config.yaml` gives the lines of `expected.txt` beside it: its mistakes, or `good`. With
/// `SLUICE_BLESS=1` the files are written instead, to be read before they are committed.
#[test]
fn every_golden_mistake_is_reported_as_written() {
    let mut cases: Vec<PathBuf> = fs::read_dir(project("tests/golden/config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() > 10, "the golden cases are missing");
    let mut failed = Vec::new();
    for case in &cases {
        let text = fs::read_to_string(case.join("config.yaml")).unwrap();
        let lines: String = match load(&text, "config.yaml") {
            Ok(_) => "good\n".into(),
            Err(mistakes) => mistakes.iter().map(|mistake| format!("{mistake}\n")).collect(),
        };
        if std::env::var_os("SLUICE_BLESS").is_some() {
            fs::write(case.join("expected.txt"), &lines).unwrap();
        } else if fs::read_to_string(case.join("expected.txt")).unwrap_or_default() != lines {
            failed.push(format!("{}:\n{lines}", case.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_committed_schema_is_that_of_the_code() {
    assert!(
        read("config/schema.json") == schema_json(),
        "config/schema.json is stale; run cargo xtask schema"
    );
}

/// The reference with every key that is commented out (`#key:`, no space) put in force.
fn full_reference() -> String {
    let uncomment = |line: &str| {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        match rest.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') && !key.is_empty() => format!("{indent}{key}\n"),
            _ => format!("{line}\n"),
        }
    };
    read("config/reference.yaml").lines().map(uncomment).collect()
}

#[test]
fn the_reference_states_the_defaults() {
    let reference = good(&read("config/reference.yaml"));
    assert_eq!(reference.server, Server::default());
    assert_eq!(reference.timeouts, Timeouts::default());
    assert_eq!(reference.limits, Limits::default());
    assert_eq!(reference.upstream, Upstream::default());
    assert_eq!(reference.log, Log::default());
    assert_eq!(reference.cache, CacheStore::default());
    assert_eq!(reference.default_provider, None);
    assert_eq!(reference.routes, []);
    let key = Key {
        env: Some("OPENAI_KEY_PRIMARY".into()),
        ..Key::default()
    };
    assert_eq!(
        reference.providers["openai"],
        Provider {
            keys: vec![key],
            ..Provider::default()
        }
    );
}

#[test]
fn the_reference_holds_every_key_of_the_schema_and_loads_with_all_of_them() {
    let text = full_reference();
    good(&text);
    let mut mistakes = check::Mistakes::new("reference.yaml");
    let root = tree::parse(&text, &mut mistakes).unwrap();
    let mut present = BTreeSet::new();
    keys_of_tree(&root, "", &mut present);
    let schema = schema();
    let mut known = BTreeSet::new();
    keys_of_schema(&schema, &schema, "", &mut known);
    assert!(known.len() > 60, "{known:#?}");
    let missing: Vec<_> = known.difference(&present).collect();
    assert!(missing.is_empty(), "config/reference.yaml lacks {missing:#?}");
}

/// Paths of all keys; `*` stands for a name that the user chooses and for an element of a list.
fn keys_of_tree(node: &tree::Node, path: &str, out: &mut BTreeSet<String>) {
    match &node.value {
        tree::Value::Mapping(entries) => {
            let chosen = path == "providers" || path.ends_with(".headers");
            for entry in entries {
                let path = check::join(path, if chosen { "*" } else { &entry.key });
                keys_of_tree(&entry.value, &path, out);
                out.insert(path);
            }
        }
        tree::Value::List(items) => items
            .iter()
            .for_each(|item| keys_of_tree(item, &check::join(path, "*"), out)),
        _ => {}
    }
}

fn keys_of_schema(schema: &Value, root: &Value, path: &str, out: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        keys_of_schema(&root["$defs"][reference.rsplit('/').next().unwrap()], root, path, out);
    }
    for shape in schema["anyOf"].as_array().into_iter().flatten() {
        keys_of_schema(shape, root, path, out);
    }
    for (key, member) in schema["properties"].as_object().into_iter().flatten() {
        assert!(
            member["description"].as_str().is_some_and(|text| text.len() > 10),
            "{path}.{key} has no description"
        );
        out.insert(check::join(path, key));
        keys_of_schema(member, root, &check::join(path, key), out);
    }
    if schema["items"].is_object() {
        keys_of_schema(&schema["items"], root, &check::join(path, "*"), out);
    }
    if schema["additionalProperties"].is_object() {
        keys_of_schema(&schema["additionalProperties"], root, &check::join(path, "*"), out);
    }
}

#[test]
fn what_is_written_out_loads_as_the_same_configuration() {
    for text in [
        read("config/sluice.yaml"),
        read("config/reference.yaml"),
        full_reference(),
    ] {
        let config = good(&text);
        // JSON is YAML; nulls stand for what is left out.
        let written = serde_json::to_string_pretty(&config).unwrap();
        assert_eq!(good(&written), config);
    }
}

#[test]
fn the_region_may_stand_at_the_key_or_at_the_provider() {
    let at_key = good("providers: {bedrock: {keys: [{env: K, region: eu-central-1}]}}");
    let at_provider = good("providers: {bedrock: {region: eu-central-1, keys: [{env: K}]}}");
    assert_eq!(
        at_key.providers["bedrock"].keys[0].region.as_deref(),
        Some("eu-central-1")
    );
    assert_eq!(at_provider.providers["bedrock"].region.as_deref(), Some("eu-central-1"));
}

#[test]
fn one_address_or_several_may_be_listened_on() {
    let listen = |value: &str| {
        let text = format!("server: {{listen: {value}}}\nproviders: {{ollama: }}");
        good(&text)
            .server
            .listen
            .0
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(listen("127.0.0.1:0"), ["127.0.0.1:0"]);
    assert_eq!(listen("['0.0.0.0:8080', '[::]:8080']"), ["0.0.0.0:8080", "[::]:8080"]);
}

#[test]
fn line_ends_and_byte_order_mark_of_other_systems_change_nothing() {
    let text = read("config/sluice.yaml");
    let config = good(&text);
    assert_eq!(good(&text.replace('\n', "\r\n")), config);
    assert_eq!(good(&format!("\u{feff}{text}")), config);
    let wrong = text.replace("fallbacks:", "falbacks:").replace('\n', "\r\n");
    let mistakes = load(&wrong, "sluice.yaml").unwrap_err();
    assert_eq!((mistakes[0].line, mistakes[0].column), (17, 5));
}

#[test]
fn no_text_makes_the_loader_panic_and_every_refusal_has_a_position() {
    let text = full_reference();
    let mut seed = 1_u64;
    for round in 0..600 {
        // Cut a piece out, or put a character in, somewhere.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut at = usize::try_from(seed >> 33).unwrap() % text.len();
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let mut changed = text.clone();
        match round % 3 {
            0 => changed.truncate(at),
            1 => changed.insert(at, [':', '-', '[', '{', '\n', '"', '&', '*', '#', '\t'][round % 10]),
            _ => drop(changed.drain(at..text.len().min(at + 1 + round % 40))),
        }
        for mistake in load(&changed, "x.yaml").err().into_iter().flatten() {
            assert!(
                mistake.line >= 1 && mistake.column >= 1 && !mistake.message.is_empty(),
                "{mistake:?}"
            );
            assert!(mistake.line as usize <= changed.lines().count() + 1, "{mistake}");
        }
    }
}

#[test]
fn nested_aliases_and_deep_nesting_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let item = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![item; 10].join(", "));
    }
    assert!(load(&bomb, "bomb.yaml").is_err());
    let deep = format!("providers: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(load(&deep, "deep.yaml").is_err());
}

#[test]
fn at_most_so_many_mistakes_are_reported_and_in_order() {
    let mut text = String::from("providers: {ollama: }\n");
    for n in 0..500 {
        text += &format!("unknown{n}: 1\n");
    }
    let mistakes = load(&text, "x.yaml").unwrap_err();
    assert_eq!(mistakes.len(), sluice_wire::limits::CONFIG_MISTAKES_MAX);
    assert!(mistakes.is_sorted_by_key(|mistake| mistake.line));
}
