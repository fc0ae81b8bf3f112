//! An open database, without its connections: the file, the clock, and the activity of this process.

use super::builder::Settings;
use super::clock::Clock;
use super::file::File;
use super::refused::{OpenError, Refused};
use super::schema;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, query_scalar, raw_sql};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The pause before another attempt to open a file that another process is setting up.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// How many times as often an active process polls for writes of other processes.
const ACTIVE_LOOKS: u32 = 16;

/// The parts of an open database that its connections share.
pub(super) struct Database {
    file: File,
    options: SqliteConnectOptions,
    settings: Settings,
    clock: Clock,
    /// When this process last wrote something, or found something new.
    active: Mutex<Instant>,
}

impl Database {
    /// Opens a database, and returns it with its connection for writes.
    pub(super) async fn open(
        path: &Path,
        settings: Settings,
    ) -> Result<(Self, SqliteConnection), BackendError> {
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
        let database = Self {
            file,
            options,
            settings,
            clock,
            active: Mutex::new(started),
        };
        Ok((database, writer))
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether a path refers to the file of this database.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Opens a read-only connection.
    pub(super) async fn connect_reader(&self) -> Result<SqliteConnection, BackendError> {
        let options = self.options.clone().pragma("query_only", "ON");
        let connection = options.connect().await;
        connection.map_err(|error| self.error(error))
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
        BackendError::timed_out(self.settings.busy_timeout)
    }
}

pub(super) fn is_busy(error: &sqlx::Error) -> bool {
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
    schema::check(&mut connection, settings.is_shared).await?;
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
    schema::migrate(&mut connection, settings.is_shared).await?;
    let clock = Clock::open(&mut connection).await?;
    Ok((connection, clock))
}
