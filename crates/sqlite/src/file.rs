//! The file of a database, and whether it is still there.

use super::refused::Refused;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;
use std::fs::{Metadata, OpenOptions, metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub(super) struct File {
    /// Absolute: later connections must not depend on the working directory.
    path: PathBuf,
    identity: Identity,
}

impl File {
    /// Creates the file, for its owner alone, if it does not exist.
    pub(super) fn create(path: &Path) -> Result<Self, Refused> {
        let name = path.to_string_lossy();
        // SQLite takes these for something else than a file.
        if name.is_empty() || name == ":memory:" || name.starts_with("file:") {
            return Err(Refused::NoFile);
        }
        let path = std::path::absolute(path).map_err(Refused::Io)?;
        let found = create_if_missing(&path).and_then(|()| metadata(&path));
        let found = found.map_err(Refused::Io)?;
        if !found.is_file() {
            return Err(Refused::NoFile);
        }
        Ok(Self {
            path,
            identity: identity(&found),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the file that was opened. SQLite itself goes on with a file that has
    /// no name any more, and nobody else would see what is written.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        let found = metadata(&self.path).map_err(BackendError::unavailable)?;
        if identity(&found) != self.identity {
            let error = io::Error::other("the database file has been replaced");
            return Err(BackendError::unavailable(error));
        }
        Ok(())
    }
}

fn create_if_missing(path: &Path) -> io::Result<()> {
    // To close a handle of a file gives up all locks that the process has on it, those of SQLite included.
    // So a file that exists is never opened here, and a new one is closed before SQLite can open it.
    static CREATING: Mutex<()> = Mutex::new(());
    let _creating = lock(&CREATING);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;

    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
type Identity = bool;

/// Where an open file can be neither deleted nor replaced, it is enough that there is one.
#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> Identity {
    metadata.is_file()
}
