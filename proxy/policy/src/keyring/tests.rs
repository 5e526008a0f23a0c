//! Who is let in, to what, and at whose cost.

use sluice_wire::limits::{TAG_NAMES_MAX, TAG_VALUES_MAX, TAGS_BYTES_MAX};

use super::*;
use crate::budget::{Span, Window};
use crate::rate::{Limiter, Unit};

const NOW_S: u64 = 1_000_000;

fn key(seed: u8) -> VirtualKey {
    VirtualKey::from_random(&[seed; 32])
}

fn globs(texts: &[&str]) -> Box<[Glob]> {
    texts.iter().map(|text| Glob::new(text)).collect()
}

fn charge(id: u32, provider: Option<&str>, model: Option<&str>) -> Charge {
    Charge {
        budget: BudgetId(id),
        limit: NanoUsd(u64::from(id) * 500_000_000),
        window: if id == 9 {
            Window::Total
        } else {
            Window::Calendar(Span::Day)
        },
        filter: Filter {
            provider: provider.map(Glob::new),
            model: model.map(Glob::new),
        },
    }
}

/// One customer with two teams, of which the second is disabled, and a key in each; a key of nobody's.
fn keyring() -> Keyring {
    let scope = |name: &str| Scope {
        name: name.into(),
        ..Scope::default()
    };
    let acme = Scope {
        providers: globs(&["openai", "anth*"]),
        budgets: Box::new([charge(9, None, None)]),
        ..scope("acme")
    };
    let press = Scope {
        budgets: Box::new([charge(5, None, None)]),
        limits: Box::new([Subject {
            limiter: Arc::new(Limiter::new(Unit::Requests, Window::Total, 7)),
            filter: Filter::default(),
        }]),
        ..scope("press-line-2")
    };
    let station = Scope {
        models: globs(&["gpt-*", "anthropic/claude-*-5"]),
        budgets: Box::new([charge(1, None, None), charge(2, Some("openai"), Some("*-mini"))]),
        ..scope("station")
    };
    let entry = |scope: Scope, seed: u8, team: Option<u32>| KeyEntry {
        scope,
        digest: key(seed).digest(),
        team,
        ..KeyEntry::default()
    };
    let rotated = KeyEntry {
        previous: Some((key(13).digest(), NOW_S + 60)),
        expires_s: Some(NOW_S + 3_600),
        ..entry(scope("lonely"), 3, None)
    };
    Keyring::new(Parts {
        customers: vec![acme],
        teams: vec![
            (press, Some(0)),
            (
                Scope {
                    disabled: true,
                    ..scope("closed")
                },
                None,
            ),
        ],
        keys: vec![
            entry(station, 1, Some(0)),
            entry(scope("of-closed"), 2, Some(1)),
            rotated,
        ],
    })
}

