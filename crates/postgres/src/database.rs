//! A pool of connections, and the execution of statements on it.
//!
//! A call uses one connection at a time, and no call holds one while it waits for another, so that a pool of one
//! connection suffices and calls cannot lock each other out. A statement is its own transaction: there is no `BEGIN`
//! after which a dropped future could leave a transaction open. Statements run in tasks, so a dropped call neither
//! interrupts its statement nor leaves its answer on the connection for the next call.

use super::builder::Settings;
use super::refused::{Advice, Advised, NoConnection};
use super::statement::Statement;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgPool, PgRow, PgSeverity};
use sqlx::{Error, Postgres, raw_sql};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::backoff::Backoff;

/// The pauses before a statement that has failed for a passing reason is executed again.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct Database {
    pool: PgPool,
    settings: Settings,
}

/// A connection that is kept for the next statement, while there are some.
#[derive(Default)]
pub(super) struct Lane {
    connection: Option<PoolConnection<Postgres>>,
    is_waiting: bool,
}

impl Database {
    pub(super) fn new(pool: PgPool, settings: Settings) -> Self {
        Self { pool, settings }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The name of the schema, quoted. It has no characters that need to be escaped.
    pub(super) fn schema(&self) -> String {
        format!("\"{}\"", self.settings.schema)
    }

    /// How long the server waits for a lock, in milliseconds: for less time than the client, which would not learn that
    /// the statement has failed.
    pub(super) fn lock_timeout(&self) -> u128 {
        (self.settings.timeout * 3 / 4).as_millis()
    }

    /// Executes a statement in a task, and returns its rows once it is committed.
    pub(super) async fn run(
        self: &Arc<Self>,
        statement: Statement,
    ) -> Result<Vec<PgRow>, BackendError> {
        let runtime = Handle::try_current().map_err(BackendError::unavailable)?;
        let (answer, answered) = oneshot::channel();
        let database = self.clone();
        runtime.spawn(async move {
            let rows = database.execute(&mut Lane::default(), &statement).await;
            // Fails if the caller is gone, which is fine.
            let _ = answer.send(rows);
        });
        answered.await.map_err(ended)?
    }

    /// Executes a statement on a connection of the lane, or on one that the lane then keeps. Repeats it after failures
    /// that have left nothing behind.
    pub(super) async fn execute(
        &self,
        lane: &mut Lane,
        statement: &Statement,
    ) -> Result<Vec<PgRow>, BackendError> {
        let after = self.settings.timeout;
        let mut failure = None;
        let attempts = async {
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            loop {
                match self.attempt(lane, statement).await {
                    Err(error) if may_repeat(&error, statement) => {
                        failure = Some(error);
                        sleep(backoff.pause()).await;
                    }
                    attempted => return attempted,
                }
            }
        };
        match (timeout(after, attempts).await, failure) {
            (Ok(rows), _) => rows.map_err(|error| self.error(error)),
            // The reason of the last failure says more than the time.
            (Err(_), Some(error)) => Err(self.error(error)),
            (Err(_), None) if lane.is_waiting => Err(self.no_connection(after)),
            (Err(_), None) => Err(BackendError::timed_out(after)),
        }
    }

    async fn attempt(&self, lane: &mut Lane, statement: &Statement) -> sqlx::Result<Vec<PgRow>> {
        let connection = match lane.connection.take() {
            Some(connection) => connection,
            None => {
                lane.is_waiting = true;
                let acquired = self.pool.acquire().await;
                lane.is_waiting = false;
                acquired?
            }
        };
        // The connection is closed if this future is dropped, after a timeout or at the end of the runtime: the answer to
        // the statement may still come.
        let mut busy = Busy(Some(connection));
        let rows = fetch(busy.connection(), statement).await;
        if rows.as_ref().err().is_none_or(leaves_usable) {
            lane.connection = busy.0.take();
        }
        rows
    }

    /// Converts an error of the client.
    pub(super) fn error(&self, error: Error) -> BackendError {
        if let Error::PoolTimedOut = error {
            return self.no_connection(self.pool.options().get_acquire_timeout());
        }
        // The server has waited too long for a lock, or has cancelled the statement for its own limit.
        if matches!(code(&error).as_deref(), Some("55P03" | "57014")) {
            return BackendError::timed_out(self.settings.timeout);
        }
        match Advice::of(&error) {
            Some(advice) => BackendError::unavailable(Advised { advice, error }),
            None => BackendError::unavailable(error),
        }
    }

    fn no_connection(&self, after: Duration) -> BackendError {
        let limit = self.pool.options().get_max_connections();
        BackendError::unavailable(NoConnection {
            after,
            limit: (self.pool.size() >= limit).then_some(limit),
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("schema", &self.settings.schema)
            .finish_non_exhaustive()
    }
}

/// A connection with a statement under way. It is closed on drop, without waiting for the server.
struct Busy(Option<PoolConnection<Postgres>>);

impl Busy {
    fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("the connection is taken last")
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Executes a statement on a connection of the caller.
pub(super) async fn fetch(
    connection: &mut PgConnection,
    statement: &Statement,
) -> sqlx::Result<Vec<PgRow>> {
    raw_sql(statement.sql()).fetch_all(connection).await
}

/// Whether a statement that has failed can be executed again: it has changed nothing, and the reason may pass.
fn may_repeat(error: &Error, statement: &Statement) -> bool {
    match code(error).as_deref() {
        // Serialisation failures, of a pool whose transactions are not `READ COMMITTED`, and deadlocks.
        Some("40001" | "40P01") => true,
        // The server ends the connection, or starts.
        Some("57P01" | "57P02" | "57P03") => statement.is_read(),
        Some(_) => false,
        None => statement.is_read() && matches!(error, Error::Io(_)),
    }
}

/// Whether a connection can be used after this error. The next connection after one to a replica may be to the primary
/// server: an address may lead to another server after a failover.
fn leaves_usable(error: &Error) -> bool {
    if Advice::of(error) == Some(Advice::ReadOnly) {
        return false;
    }
    let database = error.as_database_error();
    let error = database.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// The code of an error of the server.
pub(super) fn code(error: &Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// The error of a call whose task was dropped.
pub(super) fn ended<E>(_: E) -> BackendError {
    BackendError::unavailable("the runtime has ended")
}
