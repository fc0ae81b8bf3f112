//! The connections to one file: one that writes, a few that read.

use super::builder::Settings;
use super::clock::Clock;
use super::file::File;
use super::refused::{OpenError, Refused};
use super::schema;
use super::writer::{self, Writer};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;
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

/// How many connections read at the same time. Each has a thread.
const READERS: usize = 4;

/// The pause before a file that another process is setting up is opened again.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// How many times as often a process that is active looks for what others have written.
const ACTIVE_LOOKS: u32 = 16;

/// A statement with its arguments.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// The connections to one file.
///
/// There is no pool of sqlx here: it needs a runtime where a connection is dropped, and gives up by tokio's
/// clock, which tests stop.
pub(super) struct Connections {
    file: File,
    options: SqliteConnectOptions,
    settings: Settings,
    writer: Writer,
    clock: Clock,
    idle_readers: Mutex<Vec<SqliteConnection>>,
    readers: Semaphore,
    /// Changes with each write of this process, for those who need not wait for the next poll.
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
                // The switch to WAL does not wait for locks, and another process may be at it just now.
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

    /// Runs a statement that writes, and returns its rows when it has been committed.
    ///
    /// Dropped while it waits for its turn, nothing happens. Dropped later, the statement runs to its end.
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

    /// Reads the rows of a statement.
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
        // Only one that is certainly idle. Another one ends with its statement.
        lock(&self.idle_readers).push(connection);
        Ok(rows)
    }

    /// A connection that only reads.
    pub(super) async fn connect_reader(&self) -> Result<SqliteConnection, BackendError> {
        let options = self.options.clone().pragma("query_only", "ON");
        let connection = options.connect().await;
        connection.map_err(|error| self.error(error))
    }

    /// Reads the one number that a statement yields.
    pub(super) async fn read_number(
        self: &Arc<Self>,
        sql: &'static str,
    ) -> Result<i64, BackendError> {
        let rows = self.read(query(sql)).await?;
        let row = rows.first().ok_or_else(|| {
            // Its table is not that of the schema.
            BackendError::unavailable("a row is missing in the database")
        })?;
        sqlx::Row::try_get(row, 0).map_err(|error| self.error(error))
    }

    /// Reads from a connection of one's own.
    pub(super) async fn scalar(
        &self,
        connection: &mut SqliteConnection,
        scalar: QueryScalar<'static, Sqlite, i64, SqliteArguments>,
    ) -> Result<i64, BackendError> {
        let scalar = scalar.fetch_one(connection).await;
        scalar.map_err(|error| self.error(error))
    }

    /// Sees each write of this process.
    pub(super) fn writes(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    /// Makes those who wait for a write look.
    pub(super) fn wake(&self) {
        self.written.send_replace(());
    }

    /// Says that something has happened, after which more is likely to happen soon.
    pub(super) fn mark_active(&self) {
        *lock(&self.active) = Instant::now();
    }

    /// How long to wait before a look at what other processes have written. An answer to what this process has just
    /// written comes soon, if at all; so the pause is as long as the time since then, within bounds.
    pub(super) fn pause(&self) -> Duration {
        let longest = self.settings.poll_interval;
        let idle = lock(&self.active).elapsed();
        idle.clamp(longest / ACTIVE_LOOKS, longest)
    }

    /// Whether the file is still the one that was opened.
    pub(super) fn check_file(&self) -> Result<(), BackendError> {
        self.file.check()
    }

    /// What an error of SQLite means.
    pub(super) fn error(&self, error: sqlx::Error) -> BackendError {
        if is_busy(&error) {
            return self.timed_out();
        }
        BackendError::unavailable(error)
    }

    /// Whether a call may still begin.
    pub(super) fn check_in_time(&self, asked: Instant) -> Result<(), BackendError> {
        // Those before may have used up the time. To try all the same would add it up over the queue.
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

/// The runtime that the caller is in.
pub(super) fn runtime() -> Result<Handle, BackendError> {
    Handle::try_current().map_err(BackendError::unavailable)
}

fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY and SQLITE_LOCKED, whatever more the upper bytes say.
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Connects, and makes of the file what it should be.
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
    // The log shrinks again after a burst. The word is one of two.
    let pragmas =
        format!("PRAGMA synchronous = {synchronous}; PRAGMA journal_size_limit = 67108864");
    raw_sql(AssertSqlSafe(pragmas))
        .execute(&mut connection)
        .await?;
    schema::migrate(&mut connection).await?;
    let clock = Clock::open(&mut connection).await?;
    Ok((connection, clock))
}
