//! Concurrent calls of one kind, which share statements.
//!
//! While a statement is under way, further calls wait and then go together. So a lone call is executed at once, and many
//! calls cost few round trips and few commits.

use super::announcements::Announcements;
use super::database::{Database, Lane, ended};
use super::statement::Statement;
use super::sweep::Sweep;
use sqlx::postgres::PgRow;
use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::deadline::in_time;
use tower_promises_backend::kit::sync::lock;

/// The largest number of queued calls of a kind. Further calls wait for room.
const QUEUE: usize = 1024;

/// About the largest number of bytes of a statement.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The number of statements of a kind that are under way at once: while the server writes one to its disk, it executes
/// another.
const LANES: usize = 2;

/// The number of statements after which a connection is returned, so that calls of other kinds get their turns in a small
/// pool.
const TURNS: usize = 8;

/// A call that can be executed together with others of its kind.
pub(super) trait Call: Send + Sized + 'static {
    type Answer: Send + 'static;
    type Key: Eq + Hash;

    /// The largest number of calls of a statement.
    const MOST: usize = 128;

    /// The number of queued calls for which a statement begins although another one is under way.
    const AHEAD: usize = 1;

    /// How long a call waits for others before its statement begins, unless as many as [`AHEAD`](Self::AHEAD) are queued.
    const PAUSE: Duration = Duration::ZERO;

    /// Whether the calls change nothing.
    const IS_READ: bool = false;

    /// Calls with equal keys are not in one statement. Calls without a key can be with all others.
    fn key(&self) -> Option<Self::Key>;

    /// The size of the arguments, in bytes.
    fn size(&self) -> usize;

    /// A statement that executes all calls or none.
    fn statement(calls: &[Self], database: &Database, channel: Option<&str>) -> Statement;

    /// The answers to all calls.
    fn answers(calls: &[Self], rows: &[PgRow]) -> sqlx::Result<Vec<Self::Answer>>;

    /// Announces what has changed, once it is committed.
    fn announce(calls: &[Self], rows: &[PgRow], announcements: &Arc<Announcements>);
}

pub(super) struct Batches<C: Call> {
    database: Arc<Database>,
    announcements: Arc<Announcements>,
    sweep: Arc<Sweep>,
    state: Mutex<State<C>>,
    room: Arc<Semaphore>,
}

struct State<C: Call> {
    queue: VecDeque<Job<C>>,
    /// The number of tasks that execute calls.
    running: usize,
}

type Answer<C> = oneshot::Sender<Result<<C as Call>::Answer, BackendError>>;

struct Job<C: Call> {
    call: C,
    answer: Answer<C>,
    _room: OwnedSemaphorePermit,
}

