use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The default limit of a temporary file, in bytes.
pub(crate) const DEFAULT_MAX_SPOOL_BYTES: u64 = 64 * 1024 * 1024;

/// The directory and the size limit of the temporary file of a [`ReplayBody`](super::ReplayBody) that exceeds its
/// memory limit.
///
/// Cloning increments a reference count. The directory is first used when a body needs it, so a missing directory is
/// an error only then.
#[derive(Clone, Debug)]
#[must_use]
pub struct Spool {
    pub(crate) directory: Arc<Path>,
    pub(crate) max_bytes: u64,
}

impl Spool {
    /// Creates a spool with temporary files in `directory`, each of at most 64 MiB.
    ///
    /// The directory must exist and be writable. If its file system is a `tmpfs`, as that of the system's temporary
    /// directory often is, the files are in memory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into().into(),
            max_bytes: DEFAULT_MAX_SPOOL_BYTES,
        }
    }

    /// Sets how many bytes of one body its file may hold. Default 64 MiB.
    ///
    /// Each body has its own file, so a server needs this much space for every concurrent request.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }
}
