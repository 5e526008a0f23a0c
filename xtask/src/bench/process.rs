//! Child processes on a core of their own, and what the kernel charges to them.
//!
//! A child is pinned before it starts: it inherits the affinity of the thread that spawns it, and with it every thread
//! it will ever have. It is killed by its own id when its handle is dropped.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long a child may take to end when asked.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// A child process that does not outlive its handle.
#[derive(Debug)]
pub struct Kept(Child);

impl Kept {
    /// Spawns `command` with everything it will ever run on core `cpu`.
    ///
    /// # Errors
    /// When the core cannot be had or the program does not start.
    pub fn spawn(mut command: Command, cpu: usize) -> Result<Self> {
        let spawning = std::thread::spawn(move || {
            ensure!(
                core_affinity::set_for_current(core_affinity::CoreId { id: cpu }),
                "cannot pin to core {cpu}"
            );
            command
                .spawn()
                .with_context(|| format!("start {}", command.get_program().display()))
        });
        let child = spawning
            .join()
            .map_err(|_| anyhow::anyhow!("the spawning thread panicked"))??;
        Ok(Self(child))
    }

    /// The process itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Kept {
    /// Asks first, so that a master takes its workers along, then kills what is left of the tree.
    fn drop(&mut self) {
        let family = tree(self.0.id());
        signal("-TERM", &family[..1]);
        let until = Instant::now() + TERM_TIMEOUT;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if matches!(self.0.try_wait(), Ok(None)) {
            signal("-KILL", &family);
            // Killed, it ends; an error would mean that it has been waited for.
            let _ = self.0.wait();
        }
    }
}

fn signal(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // Whoever is gone already needs no signal.
    let _ = Command::new("kill")
        .arg(signal)
        .args(pids)
        .stderr(std::process::Stdio::null())
        .status();
}

/// Raises this process's limit of open files to what it may be, for the children to inherit: a thousand connections
/// need two thousand descriptors in a proxy and in the load process. Where it fails, those scenarios count failures.
pub fn raise_open_files() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    if let Some(most) = line.and_then(|line| line.split_whitespace().nth(1)) {
        // util-linux is on every distribution; without it the limit stays.
        let _ = Command::new("prlimit")
            .args([
                "--pid",
                &std::process::id().to_string(),
                &format!("--nofile={most}:{most}"),
            ])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

/// CPU time of a process tree, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// All of it, as the scheduler counts it.
    pub total_ns: u64,
    /// Clock ticks in user mode: sampled, good for a share only.
    pub user_ticks: u64,
    /// Clock ticks in the kernel.
    pub system_ticks: u64,
}

impl CpuTime {
    /// What was used since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
        }
    }

    /// The share of user mode, 0 to 1.
    #[must_use]
    pub fn user_share(self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 {
            0.0
        } else {
            self.user_ticks as f64 / ticks as f64
        }
    }
}

/// The process and all its descendants, parents before children.
#[must_use]
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = stat_field(pid, 1).and_then(|text| text.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found
}

/// Field `index` of `/proc/PID/stat` behind the command's name: 0 is the state, 1 the parent.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(index).map(str::to_owned)
}

/// CPU time of some processes so far.
#[must_use]
pub fn cpu_time(pids: &[u32]) -> CpuTime {
    let mut sum = CpuTime::default();
    for &pid in pids {
        let ticks = |index| {
            stat_field(pid, index)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        sum.user_ticks += ticks(11);
        sum.system_ticks += ticks(12);
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            sum.total_ns += schedstat_ns(&task.path());
        }
    }
    sum
}

fn schedstat_ns(directory: &Path) -> u64 {
    let text = std::fs::read_to_string(directory.join("schedstat")).unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(0)
}

/// The kernel thread that does a core's left-over network work: what the kernel did for a process under test but
/// charged to nobody's account. At most one; none where kernel threads are hidden.
#[must_use]
pub fn ksoftirqd(cpu: usize) -> Vec<u32> {
    let wanted = format!("ksoftirqd/{cpu}");
    let mut found = tree(2);
    found.retain(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == wanted));
    found
}

/// Clock ticks (10 ms) that a core has been busy for anybody, and ticks in all, time taken by the hypervisor included.
#[must_use]
pub fn core_ticks(cpu: usize) -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let wanted = format!("cpu{cpu}");
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(wanted.as_str()))
        .unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user.
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let all = ticks.iter().sum();
    (all - ticks.iter().skip(3).take(2).sum::<u64>(), all)
}

/// Resident memory of a process tree in bytes; pages shared between its processes count in each.
#[must_use]
pub fn rss_bytes(root: u32) -> u64 {
    tree(root).into_iter().map(|pid| status_kib(pid, "VmRSS:") * 1024).sum()
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_in_the_tree_and_on_its_core_and_ends_with_its_handle() {
        let cpu = core_affinity::get_core_ids().expect("cores")[0].id;
        let mut command = Command::new("sleep");
        command.arg("60");
        let kept = Kept::spawn(command, cpu).expect("sleep starts");
        let pid = kept.id();
        assert!(tree(std::process::id()).contains(&pid));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
        assert!(status.contains(&format!("Cpus_allowed_list:\t{cpu}\n")), "{status}");
        drop(kept);
        assert!(!tree(std::process::id()).contains(&pid));
    }

    #[test]
    fn own_cpu_time_grows_with_work() {
        let own = [std::process::id()];
        let before = cpu_time(&own);
        let mut sum = 0_u64;
        while cpu_time(&own).since(before).total_ns < 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(rss_bytes(std::process::id()) > 100_000);
    }
}
