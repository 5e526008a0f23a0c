//! Whether the documents say what the code does: dependencies, code map, metrics, and what is generated.
//!
//! Deliberately absent: the keys of the configuration; a test of `sluice-policy` holds `config/reference.yaml` against them.

use std::collections::BTreeSet;

use super::source::Source;
use super::{File, Violation};
use crate::schema;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const MANIFEST: &str = "Cargo.toml";

/// Checks the documents against the tree.
pub fn check(files: &[File], found: &mut Vec<Violation>) {
    let text = |path: &str| files.iter().find(|file| file.path == path).and_then(File::text);
    for path in [ARCHITECTURE, MANIFEST, schema::METRICS] {
        if text(path).is_none() {
            found.push(Violation::new(path, 0, "missing"));
        }
    }
    let architecture = text(ARCHITECTURE).unwrap_or_default();
    dependencies(text(MANIFEST).unwrap_or_default(), architecture, found);
    unused(files, found);
    let sources: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    code_map(&sources, architecture, found);
    let metrics = text(schema::METRICS).unwrap_or_default();
    let named: Vec<(&str, Source<'_>)> = files
        .iter()
        .filter(|file| file.path.starts_with("proxy/") && !file.path.ends_with("/tests.rs"))
        .filter_map(|file| Some((file.path.as_str(), Source::read(file.rust()?))))
        .collect();
    metric_names(&named, metrics, found);
    for (path, current) in schema::documents(metrics) {
        if text(path).is_some_and(|text| text != current) {
            found.push(Violation::new(path, 0, "stale; run cargo xtask schema"));
        }
    }
}

/// Every dependency of the workspace has a row in the table of the architecture, and every row a dependency.
fn dependencies(manifest: &str, architecture: &str, found: &mut Vec<Violation>) {
    let declared: BTreeSet<&str> = section(manifest, "[workspace.dependencies]", "[")
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with('#') && !name.starts_with("sluice"))
        .collect();
    let rows: BTreeSet<&str> = section(architecture, "## Dependencies", "## ")
        .filter_map(|line| line.strip_prefix("| "))
        .flat_map(|line| line.split(" | ").next().unwrap_or_default().split(", "))
        .filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'))
        .collect();
    for name in declared.difference(&rows) {
        found.push(Violation::new(
            ARCHITECTURE,
            0,
            format!("no row for `{name}` in the table under Dependencies"),
        ));
    }
    for name in rows.difference(&declared) {
        found.push(Violation::new(
            ARCHITECTURE,
            0,
            format!("a row under Dependencies for `{name}`, which {MANIFEST} does not have"),
        ));
    }
}

/// Every dependency that a member of the workspace takes is named in its sources, and every one on offer is taken.
fn unused(files: &[File], found: &mut Vec<Violation>) {
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let mut taken = BTreeSet::new();
    for manifest in manifests.filter(|file| !file.path.starts_with("tests/fuzz/")) {
        let folder = manifest.path.trim_end_matches("Cargo.toml");
        let sources: Vec<Source<'_>> = files
            .iter()
            .filter(|file| file.path.starts_with(folder) && !file.path.starts_with("tests/fuzz/"))
            .filter_map(|file| file.rust().map(Source::read))
            .collect();
        for name in inherited(manifest.text().unwrap_or_default()) {
            let module = name.replace('-', "_");
            let is_named = |source: &Source<'_>| source.tokens.iter().any(|token| token.text == module);
            if !sources.iter().any(is_named) {
                found.push(Violation::new(
                    &manifest.path,
                    0,
                    format!("takes `{name}` and never names it"),
                ));
            }
            taken.insert(name);
        }
    }
    let root = files.iter().find(|file| file.path == MANIFEST).and_then(File::text);
    for line in section(root.unwrap_or_default(), "[workspace.dependencies]", "[") {
        let name = line.split_once(" = ").map_or("", |(name, _)| name);
        if !name.is_empty() && !name.starts_with('#') && !taken.contains(name) {
            found.push(Violation::new(MANIFEST, 0, format!("no member takes `{name}`")));
        }
    }
}

/// The dependencies that a manifest takes from the workspace.
fn inherited(manifest: &str) -> impl Iterator<Item = &str> {
    let is_heading = |line: &&str| line.starts_with('[');
    let mut within = false;
    manifest.lines().filter_map(move |line| {
        if is_heading(&line) {
            within = line.ends_with("dependencies]");
        }
        let (name, rest) = line.split_once([' ', '.'])?;
        (within && rest.contains("workspace = true")).then_some(name)
    })
}

/// The lines between a heading and the next.
fn section<'a>(text: &'a str, heading: &'a str, next: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .skip_while(move |line| *line != heading)
        .skip(1)
        .take_while(move |line| !line.starts_with(next))
}

/// Every file of the product is named in the code map, by itself or by its folder, and every name is a file's.
fn code_map(paths: &[&str], architecture: &str, found: &mut Vec<Violation>) {
    let quoted: BTreeSet<&str> = architecture.split('`').skip(1).step_by(2).collect();
    for path in paths.iter().filter(|path| is_source(path)) {
        let Some((_, module)) = path.split_once("/src/") else {
            continue;
        };
        let is_named = |name: &str| quoted.contains(name);
        let folders = module.match_indices('/').map(|(at, _)| &module[..=at]);
        if !is_named(module) && !folders.into_iter().any(is_named) {
            found.push(Violation::new(
                ARCHITECTURE,
                0,
                format!("the code map does not name `{module}` ({path})"),
            ));
        }
    }
    for name in quoted {
        let is_path = name.ends_with(".rs") && !name.contains([' ', '*', '{', '<']);
        let ends = |path: &&str| *path == name || path.ends_with(&format!("/{name}"));
        if is_path && !paths.iter().any(ends) {
            found.push(Violation::new(
                ARCHITECTURE,
                0,
                format!("`{name}` is named, and there is no such file"),
            ));
        }
    }
}

