//! The connections to one file: one for writes, a few for reads.

use super::builder::Settings;
use super::clock::Clock;
use super::file::File;
use super::refused::{OpenError, Refused};
use super::schema;
use super::writer::{self, Writer};
use sqlx::query::{Query, QueryScalar};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, query, query_scalar, raw_sql};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The number of concurrent readers. Each has a thread.
const READERS: usize = 4;

/// The pause before another attempt to open a file that another process is setting up.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// How many times as often an active process polls for writes of other processes.
const ACTIVE_LOOKS: u32 = 16;

/// A statement with its arguments.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// The connections to one file.
///
/// The pool of sqlx is not used: it needs a runtime when a connection is dropped, and its timeouts use tokio's clock,
/// which tests pause.
pub(super) struct Connections {
    file: File,
    options: SqliteConnectOptions,
    settings: Settings,
    writer: Writer,
    clock: Clock,
    idle_readers: Mutex<Vec<SqliteConnection>>,
    readers: Semaphore,
    /// Notifies waiting tasks of each write of this process, so that they need not wait for the next poll.
    written: watch::Sender<()>,
    /// When this process last wrote something, or found something new.
    active: Mutex<Instant>,
}

impl Connections {
    pub(super) async fn open(path: &Path, settings: Settings) -> Result<Self, BackendError> {
        let failed = |refused| {
            let path = path.to_owned();
            BackendError::unavailable(OpenError { path, refused })
        };
        let file = File::create(path).map_err(failed)?;
        let options = SqliteConnectOptions::new()
            .filename(file.path())
            .busy_timeout(settings.busy_timeout)
            .disable_statement_logging();
        let started = Instant::now();
        let (writer, clock) = loop {
            match prepare(&options, &settings).await {
                Ok(prepared) => break prepared,
                // The switch to WAL does not wait for locks, and another process may be switching at the same time.
                Err(Refused::Sql(error))
                    if is_busy(&error) && started.elapsed() < settings.busy_timeout =>
                {
                    sleep(OPEN_PAUSE).await;
                }
                Err(refused) => return Err(failed(refused)),
            }
        };
        Ok(Self {
            file,
            options,
            settings,
            writer: Writer::new(writer),
            clock,
            idle_readers: Mutex::default(),
            readers: Semaphore::new(READERS),
            written: watch::Sender::new(()),
            active: Mutex::new(started),
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs a writing statement, and returns its rows once it is committed.
    ///
    /// If the future is dropped while it waits for its turn, it has no effect. If it is dropped later, the statement
    /// runs to its end.
    pub(super) async fn write(
        self: &Arc<Self>,
        statement: Statement,
    ) -> Result<Vec<SqliteRow>, BackendError> {
        writer::write(self, statement).await
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the rows of a statement.
    pub(super) async fn read(
        self: &Arc<Self>,
        statement: Statement,
    ) -> Result<Vec<SqliteRow>, BackendError> {
        if self.clock.was_set() {
            // A write corrects the clock of the database first.
            self.write(query("SELECT 1")).await?;
        }
        let asked = Instant::now();
        let turn = self.readers.acquire().await;
        let _turn = turn.map_err(BackendError::unavailable)?;
        self.check_in_time(asked)?;
        self.file.check()?;
        let idle = lock(&self.idle_readers).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect_reader().await?,
        };
        let rows = statement.fetch_all(&mut connection).await;
        let rows = rows.map_err(|error| self.error(error))?;
        // Only a connection that is certainly idle is returned. Any other connection closes when its statement ends.
        lock(&self.idle_readers).push(connection);
        Ok(rows)
    }

    /// Opens a read-only connection.
    pub(super) async fn connect_reader(&self) -> Result<SqliteConnection, BackendError> {
        let options = self.options.clone().pragma("query_only", "ON");
        let connection = options.connect().await;
        connection.map_err(|error| self.error(error))
    }

    /// Returns the single number that a statement selects.
    pub(super) async fn read_number(
        self: &Arc<Self>,
        sql: &'static str,
    ) -> Result<i64, BackendError> {
        let rows = self.read(query(sql)).await?;
        let row = rows.first().ok_or_else(|| {
            // The table is not the one of the schema.
            BackendError::unavailable("a row is missing in the database")
        })?;
        sqlx::Row::try_get(row, 0).map_err(|error| self.error(error))
    }

    /// Reads a number through a connection of the caller's own.
    pub(super) async fn scalar(
        &self,
        connection: &mut SqliteConnection,
        scalar: QueryScalar<'static, Sqlite, i64, SqliteArguments>,
    ) -> Result<i64, BackendError> {
        let scalar = scalar.fetch_one(connection).await;
        scalar.map_err(|error| self.error(error))
    }

    /// A receiver that is notified of each write of this process.
    pub(super) fn writes(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    /// Wakes tasks that wait for writes.
    pub(super) fn wake(&self) {
        self.written.send_replace(());
    }

    /// Notes an event after which more events are likely to follow soon.
    pub(super) fn mark_active(&self) {
        *lock(&self.active) = Instant::now();
    }

    /// The pause before the next poll for writes of other processes. An answer to the latest write of this process
    /// usually comes soon or not at all, so the pause is as long as the time since that write, within bounds.
    pub(super) fn pause(&self) -> Duration {
        let longest = self.settings.poll_interval;
        let idle = lock(&self.active).elapsed();
        idle.clamp(longest / ACTIVE_LOOKS, longest)
    }

    /// Returns an error if the file is no longer the one that was opened.
    pub(super) fn check_file(&self) -> Result<(), BackendError> {
        self.file.check()
    }

    /// Converts an error of SQLite.
    pub(super) fn error(&self, error: sqlx::Error) -> BackendError {
        if is_busy(&error) {
            return self.timed_out();
        }
        BackendError::unavailable(error)
    }

    /// Returns an error if a call has waited for too long to start.
    pub(super) fn check_in_time(&self, asked: Instant) -> Result<(), BackendError> {
        // Earlier calls may have used up the time. If this call started nevertheless, the waiting times of all queued
        // calls would add up.
        if asked.elapsed() >= self.settings.busy_timeout {
            return Err(self.timed_out());
        }
        Ok(())
    }

    fn timed_out(&self) -> BackendError {
        BackendError::TimedOut {
            after: self.settings.busy_timeout,
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

/// The runtime of the caller.
pub(super) fn runtime() -> Result<Handle, BackendError> {
    Handle::try_current().map_err(BackendError::unavailable)
}

fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY and SQLITE_LOCKED. The upper bytes have details.
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Opens the writing connection and sets up the file.
async fn prepare(
    options: &SqliteConnectOptions,
    settings: &Settings,
) -> Result<(SqliteConnection, Clock), Refused> {
    let mut connection = options.connect().await?;
    schema::check(&mut connection).await?;
    let mode: String = query_scalar("PRAGMA journal_mode = WAL")
        .fetch_one(&mut connection)
        .await?;
    if mode != "wal" {
        return Err(Refused::NoWal);
    }
    let synchronous = if settings.flush_writes {
        "FULL"
    } else {
        "NORMAL"
    };
    // The size limit lets the log shrink again after a burst. The statement is built from one of two constants.
    let pragmas =
        format!("PRAGMA synchronous = {synchronous}; PRAGMA journal_size_limit = 67108864");
    raw_sql(AssertSqlSafe(pragmas))
        .execute(&mut connection)
        .await?;
    schema::migrate(&mut connection).await?;
    let clock = Clock::open(&mut connection).await?;
    Ok((connection, clock))
}
