//! `sluice key`: virtual keys.
//!
//! Invariants: a secret is printed once, alone on its line of standard output, and nothing keeps it. Deliberately absent: asking
//! back before a key is deleted: its name has to be typed.

use serde_json::{Value, json};

use super::client::{Client, segment};
use super::owner::{self, Filter};
use super::words;
use crate::control::store::ScopeKind;

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key; its secret is printed, once.
    Create(Create),
    /// List keys.
    List(Filter),
    /// Show a key with its budgets and limits.
    Show(owner::Named),
    /// Let nobody use a key any more, until it is enabled again.
    Disable(owner::Named),
    /// Let a disabled key be used again.
    Enable(owner::Named),
    /// Change which models and providers a key may use, or when it expires.
    Allow(owner::Allow),
    /// Have the bodies of a key's requests logged, or not any more: beginnings alone, and what `log.bodies` in the configuration
    /// lets through.
    Bodies {
        /// The key.
        name: String,
        /// on or off.
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
    /// Give a key a new secret, which is printed, once.
    Rotate {
        /// The key.
        name: String,
        /// How long the old secret holds, such as 24h; not at all, if nothing is said.
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
        /// When the key expires: 2026-12-31, or 90d from now; as before, if nothing is said.
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// Delete a key; what it has spent stays in the ledger.
    Delete(owner::Named),
}

/// A key to be made.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name; made up from its team's or customer's if nothing is said.
    name: Option<String>,
    /// The team that it belongs to.
    #[arg(long)]
    team: Option<String>,
    /// The customer that it belongs to, if to no team.
    #[arg(long, conflicts_with = "team")]
    customer: Option<String>,
    /// A budget in dollars, such as 50/day or 200/total; more than one may be given.
    #[arg(long, value_name = "AMOUNT/WINDOW")]
    budget: Vec<String>,
    /// A model that it may use, with stars; more than one may be given; all, if nothing is said.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// A provider that it may use; more than one may be given; all, if nothing is said.
    #[arg(long = "provider", value_name = "NAME")]
    providers: Vec<String>,
    /// When it expires: 2026-12-31, or 90d from now; never, if nothing is said.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
}

/// Carries a command out; what to print.
///
/// # Errors
/// In words.
pub fn run(command: Command, client: &Client) -> Result<String, String> {
    match command {
        Command::Create(new) => create(&new, client),
        Command::Rotate { name, overlap, expires } => {
            let overlap_s = overlap.as_deref().map(words::duration_s).transpose()?;
            let mut body = json!({"overlap_s": overlap_s.unwrap_or(0)});
            if let Some(expires) = expires {
                body["expires_s"] = words::moment_s(&expires, words::now_s(), true)?.into();
            }
            let answer = client.json("POST", &format!("/keys/{}/rotate", segment(&name)), Some(&body))?;
            Ok(told(&answer))
        }
        Command::Bodies { name, state } => {
            let body = json!({"log_bodies": state == "on"});
            client.json("PATCH", &format!("/keys/{}", segment(&name)), Some(&body))?;
            Ok(String::new())
        }
        Command::List(filter) => owner::list("key", &filter, client),
        Command::Show(of) => owner::show("key", &of, client),
        Command::Disable(of) => owner::set_disabled("key", &of, true, client),
        Command::Enable(of) => owner::set_disabled("key", &of, false, client),
        Command::Allow(asked) => owner::allow(ScopeKind::Key, &asked, client),
        Command::Delete(of) => owner::delete("key", &of, client),
    }
}

fn create(new: &Create, client: &Client) -> Result<String, String> {
    let name = match &new.name {
        Some(name) => name.clone(),
        None => {
            let of = new.team.as_ref().or(new.customer.as_ref());
            let of = of.ok_or("name the key, or the team or customer that it belongs to")?;
            format!("{of}-{:08x}", fastrand::u32(..))
        }
    };
    let budgets: Vec<Value> = new
        .budget
        .iter()
        .map(|text| words::budget(text))
        .collect::<Result<_, _>>()?;
    let mut body = json!({"name": name, "budgets": budgets, "models": new.models, "providers": new.providers});
    if let Some(team) = &new.team {
        body["team"] = json!(team);
    }
    if let Some(customer) = &new.customer {
        body["customer"] = json!(customer);
    }
    if let Some(expires) = &new.expires {
        body["expires_s"] = words::moment_s(expires, words::now_s(), true)?.into();
    }
    Ok(told(&client.json("POST", "/keys", Some(&body))?))
}

/// The secret alone goes to standard output, so that a script can take it as it is.
fn told(answer: &Value) -> String {
    let name = answer["name"].as_str().unwrap_or_default();
    if let (Some(id), Some(secret)) = (
        answer["aws"]["access_key_id"].as_str(),
        answer["aws"]["secret_access_key"].as_str(),
    ) {
        eprintln!("For AWS SDKs: AWS_ACCESS_KEY_ID={id} AWS_SECRET_ACCESS_KEY={secret}");
    }
    eprintln!("The secret of {name}; it is not shown again:");
    format!("{}\n", answer["key"].as_str().unwrap_or_default())
}
