//! The handler of a worker, and what it receives and returns.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Processes the envelopes of a queue. Async functions and closures from [`Delivery`] to [`Outcome`] are handlers.
pub trait Handler: Send + Sync + 'static {
    /// Handles an envelope. The envelope may be delivered again in any case, so handling it must be idempotent.
    fn handle(&self, delivery: Delivery) -> BoxFuture<'static, Outcome>;
}

impl<F, T> Handler for F
where
    F: Fn(Delivery) -> T + Send + Sync + 'static,
    T: Future<Output = Outcome> + Send + 'static,
{
    fn handle(&self, delivery: Delivery) -> BoxFuture<'static, Outcome> {
        Box::pin(self(delivery))
    }
}

/// An envelope that is passed to a [`Handler`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The id of the envelope.
    pub id: Arc<str>,
    /// The payload of the envelope.
    pub payload: Bytes,
    /// The number of this delivery, starting at 1. It increases with each delivery and may skip numbers.
    pub number: u32,
    /// The lease of the envelope.
    pub lease: Lease,
}

/// The outcome of handling an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The envelope was handled, and is not delivered again.
    Done,
    /// The envelope is delivered again after a pause.
    Retry {
        /// The minimum pause. The actual pause may be up to one second longer.
        after: Duration,
    },
    /// The envelope cannot be handled, and is not delivered again. A backend may count it as failed.
    GiveUp,
}

/// The exclusive right of a worker to an envelope. The lease is renewed while the handler runs.
#[derive(Clone, Debug)]
pub struct Lease {
    pub(super) until: watch::Receiver<Instant>,
}

impl Lease {
    /// Whether the lease is guaranteed to be active now.
    ///
    /// Check this before effects outside of the queue that must not come from two workers. A thread may be suspended
    /// between the check and the effect, so effects that must happen once need a [`Store`](super::Store) as well.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Instant::now() < *self.until.borrow()
    }

    /// Resolves when the lease is no longer active, because it was lost or the handler has ended. Code that a handler
    /// has started elsewhere, such as in a thread, can use this method; the handler itself is dropped.
    ///
    /// # Cancel safety
    ///
    /// This future is cancel safe.
    pub async fn ended(&self) {
        let mut until = self.until.clone();
        loop {
            let end = *until.borrow_and_update();
            if let Ok(Ok(())) = timeout_at(end, until.changed()).await {
                continue;
            }
            // The lease was dropped or not renewed in time.
            return;
        }
    }
}
