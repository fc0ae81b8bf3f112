use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many bytes of a body may go to its temporary file by default.
pub(crate) const DEFAULT_MAX_SPOOL_BYTES: u64 = 64 * 1024 * 1024;

/// Where a [`ReplayBody`](super::ReplayBody) goes on once it has outgrown memory, and how far.
///
/// A clone costs a reference count. Nothing is written before a body needs it: a directory that does
/// not exist is no error until then.
#[derive(Clone, Debug)]
#[must_use]
pub struct Spool {
    pub(crate) directory: Arc<Path>,
    pub(crate) max_bytes: u64,
}

impl Spool {
    /// Temporary files in `directory`, each of at most 64 MiB.
    ///
    /// The directory must exist and be writable. Mind that it is memory where the file system is a
    /// `tmpfs`, as the system's temporary directory often is.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into().into(),
            max_bytes: DEFAULT_MAX_SPOOL_BYTES,
        }
    }

    /// Sets how many bytes of one body may go to its file. Default 64 MiB.
    ///
    /// Each body has a file of its own: a server needs this much for every request it handles at the
    /// same time.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }
}