fn is_source(path: &str) -> bool {
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("/testing.rs");
    path.starts_with("proxy/") && path.contains("/src/") && path.ends_with(".rs") && !is_test
}

/// Every metric that code names is in the reference, and every one in the reference is named by code.
fn metric_names(sources: &[(&str, Source<'_>)], reference: &str, found: &mut Vec<Violation>) {
    let documented: BTreeSet<&str> = reference
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| is_metric(name))
        .collect();
    let mut used = BTreeSet::new();
    for (path, source) in sources {
        for string in source.strings.iter().filter(|string| is_metric(string.text)) {
            used.insert(string.text);
            if !documented.contains(string.text) {
                found.push(Violation::new(
                    path,
                    string.line,
                    format!("the metric {} is not in {}", string.text, schema::METRICS),
                ));
            }
        }
    }
    for name in documented.difference(&used) {
        found.push(Violation::new(
            schema::METRICS,
            0,
            format!("no code names the metric {name}"),
        ));
    }
}

fn is_metric(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.strip_prefix("sluice_")
        .is_some_and(|rest| rest.contains('_') && rest.bytes().all(is_name))
        || matches!(text, "sluice_connections")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(check: impl FnOnce(&mut Vec<Violation>)) -> Vec<String> {
        let mut found = Vec::new();
        check(&mut found);
        found.into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn dependencies_and_their_table_name_the_same() {
        let manifest = "[workspace.dependencies]\n# why\nsluice-wire = { path = \"x\" }\nbytes = \"1\"\nring = \"0.17\"\n\n[lints]\nx = 1\n";
        let table = "## Dependencies\n\n| crate | why |\n|---|---|\n| `bytes`, `ring` | `x` is no name |\n## Next\n| `no` | |\n";
        assert!(told(|found| dependencies(manifest, table, found)).is_empty());
        let missing = told(|found| dependencies(manifest, &table.replace(", `ring`", ""), found));
        assert_eq!(missing, ["no row for `ring` in the table under Dependencies"]);
        let surplus = told(|found| dependencies(&manifest.replace("ring = \"0.17\"\n", ""), table, found));
        assert_eq!(surplus.len(), 1);
    }

    #[test]
    fn dependencies_that_nobody_needs_are_found() {
        let file = |path: &str, text: &str| File {
            path: path.to_owned(),
            bytes: text.as_bytes().to_vec(),
        };
        let root = file(
            "Cargo.toml",
            "[workspace.dependencies]\nrtrb = \"1\"\nsimd-json = \"1\"\n",
        );
        let member = file(
            "a/Cargo.toml",
            "[package]\nversion.workspace = true\n[dependencies]\nrtrb.workspace = true\n[dev-dependencies]\nsimd-json = { workspace = true }\n",
        );
        let named = file("a/src/lib.rs", "use rtrb::X; simd_json::f();");
        assert!(told(|found| unused(&[root, member, named], found)).is_empty());
        let root = file("Cargo.toml", "[workspace.dependencies]\nrtrb = \"1\"\n");
        let member = file("a/Cargo.toml", "[dependencies]\nbytes.workspace = true\n");
        let comment = file("a/src/lib.rs", "// bytes\n");
        assert_eq!(
            told(|found| unused(&[root, member, comment], found)),
            ["takes `bytes` and never names it", "no member takes `rtrb`"]
        );
    }

    #[test]
    fn the_code_map_names_every_source_by_itself_or_by_its_folder() {
        let paths = [
            "proxy/wire/src/sse.rs",
            "proxy/wire/src/sse/decode.rs",
            "proxy/wire/src/sse/tests.rs",
            "xtask/src/ci.rs",
        ];
        assert!(told(|found| code_map(&paths, "`sse.rs` and `sse/`", found)).is_empty());
        assert!(told(|found| code_map(&paths, "`sse.rs`, `sse/decode.rs`, `xtask/src/ci.rs`", found)).is_empty());
        let missing = told(|found| code_map(&paths, "`sse.rs`", found));
        assert_eq!(
            missing,
            ["the code map does not name `sse/decode.rs` (proxy/wire/src/sse/decode.rs)"]
        );
        let gone = told(|found| code_map(&paths, "`sse.rs` `sse/` `gone.rs`", found));
        assert_eq!(gone, ["`gone.rs` is named, and there is no such file"]);
    }

    #[test]
    fn metrics_in_code_and_reference_are_the_same() {
        let sources = [("a.rs", Source::read("x(\"sluice_a_total\"); // \"sluice_b_total\""))];
        assert!(told(|found| metric_names(&sources, "| `sluice_a_total` |", found)).is_empty());
        assert_eq!(told(|found| metric_names(&sources, "", found)).len(), 1);
        assert_eq!(
            told(|found| metric_names(&sources, "`sluice_a_total` `sluice_b_total`", found)),
            ["no code names the metric sluice_b_total"]
        );
    }
}
