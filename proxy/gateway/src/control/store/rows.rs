//! Customers, teams, keys, budgets and limits: their rows, every change to them, and the log of changes.
//!
//! Invariants: a change and its line in the audit log are written in one transaction; names are unique among customers, among
//! teams and among keys; a key's secret is not stored, here or in the log. Deliberately absent: who may change what (the admin
//! interface decides that).

use sluice_policy::budget::{Vault, Window};
use sluice_policy::keyring::Digest;
use sluice_policy::money::NanoUsd;
use sluice_wire::limits::{BUDGETS_PER_REQUEST_MAX, MODELS_MAX, NAME_BYTES_MAX};

use super::sql::{Error, Result, Row, values};
use super::tx::Tx;

/// What a row of scopes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    /// Whoever pays.
    Customer,
    /// Part of a customer, or of nobody.
    Team,
    /// A virtual key, of a team, of a customer, or of nobody.
    Key,
}

/// A customer, a team or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRow {
    /// Its number.
    pub id: i64,
    /// What it is.
    pub kind: ScopeKind,
    /// Its name.
    pub name: String,
    /// The team or customer that it belongs to.
    pub parent: Option<i64>,
    /// Nobody may use it.
    pub disabled: bool,
    /// The models that it may use; empty: all.
    pub models: Vec<String>,
    /// The providers that it may use; empty: all.
    pub providers: Vec<String>,
    /// A key's.
    pub digest: Option<Digest>,
    /// The last characters of a key.
    pub hint: Option<String>,
    /// Of a key that was rotated: the old secret's digest, and until when it holds.
    pub previous: Option<(Digest, u64)>,
    /// The second from which on a key does not hold.
    pub expires_s: Option<u64>,
    /// Of a key: whether the bodies of its requests are logged.
    pub bodies: bool,
}

/// A budget's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRow {
    /// Its number.
    pub id: i64,
    /// Whose it is.
    pub scope: i64,
    /// What may be spent.
    pub limit: NanoUsd,
    /// From what spending on to warn.
    pub soft: Option<NanoUsd>,
    /// Over what time.
    pub window: Window,
    /// For requests to these providers only.
    pub provider: Option<String>,
    /// For requests for these models only.
    pub model: Option<String>,
}

/// A limit's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRow {
    /// Its number.
    pub id: i64,
    /// Whose it is.
    pub scope: i64,
    /// What is counted, as in [`sluice_policy::rate::Unit::name`].
    pub unit: String,
    /// Over what time.
    pub window: Window,
    /// How much.
    pub most: u64,
    /// For requests to these providers only.
    pub provider: Option<String>,
    /// For requests for these models only.
    pub model: Option<String>,
}

/// Everything that a keyring is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Customers, teams and keys.
    pub scopes: Vec<ScopeRow>,
    /// Their budgets.
    pub budgets: Vec<BudgetRow>,
    /// Their limits.
    pub limits: Vec<LimitRow>,
}

/// A key's secret, as far as it is stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Of the secret.
    pub digest: Digest,
    /// The secret's last characters.
    pub hint: String,
    /// The second from which on it does not hold.
    pub expires_s: Option<u64>,
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AuditRow {
    /// When, in seconds since the epoch.
    pub unix_s: u64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To whom.
    pub subject: String,
    /// And how.
    pub detail: String,
}

/// Who changes something, and when.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who, for the audit log.
    pub actor: String,
    /// When, in seconds since the epoch.
    pub unix_s: u64,
}

