//! Builds the programs a measurement needs and says where they are.

use std::path::Path;

use anyhow::Result;

pub use crate::cargo::{Programs, workspace_root};
use crate::{cargo, dist};

/// The word for the profile `dist` with the gateway built by a profile of its own work, as it is shipped (`cargo xtask dist`).
pub const GUIDED: &str = "guided";

/// Builds the gateway and every program of the bench with `profile`, and finds nginx and HAProxy if installed.
///
/// # Errors
/// When the build fails.
pub fn programs(profile: &str) -> Result<Programs> {
    eprintln!("building with profile {profile} …");
    let mut programs = if profile == GUIDED {
        let mut programs = cargo::build("dist", &["--bins", "-p", "sluice-bench"])?;
        programs.insert("sluice".to_owned(), dist::build(dist::SECONDS)?);
        programs
    } else {
        cargo::build(profile, &["--bins", "-p", "sluice", "-p", "sluice-bench"])?
    };
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
