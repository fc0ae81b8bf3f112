//! The connection for writes. One task at a time uses it, and commits concurrent statements together.
//!
//! Each batch is a task in the runtime of its first statement, because the caller of that statement waits there. A
//! single task for all batches could stall in a runtime that is no longer driven.

use super::clock::Clock;
use super::database::Database;
use super::observe;
use super::sweep::{Sweep, sweep};
use futures_util::TryStreamExt;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Connection, Either, Executor};
use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The largest number of queued statements. Further statements wait for room.
const QUEUE: usize = 1024;

/// The largest number of statements that are committed together.
const BATCH: usize = 64;

/// A statement with its arguments.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

pub(super) struct Writer {
    database: Arc<Database>,
    state: Mutex<State>,
    room: Arc<Semaphore>,
    sweep: Sweep,
}

struct State {
    /// `None` while a task uses the connection. The task then passes the connection on to statements that were queued
    /// meanwhile.
    idle: Option<SqliteConnection>,
    queue: VecDeque<Job>,
}

struct Job {
    statement: Statement,
    runtime: Handle,
    asked: Instant,
    answer: Answer,
    _room: OwnedSemaphorePermit,
}

type Answer = oneshot::Sender<Result<Written, BackendError>>;

/// The result of a statement.
#[derive(Default)]
pub(super) struct Written {
    /// The rows that the statement returns.
    pub(super) rows: Vec<SqliteRow>,
    /// The number of rows that it has changed, without those that triggers have changed.
    pub(super) changed: u64,
}

/// Runs a statement.
pub(super) async fn execute(
    connection: &mut SqliteConnection,
    statement: Statement,
) -> sqlx::Result<Written> {
    let mut written = Written::default();
    let mut events = connection.fetch_many(statement);
    // All events are read even of a statement without rows, because an error of its commit follows them.
    while let Some(event) = events.try_next().await? {
        match event {
            Either::Left(done) => written.changed += done.rows_affected(),
            Either::Right(row) => written.rows.push(row),
        }
    }
    Ok(written)
}

impl Writer {
    pub(super) fn new(database: Arc<Database>, connection: SqliteConnection) -> Self {
        Self {
            database,
            state: Mutex::new(State {
                idle: Some(connection),
                queue: VecDeque::new(),
            }),
            room: Arc::new(Semaphore::new(QUEUE)),
            sweep: Sweep::new(),
        }
    }

    /// Runs a statement, and returns its result once it is committed.
    ///
    /// The statement runs in a task. If it ran in the caller's future, that future could be dropped while its statement
    /// waits for a lock of another process, and the next statement would queue behind a statement that is no longer
    /// needed.
    pub(super) async fn write(
        self: &Arc<Self>,
        statement: Statement,
    ) -> Result<Written, BackendError> {
        let asked = Instant::now();
        let room = self.room.clone().acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let job = Job {
            statement,
            runtime: Handle::try_current().map_err(BackendError::unavailable)?,
            asked,
            answer,
            _room: room.map_err(BackendError::unavailable)?,
        };
        let idle = {
            let mut state = lock(&self.state);
            state.queue.push_back(job);
            state.idle.take()
        };
        if let Some(connection) = idle {
            self.hand_on(connection);
        }
        let ended = |_| BackendError::unavailable("the runtime has ended");
        answered.await.map_err(ended)?
    }

    /// Passes the connection to the next statements, or stores it as idle.
    fn hand_on(self: &Arc<Self>, connection: SqliteConnection) {
        // Dropping a job releases its permit and so wakes waiting tasks, which must not happen under the lock.
        let mut gone = Vec::new();
        let mut state = lock(&self.state);
        let runtime = loop {
            match state.queue.front() {
                // The caller is gone, and its runtime may no longer be driven.
                Some(job) if job.answer.is_closed() => gone.extend(state.queue.pop_front()),
                Some(job) => break job.runtime.clone(),
                None => {
                    state.idle = Some(connection);
                    return;
                }
            }
        };
        let jobs = state.queue.len().min(BATCH);
        let jobs = state.queue.drain(..jobs).collect();
        drop(state);
        runtime.spawn(run(Turn {
            writer: self.clone(),
            connection: Some(connection),
            jobs,
        }));
    }
}

/// The right to use the connection, which is passed on when the turn is dropped.
struct Turn {
    writer: Arc<Writer>,
    connection: Option<SqliteConnection>,
    jobs: Vec<Job>,
}

impl Drop for Turn {
    /// Runs also if the runtime shuts down, possibly before the task has started.
    fn drop(&mut self) {
        // Their callers get an error.
        self.jobs.clear();
        if let Some(connection) = self.connection.take() {
            self.writer.hand_on(connection);
        }
    }
}

async fn run(mut turn: Turn) {
    let writer = turn.writer.clone();
    let database = &writer.database;
    let (mut statements, mut answers) = (Vec::new(), Vec::new());
    for job in mem::take(&mut turn.jobs) {
        let in_time = database.check_in_time(job.asked);
        if let Err(error) = in_time.and_then(|()| database.check_file()) {
            let _ = job.answer.send(Err(error));
        } else if !job.answer.is_closed() {
            statements.push(job.statement);
            answers.push(job.answer);
        }
    }
    let Some(connection) = &mut turn.connection else {
        return;
    };
    let written = execute_together(database.clock(), connection, statements).await;
    if written.is_ok() {
        database.mark_active();
        if writer.sweep.is_due(answers.len()) {
            // Remaining entries are deleted by the next sweep.
            if let Err(error) = sweep(connection, database.settings()).await {
                observe::sweep_failed(&error);
            }
        }
    }
    // Dropped before the answers are sent: after an answer, the caller may no longer drive the runtime.
    drop(turn);
    // Sending fails if the caller is gone, which is fine.
    match written {
        Ok(written) => {
            for (answer, written) in answers.into_iter().zip(written) {
                let _ = answer.send(Ok(written));
            }
        }
        Err(error) => {
            let error = database.error(error);
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// Runs statements one after the other and commits all of them or none. If the clock was set, it is corrected before
/// them in the same transaction: otherwise a lease could end early.
async fn execute_together(
    clock: &Clock,
    connection: &mut SqliteConnection,
    mut statements: Vec<Statement>,
) -> sqlx::Result<Vec<Written>> {
    let is_clock_due = clock.is_due();
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    if statements.len() == 1 && !is_clock_due {
        let statement = statements.remove(0);
        return Ok(vec![execute(connection, statement).await?]);
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let kept = if is_clock_due {
        Some(clock.keep(&mut transaction).await?)
    } else {
        None
    };
    let mut written = Vec::with_capacity(statements.len());
    for statement in statements {
        written.push(execute(&mut transaction, statement).await?);
    }
    // If the transaction is dropped before the commit, it is rolled back before the connection does anything else.
    transaction.commit().await?;
    if let Some(kept) = kept {
        clock.take_over(kept);
    }
    Ok(written)
}
