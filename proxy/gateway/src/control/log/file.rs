//! [`LogFile`]: the file of the request log, which is replaced by a new one when it is large or old, or when asked to.
//!
//! Invariants: a file that is replaced is renamed, never truncated: `FILE.1` is the one before, `FILE.2` the one before that, and
//! what is beyond the number to keep is removed; a line is never torn between two files. Deliberately absent: compression.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// When a file is replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    /// At this size, in bytes.
    pub size: Option<u64>,
    /// At this age.
    pub age: Option<Duration>,
    /// How many replaced files are kept.
    pub keep: u32,
}

/// An open file.
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    begun: SystemTime,
    rotation: Rotation,
}

impl LogFile {
    /// Opens it for append.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let about = file.metadata()?;
        let begun = if about.len() == 0 {
            SystemTime::now()
        } else {
            // A file system without birth times says when it was last written, so that it may live a little longer.
            about.created().or_else(|_| about.modified())?
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes: about.len(),
            begun,
            rotation,
        })
    }

    /// Appends whole lines, to a new file if it is time for one.
    ///
    /// # Errors
    /// The disk's; a file that cannot be replaced is written on.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_due(lines.len() as u64)
            && let Err(error) = self.replace()
        {
            tracing::warn!(%error, file = %self.path.display(), "the request log cannot be rotated");
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Goes on with whatever file has its name now: somebody else has renamed the one before.
    ///
    /// # Errors
    /// None can be opened there; the one before is written on.
    pub fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path, self.rotation)?;
        Ok(())
    }

    fn is_due(&self, more: u64) -> bool {
        let is_large = self.rotation.size.is_some_and(|size| self.bytes + more > size);
        let is_old = self
            .rotation
            .age
            .is_some_and(|age| self.begun.elapsed().is_ok_and(|old| old >= age));
        self.bytes > 0 && (is_large || is_old)
    }

    fn replace(&mut self) -> io::Result<()> {
        // Not again with every write if it fails.
        self.begun = SystemTime::now();
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.rotation.keep).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.rotation.keep > 0 {
            std::fs::rename(&self.path, numbered(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.reopen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sluice-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn read(&self, name: &str) -> Option<String> {
            std::fs::read_to_string(self.0.join(name)).ok()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_large_file_is_renamed_and_only_so_many_are_kept() {
        let dir = Dir::new("size");
        let rotation = Rotation {
            size: Some(8),
            age: None,
            keep: 2,
        };
        let mut log = LogFile::open(&dir.0.join("a"), rotation).unwrap();
        for number in 0..5 {
            log.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert_eq!(dir.read("a").unwrap(), "line 4\n");
        assert_eq!(dir.read("a.1").unwrap(), "line 3\n");
        assert_eq!(dir.read("a.2").unwrap(), "line 2\n");
        assert_eq!(dir.read("a.3"), None);
    }

    #[test]
    fn an_old_file_is_replaced_and_an_empty_one_is_not() {
        let dir = Dir::new("age");
        let rotation = Rotation {
            size: None,
            age: Some(Duration::ZERO),
            keep: 1,
        };
        let mut log = LogFile::open(&dir.0.join("a"), rotation).unwrap();
        log.write(b"one\n").unwrap();
        assert_eq!(dir.read("a.1"), None);
        log.write(b"two\n").unwrap();
        assert_eq!(
            (dir.read("a").as_deref(), dir.read("a.1").as_deref()),
            (Some("two\n"), Some("one\n"))
        );
    }

    #[test]
    fn a_file_that_somebody_renamed_is_left_when_asked_to() {
        let dir = Dir::new("reopen");
        let mut log = LogFile::open(&dir.0.join("a"), Rotation::default()).unwrap();
        log.write(b"one\n").unwrap();
        std::fs::rename(dir.0.join("a"), dir.0.join("b")).unwrap();
        log.write(b"two\n").unwrap();
        log.reopen().unwrap();
        log.write(b"three\n").unwrap();
        assert_eq!(dir.read("b").unwrap(), "one\ntwo\n");
        assert_eq!(dir.read("a").unwrap(), "three\n");
    }
}
