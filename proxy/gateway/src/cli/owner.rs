//! `sluice customer` and `sluice team`, and what keys have in common with them.
//!
//! Invariants: names go into paths escaped. Deliberately absent: renaming; reports know things by their names.

use serde_json::{Value, json};

use super::client::{Client, segment};
use super::table::table;
use super::words;
use crate::control::store::ScopeKind;

/// What to do with customers or teams.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add one.
    Create {
        /// Its name.
        name: String,
        /// Of a team: the customer that it belongs to.
        #[arg(long)]
        customer: Option<String>,
        /// A budget in dollars, such as 50/day or 200/total; more than one may be given.
        #[arg(long, value_name = "AMOUNT/WINDOW")]
        budget: Vec<String>,
    },
    /// List them.
    List(Filter),
    /// Show one with its budgets and limits.
    Show(Named),
    /// Let nobody use any of its keys, until it is enabled again.
    Disable(Named),
    /// Let its keys be used again.
    Enable(Named),
    /// Change which models and providers its keys may use.
    Allow(Allow),
    /// Delete it; what it has spent stays in the ledger.
    Delete(Named),
}

/// Which one.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// Its name.
    name: String,
    /// As JSON, where there is something to print.
    #[arg(long)]
    json: bool,
}

/// Which ones.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Of this team only.
    #[arg(long)]
    team: Option<String>,
    /// Of this customer only.
    #[arg(long)]
    customer: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What may be used.
#[derive(Debug, clap::Args)]
pub struct Allow {
    /// Whose keys.
    name: String,
    /// A model, with stars; more than one may be given. `*` alone: all.
    #[arg(long = "model", value_name = "NAME")]
    models: Option<Vec<String>>,
    /// A provider; more than one may be given. `*` alone: all.
    #[arg(long = "provider", value_name = "NAME")]
    providers: Option<Vec<String>>,
    /// Of a key: when it expires, such as 2026-12-31, or 90d from now; or never.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
}

/// Carries a command out for customers or teams; what to print.
///
/// # Errors
/// In words.
pub fn run(kind: &str, command: Command, client: &Client) -> Result<String, String> {
    match command {
        Command::Create { name, customer, budget } => {
            let budgets: Vec<Value> = budget
                .iter()
                .map(|text| words::budget(text))
                .collect::<Result<_, _>>()?;
            let mut body = json!({"name": name, "budgets": budgets});
            if let Some(customer) = customer {
                body["customer"] = customer.into();
            }
            client.json("POST", &format!("/{kind}s"), Some(&body))?;
            Ok(String::new())
        }
        Command::List(filter) => list(kind, &filter, client),
        Command::Show(of) => show(kind, &of, client),
        Command::Disable(of) => set_disabled(kind, &of, true, client),
        Command::Enable(of) => set_disabled(kind, &of, false, client),
        Command::Allow(asked) => {
            let kind = if kind == "team" {
                ScopeKind::Team
            } else {
                ScopeKind::Customer
            };
            allow(kind, &asked, client)
        }
        Command::Delete(of) => delete(kind, &of, client),
    }
}

/// All of a kind.
///
/// # Errors
/// In words.
pub fn list(kind: &str, filter: &Filter, client: &Client) -> Result<String, String> {
    let mut all = client.get(&format!("/{kind}s"))?;
    if let Some(rows) = all.as_array_mut() {
        let fits = |row: &Value, name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| row[name] == wanted.as_str())
        };
        rows.retain(|row| fits(row, "team", &filter.team) && fits(row, "customer", &filter.customer));
    }
    if filter.json {
        return Ok(pretty(&all));
    }
    let rows = all.as_array().cloned().unwrap_or_default();
    let lines: Vec<Vec<String>> = rows.iter().map(|row| line(kind, row)).collect();
    Ok(table(heading(kind), &lines))
}

