//! Cancel-safe taking of envelopes.

use crate::{BackendError, Outcome, Queue, Taken};
use std::mem;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Takes envelopes in a task of its own, so that no envelope stays leased if the caller is dropped meanwhile.
pub async fn claim<Q: Queue + Clone>(
    queue: &Q,
    taking: impl Future<Output = Result<Vec<Taken>, BackendError>> + Send + 'static,
) -> Result<Vec<Taken>, BackendError> {
    let runtime = Handle::try_current().map_err(BackendError::unavailable)?;
    let (answer, answered) = oneshot::channel();
    let queue = queue.clone();
    runtime.clone().spawn(async move {
        let claim = taking.await.map(|taken| Claim {
            queue,
            taken,
            runtime,
        });
        // Dropping an unsent claim returns its envelopes.
        drop(answer.send(claim));
    });
    let ended = |_| BackendError::unavailable("the runtime has ended");
    let mut claim = answered.await.map_err(ended)??;
    Ok(mem::take(&mut claim.taken))
}

/// Envelopes that are returned to the queue unless the caller takes them.
struct Claim<Q: Queue + Clone> {
    queue: Q,
    taken: Vec<Taken>,
    runtime: Handle,
}

impl<Q: Queue + Clone> Drop for Claim<Q> {
    fn drop(&mut self) {
        let taken = mem::take(&mut self.taken);
        if taken.is_empty() {
            return;
        }
        let queue = self.queue.clone();
        self.runtime.spawn(async move {
            // One after the other, to keep their order.
            for taken in taken {
                let after = Duration::ZERO;
                // After an error, the envelope is due when its lease expires.
                let _ = queue.settle(&taken.receipt, Outcome::Retry { after }).await;
            }
        });
    }
}
