//! `cargo xtask prices`: writes `config/prices.yaml` from the model table that the Python package `litellm` carries.
//!
//! Invariants: figures are taken as they are, with the page that the table names for them, the table's version and the day;
//! models of vendors that the gateway does not know, and forms of charging that it cannot meter, are left out. The output
//! depends on the table and the day alone. Deliberately absent: prices that differ by region within one vendor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use sluice_policy::{money, vendors};

use crate::cargo::{self, workspace_root};

const OUTPUT: &str = "config/prices.yaml";
/// Where the table is kept, for figures that it names no page for.
const TABLE_SOURCE: &str = "https://github.com/BerriAI/litellm/blob/main/model_prices_and_context_window.json";
const TABLE: &str = "litellm/model_prices_and_context_window_backup.json";

/// The flags of `prices`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A table that is there already, instead of the newest package's.
    #[arg(long, value_name = "FILE", requires = "version")]
    table: Option<PathBuf>,
    /// The table's version.
    #[arg(long, requires = "table")]
    version: Option<String>,
    /// The day that the figures are of, as YYYY-MM-DD. Default: today.
    #[arg(long)]
    date: Option<String>,
}

/// The table's names for vendors, and the gateway's.
const VENDORS: &[(&str, &str)] = &[
    ("anthropic", "anthropic"),
    ("azure", "azure"),
    ("bedrock", "bedrock"),
    ("bedrock_converse", "bedrock"),
    ("deepseek", "deepseek"),
    ("fireworks_ai", "fireworks"),
    ("gemini", "gemini"),
    ("groq", "groq"),
    ("mistral", "mistral"),
    ("openai", "openai"),
    ("openrouter", "openrouter"),
    ("perplexity", "perplexity"),
    ("together_ai", "together"),
    ("xai", "xai"),
];

/// What a model is for; others are charged in ways that the gateway does not meter.
const MODES: &[&str] = &[
    "chat",
    "responses",
    "completion",
    "embedding",
    "image_generation",
    "image_edit",
    "audio_transcription",
    "audio_speech",
    "moderation",
];

/// Rates of tokens: ours, and the table's, the better one first.
const TOKENS: &[(&str, &[&str])] = &[
    ("input", &["input_cost_per_token"]),
    (
        "cache_read",
        &["cache_read_input_token_cost", "input_cost_per_token_cache_hit"],
    ),
    ("cache_write", &["cache_creation_input_token_cost"]),
    (
        "cache_write_long",
        &[
            "cache_creation_input_token_cost_above_12hr",
            "cache_creation_input_token_cost_above_1hr",
        ],
    ),
    ("input_audio", &["input_cost_per_audio_token"]),
    ("input_image", &["input_cost_per_image_token"]),
    ("output", &["output_cost_per_token"]),
    ("reasoning", &["output_cost_per_reasoning_token"]),
    ("output_audio", &["output_cost_per_audio_token"]),
    ("output_image", &["output_cost_per_image_token"]),
];

/// Rates of pieces, and the modes that they hold for.
const PIECES: &[(&str, &[&str], &[&str])] = &[
    ("request", &["input_cost_per_request"], MODES),
    (
        "image",
        &["output_cost_per_image", "input_cost_per_image"],
        &["image_generation", "image_edit"],
    ),
    (
        "audio_second",
        &["input_cost_per_second", "output_cost_per_second"],
        &["audio_transcription"],
    ),
    ("character", &["input_cost_per_character"], &["audio_speech"]),
];

/// Output tokens of one image at most, which the table does not say, by the beginnings of models' names: the largest size in the best
/// quality, as OpenAI's guide to image generation counts it, and three partial images of 100 tokens.
const IMAGE_TOKENS: &[(&str, u64)] = &[("gpt-image-2.", 0), ("gpt-image-2", 24_100), ("gpt-image-1", 6_540)];

/// Tiers: ours, and what the table's keys end with.
const TIERS: &[(&str, &str)] = &[
    ("batch", "_batches"),
    ("flex", "_flex"),
    ("priority", "_priority"),
    ("ultrafast", "_ultrafast"),
];

