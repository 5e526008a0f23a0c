//! The configuration file, watched.
//!
//! Invariants: a file is looked at by content, so that an editor's rename, a symlink swap (Kubernetes) and a plain write all
//! count, and a touch does not; a bad file changes nothing. Deliberately absent: what is built from it (`build.rs`).

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use sluice_policy::config::{self, Accounts, Config};

/// A watched file.
pub struct Watch {
    path: PathBuf,
    stamp: Option<(SystemTime, u64)>,
    text: Option<String>,
}

impl Watch {
    /// Watches the file from its present state on.
    pub fn new(path: PathBuf) -> Self {
        let stamp = stamp(&path);
        let text = std::fs::read_to_string(&path).ok();
        Self { path, stamp, text }
    }

    /// The first half of the SHA-256 of what was loaded last, in hexadecimal.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.text.as_deref().unwrap_or_default());
        digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether its content differs from what was loaded last.
    pub fn changed(&mut self) -> bool {
        let now = stamp(&self.path);
        if now.is_none() || now == self.stamp {
            return false;
        }
        self.stamp = now;
        std::fs::read_to_string(&self.path).is_ok_and(|text| self.text.as_ref() != Some(&text))
    }

    /// Loads it.
    ///
    /// # Errors
    /// All mistakes, one a line.
    pub fn load(&mut self) -> Result<Config, String> {
        self.stamp = stamp(&self.path);
        let text = std::fs::read_to_string(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        let loaded = load_text(&text, &self.path);
        self.text = Some(text);
        loaded
    }
}

/// Loads a configuration file.
///
/// # Errors
/// All mistakes, one a line.
pub fn load(path: &Path) -> Result<Config, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!(
            "{}: {error}; give a configuration file with --config FILE (config/sluice.yaml is a start)",
            path.display()
        )
    })?;
    load_text(&text, path)
}

fn load_text(text: &str, path: &Path) -> Result<Config, String> {
    config::load(text, &path.display().to_string())
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Whether the difference holds something that only a restart can change.
pub fn needs_restart(old: &Config, new: &Config) -> bool {
    old.server.listen != new.server.listen
        || old.server.admin != new.server.admin
        || old.server.cores != new.server.cores
        || old.log != new.log
        || old.ebpf != new.ebpf
        || old.handover != new.handover
        || fixed(&old.accounts) != fixed(&new.accounts)
}

/// Keeps of the accounts what only a restart can change.
pub fn keep_store(old: &Config, new: &mut Config) {
    let Some(before) = &old.accounts else {
        new.accounts = None;
        return;
    };
    let accounts = new.accounts.get_or_insert_with(|| before.clone());
    accounts.store = before.store.clone();
    accounts.store_secret = before.store_secret.clone();
    accounts.admin_credential = before.admin_credential.clone();
    accounts.aws_pairs_secret = before.aws_pairs_secret.clone();
    accounts.webhook = before.webhook.clone();
    (accounts.ledger_days, accounts.sums_days) = (before.ledger_days, before.sums_days);
}

/// What only a restart can change of the accounts.
fn fixed(accounts: &Option<Accounts>) -> Option<impl PartialEq + '_> {
    accounts.as_ref().map(|accounts| {
        (
            &accounts.store,
            &accounts.store_secret,
            &accounts.admin_credential,
            &accounts.aws_pairs_secret,
            &accounts.webhook,
            accounts.ledger_days,
            accounts.sums_days,
        )
    })
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