/// One of a kind, with its budgets and limits.
///
/// # Errors
/// In words.
pub fn show(kind: &str, of: &Named, client: &Client) -> Result<String, String> {
    let row = client.get(&format!("/{kind}s/{}", segment(&of.name)))?;
    if of.json {
        return Ok(pretty(&row));
    }
    let mut text = table(heading(kind), &[line(kind, &row)]);
    for (name, what) in [("models", "may use the models"), ("providers", "may use the providers")] {
        let names: Vec<&str> = row[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !names.is_empty() {
            text.push_str(&format!("{what} {}\n", names.join(", ")));
        }
    }
    if row["log_bodies"] == true {
        text.push_str("bodies of its requests are logged\n");
    }
    if row["budgets"].as_array().is_some_and(|budgets| !budgets.is_empty()) {
        let lines: Vec<Vec<String>> = super::budget::lines(&of.name, &row).collect();
        text.push('\n');
        text.push_str(&table(super::budget::HEADING, &lines));
    }
    if row["limits"].as_array().is_some_and(|limits| !limits.is_empty()) {
        let lines: Vec<Vec<String>> = super::budget::limit_lines(&of.name, &row).collect();
        text.push('\n');
        text.push_str(&table(super::budget::LIMIT_HEADING, &lines));
    }
    Ok(text)
}

/// Disables or enables one.
///
/// # Errors
/// In words.
pub fn set_disabled(kind: &str, of: &Named, disabled: bool, client: &Client) -> Result<String, String> {
    let body = json!({"disabled": disabled});
    client.json("PATCH", &format!("/{kind}s/{}", segment(&of.name)), Some(&body))?;
    Ok(String::new())
}

/// Changes what may be used.
///
/// # Errors
/// In words.
pub fn allow(kind: ScopeKind, asked: &Allow, client: &Client) -> Result<String, String> {
    let mut body = json!({});
    let names = |names: &Vec<String>| names.iter().filter(|name| *name != "*").cloned().collect::<Vec<_>>();
    if let Some(models) = &asked.models {
        body["models"] = json!(names(models));
    }
    if let Some(providers) = &asked.providers {
        body["providers"] = json!(names(providers));
    }
    if let Some(expires) = &asked.expires {
        body["expires_s"] = match expires.as_str() {
            // What nobody lives to see.
            "never" => i64::MAX.into(),
            moment => words::moment_s(moment, words::now_s(), true)?.into(),
        };
    }
    let kind = match kind {
        ScopeKind::Customer => "customers",
        ScopeKind::Team => "teams",
        ScopeKind::Key => "keys",
    };
    client.json("PATCH", &format!("/{kind}/{}", segment(&asked.name)), Some(&body))?;
    Ok(String::new())
}

/// Deletes one.
///
/// # Errors
/// In words.
pub fn delete(kind: &str, of: &Named, client: &Client) -> Result<String, String> {
    client.json("DELETE", &format!("/{kind}s/{}", segment(&of.name)), None)?;
    Ok(String::new())
}

fn heading(kind: &str) -> &'static [&'static str] {
    match kind {
        "key" => &["NAME", "TEAM", "CUSTOMER", "STATE", "SECRET", "EXPIRES", "BUDGETS"],
        "team" => &["NAME", "CUSTOMER", "STATE", "BUDGETS"],
        _ => &["NAME", "STATE", "BUDGETS"],
    }
}

fn line(kind: &str, row: &Value) -> Vec<String> {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let budgets = row["budgets"].as_array().into_iter().flatten();
    let budgets = budgets.map(|budget| {
        let of = |name: &str| budget[name].as_str().unwrap_or_default();
        format!("{} of {}/{}", of("spent"), of("limit"), of("window"))
    });
    let budgets = budgets.collect::<Vec<_>>().join(", ");
    let expires_s = row["expires_s"].as_u64();
    let state = match (row["disabled"].as_bool(), expires_s) {
        (Some(true), _) => "disabled",
        (_, Some(at_s)) if at_s <= words::now_s() => "expired",
        _ => "active",
    };
    let state = state.to_owned();
    let expires = expires_s.filter(|at_s| *at_s < i64::MAX as u64);
    let expires = expires.map_or_else(|| "never".to_owned(), words::shown_time);
    match kind {
        "key" => {
            let secret = format!("…{}", text("ends_with"));
            vec![
                text("name"),
                text("team"),
                text("customer"),
                state,
                secret,
                expires,
                budgets,
            ]
        }
        "team" => vec![text("name"), text("customer"), state, budgets],
        _ => vec![text("name"), state, budgets],
    }
}

/// JSON for people and scripts.
pub fn pretty(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{text}\n")
}
