//! `sluice budget`: what may be spent, and how often something may be asked for.
//!
//! Invariants: amounts are decimal dollars, exactly as the gateway counts them. Deliberately absent: budgets by name; they are
//! numbered, and `list` shows the numbers.

use serde_json::{Value, json};

use super::client::{Client, segment};
use super::owner::pretty;
use super::table::table;
use super::words;

/// What to do with budgets and limits.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List budgets, with what is spent of them.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add a budget, such as 50/day or 200/total.
    Add {
        /// Whose it is.
        #[command(flatten)]
        whose: Whose,
        /// In dollars, over a window: minute, hour, day, week, month, year, one of them after rolling-, or total.
        #[arg(value_name = "AMOUNT/WINDOW")]
        budget: String,
        /// From what spending on to warn, in dollars.
        #[arg(long, value_name = "AMOUNT")]
        soft: Option<String>,
        /// For requests to these providers only, with stars.
        #[arg(long)]
        provider: Option<String>,
        /// For requests for these models only, with stars.
        #[arg(long)]
        model: Option<String>,
    },
    /// Change a budget's limit from now on.
    Set {
        /// Its number, as `list` shows it.
        id: u64,
        /// In dollars.
        amount: String,
        /// From what spending on to warn, in dollars; or none.
        #[arg(long, value_name = "AMOUNT")]
        soft: Option<String>,
    },
    /// Allow more in a budget's current period.
    TopUp {
        /// Its number, as `list` shows it.
        id: u64,
        /// In dollars.
        amount: String,
    },
    /// Forget what was spent in a budget's current period; reports do not.
    Reset {
        /// Its number, as `list` shows it.
        id: u64,
    },
    /// Delete a budget.
    Delete {
        /// Its number, as `list` shows it.
        id: u64,
    },
    /// List limits of requests and tokens.
    Limits,
    /// Add a limit, such as `requests 60 --per minute` or `concurrent 8`.
    AddLimit {
        /// Whose it is.
        #[command(flatten)]
        whose: Whose,
        /// requests, input_tokens, output_tokens, total_tokens or concurrent.
        unit: String,
        /// How many.
        most: u64,
        /// Over what time: a window as for budgets; not for concurrent.
        #[arg(long, value_name = "WINDOW")]
        per: Option<String>,
        /// For requests to these providers only, with stars.
        #[arg(long)]
        provider: Option<String>,
        /// For requests for these models only, with stars.
        #[arg(long)]
        model: Option<String>,
    },
    /// Delete a limit.
    DeleteLimit {
        /// Its number, as `limits` shows it.
        id: u64,
    },
}

/// Whose budget or limit.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// A key's.
    #[arg(long)]
    key: Option<String>,
    /// A team's.
    #[arg(long)]
    team: Option<String>,
    /// A customer's.
    #[arg(long)]
    customer: Option<String>,
}

/// Of a table of budgets.
pub const HEADING: &[&str] = &["ID", "OF", "LIMIT", "WINDOW", "SPENT", "IN HAND", "WARN AT", "EXTRA", "FOR"];
/// Of a table of limits.
pub const LIMIT_HEADING: &[&str] = &["ID", "OF", "MOST", "UNIT", "WINDOW", "FOR"];

