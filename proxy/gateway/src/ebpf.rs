//! What the kernel does for the gateway: three parts, each on its own, each able to say why it is off.
//!
//! Invariants: nothing here keeps the gateway from starting or serving; programs are loaded before the cores' threads exist, and
//! what loading needed is given up then; no request waits for a system call of this module, except that a new connection to a
//! provider is tagged. Deliberately absent: the programs (`ebpf/programs`).

pub mod accounting;
pub mod capabilities;
mod duty;
mod mapped;
pub mod steering;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd};

use sluice_ebpf_common::steering::Mode;
use sluice_policy::config::{self, Ebpf};

use self::accounting::Accounting;
use self::capabilities::Need;
use self::steering::Steering;
use crate::plane::Plane;

/// A part of it that is at work, or why it is not.
pub enum Tier<T> {
    /// At work.
    On(T),
    /// Why not: one line.
    Off(String),
}

/// Why a tier is off that nobody asked for.
pub const NOT_WANTED: &str = "the configuration says so";

/// All of it.
pub struct Kernel {
    /// Choosing the core for a connection.
    pub steering: Tier<Steering>,
    /// Measuring connections.
    pub accounting: Tier<Accounting>,
    /// The processor that each core stays on, if they stay on one.
    processors: Vec<usize>,
}

impl<T> Tier<T> {
    /// What is at work.
    pub fn get(&self) -> Option<&T> {
        match self {
            Tier::On(value) => Some(value),
            Tier::Off(_) => None,
        }
    }

    /// What is at work, to be changed.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Tier::On(value) => Some(value),
            Tier::Off(_) => None,
        }
    }

    /// Why nothing is.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Tier::On(_) => None,
            Tier::Off(why) => Some(why),
        }
    }
}

impl Kernel {
    /// Loads what configuration and kernel allow, says so, and gives up the capabilities that it needed. `processors` names the
    /// processor of each core, if each has its own.
    pub fn load(
        settings: &Ebpf,
        addresses: &[SocketAddr],
        cores: usize,
        processors: Vec<usize>,
        upstreams: usize,
    ) -> Self {
        lift_memory_limit();
        let steering = match mode(settings.steering) {
            None => Tier::Off(NOT_WANTED.into()),
            Some(mode) => attempt(Need::Steering, || Steering::load(addresses.len(), cores, mode)),
        };
        let accounting = match settings.accounting {
            config::Accounting::Off => Tier::Off(NOT_WANTED.into()),
            config::Accounting::Auto | config::Accounting::Always => attempt(Need::Accounting, || {
                let pauses = settings.accounting == config::Accounting::Auto;
                Accounting::load(addresses, upstreams, &settings.pin_path, pauses)
            }),
        };
        if let Err(error) = capabilities::give_up() {
            tracing::warn!(%error, "capabilities that are no longer needed could not be given up");
        }
        give_back_memory();
        let kernel = Self {
            steering,
            accounting,
            processors,
        };
        kernel.announce();
        kernel
    }