impl Tx<'_> {
    /// Adds a customer, a team, or, with its secret, a key. Its number is the answer.
    ///
    /// # Errors
    /// The name is taken or not one, the parent does not exist or cannot be one, the secret is missing or surplus.
    pub fn add_scope(
        &mut self,
        change: &Change,
        kind: ScopeKind,
        name: &str,
        parent: Option<i64>,
        key: Option<&NewKey>,
    ) -> Result<i64> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name) {
            return refuse("a name has 1 to 64 letters, digits, -, _ or .");
        }
        if key.is_some() != (kind == ScopeKind::Key) {
            return refuse("a key, and nothing else, has a secret");
        }
        if let Some(parent) = parent {
            let of = self.kind_of(parent)?;
            let fits = match kind {
                ScopeKind::Customer => false,
                ScopeKind::Team => of == Some(ScopeKind::Customer),
                ScopeKind::Key => matches!(of, Some(ScopeKind::Customer | ScopeKind::Team)),
            };
            if !fits {
                return refuse("a key belongs to a team or a customer, a team to a customer, and each must exist");
            }
        }
        let added = self.sql.one(
            "INSERT INTO scopes (kind, name, parent, digest, hint, expires_s, created_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             RETURNING id",
            values![
                kind as u8,
                name,
                parent,
                key.map(|key| key.digest.0),
                key.map(|key| &key.hint),
                key.and_then(|key| key.expires_s),
                change.unix_s
            ],
        )?;
        let id = added.get(0)?;
        self.audit(change, "add", kind, name, "")?;
        Ok(id)
    }

    /// Deletes a customer, a team or a key, with its budgets and limits. What it has spent stays in the ledger.
    ///
    /// # Errors
    /// It does not exist, or something belongs to it.
    pub fn delete_scope(&mut self, change: &Change, id: i64) -> Result<()> {
        let (kind, name) = self.named(id)?;
        let children = self
            .sql
            .query("SELECT 1 FROM scopes WHERE parent = ?1 LIMIT 1", values![id])?;
        if !children.is_empty() {
            return refuse("something belongs to it");
        }
        for budget in self.sql.query("SELECT id FROM budgets WHERE scope = ?1", values![id])? {
            self.drop_vault(budget.get(0)?);
        }
        self.sql.execute("DELETE FROM scopes WHERE id = ?1", values![id])?;
        self.audit(change, "delete", kind, &name, "")
    }

    /// Lets nobody use it any more, or again.
    ///
    /// # Errors
    /// It does not exist.
    pub fn set_disabled(&mut self, change: &Change, id: i64, disabled: bool) -> Result<()> {
        let (kind, name) = self.named(id)?;
        self.sql
            .execute("UPDATE scopes SET disabled = ?2 WHERE id = ?1", values![id, disabled])?;
        self.audit(change, if disabled { "disable" } else { "enable" }, kind, &name, "")
    }

    /// Replaces the models and providers that it may use; empty: all.
    ///
    /// # Errors
    /// It does not exist; a name holds a line break, or there are too many.
    pub fn set_allowed(&mut self, change: &Change, id: i64, models: &[String], providers: &[String]) -> Result<()> {
        let (kind, name) = self.named(id)?;
        let fits = |names: &[String]| {
            names.len() <= MODELS_MAX && names.iter().all(|name| !name.is_empty() && !name.contains('\n'))
        };
        if !fits(models) || !fits(providers) {
            return refuse("an allow-list has up to 4096 names, none of them empty");
        }
        let (models, providers) = (models.join("\n"), providers.join("\n"));
        self.sql.execute(
            "UPDATE scopes SET models = ?2, providers = ?3 WHERE id = ?1",
            values![id, &models, &providers],
        )?;
        let detail = format!(
            "models {}; providers {}",
            models.replace('\n', " "),
            providers.replace('\n', " ")
        );
        self.audit(change, "allow", kind, &name, &detail)
    }

    /// Changes when a key expires.
    ///
    /// # Errors
    /// There is no such key.
    pub fn set_expiry(&mut self, change: &Change, id: i64, expires_s: u64) -> Result<()> {
        let (kind, name) = self.named(id)?;
        if kind != ScopeKind::Key {
            return refuse("only a key expires");
        }
        let sql = "UPDATE scopes SET expires_s = ?2 WHERE id = ?1";
        self.sql.execute(sql, values![id, expires_s])?;
        self.audit(change, "expire", kind, &name, &expires_s.to_string())
    }

    /// Has the bodies of a key's requests logged, or not any more.
    ///
    /// # Errors
    /// There is no such key.
    pub fn set_bodies(&mut self, change: &Change, id: i64, bodies: bool) -> Result<()> {
        let (kind, name) = self.named(id)?;
        if kind != ScopeKind::Key {
            return refuse("bodies are logged of single keys");
        }
        let sql = "UPDATE scopes SET bodies = ?2 WHERE id = ?1";
        self.sql.execute(sql, values![id, bodies])?;
        self.audit(change, "log-bodies", kind, &name, if bodies { "on" } else { "off" })
    }

    /// Gives a key a new secret; the old one holds until `overlap_until_s`. It expires when it did, unless the new secret says
    /// something else.
    ///
    /// # Errors
    /// There is no such key.
    pub fn rotate_key(&mut self, change: &Change, id: i64, key: &NewKey, overlap_until_s: u64) -> Result<()> {
        let (kind, name) = self.named(id)?;
        if kind != ScopeKind::Key {
            return refuse("only a key has a secret");
        }
        self.sql.execute(
            "UPDATE scopes SET previous = digest, previous_until_s = ?2, digest = ?3, hint = ?4,
             expires_s = coalesce(?5, expires_s) WHERE id = ?1",
            values![id, overlap_until_s, key.digest.0, &key.hint, key.expires_s],
        )?;
        self.audit(
            change,
            "rotate",
            kind,
            &name,
            &format!("the old one holds until {overlap_until_s}"),
        )
    }

    /// Adds a budget; the number of the row that is passed in does not matter.
    ///
    /// # Errors
    /// Its scope does not exist, has as many as a request may be charged to, or the limit is too large.
    pub fn add_budget(&mut self, change: &Change, budget: &BudgetRow) -> Result<i64> {
        let (kind, name) = self.named(budget.scope)?;
        let others = self
            .sql
            .query("SELECT id FROM budgets WHERE scope = ?1", values![budget.scope])?;
        // Three levels share what a request may be charged to.
        if others.len() >= BUDGETS_PER_REQUEST_MAX / 3 {
            return refuse("it has as many budgets as it may have");
        }
        if budget.limit > NanoUsd::LIMIT_MAX {
            return refuse("the limit is too large");
        }
        let vault = Vault::new(budget.limit, budget.window, change.unix_s);
        let added = self.sql.one(
            "INSERT INTO budgets (scope, limit_nanos, soft_nanos, \"window\", provider, model, period, seen_s)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id",
            values![
                budget.scope,
                budget.limit.0,
                budget.soft.map(|soft| soft.0),
                budget.window.name(),
                budget.provider.as_deref(),
                budget.model.as_deref(),
                vault.period,
                vault.seen_s
            ],
        )?;
        let id = added.get(0)?;
        self.add_vault(id, vault);
        self.audit(
            change,
            "add-budget",
            kind,
            &name,
            &format!("{} per {}", budget.limit, budget.window.name()),
        )?;
        Ok(id)
    }

    /// Deletes a budget.
    ///
    /// # Errors
    /// It does not exist.
    pub fn delete_budget(&mut self, change: &Change, id: i64) -> Result<()> {
        let (kind, name) = self.owner_of(id)?;
        self.sql.execute("DELETE FROM budgets WHERE id = ?1", values![id])?;
        self.drop_vault(id);
        self.audit(change, "delete-budget", kind, &name, "")
    }

    /// Changes a budget's limit from now on.
    ///
    /// # Errors
    /// It does not exist, or the limit is too large.
    pub fn set_limit(&mut self, change: &Change, id: i64, limit: NanoUsd) -> Result<()> {
        let (kind, name) = self.owner_of(id)?;
        if limit > NanoUsd::LIMIT_MAX {
            return refuse("the limit is too large");
        }
        self.vault(id)?.limit = limit;
        self.audit(change, "set-budget", kind, &name, &limit.to_string())
    }

    /// Changes from what spending on a budget's owner is warned; `None`: not at all.
    ///
    /// # Errors
    /// It does not exist.
    pub fn set_soft(&mut self, change: &Change, id: i64, soft: Option<NanoUsd>) -> Result<()> {
        let (kind, name) = self.owner_of(id)?;
        let sql = "UPDATE budgets SET soft_nanos = ?2 WHERE id = ?1";
        self.sql.execute(sql, values![id, soft.map(|soft| soft.0)])?;
        let detail = soft.map_or_else(|| "none".to_owned(), |soft| soft.to_string());
        self.audit(change, "set-soft", kind, &name, &detail)
    }

    /// Allows more in the current period.
    ///
    /// # Errors
    /// It does not exist.
    pub fn top_up(&mut self, change: &Change, id: i64, amount: NanoUsd) -> Result<()> {
        let (kind, name) = self.owner_of(id)?;
        self.vault(id)?.top_up(amount, change.unix_s);
        self.audit(change, "top-up", kind, &name, &amount.to_string())
    }

    /// Forgets what was spent in the current period; the ledger does not.
    ///
    /// # Errors
    /// It does not exist.
    pub fn reset_budget(&mut self, change: &Change, id: i64) -> Result<()> {
        let (kind, name) = self.owner_of(id)?;
        let spent = self.vault(id)?.spent;
        self.vault(id)?.reset(change.unix_s);
        self.audit(change, "reset", kind, &name, &format!("{spent} had been spent"))
    }

    /// Adds a limit; the number of the row that is passed in does not matter.
    ///
    /// # Errors
    /// Its scope does not exist.
    pub fn add_limit(&mut self, change: &Change, limit: &LimitRow) -> Result<i64> {
        let (kind, name) = self.named(limit.scope)?;
        let added = self.sql.one(
            "INSERT INTO limits (scope, unit, \"window\", most, provider, model) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
            values![
                limit.scope,
                &limit.unit,
                limit.window.name(),
                limit.most,
                limit.provider.as_deref(),
                limit.model.as_deref()
            ],
        )?;
        let id = added.get(0)?;
        let detail = format!("{} {} per {}", limit.most, limit.unit, limit.window.name());
        self.audit(change, "add-limit", kind, &name, &detail)?;
        Ok(id)
    }

    /// Deletes a limit.
    ///
    /// # Errors
    /// It does not exist.
    pub fn delete_limit(&mut self, change: &Change, id: i64) -> Result<()> {
        let limit = self.sql.one("SELECT scope FROM limits WHERE id = ?1", values![id])?;
        let (kind, name) = self.named(limit.get(0)?)?;
        self.sql.execute("DELETE FROM limits WHERE id = ?1", values![id])?;
        self.audit(change, "delete-limit", kind, &name, "")
    }

    /// The latest changes, the newest first.
    ///
    /// # Errors
    /// The file's.
    pub fn audit_log(&self, most: u32) -> Result<Vec<AuditRow>> {
        let rows = self.sql.query(
            "SELECT unix_s, actor, action, subject, detail FROM audit ORDER BY id DESC LIMIT ?1",
            values![most],
        )?;
        let line = |row: &Row| {
            Ok(AuditRow {
                unix_s: row.get(0)?,
                actor: row.get(1)?,
                action: row.get(2)?,
                subject: row.get(3)?,
                detail: row.get(4)?,
            })
        };
        rows.iter().map(line).collect()
    }

    /// Everything that a keyring is made of.
    ///
    /// # Errors
    /// The file's.
    pub fn scopes(&self) -> Result<Scopes> {
        let scopes = self.sql.query(
            "SELECT id, kind, name, parent, disabled, models, providers, digest, hint, previous, previous_until_s, expires_s,
             bodies FROM scopes ORDER BY id",
            &[],
        )?;
        let scopes = scopes.iter().map(read_scope).collect::<Result<_>>()?;
        let budgets = self.sql.query(
            "SELECT id, scope, limit_nanos, soft_nanos, \"window\", provider, model FROM budgets ORDER BY id",
            &[],
        )?;
        let budgets = budgets.iter().map(read_budget).collect::<Result<_>>()?;
        let limits = self.sql.query(
            "SELECT id, scope, unit, \"window\", most, provider, model FROM limits ORDER BY id",
            &[],
        )?;
        let limits = limits.iter().map(read_limit).collect::<Result<_>>()?;
        Ok(Scopes {
            scopes,
            budgets,
            limits,
        })
    }

    /// The number of a customer, a team or a key.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn scope_named(&self, kind: ScopeKind, name: &str) -> Result<i64> {
        let sql = "SELECT id FROM scopes WHERE kind = ?1 AND name = ?2";
        self.sql.one(sql, values![kind as u8, name])?.get(0)
    }

    fn kind_of(&self, id: i64) -> Result<Option<ScopeKind>> {
        let rows = self.sql.query("SELECT kind FROM scopes WHERE id = ?1", values![id])?;
        rows.first().map(|row| Ok(kind_from(row.get(0)?))).transpose()
    }

    fn named(&self, id: i64) -> Result<(ScopeKind, String)> {
        let sql = "SELECT kind, name FROM scopes WHERE id = ?1";
        let row = self.sql.one(sql, values![id])?;
        Ok((kind_from(row.get(0)?), row.get(1)?))
    }

    fn owner_of(&self, budget: i64) -> Result<(ScopeKind, String)> {
        let row = self
            .sql
            .one("SELECT scope FROM budgets WHERE id = ?1", values![budget])?;
        self.named(row.get(0)?)
    }

    fn audit(&mut self, change: &Change, action: &str, kind: ScopeKind, name: &str, detail: &str) -> Result<()> {
        let kind = match kind {
            ScopeKind::Customer => "customer",
            ScopeKind::Team => "team",
            ScopeKind::Key => "key",
        };
        self.is_change = true;
        self.sql.execute(
            "INSERT INTO audit (unix_s, actor, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
            values![change.unix_s, &change.actor, action, format!("{kind} {name}"), detail],
        )?;
        Ok(())
    }
}