#[test]
fn keys_have_256_bits_in_43_characters_and_show_only_their_end() {
    let one = VirtualKey::from_random(&std::array::from_fn(|at| at as u8));
    assert_eq!(one.expose(), "sk-sluice-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    assert_eq!(one.hint(), "dHh8");
    assert_eq!(format!("{one:?} {:?}", one.digest()), "*** ***");
    let ones = VirtualKey::from_random(&[0xff; 32]);
    assert_eq!(ones.expose().len(), KEY_PREFIX.len() + 43);
    assert!(ones.expose().ends_with("__8"));
    assert_ne!(one.digest(), ones.digest());
}

#[test]
fn a_key_is_found_with_its_team_and_customer_and_nothing_else_is() {
    let keyring = keyring();
    let caller = keyring.find(key(1).expose().as_bytes(), NOW_S).unwrap();
    assert_eq!(&*keyring.scope(caller.key).name, "station");
    assert_eq!(&*keyring.scope(caller.team.unwrap()).name, "press-line-2");
    assert_eq!(&*keyring.scope(caller.customer.unwrap()).name, "acme");
    for unknown in [key(77).expose(), "", &key(1).expose()[..52]] {
        assert_eq!(
            keyring.find(unknown.as_bytes(), NOW_S),
            Err(NotAccepted::Unknown),
            "{unknown}"
        );
    }
    assert!(Keyring::default().is_empty() && !keyring.is_empty());
}

#[test]
fn a_disabled_team_disables_its_keys_and_time_ends_a_key() {
    let keyring = keyring();
    let found = |seed: u8, at: u64| keyring.find(key(seed).expose().as_bytes(), at);
    assert_eq!(found(2, NOW_S), Err(NotAccepted::Disabled));
    assert!(found(3, NOW_S + 3_599).is_ok());
    assert_eq!(found(3, NOW_S + 3_600), Err(NotAccepted::Expired));
}

#[test]
fn a_rotated_key_holds_until_its_overlap_ends_and_is_the_same_caller() {
    let keyring = keyring();
    let found = |seed: u8, at: u64| keyring.find(key(seed).expose().as_bytes(), at);
    assert_eq!(found(13, NOW_S + 59), found(3, NOW_S));
    assert_eq!(found(13, NOW_S + 60), Err(NotAccepted::Expired));
}

#[test]
fn every_level_must_allow_the_provider_and_the_model() {
    let keyring = keyring();
    let caller = keyring.find(key(1).expose().as_bytes(), NOW_S).unwrap();
    let allows = |provider: &str, model: &str| keyring.allows(caller, provider, model);
    assert_eq!(allows("openai", "gpt-5"), Ok(()));
    assert_eq!(allows("anthropic", "claude-sonnet-5"), Ok(()));
    assert_eq!(allows("openai", "claude-sonnet-5"), Err(NotAllowed::Model));
    assert_eq!(allows("bedrock", "gpt-5"), Err(NotAllowed::Provider));
    let lonely = keyring.find(key(3).expose().as_bytes(), NOW_S).unwrap();
    assert_eq!(keyring.allows(lonely, "any", "thing"), Ok(()));
}

#[test]
fn a_request_is_charged_at_every_level_whose_filter_fits() {
    let keyring = keyring();
    let caller = keyring.find(key(1).expose().as_bytes(), NOW_S).unwrap();
    let budgets = |provider: &str, model: &str| -> Vec<u32> {
        let of = keyring.budgets(caller, provider, model);
        of.map(|id| id.0).collect()
    };
    assert_eq!(budgets("openai", "gpt-5"), [1, 5, 9]);
    assert_eq!(budgets("openai", "gpt-5-mini"), [1, 2, 5, 9]);
    assert_eq!(budgets("azure", "gpt-5-mini"), [1, 5, 9]);
    assert_eq!(keyring.limits(caller, "openai", "gpt-5").count(), 1);
    let named = |id: u32| keyring.describe(caller, BudgetId(id));
    assert_eq!(named(5), "the budget of press-line-2, 2.5 USD per day");
    assert_eq!(named(9), "the budget of acme, 4.5 USD in total");
    assert_eq!(named(77), "a budget");
}

#[test]
fn the_credential_is_found_in_every_field_that_clients_use() {
    let key = key(1);
    for name in CREDENTIAL_FIELDS {
        let bearer = format!("Bearer {}", key.expose());
        let value = if name == "authorization" { &bearer } else { key.expose() };
        let upper = name.to_ascii_uppercase();
        for name in [name, &upper] {
            let fields = [("host", "x"), (name, value)];
            let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            assert_eq!(credential(fields), Some(key.expose().as_bytes()), "{name}");
        }
    }
}

#[test]
fn a_virtual_key_comes_before_a_placeholder_and_the_own_field_before_all() {
    let found = |fields: &[(&'static str, &'static str)]| {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        credential(fields).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let both = [("Authorization", "Bearer sk-none"), ("x-api-key", "sk-sluice-A")];
    assert_eq!(found(&both).as_deref(), Some("sk-sluice-A"));
    assert_eq!(found(&both[..1]).as_deref(), Some("sk-none"));
    let own = [("x-api-key", "sk-sluice-A"), ("x-sluice-key", "sk-sluice-B")];
    assert_eq!(found(&own).as_deref(), Some("sk-sluice-B"));
    assert_eq!(found(&[("authorization", "bearer  sk-x ")]).as_deref(), Some("sk-x"));
    assert_eq!(found(&[("authorization", "Basic eDp5"), ("api-key", "")]), None);
    assert_eq!(found(&[("authorization", "Bearer")]), None);
    assert!(is_own_field(b"X-Sluice-Key") && is_own_field(b"x-sluice-tag-line") && is_own_field(b"X-BF-VK"));
    assert!(!is_own_field(b"authorization") && !is_own_field(b"x-sluice"));
}

#[test]
fn tags_are_kept_within_their_room_and_what_is_not_sound_is_not() {
    let mut tags = Tags::default();
    assert!(tags.add_field(b"X-Sluice-Tag-Line", b" press-2 "));
    assert!(tags.add_field(b"content-type", b"x"), "no tag at all");
    assert!(tags.add_field(b"x-sluice-tag-shift", "fr\u{fc}h".as_bytes()));
    assert!(!tags.add_field(b"x-sluice-tag-", b"x"));
    assert!(!tags.add_field(b"x-sluice-tag-a b", b"x"));
    assert!(!tags.add_field(b"x-sluice-tag-a", b"x\ny"));
    assert!(!tags.add_field(b"x-sluice-tag-a", &[b'x'; 65]));
    assert!(!tags.add_field(b"x-sluice-tag-a", b"\xff"));
    let all: Vec<_> = tags.iter().collect();
    assert_eq!(all, [("line", "press-2"), ("shift", "fr\u{fc}h")]);
    assert!(!tags.add(b"LINE", b"press-3"), "the first says what it is");
    let names = (10..100).map(|at| format!("nam{at}"));
    let added = names.filter(|name| tags.add(name.as_bytes(), b"value")).count();
    assert_eq!(tags.iter().count(), 2 + added);
    assert!((1..TAGS_BYTES_MAX / 12).contains(&added));
}

#[test]
fn reports_tell_a_bounded_number_of_tags_apart() {
    let mut book = TagBook::default();
    let names: Vec<String> = (0..TAG_NAMES_MAX + 1).map(|at| format!("name-{at}")).collect();
    let values: Vec<String> = (0..TAG_VALUES_MAX + 1).map(|at| format!("value-{at}")).collect();
    for value in &values[..TAG_VALUES_MAX] {
        assert_eq!(book.place("line", value), ("line", value.as_str()));
    }
    assert_eq!(book.place("line", &values[TAG_VALUES_MAX]), ("line", "other"));
    assert_eq!(book.place("line", &values[0]), ("line", "value-0"));
    for name in &names[..TAG_NAMES_MAX - 1] {
        assert_eq!(book.place(name, "x"), (name.as_str(), "x"));
    }
    assert_eq!(book.place(&names[TAG_NAMES_MAX], "x"), ("other", "other"));
}
