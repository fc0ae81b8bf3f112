//! Errors that say what to do.

use sqlx::postgres::PgDatabaseError;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// An error with advice. Its source is the error of the client.
#[derive(Debug)]
pub(super) struct Advised {
    pub(super) advice: Advice,
    pub(super) error: sqlx::Error,
}

/// What an error of the server means for these adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    ReadOnly,
    NoSchema,
    NoPermission,
    TooManyConnections,
}

impl Advice {
    /// Returns the advice for an error of the server, by its code.
    pub(super) fn of(error: &sqlx::Error) -> Option<Self> {
        let error = error.as_database_error()?;
        let error = error.try_downcast_ref::<PgDatabaseError>()?;
        Some(match error.code() {
            "25006" => Self::ReadOnly,
            // A replica has no unlogged tables. The code has other meanings too, and the message depends on the language.
            "0A000" if error.routine() == Some("get_relation_info") => Self::ReadOnly,
            // Of a schema, a table or sequence, and a function.
            "3F000" | "42P01" | "42883" => Self::NoSchema,
            "42501" => Self::NoPermission,
            "53300" => Self::TooManyConnections,
            _ => return None,
        })
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.advice {
            Advice::ReadOnly => READ_ONLY,
            Advice::NoSchema => {
                "the schema of this package is missing or was changed: connect again to create it"
            }
            Advice::NoPermission => {
                "the role lacks a permission: let it create the schema, or grant it USAGE on the schema, and all \
                 privileges on its tables and sequences"
            }
            Advice::TooManyConnections => {
                "the server accepts no more connections: lower `max_connections` of the pools, or use a pooler"
            }
        })
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

const READ_ONLY: &str = "the database is read-only: connect to the primary server, not to a replica, with a role whose \
                         `default_transaction_read_only` is off";

/// The reason why a database is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The name of the schema is invalid.
    Name { schema: String },
    /// The address of the server is invalid, or it cannot be reached.
    Sql(sqlx::Error),
    /// The server is too old.
    Server { version: i32 },
    /// The database does not store Unicode.
    Encoding { found: String },
    /// The database is a replica, or read-only by its settings.
    ReadOnly,
    /// A newer version of this crate has migrated the schema.
    Version { found: i32, known: usize },
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { schema } => write!(
                f,
                "`{schema}` is no name of a schema for this package: it has 1 to 63 lower-case letters, digits and \
                 underscores, begins with a letter, and not with `pg_`"
            ),
            Self::Sql(error) => error.fmt(f),
            Self::Server { version } => write!(
                f,
                "the server has version {}: PostgreSQL 13 or later is needed",
                version / 10_000
            ),
            Self::Encoding { found } => write!(
                f,
                "the encoding of the database is {found}: create it with the encoding UTF8"
            ),
            Self::ReadOnly => f.write_str(READ_ONLY),
            Self::Version { found, known } => write!(
                f,
                "the schema has version {found}, and this program knows versions up to {known}: deploy a newer program"
            ),
        }
    }
}

impl Error for Refused {}

/// The error of opening a database. Its source says why.
#[derive(Debug)]
pub(super) struct OpenError {
    pub(super) schema: String,
    pub(super) refused: Refused,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the schema `{}`", self.schema)
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.refused {
            Refused::Sql(error) => Some(error),
            refused => Some(refused),
        }
    }
}

/// No connection became available in time.
#[derive(Debug)]
pub(super) struct NoConnection {
    pub(super) after: Duration,
    /// The limit of the pool, if all its connections are in use.
    pub(super) limit: Option<u32>,
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Some(limit) => write!(
                f,
                "all {limit} connections of the pool were in use for {:?}: raise `max_connections`, or give this \
                 package a pool of its own",
                self.after
            ),
            None => write!(
                f,
                "the server accepted no connection within {:?}: check its address, and that it runs",
                self.after
            ),
        }
    }
}

impl Error for NoConnection {}

#[cfg(test)]
mod tests {
    use super::NoConnection;
    use std::time::Duration;

    #[test]
    fn a_missing_connection_has_one_of_two_causes() {
        let after = Duration::from_secs(10);
        let text = |limit| NoConnection { after, limit }.to_string();
        assert!(text(Some(7)).starts_with("all 7 connections"));
        assert!(text(None).starts_with("the server accepted no connection within 10s"));
    }
}
