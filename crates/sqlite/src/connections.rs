//! The connections to one database: one for writes, a few for reads.

use super::builder::Settings;
use super::database::Database;
use super::writer::{Statement, Writer, Written};
use sqlx::query;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::Semaphore;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The number of concurrent readers. Each has a thread.
const READERS: usize = 4;

/// The connections to one database.
///
/// The pool of sqlx is not used: it needs a runtime when a connection is dropped, and its timeouts use tokio's clock,
/// which tests pause.
pub(super) struct Connections {
    database: Arc<Database>,
    writer: Arc<Writer>,
    idle_readers: Mutex<Vec<SqliteConnection>>,
    readers: Semaphore,
}

impl Connections {
    pub(super) async fn open(path: &Path, settings: Settings) -> Result<Self, BackendError> {
        let (database, writer) = Database::open(path, settings).await?;
        let database = Arc::new(database);
        Ok(Self {
            writer: Arc::new(Writer::new(database.clone(), writer)),
            database,
            idle_readers: Mutex::default(),
            readers: Semaphore::new(READERS),
        })
    }

    pub(super) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Runs a writing statement, and returns its result once it is committed.
    ///
    /// If the future is dropped while it waits for its turn, it has no effect. If it is dropped later, the statement
    /// runs to its end.
    pub(super) async fn write(&self, statement: Statement) -> Result<Written, BackendError> {
        self.writer.write(statement).await
    }

    /// Returns the rows of a statement.
    pub(super) async fn read(&self, statement: Statement) -> Result<Vec<SqliteRow>, BackendError> {
        if self.database.clock().was_set() {
            // A write corrects the clock of the database first.
            self.write(query("SELECT 1")).await?;
        }
        let asked = Instant::now();
        let turn = self.readers.acquire().await;
        let _turn = turn.map_err(BackendError::unavailable)?;
        self.database.check_in_time(asked)?;
        self.database.check_file()?;
        let idle = lock(&self.idle_readers).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.database.connect_reader().await?,
        };
        let rows = statement.fetch_all(&mut connection).await;
        let rows = rows.map_err(|error| self.database.error(error))?;
        // Only a connection that is certainly idle is returned. Any other connection closes when its statement ends.
        lock(&self.idle_readers).push(connection);
        Ok(rows)
    }

    /// Returns the single number that a statement selects.
    pub(super) async fn read_number(&self, sql: &'static str) -> Result<i64, BackendError> {
        let rows = self.read(query(sql)).await?;
        let row = rows.first().ok_or_else(|| {
            // The table is not the one of the schema.
            BackendError::unavailable("a row is missing in the database")
        })?;
        sqlx::Row::try_get(row, 0).map_err(|error| self.database.error(error))
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("path", &self.database.path())
            .finish_non_exhaustive()
    }
}