/// What is asked contradicts the store's rules.
fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::Refused(why.to_owned()))
}

fn kind_from(kind: u64) -> ScopeKind {
    match kind {
        0 => ScopeKind::Customer,
        1 => ScopeKind::Team,
        _ => ScopeKind::Key,
    }
}

fn read_scope(row: &Row) -> Result<ScopeRow> {
    let names = |text: String| text.lines().map(str::to_owned).collect();
    let previous: Option<[u8; 32]> = row.get(9)?;
    let until_s: Option<u64> = row.get(10)?;
    Ok(ScopeRow {
        id: row.get(0)?,
        kind: kind_from(row.get(1)?),
        name: row.get(2)?,
        parent: row.get(3)?,
        disabled: row.get(4)?,
        models: names(row.get(5)?),
        providers: names(row.get(6)?),
        digest: row.get::<Option<[u8; 32]>>(7)?.map(Digest),
        hint: row.get(8)?,
        previous: previous.map(Digest).zip(until_s),
        expires_s: row.get(11)?,
        bodies: row.get(12)?,
    })
}

fn read_window(text: &str) -> Result<Window> {
    text.parse().map_err(|why: &str| Error::Fault(why.to_owned()))
}

fn read_budget(row: &Row) -> Result<BudgetRow> {
    Ok(BudgetRow {
        id: row.get(0)?,
        scope: row.get(1)?,
        limit: NanoUsd(row.get(2)?),
        soft: row.get::<Option<u64>>(3)?.map(NanoUsd),
        window: read_window(&row.get::<String>(4)?)?,
        provider: row.get(5)?,
        model: row.get(6)?,
    })
}

fn read_limit(row: &Row) -> Result<LimitRow> {
    Ok(LimitRow {
        id: row.get(0)?,
        scope: row.get(1)?,
        unit: row.get(2)?,
        window: read_window(&row.get::<String>(3)?)?,
        most: row.get(4)?,
        provider: row.get(5)?,
        model: row.get(6)?,
    })
}