/// Carries a command out; what to print.
///
/// # Errors
/// In words.
pub fn run(command: Command, client: &Client) -> Result<String, String> {
    match command {
        Command::List { json } => list(json, client),
        Command::Limits => {
            let mut all = Vec::new();
            for (_, owners) in everybody(client)? {
                let of = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
                all.extend(owners.iter().flat_map(|row| limit_lines(&of(row), row).collect::<Vec<_>>()));
            }
            Ok(table(LIMIT_HEADING, &all))
        }
        Command::Add { whose, budget, soft, provider, model } => {
            let mut body = words::budget(&budget)?;
            if let Some(soft) = soft {
                body["soft"] = words::amount(&soft)?.into();
            }
            narrowed(&mut body, provider, model);
            let added = client.json("POST", &format!("{}/budgets", whose.path()), Some(&body))?;
            Ok(format!("{}\n", added["id"]))
        }
        Command::Set { id, amount, soft } => {
            let mut body = json!({"limit": words::amount(&amount)?});
            if let Some(soft) = soft {
                body["soft"] = match soft.as_str() {
                    "none" => "none".into(),
                    soft => words::amount(soft)?.into(),
                };
            }
            act(client, "PATCH", &format!("/budgets/{id}"), Some(&body))
        }
        Command::TopUp { id, amount } => {
            let body = json!({"amount": words::amount(&amount)?});
            act(client, "POST", &format!("/budgets/{id}/top-up"), Some(&body))
        }
        Command::Reset { id } => act(client, "POST", &format!("/budgets/{id}/reset"), None),
        Command::Delete { id } => act(client, "DELETE", &format!("/budgets/{id}"), None),
        Command::AddLimit { whose, unit, most, per, provider, model } => {
            let mut body = json!({"unit": unit, "most": most});
            if let Some(window) = per {
                body["window"] = window.into();
            }
            narrowed(&mut body, provider, model);
            let added = client.json("POST", &format!("{}/limits", whose.path()), Some(&body))?;
            Ok(format!("{}\n", added["id"]))
        }
        Command::DeleteLimit { id } => act(client, "DELETE", &format!("/limits/{id}"), None),
    }
}

fn act(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<String, String> {
    client.json(method, path, body)?;
    Ok(String::new())
}

fn narrowed(body: &mut Value, provider: Option<String>, model: Option<String>) {
    for (name, value) in [("provider", provider), ("model", model)] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
}

impl Whose {
    fn path(&self) -> String {
        let of = |kind: &str, name: &String| format!("/{kind}/{}", segment(name));
        let key = self.key.as_ref().map(|name| of("keys", name));
        let team = self.team.as_ref().map(|name| of("teams", name));
        let customer = self.customer.as_ref().map(|name| of("customers", name));
        key.or(team).or(customer).unwrap_or_default()
    }
}

fn everybody(client: &Client) -> Result<Vec<(&'static str, Vec<Value>)>, String> {
    let all = ["customers", "teams", "keys"].map(|kind| {
        let rows = client.get(&format!("/{kind}"))?;
        Ok((kind, rows.as_array().cloned().unwrap_or_default()))
    });
    all.into_iter().collect()
}

fn list(json: bool, client: &Client) -> Result<String, String> {
    let mut lines = Vec::new();
    let mut all = Vec::new();
    for (kind, owners) in everybody(client)? {
        for row in owners {
            let name = row["name"].as_str().unwrap_or_default();
            let of = format!("{} {name}", kind.trim_end_matches('s'));
            lines.extend(self::lines(&of, &row));
            for budget in row["budgets"].as_array().into_iter().flatten() {
                let mut budget = budget.clone();
                budget["of"] = of.clone().into();
                all.push(budget);
            }
        }
    }
    if json {
        return Ok(pretty(&Value::from(all)));
    }
    Ok(table(HEADING, &lines))
}

/// The budgets of one row of keys, teams or customers, as lines of a table.
pub fn lines(of: &str, row: &Value) -> impl Iterator<Item = Vec<String>> {
    let of = of.to_owned();
    let budgets = row["budgets"].as_array().into_iter().flatten();
    budgets.map(move |budget| {
        let text = |name: &str| budget[name].as_str().unwrap_or_default().to_owned();
        vec![
            budget["id"].to_string(),
            of.clone(),
            text("limit"),
            text("window"),
            text("spent"),
            text("leased"),
            text("soft"),
            text("extra"),
            only_for(budget),
        ]
    })
}

/// The limits of one row of keys, teams or customers, as lines of a table.
pub fn limit_lines(of: &str, row: &Value) -> impl Iterator<Item = Vec<String>> {
    let of = of.to_owned();
    let limits = row["limits"].as_array().into_iter().flatten();
    limits.map(move |limit| {
        let text = |name: &str| limit[name].as_str().unwrap_or_default().to_owned();
        let (id, most) = (limit["id"].to_string(), limit["most"].to_string());
        vec![id, of.clone(), most, text("unit"), text("window"), only_for(limit)]
    })
}

fn only_for(row: &Value) -> String {
    let part = |name: &str| row[name].as_str().map(|value| format!("{name} {value}"));
    let parts: Vec<String> = ["provider", "model"].iter().filter_map(|name| part(name)).collect();
    parts.join(", ")
}
