//! A backend whose process dies at a chosen call.

use bytes::Bytes;
use futures_util::FutureExt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, Bus, BusStream, Capabilities, CompareAndSet, Enqueued, Entry,
    Envelope, Outcome, Page, Queue, Receipt, Revision, Store, Taken, WatchStream,
};

/// The point at which a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before this call takes effect.
    Before(usize),
    /// After this call has taken effect, and before the process gets the answer.
    After(usize),
    /// At this call. If it is a write to the store, it takes effect only when it is [released](Life::release): the write
    /// of a process that was replaced meanwhile.
    Late(usize),
    /// The process lives. This call takes effect, and its answer is an error.
    Unanswered(usize),
    Never,
}

/// The calls of one process to its backend. Once the process is dead, no call takes effect and none is answered.
#[derive(Clone)]
pub(crate) struct Mortal {
    backend: Backend,
    life: Arc<Life>,
}

#[derive(Debug)]
pub(crate) struct Life {
    death: Death,
    calls: AtomicUsize,
    is_dead: AtomicBool,
    died: Notify,
    released: Notify,
    /// The store refuses all writes.
    is_full: AtomicBool,
}

impl Mortal {
    /// Returns a backend for one process, and the life of the process.
    pub(crate) fn backend(backend: &Backend, death: Death) -> (Backend, Arc<Life>) {
        let life = Arc::new(Life {
            death,
            calls: AtomicUsize::new(0),
            is_dead: AtomicBool::new(false),
            died: Notify::new(),
            released: Notify::new(),
            is_full: AtomicBool::new(false),
        });
        let mortal = Self {
            backend: backend.clone(),
            life: life.clone(),
        };
        (Backend::new(mortal.clone(), mortal.clone(), mortal), life)
    }

    /// Makes a call, unless the process dies before or after it.
    fn call<'a, T: Send + 'a>(
        &'a self,
        call: BoxFuture<'a, Result<T, BackendError>>,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        async move {
            let number = self.life.calls.fetch_add(1, Ordering::SeqCst);
            if [Death::Before(number), Death::Late(number)].contains(&self.life.death) {
                self.life.die();
            }
            self.life.go_on().await;
            let answer = call.await;
            if self.life.death == Death::After(number) {
                self.life.die();
            }
            self.life.go_on().await;
            if self.life.death == Death::Unanswered(number) {
                return Err(BackendError::unavailable("the answer is lost"));
            }
            answer
        }
        .boxed()
    }
}

impl Mortal {
    /// Makes a write to the store.
    fn write<'a, T: Send + 'a>(
        &'a self,
        write: BoxFuture<'a, Result<T, BackendError>>,
        late: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        async move {
            if self.life.death == Death::Late(self.life.calls()) {
                let life = self.life.clone();
                tokio::spawn(async move {
                    life.released.notified().await;
                    late.await;
                });
            }
            if self.life.is_full.load(Ordering::SeqCst) {
                return Err(BackendError::Full);
            }
            self.call(write).await
        }
        .boxed()
    }
}

impl Life {
    /// Lets a late write take effect.
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    /// Lets the store refuse all writes, or accept them again.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// Resolves when the process is dead.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.died.notified().await;
        }
    }

    fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
    }

    async fn go_on(&self) {
        if self.is_over() {
            pending::<()>().await;
        }
    }
}

impl Store for Mortal {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.call(self.backend.store().get(key))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        let (backend, name, late) = (self.backend.clone(), key.to_owned(), value.clone());
        let late = async move {
            let _ = backend.store().put(&name, late, time_to_live).await;
        };
        self.write(self.backend.store().put(key, value, time_to_live), late)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        let (backend, name, late) = (self.backend.clone(), key.to_owned(), value.clone());
        let late = async move {
            let store = backend.store();
            let set = store.compare_and_set(&name, expected, late, time_to_live);
            let _ = set.await;
        };
        let store = self.backend.store();
        let set = store.compare_and_set(key, expected, value, time_to_live);
        self.write(set, late)
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.call(self.backend.store().delete(key))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        self.call(self.backend.store().list(prefix, after, limit))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.call(self.backend.store().watch(prefix))
    }
}

impl Bus for Mortal {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.call(self.backend.bus().publish(topic, payload))
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        self.call(self.backend.bus().listen())
    }
}

/// `work` is the one of the trait, so its steps are calls of this process.
impl Queue for Mortal {
    fn capabilities(&self) -> Capabilities {
        self.backend.queue().capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        self.call(self.backend.queue().enqueue(envelope))
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.call(self.backend.queue().take(queue, limit, lease))
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.call(self.backend.queue().renew(receipt, lease))
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.call(self.backend.queue().settle(receipt, outcome))
    }
}
