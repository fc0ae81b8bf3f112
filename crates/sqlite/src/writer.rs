//! The connection that writes: one task at a time works on it, and commits together what has come together.
//!
//! Each batch is a task in the runtime of its first statement, whose caller waits there. A task for all of them
//! could stand still in a runtime that nobody drives any more.

use super::clock::Clock;
use super::connections::{Connections, Statement, runtime};
use super::observe;
use super::sweep::{Sweep, sweep};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How many statements are in the queue at most. More wait before it.
const QUEUE: usize = 1024;

/// How many statements are committed together at most.
const BATCH: usize = 64;

pub(super) struct Writer {
    state: Mutex<State>,
    room: Arc<Semaphore>,
    sweep: Sweep,
}

struct State {
    /// `None` while a task works on it. It hands the connection on to what is added to the queue meanwhile.
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

type Answer = oneshot::Sender<Result<Vec<SqliteRow>, BackendError>>;

impl Writer {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self {
            state: Mutex::new(State {
                idle: Some(connection),
                queue: VecDeque::new(),
            }),
            room: Arc::new(Semaphore::new(QUEUE)),
            sweep: Sweep::new(),
        }
    }
}

/// Runs a statement, and returns its rows when it has been committed.
///
/// It runs in a task. Were it the caller's future, that could be dropped while its statement waits for a lock
/// of another process, and the next one would queue behind a statement that nobody needs.
pub(super) async fn write(
    connections: &Arc<Connections>,
    statement: Statement,
) -> Result<Vec<SqliteRow>, BackendError> {
    let asked = Instant::now();
    let writer = connections.writer();
    let room = writer.room.clone().acquire_owned().await;
    let (answer, answered) = oneshot::channel();
    let job = Job {
        statement,
        runtime: runtime()?,
        asked,
        answer,
        _room: room.map_err(BackendError::unavailable)?,
    };
    let idle = {
        let mut state = lock(&writer.state);
        state.queue.push_back(job);
        state.idle.take()
    };
    if let Some(connection) = idle {
        hand_on(connections, connection);
    }
    let ended = |_| BackendError::unavailable("the runtime has ended");
    answered.await.map_err(ended)?
}

/// Gives the connection to those who are next, or keeps it for later.
fn hand_on(connections: &Arc<Connections>, connection: SqliteConnection) {
    // To drop them wakes others, which is not to be done under the lock.
    let mut gone = Vec::new();
    let mut state = lock(&connections.writer().state);
    let runtime = loop {
        match state.queue.front() {
            // Nobody may drive its runtime any more.
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
        connections: connections.clone(),
        connection: Some(connection),
        jobs,
    }));
}

/// The right to work on the connection, which is handed on when it is dropped.
struct Turn {
    connections: Arc<Connections>,
    connection: Option<SqliteConnection>,
    jobs: Vec<Job>,
}

impl Drop for Turn {
    /// The task also ends when its runtime does, perhaps before it has begun.
    fn drop(&mut self) {
        // Whoever waits for these learns it.
        self.jobs.clear();
        if let Some(connection) = self.connection.take() {
            hand_on(&self.connections, connection);
        }
    }
}

async fn run(mut turn: Turn) {
    let connections = turn.connections.clone();
    let (mut statements, mut answers) = (Vec::new(), Vec::new());
    for job in mem::take(&mut turn.jobs) {
        let in_time = connections.check_in_time(job.asked);
        if let Err(error) = in_time.and_then(|()| connections.check_file()) {
            let _ = job.answer.send(Err(error));
        } else if !job.answer.is_closed() {
            statements.push(job.statement);
            answers.push(job.answer);
        }
    }
    let Some(connection) = &mut turn.connection else {
        return;
    };
    let written = execute(connections.clock(), connection, statements).await;
    if written.is_ok() {
        connections.mark_active();
        connections.wake();
        if connections.writer().sweep.is_due(answers.len()) {
            // What is left over is deleted the next time.
            if let Err(error) = sweep(connection, connections.settings()).await {
                observe::sweep_failed(&error);
            }
        }
    }
    // Before the answers: with them the runtime may have reached what it was driven for.
    drop(turn);
    // Where nobody waits any more, nobody is told.
    match written {
        Ok(rows) => {
            for (answer, rows) in answers.into_iter().zip(rows) {
                let _ = answer.send(Ok(rows));
            }
        }
        Err(error) => {
            let error = connections.error(error);
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// Runs the statements one after the other and commits them together: all of them or none. The clock is corrected in the
/// same transaction before them: by a clock that has been set, a lease could end early.
async fn execute(
    clock: &Clock,
    connection: &mut SqliteConnection,
    mut statements: Vec<Statement>,
) -> sqlx::Result<Vec<Vec<SqliteRow>>> {
    let is_clock_due = clock.is_due();
    if statements.len() == 1 && !is_clock_due {
        // To read all rows matters even for one: an error of its commit comes after them.
        let rows = match statements.pop() {
            Some(statement) => vec![statement.fetch_all(connection).await?],
            None => Vec::new(),
        };
        return Ok(rows);
    }
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let kept = if is_clock_due {
        Some(clock.keep(&mut transaction).await?)
    } else {
        None
    };
    let mut rows = Vec::with_capacity(statements.len());
    for statement in statements {
        rows.push(statement.fetch_all(&mut *transaction).await?);
    }
    // Dropped before, it is rolled back, before the connection does anything else.
    transaction.commit().await?;
    if let Some(kept) = kept {
        clock.take_over(kept);
    }
    Ok(rows)
}
