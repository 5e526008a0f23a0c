//! The file that keeps the cache over a restart, and the secret beside it.
//!
//! Invariants: a file is written beside the old one, synced and put in its place in one step, so that a crash leaves one or the other;
//! only its owner reads the secret. Deliberately absent: what the bytes mean (`sluice_policy::cache::snapshot`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sluice_policy::cache::Brain;
use sluice_policy::cache::snapshot::Snapshot;
use sluice_wire::limits::CACHE_SNAPSHOT_BYTES_MAX;

/// 32 random bytes.
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

/// The secret beside the file: read, or made and kept.
///
/// # Errors
/// When it can be neither read nor written, or is of another length.
pub fn secret(path: &Path) -> io::Result<[u8; 32]> {
    let path = beside(path, "key");
    match std::fs::read(&path) {
        Ok(bytes) => bytes
            .try_into()
            .map_err(|_| io::Error::other(format!("{} does not hold 32 bytes", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = random();
            replace(&path, &secret)?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

/// Reads the file; `None` if there is none.
///
/// # Errors
/// In words, when it cannot be read or is refused.
pub fn read(path: &Path, brain: &Brain) -> Result<Option<Snapshot>, String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length > CACHE_SNAPSHOT_BYTES_MAX {
        return Err(format!("it is larger than {CACHE_SNAPSHOT_BYTES_MAX} bytes"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Snapshot::decode(&bytes.into(), brain)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Writes the file.
///
/// # Errors
/// Those of the file system; the old file then stays.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
