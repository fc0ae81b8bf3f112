//! A process that dies at any call of its backend: before the call takes effect, or after it and before the answer.

use bytes::Bytes;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, Capabilities, CompareAndSet, Enqueued, Entry, Envelope,
    Outcome, Page, Queue, Receipt, Revision, Store, Taken, WatchStream,
};

/// The backend of a process whose calls are counted. The process dies at one of them: no later call has an effect or an
/// answer.
#[derive(Clone)]
pub struct Mortal {
    store: MemoryStore,
    queue: MemoryQueue,
    life: Arc<Mutex<Life>>,
    /// Notified of the death.
    pub died: Arc<Notify>,
}

struct Life {
    calls: usize,
    /// The number of the last call.
    last: usize,
    /// Whether the last call takes effect.
    has_effect: bool,
}

impl Mortal {
    /// Creates a process that dies at this call, counted from one, which takes effect or does not.
    pub fn new(last: usize, has_effect: bool) -> Self {
        Self {
            store: MemoryStore::new(),
            queue: MemoryQueue::new(),
            life: Arc::new(Mutex::new(Life {
                calls: 0,
                last,
                has_effect,
            })),
            died: Arc::default(),
        }
    }

    pub fn backend(&self) -> Backend {
        Backend::new(self.clone(), MemoryBus::new(), self.clone())
    }

    /// Returns the backend of another process, which does not die.
    pub fn survivor(&self) -> Backend {
        Backend::new(self.store.clone(), MemoryBus::new(), self.queue.clone())
    }

    fn has_died(&self) -> bool {
        let life = self.life.lock().unwrap();
        life.calls >= life.last
    }

    async fn call<T>(&self, call: BoxFuture<'_, T>) -> T {
        let (dies, has_effect) = {
            let mut life = self.life.lock().unwrap();
            life.calls += 1;
            let is_last = life.calls == life.last;
            (life.calls >= life.last, is_last && life.has_effect)
        };
        if !dies {
            return call.await;
        }
        if has_effect {
            call.await;
        }
        self.died.notify_one();
        pending().await
    }
}

/// Runs a scenario once for each backend call of a process, which dies at that call, before it or after it. The scenario
/// gets the process, and checks what other processes make of what it leaves.
pub async fn at_each_call(scenario: impl AsyncFn(&Mortal)) {
    for has_effect in [false, true] {
        let mut last = 1;
        loop {
            let mortal = Mortal::new(last, has_effect);
            scenario(&mortal).await;
            if !mortal.has_died() {
                break;
            }
            last += 1;
        }
        assert!(last > 3, "the scenario has few calls");
    }
}

impl Store for Mortal {
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
        Box::pin(
            self.call(
                self.store
                    .compare_and_set(key, expected, value, time_to_live),
            ),
        )
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.call(self.store.delete(key)))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        Box::pin(self.call(self.store.list(prefix, after, limit)))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

impl Queue for Mortal {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(self.call(self.queue.enqueue(envelope)))
    }

    /// Not counted, because a worker takes all the time.
    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        Box::pin(async move {
            if self.has_died() {
                pending::<()>().await;
            }
            self.queue.take(queue, limit, lease).await
        })
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
