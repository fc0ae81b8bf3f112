//! The file of a database, and the check whether it still exists.

use super::refused::Refused;
use std::fs::{Metadata, OpenOptions, metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

pub(super) struct File {
    /// Absolute, because later connections must not depend on the working directory.
    path: PathBuf,
    identity: Identity,
}

impl File {
    /// Creates the file, with permissions for its owner only, if it does not exist.
    pub(super) fn create(path: &Path) -> Result<Self, Refused> {
        let name = path.to_string_lossy();
        // SQLite does not treat these names as files.
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

    /// Whether a path refers to this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        is_same(self, path)
    }

    /// Whether the path still refers to the file that was opened. SQLite itself continues to use a deleted file, and no
    /// other process would see the writes.
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
    // Closing a handle of a file releases all locks of the process on that file, including the locks of SQLite. So an
    // existing file is never opened here, and a new file is closed before SQLite can open it.
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

#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    metadata(path).is_ok_and(|found| identity(&found) == file.identity)
}

#[cfg(not(unix))]
fn is_same(file: &File, path: &Path) -> bool {
    let path = path.canonicalize().ok();
    path.is_some() && path == file.path.canonicalize().ok()
}

#[cfg(not(unix))]
type Identity = bool;

/// An open file can be neither deleted nor replaced on these systems, so its existence is enough.
#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> Identity {
    metadata.is_file()
}
