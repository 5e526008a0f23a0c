//! A network of the test's own, in which packets can be lost: a namespace with a loopback device and a packet filter.
//!
//! Invariants: the namespace belongs to one thread and what that starts (simulators, the gateway, clients), and is gone with
//! them; nothing outside is changed. It needs root and `nft`; without them the test is left out, and says so. Deliberately
//! absent: virtual devices, addresses and routes; losing packets on the way is all that is wanted.

use std::process::{Command, Output};

/// The packet filter of the namespace.
pub struct Filter(());

/// Runs `body` in a network of its own, on a thread of its own.
///
/// # Panics
/// When `body` does.
pub fn alone(body: impl FnOnce(&Filter) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match Filter::in_new_network() {
            Ok(filter) => body(&filter),
            Err(why) => println!("left out: packets cannot be dropped here: {why}"),
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Filter {
    fn in_new_network() -> Result<Self, String> {
        // SAFETY: a plain system call that gives this thread, which owns no socket yet, a network namespace of its own.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!("no network namespace: {}", std::io::Error::last_os_error()));
        }
        run("ip", &["link", "set", "lo", "up"])?;
        run("nft", &["add", "table", "inet", "test"])?;
        let chain = "{ type filter hook input priority 0; policy accept; }";
        run("nft", &["add", "chain", "inet", "test", "input", chain])?;
        Ok(Self(()))
    }

    /// Loses every packet to and from a port, without a word to anybody.
    ///
    /// # Panics
    /// When the packet filter refuses the rule.
    pub fn black_hole(&self, port: u16) {
        self.lose(port, &["dport", "sport"], &[]);
    }

    /// Loses a share of the packets to a port, in percent, at random.
    ///
    /// # Panics
    /// When the packet filter refuses the rule.
    pub fn lose_some(&self, port: u16, percent: u32) {
        let percent = percent.to_string();
        self.lose(port, &["dport"], &["numgen", "random", "mod", "100", "<", &percent]);
    }

    fn lose(&self, port: u16, directions: &[&str], condition: &[&str]) {
        for direction in directions {
            let port = port.to_string();
            let mut rule = vec!["add", "rule", "inet", "test", "input", "tcp", direction, &port];
            rule.extend(condition);
            rule.extend(["counter", "drop"]);
            run("nft", &rule).expect("the packet filter takes a rule");
        }
    }

    /// Loses nothing any more.
    ///
    /// # Panics
    /// When the packet filter cannot be changed.
    pub fn heal(&self) {
        run("nft", &["flush", "chain", "inet", "test", "input"]).expect("the packet filter forgets its rules");
    }

    /// Packets lost so far by the rules that are in force.
    ///
    /// # Panics
    /// When the packet filter cannot be read.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let listed = run("nft", &["list", "chain", "inet", "test", "input"]).expect("the packet filter can be listed");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        let counts = words.windows(2).filter(|pair| pair[0] == "packets");
        counts.filter_map(|pair| pair[1].parse::<u64>().ok()).sum()
    }
}

fn run(program: &str, args: &[&str]) -> Result<Output, String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