impl<C: Call> Batches<C> {
    pub(super) fn new(
        database: Arc<Database>,
        announcements: Arc<Announcements>,
        sweep: Arc<Sweep>,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            announcements,
            sweep,
            state: Mutex::new(State {
                queue: VecDeque::new(),
                running: 0,
            }),
            room: Arc::new(Semaphore::new(QUEUE)),
        })
    }

    /// Executes a call, and returns its answer once it is committed.
    ///
    /// If the future is dropped while the call waits for its turn, it has no effect. If it is dropped later, the statement
    /// runs to its end.
    pub(super) async fn call(self: &Arc<Self>, call: C) -> Result<C::Answer, BackendError> {
        let answered = async {
            let room = self.room.clone().acquire_owned().await;
            let (answer, answered) = oneshot::channel();
            let job = Job {
                call,
                answer,
                _room: room.map_err(BackendError::unavailable)?,
            };
            lock(&self.state).queue.push_back(job);
            self.start()?;
            answered.await.map_err(ended)?
        };
        // A statement before this one may use up the time of this one.
        in_time(self.database.settings().timeout * 2, answered).await
    }

    /// Starts a task for queued calls, unless there are enough.
    fn start(self: &Arc<Self>) -> Result<(), BackendError> {
        let runtime = Handle::try_current().map_err(BackendError::unavailable)?;
        {
            let mut state = lock(&self.state);
            let enough = if state.running == 0 { 1 } else { C::AHEAD };
            if state.running >= LANES || state.queue.len() < enough {
                return Ok(());
            }
            state.running += 1;
        }
        runtime.spawn(run(Turn(self.clone())));
        Ok(())
    }

    /// Removes the calls of the next statement from the queue.
    fn next(&self) -> Batch<C> {
        let (mut calls, mut answers) = (Vec::new(), Vec::new());
        // Dropping a job releases its permit and so wakes waiting tasks, which must not happen under the lock.
        let mut gone = Vec::new();
        let mut left = VecDeque::new();
        let (mut keys, mut bytes) = (HashSet::new(), 0);
        let mut state = lock(&self.state);
        while let Some(job) = state.queue.pop_front() {
            if job.answer.is_closed() {
                // The caller is gone.
                gone.push(job);
                continue;
            }
            let is_full = calls.len() >= C::MOST || bytes >= BATCH_BYTES;
            if is_full || job.call.key().is_some_and(|key| !keys.insert(key)) {
                left.push_back(job);
                if is_full {
                    break;
                }
                continue;
            }
            bytes += job.call.size();
            calls.push(job.call);
            answers.push((job.answer, job._room));
        }
        left.append(&mut state.queue);
        state.queue = left;
        drop(state);
        Batch { calls, answers }
    }

    /// Removes queued calls from the queue for a statement of another kind, which executes them too. Until the batch is
    /// answered, further calls wait as for a statement of their own.
    pub(super) fn join(self: &Arc<Self>) -> Option<Joined<C>> {
        {
            let mut state = lock(&self.state);
            if state.queue.is_empty() {
                return None;
            }
            state.running += 1;
        }
        let turn = Turn(self.clone());
        let batch = self.next();
        if batch.calls.is_empty() {
            // A call that was queued since may have counted on this turn.
            turn.end();
            return None;
        }
        Some(Joined { batch, turn })
    }

    fn statement(&self, batch: &Batch<C>) -> Statement {
        C::statement(&batch.calls, &self.database, self.announcements.channel())
    }

    /// Answers the calls of a batch with the rows of its statement.
    fn answer(&self, batch: Batch<C>, rows: Result<&[PgRow], BackendError>) {
        let Batch { calls, answers } = batch;
        let answered = rows.and_then(|rows| {
            if !C::IS_READ {
                self.announcements.wakes().mark_active();
            }
            C::announce(&calls, rows, &self.announcements);
            let answered = C::answers(&calls, rows);
            answered.map_err(|error| self.database.error(error))
        });
        if !C::IS_READ {
            self.sweep.note(calls.len());
        }
        // Sending fails if the caller is gone, which is fine.
        match answered {
            Ok(answered) => {
                for ((answer, _room), answered) in answers.into_iter().zip(answered) {
                    let _ = answer.send(Ok(answered));
                }
            }
            Err(error) => {
                for (answer, _room) in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// The calls of a statement.
struct Batch<C: Call> {
    calls: Vec<C>,
    answers: Vec<(Answer<C>, OwnedSemaphorePermit)>,
}

/// Calls that are executed by a statement of another kind.
pub(super) struct Joined<C: Call> {
    batch: Batch<C>,
    turn: Turn<C>,
}

impl<C: Call> Joined<C> {
    pub(super) fn statement(&self) -> Statement {
        self.turn.0.statement(&self.batch)
    }

    /// Answers the calls with their rows.
    pub(super) fn answer(self, rows: Result<&[PgRow], BackendError>) {
        self.turn.0.answer(self.batch, rows);
        self.turn.end();
    }
}

/// The right to execute calls.
struct Turn<C: Call>(Arc<Batches<C>>);

impl<C: Call> Drop for Turn<C> {
    /// Runs also if the runtime shuts down, possibly before the task has started. Then the next call starts a task: a task
    /// that is started here would be dropped at once, and so on.
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
    }
}

impl<C: Call> Turn<C> {
    /// Ends the turn, and starts a task for calls that have been queued since or are left.
    fn end(self) {
        let batches = self.0.clone();
        drop(self);
        // Fails outside of a runtime only.
        let _ = batches.start();
    }
}

async fn run<C: Call>(turn: Turn<C>) {
    let batches = &turn.0;
    if C::PAUSE.is_zero() || lock(&batches.state).queue.len() >= C::AHEAD {
        // A task that has made this call may be about to make more.
        yield_now().await;
    } else {
        sleep(C::PAUSE).await;
    }
    // No connection is kept during a pause.
    let turns = if C::PAUSE.is_zero() { TURNS } else { 1 };
    let mut lane = Lane::default();
    for _ in 0..turns {
        let batch = batches.next();
        if batch.calls.is_empty() {
            break;
        }
        let statement = batches.statement(&batch);
        let rows = batches.database.execute(&mut lane, &statement).await;
        batches.answer(batch, rows.as_deref().map_err(Clone::clone));
    }
    drop(lane);
    turn.end();
}
