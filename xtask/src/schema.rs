//! `cargo xtask schema`: writes the documents in `config/` that follow from code.
//!
//! Invariants: what is written depends on the code alone, so that `tidy` can say whether it is stale. Of the metrics'
//! reference only the table between the marks is generated. Deliberately absent: `reference.yaml`, which is written by hand.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use sluice_policy::config;
use sluice_policy::meter::CoreMeter;
use sluice_policy::meter::catalog;

use crate::cargo::workspace_root;

/// The reference of the metrics.
pub const METRICS: &str = "config/METRICS.md";
const SCHEMA: &str = "config/schema.json";
const TRANSLATION: &str = "config/TRANSLATION.md";

const BEGIN: &str = "<!-- generated: cargo xtask schema -->\n";
const END: &str = "<!-- end -->\n";

/// Writes what has changed.
///
/// # Errors
/// When a file cannot be read or written.
pub fn run() -> Result<()> {
    let root = workspace_root()?;
    let metrics = std::fs::read_to_string(root.join(METRICS)).with_context(|| format!("read {METRICS}"))?;
    for (path, text) in documents(&metrics) {
        let full = root.join(path);
        if std::fs::read_to_string(&full).is_ok_and(|before| before == text) {
            println!("{path} is current");
        } else {
            std::fs::write(&full, text).with_context(|| format!("write {path}"))?;
            println!("{path} written");
        }
    }
    Ok(())
}

/// Every generated document, by path, as it should be; `metrics` is the reference as it is.
pub fn documents(metrics: &str) -> [(&'static str, String); 3] {
    [
        (SCHEMA, config::schema_json()),
        (METRICS, with_table(metrics, &metrics_table())),
        (TRANSLATION, translation()),
    ]
}

/// `text` with what stands between the marks replaced; without marks it is left as it is, and the table is appended.
fn with_table(text: &str, table: &str) -> String {
    let cut = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = cut.unwrap_or((text, ""));
    format!("{before}{BEGIN}{table}{END}{after}")
}

fn metrics_table() -> String {
    let mut table = String::from("| name | labels | type | unit | what it says |\n|---|---|---|---|---|\n");
    for (name, help, kind) in CoreMeter::TABLE {
        let unit = if name.ends_with("_bytes") { "bytes" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `{name}` | `core` | {} | {unit} | {help} |", kind.as_str());
    }
    for family in catalog::ALL {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, unit) = (family.name, family.kind.as_str(), family.unit);
        let _ = writeln!(
            table,
            "| `{name}` | {} | {kind} | {unit} | {} |",
            labels.join(", "),
            family.help
        );
    }
    table
}

fn translation() -> String {
    format!(
        "# What translation between dialects changes\n\n\
         How each parameter of a chat request fares when the target speaks another dialect than the client. Written by\n\
         `cargo xtask schema` from the table in `proxy/wire/src/chat/loss.rs`, which is what the translators act on.\n\n{}",
        sluice_wire::chat::losses_markdown()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("# Metrics\n{BEGIN}old\n{END}by hand\n");
        assert_eq!(
            with_table(&text, "new\n"),
            format!("# Metrics\n{BEGIN}new\n{END}by hand\n")
        );
        assert_eq!(with_table("by hand\n", "new\n"), format!("by hand\n{BEGIN}new\n{END}"));
    }

    #[test]
    fn the_table_has_a_row_for_each_metric() {
        let table = metrics_table();
        assert_eq!(table.lines().count(), 2 + CoreMeter::TABLE.len() + catalog::ALL.len());
        assert!(catalog::ALL.iter().all(|family| table.contains(family.name)));
        assert!(CoreMeter::TABLE.iter().all(|(name, ..)| table.contains(name)));
    }
}
