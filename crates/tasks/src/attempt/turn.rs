//! Concurrency of attempts: beside others, or alone after a crash.

use crate::tasks::Core;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::timeout;
use tower_promises_backend::Outcome;
use tower_promises_backend::kit::drain::Drain;

/// The longest wait for a turn.
///
/// While an attempt waits to run alone, no other task of its queue starts in this worker. After an unsuccessful wait
/// the task is therefore delivered again only after a pause of the same length, so that other tasks can start.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// The pause before a task is delivered again because it could not start beside other tasks. Without a pause, this
/// worker would receive the task again at once, before another worker does.
const PAUSE: Duration = Duration::from_secs(1);

/// A permit to run, held until the attempt has ended.
pub(super) enum Turn<'a> {
    /// Beside other attempts.
    Shared { _company: RwLockReadGuard<'a, ()> },
    /// As the only attempt of the queue in this worker, and as the only such attempt in this process.
    Alone {
        // Fields drop in this order, so that the process-wide lock is free when the next attempt of this queue takes
        // `last`.
        _suspect: MutexGuard<'a, ()>,
        _company: RwLockWriteGuard<'a, ()>,
        _last: MutexGuard<'a, ()>,
    },
}

/// The order of the attempts of one queue in one worker.
pub(super) struct Turns {
    core: Arc<Core>,
    drain: Arc<Drain>,
    /// Held for reading by attempts that run beside others, for writing by an attempt that runs alone.
    company: RwLock<()>,
    /// Serialises the attempts of this queue that wait to run alone.
    last: Mutex<()>,
}

impl Turns {
    pub(super) fn new(drain: Arc<Drain>, core: Arc<Core>) -> Self {
        Self {
            core,
            drain,
            company: RwLock::new(()),
            last: Mutex::new(()),
        }
    }

    /// Waits for a permit to run beside other attempts. The error hands the task to another worker.
    pub(super) async fn shared(&self) -> Result<Turn<'_>, Outcome> {
        let turn = async {
            Turn::Shared {
                _company: self.company.read().await,
            }
        };
        self.patiently(turn, PAUSE).await
    }

    /// Waits for a permit to run alone. The error is the outcome of the delivery if no permit is available in time.
    ///
    /// The wait occupies one of the worker's concurrency slots. It ends after [`PATIENCE`], or at once if an attempt of
    /// another queue runs alone in this process.
    pub(super) async fn alone(&self) -> Result<Turn<'_>, Outcome> {
        let turn = async {
            let last = self.last.lock().await;
            // Does not wait: an attempt of another queue would only block tasks of this one.
            let suspect = self.core.suspect.try_lock().ok()?;
            Some(Turn::Alone {
                _suspect: suspect,
                _company: self.company.write().await,
                _last: last,
            })
        };
        let turn = self.patiently(turn, PATIENCE).await?;
        turn.ok_or(Outcome::Retry { after: PATIENCE })
    }

    /// Waits for a turn, at most [`PATIENCE`]. A draining worker returns the task to the queue.
    async fn patiently<T>(
        &self,
        turn: impl Future<Output = T>,
        after: Duration,
    ) -> Result<T, Outcome> {
        select! {
            biased;
            turn = timeout(PATIENCE, turn) => turn.map_err(|_| Outcome::Retry { after }),
            () = self.drain.draining() => Err(Outcome::Retry { after: Duration::ZERO }),
        }
    }
}
