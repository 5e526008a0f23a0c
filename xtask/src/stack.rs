//! The pair of programs that most of this tree is about: the gateway, with the provider simulator behind it.
//!
//! Invariants: ports are the kernel's choice and read from what the programs print; a child is killed by its own id when
//! its handle is dropped.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// How long a program may take to print its next line.
const LINE_TIMEOUT: Duration = Duration::from_secs(20);

/// The two programs.
#[derive(Debug)]
pub struct Stack {
    /// `sluice`.
    pub gateway: PathBuf,
    /// `sluice-sim`.
    pub simulator: PathBuf,
}

/// Builds both with a Cargo profile.
///
/// # Errors
/// When the build fails.
pub fn build(profile: &str) -> Result<Stack> {
    let selection = [
        "-p",
        "sluice",
        "-p",
        "sluice-bench",
        "--bin",
        "sluice",
        "--bin",
        "sluice-sim",
    ];
    let mut programs = cargo::build(profile, &selection)?;
    let mut take = |name: &str| programs.remove(name).with_context(|| format!("{name} was not built"));
    Ok(Stack {
        gateway: take("sluice")?,
        simulator: take("sluice-sim")?,
    })
}

/// A running program and the lines that it prints.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a program; what it writes to standard error goes where ours goes.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any more: the pipe is still emptied, so that the program is not held up.
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When it prints none in time, or has ended.
    pub fn line(&self) -> Result<String> {
        self.lines
            .recv_timeout(LINE_TIMEOUT)
            .context("the program printed nothing")
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it ends as if something had gone wrong.
    pub fn end(mut self) -> Result<()> {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        ensure!(asked.context("run kill")?.success(), "the program had ended before");
        let status = self.child.wait().context("wait for the program")?;
        ensure!(status.success(), "the program ended with {status}");
        Ok(())
    }

    /// Passes every further line to `each`, until the program ends.
    pub fn follow(&self, mut each: impl FnMut(&str)) {
        for line in &self.lines {
            each(&line);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first address in a line that a program prints when it listens.
///
/// # Errors
/// When there is none.
pub fn address_in(line: &str) -> Result<String> {
    let (_, rest) = line
        .split_once("://")
        .with_context(|| format!("no address in: {line}"))?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
    Ok(rest[..end.unwrap_or(rest.len())].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command).unwrap()
    }

    #[test]
    fn lines_come_in_order_and_the_end_is_noticed() {
        let running = shell("echo one; echo two; echo three");
        assert_eq!(running.line().unwrap(), "one");
        let mut rest = Vec::new();
        running.follow(|line| rest.push(line.to_owned()));
        assert_eq!(rest, ["two", "three"]);
        assert!(running.line().is_err());
    }

    #[test]
    fn a_program_is_asked_to_end_and_waited_for() {
        let running = shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done");
        assert_eq!(running.line().unwrap(), "ready");
        running.end().unwrap();
    }

    #[test]
    fn a_dropped_program_has_ended() {
        let running = shell("echo $$; exec sleep 60");
        let pid = running.line().unwrap();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
