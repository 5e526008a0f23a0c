//! Builds the programs a measurement needs and says where they are.

use std::path::Path;

use anyhow::Result;

use crate::cargo;
pub use crate::cargo::{Programs, workspace_root};

/// Builds the gateway and every program of the bench with `profile`, and finds nginx and HAProxy if installed.
///
/// # Errors
/// When the build fails.
pub fn programs(profile: &str) -> Result<Programs> {
    eprintln!("building with profile {profile} …");
    let mut programs = cargo::build(profile, &["--bins", "-p", "sluice", "-p", "sluice-bench"])?;
    for name in ["nginx", "haproxy"] {
        let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
        if let Some(path) = places
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.is_file())
        {
            programs.insert(name.to_owned(), path);
        }
    }
    Ok(programs)
}
