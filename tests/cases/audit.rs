//! The simulator's bill is the auditor: whatever happens, what the provider bills is at most what is recorded, and that is at
//! most the limit; and when traffic stops, nothing stays reserved. `cargo xtask audit` runs the same for longer.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_tests::audit::Audit;
use sluice_tests::http::Request;
use sluice_tests::postgres::Postgres;
use sluice_tests::temp::TempDir;
use sluice_tests::wait;

/// Clients at a time.
const CLIENTS: usize = 256;
/// One dollar, in nano-dollars.
const USD: u64 = 1_000_000_000;

/// How often, or for how long: `SLUICE_AUDIT_…`, or what a quick look needs.
fn extent(name: &str, quick: u64) -> u64 {
    let text = std::env::var(format!("SLUICE_AUDIT_{name}")).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(quick)
}

/// A crowd spends a budget to its end, while the auditor looks.
fn spend_to_the_end(audit: &Audit, seed: u64) {
    let crowd = audit.crowd(CLIENTS, 0, seed);
    let mut looked = 0;
    let begun = Instant::now();
    let enough = Duration::from_secs(extent("SECONDS", 4));
    loop {
        audit.check("under load");
        looked += 1;
        let counts = crowd.counts();
        let (admitted, exhausted) = (
            counts.admitted.load(Ordering::Relaxed),
            counts.exhausted.load(Ordering::Relaxed),
        );
        if admitted > 100 && exhausted > 1_000 && begun.elapsed() > enough {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{counts:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let counts = crowd.stop();
    println!("looked {looked} times; {counts:?}; {:?}", audit.recorded());
    let recorded = audit.check("when traffic has stopped");
    // Near the end a lease is less than what the largest request needs.
    assert!(recorded.spent > recorded.limit / 2, "{recorded:?}");
}

#[test]
fn with_a_sound_provider_and_patient_clients_every_nano_dollar_agrees() {
    // Clients that leave are charged what is certain, which is more than what the provider bills: they are left out.
    for cores in [1, 3] {
        let audit = Audit::start(cores, 1, None, USD);
        for request in 0..60 {
            let stream = request % 2 == 0;
            let body = format!(
                r#"{{"model":"openai/gpt-x","stream":{stream},"max_tokens":30,"messages":[{{"role":"user","content":"{request}"}}]}}"#
            );
            let request = Request::post("/v1/chat/completions", body);
            let answer = audit.replicas[0].ask(&request.field("Authorization", &format!("Bearer {}", audit.keys[0])));
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert!(audit.settle(true).spent > 0);
    }
}

#[test]
fn one_core_spends_a_budget_to_its_end_and_not_beyond() {
    let audit = Audit::start(1, 1, None, USD / 5);
    audit.with_faults();
    spend_to_the_end(&audit, 1);
    audit.settle(false);
}

#[test]
fn several_cores_spend_a_budget_to_its_end_and_not_beyond() {
    let audit = Audit::start(4, 1, None, USD / 5);
    audit.with_faults();
    spend_to_the_end(&audit, 2);
    audit.settle(false);
}

#[test]
fn three_replicas_spend_a_budget_to_its_end_and_not_beyond() {
    let Some(server) = Postgres::start() else { return };
    let audit = Audit::start(2, 3, Some(&server.url()), USD / 5);
    audit.with_faults();
    spend_to_the_end(&audit, 3);
    audit.settle(false);
}

#[test]
fn a_rate_limit_is_one_for_all_replicas_and_outlives_them() {
    const MOST: u64 = 1_000;
    let Some(server) = Postgres::start() else { return };
    let mut audit = Audit::start(2, 2, Some(&server.url()), USD);
    let limit = r#"{"unit":"requests","window":"total","most":1000}"#.parse().expect("JSON");
    let made = audit.admin("POST", "/keys/paying/limits", &limit);
    assert_eq!(made.status, 201, "{made:?}");
    let ask = |audit: &Audit, replica: usize| {
        let bearer = format!("Bearer {}", audit.keys[0]);
        let request = Request::chat("openai/gpt-x").field("Authorization", &bearer);
        audit.replicas[replica].ask(&request)
    };
    let left = |audit: &Audit, replica: usize| {
        let answer = ask(audit, replica);
        // Before the limit is in force these fields are the provider's own.
        let is_ours = answer.field("x-ratelimit-limit-requests") == Some(&MOST.to_string());
        let left = answer.field("x-ratelimit-remaining-requests")?.parse::<u64>().ok();
        left.filter(|_| is_ours && answer.status == 200)
    };
    let of_second = MOST - wait::until("the second replica knows the limit", || left(&audit, 1));
    let mut of_first = 0;
    wait::until("the first knows what the second has counted", || {
        let left = left(&audit, 0)?;
        of_first += 1;
        (left + of_first + of_second == MOST).then_some(())
    });
    // From here on only the first counts.
    while ask(&audit, 0).status == 200 {
        of_first += 1;
    }
    assert_eq!(of_first + of_second, MOST);
    let refused = ask(&audit, 0);
    assert_eq!(refused.status, 429, "{refused:?}");
    wait::until("the second refuses as well", || {
        (ask(&audit, 1).status == 429).then_some(())
    });
    for replica in [0, 1] {
        audit.replicas[replica].signal(libc::SIGTERM);
        assert!(audit.replicas[replica].wait().success());
        audit.revive(replica);
        let refused = ask(&audit, replica);
        assert_eq!(refused.status, 429, "a restart forgets nothing: {refused:?}");
    }
}

/// Gateways are killed at random moments under load; what is lost with them counts as spent.
fn kill_again_and_again(mut audit: Audit, seed: u64) {
    let kills = extent("KILLS", 5);
    let mut random = fastrand::Rng::with_seed(seed);
    audit.with_faults();
    let crowd = audit.crowd(CLIENTS, 0, seed);
    let (mut slowest, mut last_kill) = (Duration::ZERO, Instant::now());
    for kill in 0..kills {
        let before = crowd.admitted();
        // Requests have to be let in between one death and the next, or nothing is at stake.
        wait::until("requests are let in", || {
            slowest = slowest.max(audit.top_up(USD / 50));
            std::thread::sleep(Duration::from_millis(20));
            (crowd.admitted() > before + 30).then_some(())
        });
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        let victim = random.usize(..audit.replicas.len());
        last_kill = Instant::now();
        audit.kill_and_revive(victim);
        audit.check(&format!("after kill {kill}"));
    }
    let counts = crowd.stop();
    println!(
        "killed {kills} times; {counts:?}; {:?}; the slowest change took {slowest:?}",
        audit.recorded()
    );
    audit.check("when traffic has stopped");
    if audit.replicas.len() > 1 {
        // Until the others have noticed the last death, which takes 15 seconds of silence.
        wait::for_at_most(Duration::from_secs(60), "the dead are noticed", || {
            audit.check("while the dead are noticed");
            (last_kill.elapsed() > Duration::from_secs(18)).then_some(())
        });
    }
    audit.settle(false);
}

#[test]
fn a_gateway_that_is_killed_at_random_moments_loses_nothing() {
    kill_again_and_again(Audit::start(2, 1, None, USD / 10), 4);
}

#[test]
fn replicas_that_are_killed_at_random_moments_lose_nothing() {
    let Some(server) = Postgres::start() else { return };
    kill_again_and_again(Audit::start(2, 3, Some(&server.url()), USD / 10), 5);
}

#[test]
fn a_database_that_stops_or_dies_under_load_holds_up_only_those_with_budgets() {
    let Some(mut server) = Postgres::start() else { return };
    let outage = Duration::from_secs(extent("OUTAGE_S", 6));
    let audit = Audit::start(1, 3, Some(&server.url()), 40 * USD);
    audit.with_faults();
    let (paying, free) = (audit.crowd(CLIENTS / 2, 0, 6), audit.crowd(CLIENTS / 2, 1, 7));
    let lets_in = |what: &str, crowd: &sluice_tests::audit::Crowd| {
        let before = crowd.admitted();
        wait::for_at_most(Duration::from_secs(60), what, || {
            (crowd.admitted() > before + 200).then_some(())
        });
    };
    lets_in("the paying are let in", &paying);
    for is_kill in [false, true] {
        if is_kill {
            server.kill();
        } else {
            server.freeze();
        }
        let begun = Instant::now();
        while begun.elapsed() < outage {
            lets_in("who has no budget never notices", &free);
        }
        if is_kill {
            server.revive();
        } else {
            server.thaw();
        }
        lets_in("the paying are let in again", &paying);
        audit.check("after an outage");
        wait::for_at_most(Duration::from_secs(30), "the administration answers again", || {
            (audit.admin("GET", "/keys/paying", &sluice_tests::Value::Null).status == 200).then_some(())
        });
    }
    println!("{:?}; {:?}", paying.stop(), free.stop());
    println!("{:?}", audit.check("when traffic has stopped"));
    audit.settle(false);
}

#[test]
fn a_disk_that_is_full_holds_up_only_those_with_budgets() {
    let mounted = TempDir::new();
    if let Err(why) = mount(&mounted, "4m") {
        eprintln!("left out: a disk that is full: {why}");
        return;
    }
    let store = mounted.path().join("sluice.db").display().to_string();
    let audit = Audit::start(2, 1, Some(&store), 4 * USD);
    audit.with_faults();
    let (paying, free) = (audit.crowd(CLIENTS / 2, 0, 8), audit.crowd(CLIENTS / 2, 1, 9));
    let lets_in = |what: &str, crowd: &sluice_tests::audit::Crowd| {
        let before = crowd.admitted();
        wait::for_at_most(Duration::from_secs(60), what, || {
            (crowd.admitted() > before + 200).then_some(())
        });
    };
    lets_in("the paying are let in", &paying);
    let filler = mounted.path().join("filler");
    fill(&filler);
    wait::for_at_most(Duration::from_secs(60), "the paying are held up", || {
        (paying.counts().unavailable.load(Ordering::Relaxed) > 50).then_some(())
    });
    lets_in("who has no budget never notices", &free);
    std::fs::remove_file(&filler).expect("it is ours");
    mount_again(&mounted, "64m");
    lets_in("the paying are let in again", &paying);
    println!("{:?}; {:?}", paying.stop(), free.stop());
    println!("{:?}", audit.check("when traffic has stopped"));
    audit.settle(false);
    unmount(&mounted);
}

fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).expect("there is room for a name");
    while file.write_all(&[0; 4096]).is_ok() {}
}

fn mount(dir: &TempDir, size: &str) -> Result<(), String> {
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
        .arg(dir.path());
    let output = command.output().map_err(|error| error.to_string())?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("no file system of its own can be had ({})", said()))
}

fn mount_again(dir: &TempDir, size: &str) {
    let options = format!("remount,size={size}");
    let status = Command::new("mount").args(["-o", &options]).arg(dir.path()).status();
    assert!(status.is_ok_and(|status| status.success()));
}

fn unmount(dir: &TempDir) {
    let _ = Command::new("umount").arg("--lazy").arg(dir.path()).status();
}

/// Asks with a key until it is let in and held by the provider, or has been refused for a second; the connection, if let in.
fn held(audit: &Audit, key: &str) -> Option<sluice_tests::Client> {
    // A target without a second one beside it, which would hold as much again.
    let body = r#"{"model":"unpaid/gpt-x","max_tokens":40,"messages":[{"role":"user","content":"Hold this."}]}"#;
    let request = Request::post("/v1/chat/completions", body);
    let request = request.field("Authorization", &format!("Bearer {key}"));
    let in_flight = |audit: &Audit| {
        audit
            .sim
            .attempts()
            .iter()
            .filter(|attempt| attempt["outcome"] == "in_flight")
            .count()
    };
    let before = in_flight(audit);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let mut client = audit.replicas[0].client();
        client.send(request.bytes());
        client
            .stream
            .set_read_timeout(Some(Duration::from_millis(5)))
            .expect("a socket has timeouts");
        loop {
            if in_flight(audit) > before {
                client.stream.set_read_timeout(None).expect("a socket has timeouts");
                return Some(client);
            }
            let mut first = [0; 1];
            match client.stream.peek(&mut first) {
                Ok(_) => break,
                Err(_) => assert!(begun.elapsed() < Duration::from_secs(20), "neither let in nor refused"),
            }
        }
        let status = client.response().status;
        assert!(status == 402 || status == 503 || status == 401, "{status}");
    }
    None
}

