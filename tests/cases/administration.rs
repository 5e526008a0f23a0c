//! The command line of the administration, against a running gateway.

use std::process::{Command, Output};

use sluice_tests::audit::{ADMIN, Audit};
use sluice_tests::{Request, Setup, Sim, binary, json};

/// Runs `sluice` with these words, and the gateway's address and credential in the environment.
fn sluice(audit: &Audit, words: &[&str]) -> Output {
    let mut command = Command::new(binary::sluice());
    command.args(words).env_clear();
    command.env("SLUICE_ADMIN", audit.replicas[0].admin.to_string());
    command.env("SLUICE_ADMIN_CREDENTIAL", ADMIN);
    command.output().expect("the binary can be started")
}

/// What it printed; it must have succeeded.
fn said(audit: &Audit, words: &[&str]) -> String {
    let output = sluice(audit, words);
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// What it complained of; it must have failed.
fn complained(audit: &Audit, words: &[&str]) -> String {
    let output = sluice(audit, words);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_key_is_made_used_billed_and_deleted_from_a_shell() {
    let audit = Audit::start(1, 1, None, 1_000_000_000);
    said(&audit, &["customer", "create", "acme", "--budget", "1000/month"]);
    said(&audit, &["team", "create", "press-line-2", "--customer", "acme"]);
    let secret = said(
        &audit,
        &[
            "key",
            "create",
            "--team",
            "press-line-2",
            "--budget",
            "50/day",
            "--model",
            "gpt-*",
            "--expires",
            "90d",
        ],
    );
    let secret = secret.trim();
    assert!(secret.starts_with("sk-sluice-") && secret.len() == 53, "{secret}");
    let request = Request::chat("openai/gpt-x").field("Authorization", &format!("Bearer {secret}"));
    let gateway = &audit.replicas[0];
    sluice_tests::wait::until("the key is in force", || {
        (gateway.ask(&request).status == 200).then_some(())
    });
    let listed = said(&audit, &["key", "list", "--team", "press-line-2"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    let name = lines[1].split(' ').next().expect("a name").to_owned();
    assert!(
        name.starts_with("press-line-2-") && lines[1].contains("50/day"),
        "{listed}"
    );
    assert_eq!(lines[0].find("STATE"), lines[1].find("active"), "{listed}");

    let fresh = said(&audit, &["key", "rotate", &name, "--overlap", "1h"]);
    assert_ne!(fresh.trim(), secret);
    let shown = said(&audit, &["key", "show", &name, "--json"]);
    let shown: sluice_tests::Value = serde_json(&shown);
    assert!(shown["expires_s"].as_u64().is_some(), "it still expires: {shown}");
    said(&audit, &["key", "disable", &name]);
    sluice_tests::wait::until("the key is disabled", || {
        (gateway.ask(&request).status == 401).then_some(())
    });
    said(&audit, &["key", "enable", &name]);
    sluice_tests::wait::until("the key is enabled", || {
        (gateway.ask(&request).status == 200).then_some(())
    });

    let report = sluice_tests::wait::until("the ledger knows it", || {
        let report = said(&audit, &["spend", "--by", "team", "--csv"]);
        report.contains("\"press-line-2\",").then_some(report)
    });
    assert!(report.starts_with("name,requests,"), "{report}");
    let table = said(&audit, &["spend", "--by", "key", "--since", "1d"]);
    assert!(table.starts_with("KEY") && table.contains(&name), "{table}");
    said(&audit, &["key", "delete", &name]);
    let log = said(&audit, &["audit-log", "--lines", "2"]);
    assert!(
        log.lines()
            .nth(1)
            .is_some_and(|line| line.contains("delete") && line.contains(&name)),
        "{log}"
    );
    assert_eq!(log.lines().count(), 3, "{log}");
}

fn serde_json(text: &str) -> sluice_tests::Value {
    text.parse().expect("JSON")
}

#[test]
fn budgets_and_limits_are_changed_from_a_shell() {
    let audit = Audit::start(1, 1, None, 1_000_000_000);
    let id = said(
        &audit,
        &[
            "budget",
            "add",
            "--key",
            "free",
            "5/rolling-hour",
            "--soft",
            "4",
            "--model",
            "gpt-*",
        ],
    );
    let id = id.trim();
    said(&audit, &["budget", "set", id, "7.5", "--soft", "none"]);
    said(&audit, &["budget", "top-up", id, "2"]);
    said(
        &audit,
        &[
            "budget",
            "add-limit",
            "--key",
            "free",
            "requests",
            "60",
            "--per",
            "minute",
        ],
    );
    let listed = said(&audit, &["budget", "list"]);
    let line = listed
        .lines()
        .find(|line| line.contains("key free"))
        .expect("it is listed");
    assert!(
        line.contains("7.5") && line.contains("rolling-hour") && line.contains("model gpt-*"),
        "{listed}"
    );
    let shown = said(&audit, &["key", "show", "free"]);
    assert!(shown.contains("requests") && shown.contains("minute"), "{shown}");
    said(&audit, &["budget", "reset", id]);
    said(&audit, &["budget", "delete", id]);
    assert!(!said(&audit, &["budget", "list"]).contains("key free"));
}

#[test]
fn what_is_wrong_is_said_with_what_to_do_about_it() {
    let audit = Audit::start(1, 1, None, 1_000_000_000);
    assert!(complained(&audit, &["key", "show", "nobody"]).contains("there is no such thing"));
    assert!(complained(&audit, &["key", "create", "x", "--budget", "50"]).contains("50/day"));
    assert!(complained(&audit, &["key", "create", "a b"]).contains("a name has"));
    let with = |name: &str, value: &str| {
        let mut command = Command::new(binary::sluice());
        command.args(["key", "list"]).env_clear();
        command.env("SLUICE_ADMIN", audit.replicas[0].admin.to_string());
        command.env("SLUICE_ADMIN_CREDENTIAL", ADMIN);
        command.env(name, value).current_dir(audit.replicas[0].dir.path());
        let output = command.output().expect("the binary can be started");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    };
    let wrong = with("SLUICE_ADMIN_CREDENTIAL", "geheim-falsch");
    assert!(
        wrong.contains("does not accept") && !wrong.contains("geheim-falsch"),
        "{wrong}"
    );
    assert!(with("SLUICE_ADMIN", "127.0.0.1:1").contains("Is the gateway running?"));
    assert!(with("SLUICE_ADMIN_CREDENTIAL", "").contains("credential is missing"));
    let sim = Sim::start();
    let without = Setup::with(&sim.base_url()).start();
    let off = with("SLUICE_ADMIN", &without.admin.to_string());
    assert!(off.contains("accounts.admin_credential"), "{off}");
    // Address and credential from the configuration file.
    let path = audit.replicas[0].config_path();
    std::fs::write(path.with_file_name("admin"), ADMIN).expect("it can be written");
    let config = json!({
        "server": {"listen": "127.0.0.1:0", "admin": audit.replicas[0].admin.to_string()},
        "providers": {"openai": {"base_url": sim.base_url(), "keys": [{"env": "NOBODY_SETS_THIS"}]}},
        "accounts": {"store": "x.db", "admin_credential": {"file": path.with_file_name("admin").display().to_string()}},
    });
    let file = path.with_file_name("admin.yaml");
    std::fs::write(&file, config.to_string()).expect("it can be written");
    let mut command = Command::new(binary::sluice());
    command.args(["key", "list", "--config"]).arg(&file).env_clear();
    let output = command.output().expect("the binary can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn single_requests_are_found_by_key_time_and_status() {
    let audit = Audit::start(1, 1, None, 1_000_000_000);
    let gateway = &audit.replicas[0];
    let ask = |model: &str| {
        let request = Request::chat(model).field("Authorization", &format!("Bearer {}", audit.keys[0]));
        gateway.ask(&request).status
    };
    assert_eq!(ask("openai/gpt-x"), 200);
    assert_eq!(ask("openai/gpt-x+status=400"), 400);
    let words = |status: &'static str| ["log", "--key", "paying", "--since", "1h", "--status", status, "--json"];
    let lines = |status: &'static str| -> Vec<sluice_tests::Value> {
        let text = said(&audit, &words(status));
        text.lines().map(serde_json).collect()
    };
    sluice_tests::wait::until("the ledger has both", || {
        (lines("ok").len() == 1 && lines("error").len() == 1).then_some(())
    });
    let failed = &lines("error")[0];
    assert_eq!(
        (&failed["status"], &failed["virtual_key"]),
        (&json!(400), &json!("paying"))
    );
    assert_eq!(failed["id"].as_str().map(str::len), Some(32));
    assert_eq!(lines("400").len(), 1);
    assert!(said(&audit, &["log", "--key", "free"]).lines().count() <= 1);
    let shown = said(&audit, &["log"]);
    assert!(
        shown.starts_with("WHEN (UTC)") && shown.contains("openai/gpt-x"),
        "{shown}"
    );
    assert!(complained(&audit, &["log", "--status", "bad"]).contains("is not a status"));
}

#[test]
fn one_screen_says_whether_it_is_well() {
    let audit = Audit::start(1, 1, None, 1_000_000_000);
    let gateway = &audit.replicas[0];
    let request = Request::chat("openai/gpt-x").field("Authorization", &format!("Bearer {}", audit.keys[1]));
    for _ in 0..3 {
        assert_eq!(gateway.ask(&request).status, 200);
    }
    let address = gateway.admin.to_string();
    let screen = said(&audit, &["status"]);
    for part in [
        "requests",
        "added by sluice",
        "keys      all usable",
        "budgets   none near its end (1 in all)",
        "store     written",
    ] {
        assert!(screen.contains(part), "{part}:\n{screen}");
    }
    println!("{screen}");
    let page = serde_json(&said(&audit, &["status", "--admin", &address, "--json"]));
    assert_eq!(page["cores"], 1);
    assert!(page["counts"]["requests"].as_u64() >= Some(3), "{page}");
}

#[test]
fn every_command_finds_the_gateway_in_the_same_way() {
    let audit = Audit::start(1, 1, None, 1_000_000_000);
    let address = audit.replicas[0].admin.to_string();
    let commands: [&[&str]; 9] = [
        &["status", "--json"],
        &["latency"],
        &["key", "list"],
        &["team", "list"],
        &["customer", "list"],
        &["spend", "--by", "key"],
        &["log", "--json"],
        &["audit-log"],
        &["cache", "stats"],
    ];
    let run = |words: &[&str], variables: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(binary::sluice());
        command.args(words).args(more).env_clear().current_dir("/");
        command.env("SLUICE_ADMIN_CREDENTIAL", ADMIN);
        command.envs(variables.iter().copied());
        let output = command.output().expect("the binary can be started");
        let said = String::from_utf8(output.stderr).expect("text") + &String::from_utf8(output.stdout).expect("text");
        (output.status.success(), said)
    };
    let nobody = "127.0.0.1:1";
    let url = format!("http://{address}/");
    for words in commands {
        let is_cache = words[0] == "cache";
        let found = [
            run(words, &[("SLUICE_ADMIN", &address)], &[]),
            run(words, &[("SLUICE_ADMIN", nobody)], &["--admin", &address]),
            run(words, &[("SLUICE_ADMIN", "")], &["--admin", &url]),
        ];
        for (is_done, said) in found {
            // This one has no cache, and says so.
            assert!(is_done || is_cache && said.contains("409"), "{words:?}: {said}");
        }
        let (is_done, said) = run(words, &[("SLUICE_ADMIN", nobody)], &[]);
        assert!(
            !is_done && said.contains("no admin interface at 127.0.0.1:1"),
            "{words:?}: {said}"
        );
        let (is_done, said) = run(words, &[], &[]);
        assert!(!is_done && said.contains("SLUICE_ADMIN"), "{words:?}: {said}");
    }
}
