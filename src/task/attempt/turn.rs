//! Who may run beside whom.

use super::Attempts;
use crate::backend::Outcome;
use crate::task::worker::Phase;
use std::time::Duration;
use tokio::select;
use tokio::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::timeout;

/// How long a task waits for others. One that is to be alone keeps more of them from beginning meanwhile, so it leaves
/// them in peace as long before it waits again, here or in another worker.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// The pause before a worker may have a task for which another one has no room. Without one the other one, which is
/// awake, would have it again.
const PAUSE: Duration = Duration::from_secs(1);

/// The right to run, kept until the attempt has ended.
pub(super) enum Turn<'a> {
    /// Beside others.
    Shared { _company: RwLockReadGuard<'a, ()> },
    /// As the only one of its service in this worker, and the only such one in this process.
    Alone {
        // Dropped in this order: the next one of the service is not to find the process taken.
        _suspect: MutexGuard<'a, ()>,
        _company: RwLockWriteGuard<'a, ()>,
        _last: MutexGuard<'a, ()>,
    },
}

impl Attempts {
    /// Waits for the right to run beside others, or lets another worker have the task.
    pub(super) async fn shared(&self) -> Result<Turn<'_>, Outcome> {
        let turn = async {
            Turn::Shared {
                _company: self.company.read().await,
            }
        };
        self.patiently(turn, PAUSE).await
    }

    /// Waits for the right to run alone, or says when to try again. It keeps its place in the worker meanwhile, but no
    /// longer than it keeps others of its service from beginning, or another one that runs alone does.
    pub(super) async fn alone(&self) -> Result<Turn<'_>, Outcome> {
        let turn = async {
            let last = self.last.lock().await;
            // One of another service is in nobody's way here.
            let suspect = self.tasks.core().suspect.try_lock().ok()?;
            Some(Turn::Alone {
                _suspect: suspect,
                _company: self.company.write().await,
                _last: last,
            })
        };
        let turn = self.patiently(turn, PATIENCE).await?;
        turn.ok_or(Outcome::Retry { after: PATIENCE })
    }

    /// A worker that begins no more tasks gives back what waits for its turn.
    async fn patiently<T>(
        &self,
        turn: impl Future<Output = T>,
        after: Duration,
    ) -> Result<T, Outcome> {
        let mut phase = self.phase.clone();
        select! {
            biased;
            turn = timeout(PATIENCE, turn) => turn.map_err(|_| Outcome::Retry { after }),
            () = Phase::draining(&mut phase) => Err(Outcome::Retry { after: Duration::ZERO }),
        }
    }
}
