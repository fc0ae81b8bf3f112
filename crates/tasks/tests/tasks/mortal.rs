//! A backend that a process can use for a number of calls only, as if it were killed in one of them.

use bytes::Bytes;
use futures_util::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Capabilities, CompareAndSet, Enqueued, Entry, Envelope,
    Outcome, Queue, Receipt, Revision, Store, Taken, WatchStream,
};

/// The calls of a process.
#[derive(Clone)]
pub(crate) struct Life {
    left: Arc<AtomicUsize>,
    /// Whether the last call takes effect. Its answer is lost in any case.
    has_effect: bool,
    end: Arc<watch::Sender<bool>>,
    store: MemoryStore,
    bus: MemoryBus,
    queue: MemoryQueue,
}

impl Life {
    pub(crate) fn new(calls: usize, has_effect: bool) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(calls)),
            has_effect,
            end: Arc::default(),
            store: MemoryStore::new(),
            bus: MemoryBus::new(),
            queue: MemoryQueue::new(),
        }
    }

    pub(crate) fn backend(&self) -> Backend {
        Backend::new(self.clone(), self.bus.clone(), self.clone())
    }

    /// The same backend for another process.
    pub(crate) fn immortal(&self) -> Backend {
        Backend::new(self.store.clone(), self.bus.clone(), self.queue.clone())
    }

    /// Resolves when the last call has been made.
    pub(crate) async fn ended(&self) {
        let mut end = self.end.subscribe();
        let _ = end.wait_for(|end| *end).await;
    }

    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match left {
            Ok(2..) => return call.await,
            Ok(_) => {
                if self.has_effect {
                    call.await;
                }
                self.end.send_replace(true);
            }
            Err(_) => {}
        }
        pending().await
    }
}

impl Store for Life {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(self.call(self.store.get(key)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(self.call(self.store.put(key, value, time_to_live)))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        let set = self
            .store
            .compare_and_set(key, expected, value, time_to_live);
        Box::pin(self.call(set))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.call(self.store.delete(key)))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

impl Queue for Life {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(self.call(self.queue.enqueue(envelope)))
    }

    // A waiting worker makes no calls.
    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.queue.take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.call(self.queue.renew(receipt, lease)))
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.call(self.queue.settle(receipt, outcome)))
    }
}
