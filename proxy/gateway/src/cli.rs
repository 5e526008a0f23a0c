//! The commands that speak to a running gateway: to its administration (keys, teams, customers, budgets, reports), its cache, its
//! measurements, and the process itself.
//!
//! Invariants: whatever they do goes through the admin interface, so that it is in force and in the audit log when they end;
//! what is wrong is said on standard error with what to do about it, and the exit code is 1. Deliberately absent: the store
//! itself, which belongs to the running gateway.

pub mod audit_log;
pub mod budget;
pub mod cache;
pub mod client;
pub mod key;
pub mod latency;
pub mod log;
pub mod owner;
pub mod spend;
pub mod status;
pub mod table;
pub mod upgrade;
pub mod words;

use std::process::ExitCode;

use self::client::Access;

/// A command of the administration.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Virtual keys.
    Key(Wrapped<key::Command>),
    /// Teams: parts of customers, such as production lines.
    Team(Wrapped<owner::Command>),
    /// Customers: those who pay.
    Customer(Wrapped<owner::Command>),
    /// Budgets and limits of keys, teams and customers.
    Budget(Wrapped<budget::Command>),
    /// What was spent.
    Spend(Reading<spend::Args>),
    /// Single requests: from the ledger, or from a file of the request log.
    Log(log::Args),
    /// Who has changed what.
    AuditLog(Reading<audit_log::Args>),
}

/// A command with commands of its own.
#[derive(Debug, clap::Args)]
pub struct Wrapped<C: clap::Subcommand> {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: C,
}

/// A command without.
#[derive(Debug, clap::Args)]
pub struct Reading<A: clap::Args> {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    args: A,
}

/// Carries a command out.
pub fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Key(of) => of.access.client().and_then(|client| key::run(of.command, &client)),
        Command::Team(of) => of
            .access
            .client()
            .and_then(|client| owner::run("team", of.command, &client)),
        Command::Customer(of) => of
            .access
            .client()
            .and_then(|client| owner::run("customer", of.command, &client)),
        Command::Budget(of) => of.access.client().and_then(|client| budget::run(of.command, &client)),
        Command::Spend(of) => of.access.client().and_then(|client| spend::run(&of.args, &client)),
        Command::Log(args) => log::run(&args),
        Command::AuditLog(of) => of.access.client().and_then(|client| audit_log::run(&of.args, &client)),
    };
    match done {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("sluice: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A pipe that is closed early, as by `head`, is no mistake.
fn print(text: &str) {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
