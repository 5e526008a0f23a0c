//! The cache over a restart: kept through kill -9, refused when it is damaged, and never older than a purge.

use sluice_tests::temp::TempDir;
use sluice_tests::{Gateway, Request, Setup, Sim, json, wait};

use super::{caching, use_of};

fn kept(sim: &Sim, folder: &TempDir) -> Setup {
    let file = folder.path().join("cache.bin");
    caching(sim, "semantic")
        .set("/cache/snapshot", file.display().to_string())
        .set("/cache/snapshot_interval", "50ms")
        .cores(2)
}

/// Asks `count` different things.
fn fill(gateway: &Gateway, count: usize) {
    let mut client = gateway.client();
    for at in 0..count {
        assert_eq!(use_of(&client.ask(&request(at))), "miss");
    }
}

fn request(at: usize) -> Request {
    Request::chat(&format!("openai/m{at}"))
}

fn warm(gateway: &Gateway, count: u64) {
    wait::until("the cache is warm", || {
        (gateway.metric("sluice_cache_entries") == count * 2).then_some(())
    });
}

#[test]
fn kill_9_and_a_restart_keep_the_cache_warm() {
    let (sim, folder) = (Sim::start(), TempDir::new());
    let gateway = kept(&sim, &folder).start();
    fill(&gateway, 40);
    let written = gateway.metric("sluice_cache_snapshots_written_total");
    warm(&gateway, 40);
    wait::until("the file is written", || {
        (gateway.metric("sluice_cache_snapshots_written_total") > written).then_some(())
    });
    // Dropping it kills it with SIGKILL.
    drop(gateway);
    let asked = sim.attempts().len();
    let gateway = kept(&sim, &folder).start();
    warm(&gateway, 40);
    for at in 0..40 {
        assert_eq!(use_of(&gateway.ask(&request(at))), "hit");
    }
    assert_eq!(sim.attempts().len(), asked);
    gateway.expect_metric("sluice_cache_restored", 40);
}

#[test]
fn a_damaged_file_is_refused_and_written_anew() {
    let (sim, folder) = (Sim::start(), TempDir::new());
    let mut gateway = kept(&sim, &folder).start();
    fill(&gateway, 3);
    // An orderly end writes it as well.
    gateway.signal(15);
    assert!(gateway.wait().success());
    drop(gateway);
    let file = folder.path().join("cache.bin");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [
        &flipped[..],
        &whole[..whole.len() - 1],
        b"",
        b"SLCACHE9 of a later version",
    ] {
        std::fs::write(&file, damaged).unwrap();
        let gateway = kept(&sim, &folder).start();
        gateway.expect_metric("sluice_cache_snapshots_refused_total", 1);
        let mut client = gateway.client();
        assert_eq!(use_of(&client.ask(&request(0))), "miss");
        assert_eq!(use_of(&client.ask(&request(0))), "hit");
        wait::until("the file is whole again", || {
            let bytes = std::fs::read(&file).unwrap();
            (bytes != damaged && bytes.starts_with(b"SLCACHE1")).then_some(())
        });
    }
    // Of another installation: another secret.
    std::fs::write(&file, &whole).unwrap();
    std::fs::write(folder.path().join("cache.bin.key"), [7; 32]).unwrap();
    let gateway = kept(&sim, &folder).start();
    gateway.expect_metric("sluice_cache_snapshots_refused_total", 1);
    assert_eq!(use_of(&gateway.ask(&request(1))), "miss");
}

#[test]
fn what_was_purged_or_bumped_does_not_come_back_with_kill_9() {
    let (sim, folder) = (Sim::start(), TempDir::new());
    let gateway = kept(&sim, &folder).set("/cache/snapshot_interval", "50ms").start();
    fill(&gateway, 4);
    warm(&gateway, 4);
    let purge = json!({"model": "openai/m0"});
    assert_eq!(
        gateway.admin_post("/admin/cache/purge", &purge).json(),
        json!({"removed": 1, "confirmed": true})
    );
    drop(gateway);
    let gateway = kept(&sim, &folder).start();
    warm(&gateway, 3);
    assert_eq!(use_of(&gateway.ask(&request(0))), "miss");
    assert_eq!(use_of(&gateway.ask(&request(1))), "hit");
    let bumped = gateway.admin_post("/admin/cache/bump", &json!({"tenant": "default"}));
    assert_eq!(bumped.json()["confirmed"], true);
    drop(gateway);
    let gateway = kept(&sim, &folder).start();
    gateway.expect_metric("sluice_cache_snapshots_refused_total", 0);
    wait::until("the file is read", || {
        gateway.admin("/admin/cache").json()["entries"].as_u64()
    });
    assert_eq!(use_of(&gateway.ask(&request(1))), "miss");
}
