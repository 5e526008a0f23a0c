//! `cargo xtask tidy`: the rules of this tree that a program can check.
//!
//! Invariants: every rule is a function of the files' text alone, so that it is tested without a tree; it also runs as a
//! test of this package, so that `cargo test` tells. A rule has no exceptions besides those written in it.
//! Deliberately absent: what rustc, clippy and rustfmt check.

mod docs;
mod layers;
mod shape;
mod source;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::workspace_root;

/// One file of the tree.
#[derive(Debug)]
pub struct File {
    /// From the root, with `/`.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl File {
    /// Its text; `None` if it is none.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    /// Its text if it is Rust.
    pub fn rust(&self) -> Option<&str> {
        self.text().filter(|_| self.path.ends_with(".rs"))
    }
}

/// One thing that is not as it should be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file.
    pub path: String,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and the rule.
    pub message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Checks the tree.
///
/// # Errors
/// When it cannot be read, or breaks a rule; the violations are printed.
pub fn run() -> Result<()> {
    let files = tree(&workspace_root()?)?;
    let violations = check(&files);
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("tidy: {} files, no violation", files.len());
            Ok(())
        }
        count => bail!("tidy: {count} violations"),
    }
}

/// Everything that breaks a rule, in order of files.
fn check(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files {
        words::check(file, &mut found);
        if let Some(text) = file.rust() {
            shape::check(&file.path, text, &mut found);
            layers::check(&file.path, text, &mut found);
        }
    }
    docs::check(files, &mut found);
    found.sort();
    found
}

/// The files that are tracked, or would be: what is ignored is no part of the tree.
fn tree(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for path in listed_by_git(root).map_or_else(|| walk(root), Ok)? {
        let full = root.join(&path);
        // Listed and yet not there: deleted, and not committed yet.
        if full.is_file() {
            let bytes = std::fs::read(&full).with_context(|| format!("read {}", full.display()))?;
            files.push(File { path, bytes });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let paths = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<String> = paths.split_terminator('\0').map(str::to_owned).collect();
    (!paths.is_empty()).then_some(paths)
}

/// For a tree that came without its history.
fn walk(root: &Path) -> Result<Vec<String>> {
    const IGNORED: [&str; 6] = [".git", "target", "corpus", "artifacts", "__pycache__", ".venv"];
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let path = folder.join(&name);
            if IGNORED.iter().any(|ignored| name == *ignored) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_breaks_no_rule() {
        let files = tree(&workspace_root().unwrap()).unwrap();
        assert!(files.len() > 100, "the tree was not found");
        let violations = check(&files);
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn git_and_a_walk_find_the_same_sources() {
        let root = workspace_root().unwrap();
        let mut walked = walk(&root).unwrap();
        walked.retain(|path| path.starts_with("proxy/"));
        walked.sort();
        assert!(walked.len() > 50);
        if let Some(mut listed) = listed_by_git(&root) {
            listed.retain(|path| path.starts_with("proxy/") && root.join(path).is_file());
            listed.sort();
            assert_eq!(walked, listed);
        }
    }

    #[test]
    fn violations_say_where() {
        let violation = Violation::new("a/b.rs", 3, "no");
        assert_eq!(violation.to_string(), "a/b.rs:3: no");
        assert_eq!(Violation::new("a/b.rs", 0, "no").to_string(), "a/b.rs: no");
    }
}
