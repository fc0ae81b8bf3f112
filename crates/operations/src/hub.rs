//! The subscribers to changes of operations, and the task that receives changes from other processes.

use super::limits::Limits;
use super::observe;
use super::record::{Key, TOPIC_PREFIX};
use super::runner::RECORD_BYTES;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::deadline;
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{Backend, BackendError, BusEvent};

/// The numbers of changes to an operation so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    pub(super) changes: u64,
    /// The number of changes that may have ended the operation.
    pub(super) ends: u64,
}

/// The subscribers of this process, by operation.
#[derive(Debug, Default)]
pub(super) struct Hub {
    topics: Mutex<HashMap<Key, watch::Sender<News>>>,
}

/// A subscription to one operation, until dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    key: Key,
    news: watch::Receiver<News>,
    seen_ends: u64,
}

impl Hub {
    pub(super) fn subscribe(self: &Arc<Self>, key: &Key) -> Subscription {
        let mut topics = lock(&self.topics);
        let topic = topics.entry(key.clone()).or_default();
        let news = topic.subscribe();
        let seen_ends = news.borrow().ends;
        Subscription {
            hub: self.clone(),
            key: key.clone(),
            news,
            seen_ends,
        }
    }

    /// Notifies the subscribers in this process.
    pub(super) fn tell(&self, key: &Key, message: &[u8]) {
        if let Some(topic) = lock(&self.topics).get(key) {
            news(topic, matches!(message, ENDED | REMOVED));
        }
    }

    /// Notifies all subscribers that messages may have been missed.
    fn tell_all(&self) {
        for topic in lock(&self.topics).values() {
            news(topic, true);
        }
    }

    fn hear(&self, topic: &str, payload: &Bytes, limits: &Limits) {
        // The bus also has messages of other subsystems.
        let Some(key) = topic.strip_prefix(TOPIC_PREFIX) else {
            return;
        };
        let key = Key::parse(key);
        match &**payload {
            REMOVED => limits.forget(&key),
            CONSUMED => limits.shrink(&key, RECORD_BYTES),
            _ => {}
        }
        self.tell(&key, payload);
    }

    /// Listens to the other instances until the task is aborted. Operations that they remove no longer count.
    pub(super) async fn listen(
        self: Arc<Self>,
        backend: Backend,
        patience: Duration,
        limits: Arc<Limits>,
    ) {
        let mut backoff = Backoff::of_listener();
        loop {
            let started = Instant::now();
            let error = self.listen_once(&backend, patience, &limits).await;
            let pause = backoff.pause_after(started.elapsed());
            observe::bus_lost(error.as_ref(), pause);
            sleep(pause).await;
        }
    }

    /// Listens until the bus fails.
    async fn listen_once(
        &self,
        backend: &Backend,
        patience: Duration,
        limits: &Limits,
    ) -> Option<BackendError> {
        let mut events = match deadline::listen(backend, patience).await {
            Ok(events) => events,
            Err(error) => return Some(error),
        };
        self.tell_all();
        while let Some(event) = events.next().await {
            match event {
                Ok(BusEvent::Message { topic, payload }) => self.hear(&topic, &payload, limits),
                // Messages were lost, or the bus has news of an unknown kind.
                Ok(_) => self.tell_all(),
                Err(error) => return Some(error),
            }
        }
        None
    }
}

/// The messages on the bus.
pub(super) const ENDED: &[u8] = b"ended";
pub(super) const CHANGED: &[u8] = b"changed";
pub(super) const REMOVED: &[u8] = b"removed";
/// The result has been read and removed.
pub(super) const CONSUMED: &[u8] = b"consumed";

fn news(topic: &watch::Sender<News>, ended: bool) {
    topic.send_modify(|news| {
        news.changes += 1;
        news.ends += u64::from(ended);
    });
}

impl Subscription {
    /// Resolves on the first change since the last call. Cancel safe.
    pub(super) async fn changed(&mut self) {
        // Never fails: the hub keeps the sender while a subscription exists.
        let _ = self.news.changed().await;
    }

    /// Resolves when the operation may have ended since the last call. Cancel safe.
    pub(super) async fn ended(&mut self) {
        let seen = self.seen_ends;
        if let Ok(news) = self.news.wait_for(|news| news.ends > seen).await {
            self.seen_ends = news.ends;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = lock(&self.hub.topics);
        // The count includes this receiver.
        let is_last = |topic: &watch::Sender<News>| topic.receiver_count() <= 1;
        if topics.get(&self.key).is_some_and(is_last) {
            topics.remove(&self.key);
        }
    }
}