/// Writes the file.
///
/// # Errors
/// When the table cannot be fetched or read, or what follows from it is no price file.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace_root()?;
    let (table, version) = match (&args.table, &args.version) {
        (Some(path), Some(version)) => (path.clone(), version.clone()),
        _ => newest()?,
    };
    let text = std::fs::read_to_string(&table).with_context(|| format!("read {}", table.display()))?;
    let models: Map<String, Value> = serde_json::from_str(&text).context("the table is not JSON")?;
    let date = args.date.clone().map_or_else(today, Ok)?;
    let written = render(&models, &version, &date);
    let rows = money::parse_prices(&written).context("what was written cannot be read")?;
    std::fs::write(root.join(OUTPUT), written).with_context(|| format!("write {OUTPUT}"))?;
    println!("{OUTPUT}: {} prices from litellm {version}, {date}", rows.len());
    Ok(())
}

/// The newest package's table, and its version.
fn newest() -> Result<(PathBuf, String)> {
    let folder = cargo::target_directory()?.join("prices");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("clear the folder for the package")?;
    }
    std::fs::create_dir_all(&folder).context("make a folder for the package")?;
    let download = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "litellm",
        "-d",
        ".",
    ];
    python(&folder, &download)?;
    let wheel = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.ends_with(".whl"))
        .context("pip fetched no wheel")?;
    python(&folder, &["-m", "zipfile", "-e", &wheel, "."])?;
    let version = wheel.split('-').nth(1).context("a wheel is named NAME-VERSION-…")?;
    Ok((folder.join(TABLE), version.to_owned()))
}

fn python(folder: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new("python3")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()
        .context("run python3")?;
    ensure!(status.success(), "python3 {} failed", arguments.join(" "));
    Ok(())
}

fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("run date")?;
    let text = String::from_utf8(output.stdout).context("date printed no text")?;
    if !output.status.success() {
        bail!("date failed");
    }
    Ok(text.trim().to_owned())
}

/// The price file: groups by vendor and source, models in order of their names.
fn render(models: &Map<String, Value>, version: &str, date: &str) -> String {
    let mut groups: BTreeMap<(&str, &str), BTreeMap<String, String>> = BTreeMap::new();
    for (name, value) in models {
        let Some((vendor, model, row)) = row(name, value) else {
            continue;
        };
        let source = value.get("source").and_then(Value::as_str).map(str::trim);
        let source = source
            .filter(|source| source.starts_with("https://"))
            .unwrap_or(TABLE_SOURCE);
        groups
            .entry((vendor, source))
            .or_default()
            .insert(format!("{vendor}/{model}"), row);
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut text = format!(
        "# Prices of the shipped vendors' models: US dollars for a million tokens, or for one of anything else. Written by\n\
         # `cargo xtask prices` from the model table of litellm {version} (MIT licence), which names each figure's source. Regional\n\
         # surcharges are not in it.\n"
    );
    for ((_, source), rows) in groups {
        let rows: Vec<_> = rows.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect();
        if rows.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- source: {}\n  date: {date}\n  prices:", Value::from(source));
        for (name, row) in rows {
            let _ = writeln!(text, "    {}: {{{row}}}", Value::from(name));
        }
    }
    text
}

/// The vendor, the model's name there and the row; `None` for what is left out.
fn row<'a>(name: &'a str, value: &Value) -> Option<(&'static str, &'a str, String)> {
    let members = value.as_object()?;
    let text = |key: &str| members.get(key).and_then(Value::as_str);
    let listed = text("litellm_provider")?;
    let (_, vendor) = VENDORS.iter().find(|(theirs, _)| *theirs == listed)?;
    vendors::find(vendor)?;
    let prefix = format!("{listed}/");
    let model = name.strip_prefix(&prefix).unwrap_or(name);
    let slashes_allowed = vendors::find(vendor)?.slashed_models && *vendor != "bedrock";
    if model.len() > 200 || (model.contains('/') && !slashes_allowed) || model.contains('*') {
        return None;
    }
    let mode = text("mode").unwrap_or("chat");
    if !MODES.contains(&mode) {
        return None;
    }
    let mut parts = rates(members, "", mode);
    if parts.is_empty() {
        return None;
    }
    for (ours, theirs) in [("input_max", "max_input_tokens"), ("output_max", "max_output_tokens")] {
        if let Some(tokens) = members
            .get(theirs)
            .and_then(Value::as_f64)
            .filter(|tokens| *tokens >= 1.0)
        {
            parts.push(format!("{ours}: {}", tokens as u64));
        }
    }
    let of_image = IMAGE_TOKENS.iter().find(|(begin, _)| model.starts_with(begin));
    if let Some((_, tokens)) = of_image.filter(|(_, tokens)| *tokens > 0)
        && !members.contains_key("max_output_tokens")
    {
        parts.push(format!("output_max: {tokens}"));
    }
    parts.extend(tiers(members, ""));
    let above: Vec<String> = thresholds(members)
        .into_iter()
        .map(|thousands| {
            let infix = format!("_above_{thousands}k_tokens");
            let mut parts = vec![format!("tokens: {}", thousands * 1000)];
            parts.extend(rates(members, &infix, mode));
            parts.extend(tiers(members, &infix));
            format!("{{{}}}", parts.join(", "))
        })
        .collect();
    if !above.is_empty() {
        parts.push(format!("above: [{}]", above.join(", ")));
    }
    Some((vendor, model, parts.join(", ")))
}

