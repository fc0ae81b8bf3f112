//! Subscriptions to tasks, and the listener for changes in other processes.

use super::{TaskId, observe};
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

/// A change of a task, as sent over the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Changed,
    Ended,
    /// A cancel was requested.
    Cancel,
}

impl News {
    pub(super) fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Changed => b"changed",
            Self::Ended => b"ended",
            Self::Cancel => b"cancel",
        }
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let all = [Self::Changed, Self::Ended, Self::Cancel];
        all.into_iter().find(|news| news.as_bytes() == payload)
    }
}

/// The number of changes of each kind so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    changes: u64,
    ends: u64,
    cancels: u64,
}

/// The subscriptions of this process, by task.
#[derive(Debug, Default)]
pub(super) struct Hub {
    topics: Mutex<HashMap<TaskId, watch::Sender<Counts>>>,
}

/// A subscription to one task. Dropping it unsubscribes.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    id: TaskId,
    receiver: watch::Receiver<Counts>,
    seen: Counts,
}

impl Hub {
    pub(super) fn subscribe(self: &Arc<Self>, id: &TaskId) -> Subscription {
        let mut topics = lock(&self.topics);
        let receiver = topics.entry(id.clone()).or_default().subscribe();
        let seen = *receiver.borrow();
        Subscription {
            hub: self.clone(),
            id: id.clone(),
            receiver,
            seen,
        }
    }

    /// Notifies the subscribers in this process.
    pub(super) fn tell(&self, id: &str, news: News) {
        if let Some(topic) = lock(&self.topics).get(id) {
            topic.send_modify(|counts| match news {
                News::Changed => counts.changes += 1,
                News::Ended => {
                    counts.changes += 1;
                    counts.ends += 1;
                }
                News::Cancel => counts.cancels += 1,
            });
        }
    }

    /// Notifies all subscribers in this process, because messages may have been lost.
    fn tell_all(&self) {
        for topic in lock(&self.topics).values() {
            topic.send_modify(|counts| {
                counts.changes += 1;
                counts.ends += 1;
                counts.cancels += 1;
            });
        }
    }

    /// Listens to all processes until the task is aborted.
    pub(super) async fn listen(self: Arc<Self>, backend: Backend, patience: Duration) {
        let mut backoff = Backoff::of_listener();
        loop {
            let started = Instant::now();
            let error = self.listen_once(&backend, patience).await;
            let pause = backoff.pause_after(started.elapsed());
            observe::bus_lost(error.as_ref(), pause);
            sleep(pause).await;
        }
    }

    /// Listens until the bus fails. Returns the error, if there is one.
    async fn listen_once(&self, backend: &Backend, patience: Duration) -> Option<BackendError> {
        let mut events = match deadline::listen(backend, patience).await {
            Ok(events) => events,
            Err(error) => return Some(error),
        };
        self.tell_all();
        while let Some(event) = events.next().await {
            match event {
                // The bus also carries messages of other modules.
                Ok(BusEvent::Message { topic, payload }) => {
                    let news = TaskId::in_topic(&topic).zip(News::parse(&payload));
                    if let Some((id, news)) = news {
                        self.tell(id, news);
                    }
                }
                // Messages were lost, or the bus has news of an unknown kind.
                Ok(_) => self.tell_all(),
                Err(error) => return Some(error),
            }
        }
        None
    }
}

impl Subscription {
    /// Resolves after a change since the last call. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let seen = self.seen.changes;
        self.seen.changes = self.until(|counts| counts.changes > seen).await.changes;
    }

    /// Resolves when the task may have ended since the last call. Cancel safe.
    pub(super) async fn ended(&mut self) {
        let seen = self.seen.ends;
        self.seen.ends = self.until(|counts| counts.ends > seen).await.ends;
    }

    /// Resolves when a cancel may have been requested since the last call. Cancel safe.
    pub(super) async fn cancelled(&mut self) {
        let seen = self.seen.cancels;
        self.seen.cancels = self.until(|counts| counts.cancels > seen).await.cancels;
    }

    async fn until(&mut self, condition: impl Fn(&Counts) -> bool) -> Counts {
        let counts = self.receiver.wait_for(condition).await;
        // The hub keeps the sender as long as this subscription exists.
        counts.map(|counts| *counts).unwrap_or_default()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = lock(&self.hub.topics);
        // This receiver is still counted.
        let is_last = |topic: &watch::Sender<Counts>| topic.receiver_count() <= 1;
        if topics.get(&self.id).is_some_and(is_last) {
            topics.remove(&self.id);
        }
    }
}
