//! Who may name what: the boundaries between the crates and modules that rustc does not guard.
//!
//! Invariants: code is looked at, not comments or strings; tests of `wire` and `policy` may read files.
//! Deliberately absent: what the crates' dependencies guard already (`wire` cannot name `gateway`).

use super::Violation;
use super::source::{Source, Token, is_word};

/// The runtime and the ring under it.
const RUNTIME: [&str; 2] = ["monoio", "io_uring"];
/// Where they may be named.
const RUNTIME_ALLOWED: [&str; 4] = [
    "proxy/gateway/src/worker.rs",
    "proxy/gateway/src/net.rs",
    "proxy/gateway/src/net/ready.rs",
    "bench/",
];

/// Modules of the data plane that the control thread does not name.
const DATA_PLANE: [&str; 8] = [
    "connection",
    "exchange",
    "relay",
    "attempt",
    "intake",
    "upstream",
    "net",
    "core",
];
/// Files of the gateway that are neither side's: what crosses, and what starts both.
const SHARED: [&str; 6] = [
    "proxy/gateway/src/main.rs",
    "proxy/gateway/src/lib.rs",
    "proxy/gateway/src/mesh.rs",
    "proxy/gateway/src/plane.rs",
    "proxy/gateway/src/record.rs",
    "proxy/gateway/src/tls.rs",
];

/// Where code may be chosen by dialect: the translators, the model between them, and the paths of each.
const DIALECT_ALLOWED: [&str; 6] = [
    "proxy/wire/src/provider.rs",
    "proxy/wire/src/provider/",
    "proxy/wire/src/chat.rs",
    "proxy/wire/src/chat/",
    "proxy/wire/src/dialect.rs",
    "proxy/wire/src/surface.rs",
];

/// What only the gateway may reach for.
const STD_MODULES: [&str; 5] = ["fs", "env", "thread", "process", "os"];
const STD_TYPES: [&str; 6] = [
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
];

/// Checks one Rust file.
pub fn check(path: &str, text: &str, found: &mut Vec<Violation>) {
    let source = Source::read(text);
    runtime(path, &source.tokens, found);
    planes(path, &source.tokens, found);
    if is_test(path) {
        return;
    }
    let tokens = source.without_tests();
    dialects(path, &tokens, found);
    purity(path, &tokens, found);
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/examples/") || path.starts_with("tests/")
}