fn tiers(members: &Map<String, Value>, infix: &str) -> Vec<String> {
    let tier = |(ours, suffix): &(&str, &str)| {
        let parts = rates(members, &format!("{infix}{suffix}"), "");
        (!parts.is_empty()).then(|| format!("{ours}: {{{}}}", parts.join(", ")))
    };
    TIERS.iter().filter_map(tier).collect()
}

/// Thousands of input tokens from which on other rates hold.
fn thresholds(members: &Map<String, Value>) -> std::collections::BTreeSet<u64> {
    let threshold = |key: &String| {
        let (_, rest) = key.split_once("_above_")?;
        let rest = rest.split("_above_").last()?;
        rest.split_once("k_tokens")?.0.parse().ok()
    };
    members.keys().filter_map(threshold).collect()
}

fn rates(members: &Map<String, Value>, suffix: &str, mode: &str) -> Vec<String> {
    let rate = |names: &[&str], scale: f64| {
        let mut found = names
            .iter()
            .filter_map(|name| members.get(&format!("{name}{suffix}"))?.as_f64());
        // Nine digits behind the point, which is more than any provider quotes; the rest is noise of binary numbers.
        found.find(|rate| *rate >= 0.0).map(|rate| dollars(rate * scale))
    };
    let tokens = TOKENS.iter().map(|(ours, theirs)| (ours, rate(theirs, 1e6)));
    let pieces = PIECES
        .iter()
        .filter(|(_, _, modes)| suffix.is_empty() && modes.contains(&mode))
        .map(|(ours, theirs, _)| (ours, rate(theirs, 1.0)));
    let listed = tokens.chain(pieces);
    listed
        .filter_map(|(ours, rate)| Some(format!("{ours}: {}", rate?)))
        .collect()
}

fn dollars(amount: f64) -> String {
    let text = format!("{amount:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn rates_are_per_million_tokens_and_grouped_by_source() {
        let models = table(
            r#"{"gpt-x": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 2.0399999999999998e-05,
                "output_cost_per_token": 1e-04, "max_output_tokens": 1000, "source": "https://a.example/",
                "input_cost_per_token_batches": 1e-05, "input_cost_per_token_above_200k_tokens": 4e-05,
                "output_cost_per_token_above_200k_tokens_flex": 5e-05},
               "other": {"litellm_provider": "nobody", "mode": "chat", "input_cost_per_token": 1}}"#,
        );
        let text = render(&models, "1", "2026-01-02");
        let expected = "- source: \"https://a.example/\"\n  date: 2026-01-02\n  prices:\n    \"openai/gpt-x\": {input: 20.4, \
            output: 100, output_max: 1000, batch: {input: 10}, above: [{tokens: 200000, input: 40, flex: {output: 50}}]}\n";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(money::parse_prices(&text).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_metered_or_has_no_rate_is_left_out() {
        let models = table(
            r#"{"sora": {"litellm_provider": "openai", "mode": "video_generation", "output_cost_per_second": 0.1},
               "low/1024-x-1024/gpt-image-1": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_image": 1},
               "whisper-1": {"litellm_provider": "openai", "mode": "audio_transcription", "input_cost_per_second": 0.0001},
               "gpt-image-1-mini": {"litellm_provider": "openai", "mode": "image_generation", "output_cost_per_image_token": 8e-06},
               "nothing": {"litellm_provider": "openai", "mode": "chat"}}"#,
        );
        let text = render(&models, "1", "2026-01-02");
        let image = "\"openai/gpt-image-1-mini\": {output_image: 8, output_max: 6540}";
        assert!(text.contains(image), "{text}");
        assert!(text.contains("\"openai/whisper-1\": {audio_second: 0.0001}"), "{text}");
        assert_eq!(money::parse_prices(&text).unwrap().len(), 2);
    }
}