fn key_of(audit: &Audit, name: &str, limit: u64) -> String {
    let limit = format!("{}.{:09}", limit / USD, limit % USD);
    let body = sluice_tests::json!({"name": name, "budgets": [{"limit": limit, "window": "total"}]});
    let made = audit.admin("POST", "/keys", &body);
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["key"].as_str().expect("a secret").to_owned()
}

#[test]
fn a_budget_with_room_for_so_many_requests_admits_them_on_any_core() {
    for cores in [1, 4] {
        let audit = Audit::start(cores, 1, None, USD);
        audit.sim.rules(&sluice_tests::json!([{"do": "latency_ms=60000"}]));
        // What one request may cost at most: the smallest budget that admits it.
        let (mut refused, mut admitted) = (0, USD / 100);
        assert!(held(&audit, &key_of(&audit, "large", admitted)).is_some());
        while admitted - refused > admitted / 100 {
            let limit = refused.midpoint(admitted);
            if held(&audit, &key_of(&audit, &format!("probe-{limit}"), limit)).is_some() {
                admitted = limit;
            } else {
                refused = limit;
            }
        }
        let worst = admitted;
        for room in [3, 20, 100] {
            let key = key_of(&audit, &format!("room-{room}"), room * worst);
            let clients: Vec<_> = std::iter::from_fn(|| held(&audit, &key)).collect();
            let admitted = clients.len() as u64;
            println!("{cores} cores, room for {room} of {worst}: {admitted} admitted");
            assert!(
                admitted <= room && admitted + 4.max(room / 16) >= room,
                "{admitted} of {room}"
            );
        }
    }
}