fn within(path: &str, places: &[&str]) -> bool {
    places
        .iter()
        .any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

fn runtime(path: &str, tokens: &[Token<'_>], found: &mut Vec<Violation>) {
    if within(path, &RUNTIME_ALLOWED) {
        return;
    }
    for token in tokens.iter().filter(|token| RUNTIME.contains(&token.text)) {
        found.push(Violation::new(
            path,
            token.line,
            format!(
                "{} is named in worker.rs, net.rs and net/ready.rs of the gateway and in bench/ only",
                token.text
            ),
        ));
    }
}

fn planes(path: &str, tokens: &[Token<'_>], found: &mut Vec<Violation>) {
    let Some(module) = path.strip_prefix("proxy/gateway/src/") else {
        return;
    };
    if within(path, &SHARED) {
        return;
    }
    // The command line speaks to the control thread's interface, and is as far from the data plane as control is.
    let is_control = ["control", "cli"].iter().any(|side| {
        module
            .strip_prefix(side)
            .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    });
    for named in crate_modules(tokens) {
        if is_control && DATA_PLANE.contains(&named.text) {
            found.push(Violation::new(
                path,
                named.line,
                format!(
                    "control meets the data plane in mesh, plane, record and the counters, not in {}",
                    named.text
                ),
            ));
        }
        if !is_control && named.text == "control" {
            found.push(Violation::new(path, named.line, "the data plane does not name control"));
        }
    }
}

/// The modules named by `crate::module` and `crate::{module, …}`.
fn crate_modules<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut named = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let follows = |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|token| token.text == text);
        if token.text != "crate" || !follows(1, ":") || !follows(2, ":") {
            continue;
        }
        if !follows(3, "{") {
            named.extend(tokens.get(at + 3));
            continue;
        }
        let mut depth = 0_usize;
        let mut expected = false;
        for token in &tokens[at + 3..] {
            match token.text {
                "{" => {
                    depth += 1;
                    expected = depth == 1;
                }
                "}" => depth -= 1,
                "," => expected = depth == 1,
                word if expected && is_word(word) => {
                    named.push(*token);
                    expected = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    named
}

/// A dialect in a pattern: `Dialect::X =>`, `Dialect::X |`, `Dialect::X if`, or within `matches!`.
fn dialects(path: &str, tokens: &[Token<'_>], found: &mut Vec<Violation>) {
    if !path.starts_with("proxy/") || within(path, &DIALECT_ALLOWED) {
        return;
    }
    for (at, window) in tokens.windows(6).enumerate() {
        let [name, first, second, _, after, last] = window else {
            continue;
        };
        if name.text != "Dialect" || first.text != ":" || second.text != ":" {
            continue;
        }
        let closing = [")", "|", "if"].contains(&after.text);
        let is_arm = after.text == "=" && last.text == ">" || closing && is_arm(&tokens[at + 4..]);
        let before = &tokens[at.saturating_sub(12)..at];
        let is_matches = before
            .iter()
            .rposition(|token| token.text == "matches")
            .is_some_and(|from| before[from..].iter().all(|token| token.text != ";"));
        if is_arm || is_matches {
            found.push(Violation::new(
                path,
                name.line,
                "only wire's provider, chat and surface match on a dialect",
            ));
        }
    }
}

/// Whether what follows a pattern's path leads to `=>` before the expression or statement ends.
fn is_arm(rest: &[Token<'_>]) -> bool {
    for pair in rest.windows(2) {
        match (pair[0].text, pair[1].text) {
            ("=", ">") => return true,
            ("=", _) | ("{" | "}" | ";" | ",", _) => return false,
            _ => {}
        }
    }
    false
}

fn purity(path: &str, tokens: &[Token<'_>], found: &mut Vec<Violation>) {
    if !path.starts_with("proxy/wire/src/") && !path.starts_with("proxy/policy/src/") {
        return;
    }
    for (at, token) in tokens.iter().enumerate() {
        let is_std = at >= 3 && tokens[at - 3].text == "std" && tokens[at - 1].text == ":";
        if (is_std && STD_MODULES.contains(&token.text)) || STD_TYPES.contains(&token.text) {
            found.push(Violation::new(
                path,
                token.line,
                format!("{}: wire and policy do no IO and read no clock; pass it in", token.text),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        check(path, text, &mut found);
        found.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn the_runtime_is_named_in_few_places() {
        let text = "//! monoio\nuse monoio::net;\nlet x = \"io_uring\";\n";
        assert_eq!(lines("proxy/gateway/src/exchange.rs", text), [2]);
        assert_eq!(lines("tests/src/lib.rs", text), [2]);
        assert!(lines("proxy/gateway/src/net.rs", text).is_empty());
        assert!(lines("bench/src/rt.rs", text).is_empty());
        assert!(lines("xtask/src/a.rs", "Name::Monoio").is_empty());
    }

    #[test]
    fn control_and_data_plane_do_not_name_each_other() {
        let control = "use crate::mesh;\nuse crate::core::Core;\nuse crate::{plane::{net, X}, relay, record};\n";
        assert_eq!(lines("proxy/gateway/src/control/log.rs", control), [2, 3]);
        assert_eq!(lines("proxy/gateway/src/control.rs", control), [2, 3]);
        assert!(lines("proxy/gateway/src/attempt.rs", control).is_empty());
        let data = "use std::x;\nfn f() { crate::control::run() }\n";
        assert_eq!(lines("proxy/gateway/src/relay/head.rs", data), [2]);
        assert!(lines("proxy/gateway/src/main.rs", data).is_empty());
        assert!(lines("bench/src/x.rs", data).is_empty());
    }

    #[test]
    fn only_the_translators_match_on_a_dialect() {
        let arms = "match d {\n Dialect::OpenAi => 1,\n Dialect::Anthropic | Dialect::Bedrock => 2 }";
        assert_eq!(lines("proxy/gateway/src/exchange.rs", arms), [2, 3, 3]);
        assert!(lines("proxy/wire/src/provider/openai.rs", arms).is_empty());
        let nested = "match d { Some(Dialect::OpenAi) => 1, _ => 2 }";
        assert_eq!(lines("proxy/policy/src/route.rs", nested), [1]);
        assert_eq!(lines("proxy/policy/src/route.rs", "matches!(d, Dialect::OpenAi);"), [1]);
        let rows = "let v = Row { dialect: Dialect::OpenAi, x: f(Dialect::Bedrock) };\nif a == Dialect::OpenAi && b {}";
        assert!(lines("proxy/policy/src/vendors.rs", rows).is_empty());
        let value = "match name { Name::OpenAi => Dialect::OpenAi, Name::Other => Dialect::Bedrock, }";
        assert!(lines("proxy/policy/src/snapshot.rs", value).is_empty());
    }

    #[test]
    fn wire_and_policy_reach_for_nothing_outside() {
        let text = "use std::time::Instant;\nuse std::fs;\nlet a = std::env::var(\"x\");\nlet fs = env!(\"X\");\n";
        assert_eq!(lines("proxy/wire/src/sse.rs", text), [1, 2, 3]);
        assert_eq!(lines("proxy/policy/src/route.rs", text), [1, 2, 3]);
        assert!(lines("proxy/policy/src/route/tests.rs", text).is_empty());
        assert!(lines("proxy/gateway/src/clock.rs", text).is_empty());
        let with_tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n";
        assert!(lines("proxy/wire/src/sse.rs", with_tests).is_empty());
    }
}
