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
