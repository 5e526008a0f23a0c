//! What the kernel does for the gateway, as configuration writes it: steering connections to cores, accounting, and how a new
//! process takes the port over.
//!
//! Invariants: as in `config.rs`; nothing here can keep the gateway from starting. Deliberately absent: programs and maps
//! (`ebpf/`), and who loads them (the gateway).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// eBPF programs that the gateway loads where it may; each part that it may not load is left out, and the log says why.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ebpf {
    /// Which core gets a new connection: auto (p2c where the kernel allows it), off (the kernel chooses by hash), p2c, cpu, rr
    /// or hash. Needs CAP_BPF. Changeable while the gateway runs: `POST /admin/steering?mode=MODE`.
    pub steering: Steering,
    /// Whether the kernel measures each connection: handshake, accept queue, time until read, losses, first and last byte.
    /// Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 6.3.
    pub accounting: Accounting,
    /// Folder of a bpffs below which the histograms are pinned, in `v1/PORT` (the port of the first address). If there is none,
    /// they are not pinned.
    pub pin_path: String,
}

impl Default for Ebpf {
    fn default() -> Self {
        Self {
            steering: Steering::Auto,
            accounting: Accounting::Auto,
            pin_path: "/sys/fs/bpf/sluice".into(),
        }
    }
}

/// Which core gets a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Steering {
    /// `p2c`, where the kernel allows it.
    #[default]
    Auto,
    /// No program is loaded; the kernel chooses by hash.
    Off,
    /// The less loaded of two cores chosen at random.
    P2c,
    /// The core on the processor at which the connection arrives. Sensible where the network card spreads its queues over the
    /// processors, and there are as many cores as processors.
    Cpu,
    /// One core after the other.
    Rr,
    /// By hash of addresses and ports, but only among cores that are well.
    Hash,
}

/// Whether the kernel measures each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Accounting {
    /// Where the kernel allows it; exchanges of a busy gateway are measured part of the time, so that it costs at most 1.5 percent of
    /// the gateway's own processor time.
    #[default]
    Auto,
    /// The same without pauses, at whatever cost.
    Always,
    /// No program is loaded.
    Off,
}

/// How a new process takes the port over from this one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Handover {
    /// Unix socket on which the gateway waits for its successor: auto (an abstract name made of the configuration file's path
    /// and the user), off, or a path. Only processes of the same user, or of root, are listened to.
    pub socket: String,
}

impl Default for Handover {
    fn default() -> Self {
        Self { socket: "auto".into() }
    }
}
