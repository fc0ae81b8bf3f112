//! A store with additional steps before and after each change.

use crate::Counter;
use crate::operation::{App, SECOND, work};
use axum::extract::Request;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, CompareAndSet, Entry, Page, Revision, Store, WatchStream,
};
use tower_promises::operations::OperationLayer;

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    BeforeWrite,
    AfterWrite,
    AfterDelete,
}

pub type Step = dyn Fn(At, &str) -> BoxFuture<'static, Result<(), BackendError>> + Send + Sync;

/// A store with additional steps before and after each change. It records the written keys.
#[derive(Clone)]
pub struct Stepping {
    store: MemoryStore,
    step: Arc<Step>,
    written: Arc<Mutex<BTreeSet<String>>>,
}

impl Stepping {
    fn new<F>(step: impl Fn(At, &str) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BackendError>> + Send + 'static,
    {
        Self {
            store: MemoryStore::new(),
            step: Arc::new(move |at, key| Box::pin(step(at, key))),
            written: Arc::default(),
        }
    }

    /// Creates a store without additional steps.
    pub fn plain() -> Self {
        Self::new(|_, _| async { Ok(()) })
    }

    /// Creates a store in which some steps wait at a gate.
    pub fn gated(gate: &Gate, waits: impl Fn(At, &str) -> bool + Send + Sync + 'static) -> Self {
        let gate = gate.clone();
        Self::new(move |at, key| {
            let gate = waits(at, key).then(|| gate.clone());
            async move {
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(())
            }
        })
    }

    /// Creates a store in which some steps take additional time.
    pub fn slow(
        duration: Duration,
        waits: impl Fn(At, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::new(move |at, key| {
            let waits = waits(at, key);
            async move {
                if waits {
                    sleep(duration).await;
                }
                Ok(())
            }
        })
    }

    /// Creates a store in which some steps fail.
    pub fn failing(
        error: impl Fn(At, &str) -> Option<BackendError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(move |at, key| ready(error(at, key).map_or(Ok(()), Err)))
    }

    /// The same store as another process sees it, which does nothing more.
    pub fn elsewhere(&self) -> Self {
        Self {
            store: self.store.clone(),
            ..Self::plain()
        }
    }

    pub fn backend(&self) -> Backend {
        Backend::new(self.clone(), MemoryBus::new(), MemoryQueue::new())
    }

    /// Returns the keys that still exist.
    pub async fn left(&self) -> Vec<String> {
        let written = self.written.lock().unwrap().clone();
        let mut left = Vec::new();
        for key in written {
            if self.store.get(&key).await.unwrap().is_some() {
                left.push(key);
            }
        }
        left
    }
}

impl Store for Stepping {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.store.get(key)
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(async move {
            self.written.lock().unwrap().insert(key.to_owned());
            (self.step)(At::BeforeWrite, key).await?;
            let put = self.store.put(key, value, time_to_live).await?;
            (self.step)(At::AfterWrite, key).await?;
            Ok(put)
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            self.written.lock().unwrap().insert(key.to_owned());
            (self.step)(At::BeforeWrite, key).await?;
            let set = self
                .store
                .compare_and_set(key, expected, value, time_to_live);
            let set = set.await?;
            (self.step)(At::AfterWrite, key).await?;
            Ok(set)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let deleted = self.store.delete(key).await?;
            (self.step)(At::AfterDelete, key).await?;
            Ok(deleted)
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        self.store.list(prefix, after, limit)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

/// Blocks all arrivals until it is opened.
#[derive(Clone)]
pub struct Gate {
    pub arrivals: Counter,
    open: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            arrivals: Counter::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    pub async fn pass(self) {
        self.arrivals.add();
        let _ = self.open.acquire().await.unwrap();
    }

    /// Waits for an arrival while time advances.
    pub async fn is_reached(&self) {
        let arrives = async {
            while self.arrivals.get() == 0 {
                sleep(SECOND / 10).await;
            }
        };
        timeout(SECOND * 60, arrives).await.expect("an arrival");
    }

    pub fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS);
    }
}

pub const KEY: (&str, &str) = ("idempotency-key", "8e03978e-40d5-43dd-bc93-6894a57f9324");

/// Returns a service with idempotency keys that counts its calls.
pub fn counting(store: &Stepping) -> (App, Counter) {
    let calls = Counter::default();
    let counted = calls.clone();
    let layer = OperationLayer::new(store.backend()).idempotency_keys(true);
    let app = App::new(layer, move |request: Request| {
        counted.add();
        work(request)
    });
    (app, calls)
}