    /// One line for each part, and whether it is at work.
    pub fn tiers(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("reuseport", None),
            ("steering", self.steering.reason()),
            ("accounting", self.accounting.reason()),
        ]
    }

    fn announce(&self) {
        for (tier, reason) in &self.tiers()[1..] {
            match reason {
                None => tracing::info!("the kernel's {tier} is on"),
                Some(why) => tracing::info!("the kernel's {tier} is off: {why}"),
            }
        }
    }

    /// Has the plane say whose each connection to a provider is.
    pub fn tag(&mut self, plane: &mut Plane) {
        let Tier::On(accounting) = &mut self.accounting else {
            return;
        };
        let mut names: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for provider in plane.snapshot.providers() {
            for key in &provider.keys {
                let of_origin = names.entry(key.origin.index()).or_default();
                if of_origin.last() != Some(&&*provider.name) {
                    of_origin.push(&provider.name);
                }
            }
        }
        for (origin, of_origin) in names {
            // Providers at one address share its connections.
            plane.origins[origin].tagger = accounting.tagger(&of_origin.join("+"));
        }
    }

    /// Begins to steer and to measure connections to these sockets: `sockets[core][address]`.
    pub fn attach(&mut self, sockets: &[Vec<TcpListener>]) {
        if let Tier::On(accounting) = &mut self.accounting
            && let Err(error) = accounting.listen()
        {
            tracing::warn!("connections of clients are not measured: {error:#}");
        }
        let Tier::On(steering) = &mut self.steering else { return };
        steering.set_processors(&self.processors, &[]);
        if let Err(error) = steering.attach(sockets) {
            steering.release();
            let why = format!("{error:#}");
            tracing::warn!("the kernel's steering is off: {why}");
            self.steering = Tier::Off(why);
        }
    }

    /// Measures exchanges or not, as it is time to. To be called every few milliseconds.
    pub fn pace(&mut self, now_ms: u64) {
        if let Tier::On(accounting) = &mut self.accounting {
            accounting.pace(now_ms);
        }
    }

    /// Only these cores get connections from now on; all if there is none.
    pub fn set_usable(&mut self, usable: &[u32]) {
        if let Tier::On(steering) = &mut self.steering
            && steering.set_usable(usable)
        {
            steering.set_processors(&self.processors, usable);
        }
    }

    /// Another process is about to have the addresses: it can put their sockets into maps of its own.
    pub fn release(&mut self) {
        if let Tier::On(steering) = &mut self.steering {
            steering.release();
        }
        if let Tier::On(accounting) = &mut self.accounting {
            accounting.release();
        }
    }

    /// Another process serves.
    pub fn retire(&mut self) {
        if let Tier::On(accounting) = &mut self.accounting {
            accounting.retire();
        }
    }
}

/// Reading the kernel's description of its types takes thirty megabytes for a moment, which the allocator would keep.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and looks after its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The mode that configuration means; `None`: no program.
fn mode(setting: config::Steering) -> Option<Mode> {
    match setting {
        config::Steering::Off => None,
        config::Steering::Auto | config::Steering::P2c => Some(Mode::P2c),
        config::Steering::Cpu => Some(Mode::Cpu),
        config::Steering::Rr => Some(Mode::RoundRobin),
        config::Steering::Hash => Some(Mode::Hash),
    }
}

/// The name of a mode, in configuration and elsewhere.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::P2c => "p2c",
        Mode::Cpu => "cpu",
        Mode::RoundRobin => "rr",
        Mode::Hash => "hash",
    }
}

/// The mode of that name.
pub fn mode_named(name: &str) -> Option<Mode> {
    [Mode::P2c, Mode::Cpu, Mode::RoundRobin, Mode::Hash]
        .into_iter()
        .find(|&mode| mode_name(mode) == name)
}

fn attempt<T>(need: Need, load: impl FnOnce() -> anyhow::Result<T>) -> Tier<T> {
    let missing = capabilities::missing(need);
    if !missing.is_empty() {
        return Tier::Off(format!("the process lacks {}", missing.join(", ")));
    }
    match load() {
        Ok(loaded) => Tier::On(loaded),
        Err(error) => Tier::Off(format!("{error:#}")),
    }
}

/// An error of the loader in one line: the verifier's log may have fifty thousand.
fn short(error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    /// Bytes of the end of a message that are worth showing: that is where the verifier says what it minds.
    const TAIL: usize = 300;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut from = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let cut = if from > 0 { "… " } else { "" };
    anyhow::anyhow!("{cut}{}", &text[from..])
}

/// Kernels before 5.11 count maps as locked memory.
fn lift_memory_limit() {
    let most = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a plain system call. Where it is refused, newer kernels do not mind.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const most) };
}

/// `BPF_MAP_UPDATE_ELEM`, for cores, which have a map's descriptor and nothing else of it.
fn update_element<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const BPF_MAP_UPDATE_ELEM: i32 = 2;
    let attributes = Attributes {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    // SAFETY: key and value are of the sizes that the map was made with, and live through the call.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_ELEM,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_to_one_line() {
        let error = std::io::Error::other(format!("{}\nthe end", "log line\n".repeat(9_999)));
        let line = short(error).to_string();
        assert!(
            line.len() < 400 && line.ends_with("the end") && !line.contains('\n'),
            "{line}"
        );
    }

    #[test]
    fn every_mode_has_a_name_of_its_own() {
        for mode in [Mode::P2c, Mode::Cpu, Mode::RoundRobin, Mode::Hash] {
            assert_eq!(mode_named(mode_name(mode)), Some(mode));
        }
        assert_eq!(mode_named("random"), None);
    }
}
