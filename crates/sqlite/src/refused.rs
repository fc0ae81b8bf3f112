use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The error of opening a database.
#[derive(Debug)]
pub(super) struct OpenError {
    pub(super) path: PathBuf,
    pub(super) refused: Refused,
}

/// The reason why a file is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The path is not that of a file.
    NoFile,
    /// The file cannot be created or read.
    Io(io::Error),
    /// SQLite cannot read or write the file.
    Sql(sqlx::Error),
    /// The file system has no shared memory.
    NoWal,
    /// The file is the database of another application.
    Foreign,
    /// A newer version of this crate has written the file.
    Version { found: i64, known: usize },
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the database {}", self.path.display())
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.refused {
            Refused::Io(error) => Some(error),
            Refused::Sql(error) => Some(error),
            refused => Some(refused),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str(
                "it must be the path of a file: databases in memory and URIs are not supported",
            ),
            Self::Io(error) => error.fmt(f),
            Self::Sql(error) => error.fmt(f),
            Self::NoWal => f.write_str("its file system does not support the write-ahead log"),
            Self::Foreign => f.write_str(
                "it belongs to another application, which can share it: see `SqliteBuilder::share_file`",
            ),
            Self::Version { found, known } => write!(
                f,
                "its schema has version {found}, and this program knows versions up to {known}"
            ),
        }
    }
}

impl Error for Refused {}
