//! With fewer capabilities the gateway does less, says so, and serves.

use sluice_tests::privileges::{BPF, NET_ADMIN, PERFMON, SYS_ADMIN, may_load_programs};
use sluice_tests::{Gateway, Setup, Sim};

fn expect_tier(gateway: &Gateway, tier: &str, missing: Option<&str>) {
    let page = gateway.admin("/admin").json();
    let tiers = page["kernel"]["tiers"].as_array().expect("tiers are a list");
    let found = tiers
        .iter()
        .find(|found| found["tier"] == tier)
        .expect("the tier is there");
    let reason = found["reason"].as_str();
    let shown = if missing.is_some() { "off" } else { "on" };
    assert_eq!(found["state"], shown, "{tier}: {reason:?}");
    let line = format!("sluice_ebpf_tier{{tier=\"{tier}\",state=\"{shown}\"}} 1");
    assert!(gateway.admin("/metrics").text().contains(&line), "{line}");
    if let Some(missing) = missing {
        assert!(
            reason.is_some_and(|reason| reason.contains(missing)),
            "{tier}: {reason:?}"
        );
        let log = gateway.stderr();
        let said = log
            .lines()
            .filter(|line| line.contains(&format!("the kernel's {tier} is off")))
            .count();
        assert_eq!(said, 1, "one line says why: {log}");
    }
}

/// The set of capabilities that a process has, by name in `/proc`.
fn set(gateway: &Gateway, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process())).expect("the gateway runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .expect("the kernel says it");
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a number")
}

#[test]
fn every_set_of_capabilities_serves_and_says_what_is_off() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let cases: [(&[u32], Option<&str>, Option<&str>); 4] = [
        (
            &[BPF, NET_ADMIN, PERFMON, SYS_ADMIN],
            Some("CAP_BPF"),
            Some("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
        ),
        (
            &[NET_ADMIN, PERFMON, SYS_ADMIN],
            None,
            Some("CAP_NET_ADMIN, CAP_PERFMON"),
        ),
        (&[PERFMON, SYS_ADMIN], None, Some("CAP_PERFMON")),
        (&[], None, None),
    ];
    for (without, steering, accounting) in cases {
        let mut setup = Setup::with(&sim.base_url())
            .set("/ebpf/steering", "auto")
            .set("/ebpf/accounting", "auto")
            .cores(2);
        setup.without = without.to_vec();
        let gateway = setup.start();
        for _ in 0..20 {
            gateway.expect_healthy();
        }
        expect_tier(&gateway, "reuseport", None);
        expect_tier(&gateway, "steering", steering);
        expect_tier(&gateway, "accounting", accounting);
        for number in [BPF, NET_ADMIN, PERFMON, SYS_ADMIN] {
            for name in ["CapEff", "CapPrm", "CapInh"] {
                assert_eq!(
                    set(&gateway, name) >> number & 1,
                    0,
                    "{name} has {number} after loading"
                );
            }
        }
    }
}
