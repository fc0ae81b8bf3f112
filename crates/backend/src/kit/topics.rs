//! Subscriptions to topics of the bus, which survive lost messages and a lost bus.

use super::backoff::Backoff;
use super::deadline::TimedBackend;
use crate::kit::sync::lock;
use crate::{BackendError, BusEvent, BusStream};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Handle, TryCurrentError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The subscriptions of this process, by topic. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Topics(Arc<Mutex<HashMap<Arc<str>, watch::Sender<()>>>>);

/// A subscription to one topic. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    topics: Topics,
    topic: Arc<str>,
    receiver: watch::Receiver<()>,
}

impl Topics {
    pub fn subscribe(&self, topic: String) -> Subscription {
        let topic = Arc::<str>::from(topic);
        let mut topics = lock(&self.0);
        let receiver = topics.entry(topic.clone()).or_default().subscribe();
        Subscription {
            topics: self.clone(),
            topic,
            receiver,
        }
    }

    /// Notifies the subscriptions to a topic.
    pub fn notify(&self, topic: &str) {
        if let Some(topic) = lock(&self.0).get(topic) {
            topic.send_replace(());
        }
    }

    /// Notifies all subscriptions, because messages may have been lost.
    pub fn notify_all(&self) {
        for topic in lock(&self.0).values() {
            topic.send_replace(());
        }
    }
}

impl Subscription {
    /// Resolves after a notification since the last call. Cancel safe.
    pub async fn notified(&mut self) {
        // Cannot fail: the topics keep the sender as long as this subscription exists.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = lock(&self.topics.0);
        // This receiver is still counted.
        let is_last = |topic: &watch::Sender<()>| topic.receiver_count() <= 1;
        if topics.get(&self.topic).is_some_and(is_last) {
            topics.remove(&self.topic);
        }
    }
}

/// Listens to all topics of the bus, and again after each loss of the bus.
pub struct Listener {
    backend: TimedBackend,
    events: Option<BusStream>,
    started: Instant,
    backoff: Backoff,
    pause: Option<Duration>,
}

/// What a listener hears.
pub enum Heard {
    /// The subscription to the bus begins. Earlier messages may have been lost.
    Began,
    Message {
        topic: Arc<str>,
        payload: Bytes,
    },
    /// At least this many messages were lost.
    Lagged(u64),
    /// The bus is lost. The next call listens again after a pause.
    Lost(Option<BackendError>, Duration),
}

impl Listener {
    pub fn new(backend: TimedBackend) -> Self {
        Self {
            backend,
            events: None,
            started: Instant::now(),
            backoff: Backoff::default(),
            pause: None,
        }
    }

    pub async fn next(&mut self) -> Heard {
        let error = if let Some(events) = &mut self.events {
            match events.next().await {
                Some(Ok(BusEvent::Message { topic, payload })) => {
                    return Heard::Message { topic, payload };
                }
                Some(Ok(BusEvent::Lagged(missed))) => return Heard::Lagged(missed),
                Some(Err(error)) => Some(error),
                None => None,
            }
        } else {
            if let Some(pause) = self.pause.take() {
                sleep(pause).await;
            }
            self.started = Instant::now();
            match self.backend.listen().await {
                Ok(events) => {
                    self.events = Some(events);
                    return Heard::Began;
                }
                Err(error) => Some(error),
            }
        };
        self.events = None;
        let pause = self.backoff.pause_after(self.started.elapsed());
        self.pause = Some(pause);
        Heard::Lost(error, pause)
    }
}

/// A task that listens. Dropping this aborts it.
#[derive(Debug, Default)]
pub struct Listening(Mutex<Option<JoinHandle<()>>>);

impl Listening {
    /// Starts the task if it is not running. The task ends early only with its runtime.
    pub fn start<F>(&self, listen: impl FnOnce() -> F) -> Result<(), TryCurrentError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut task = lock(&self.0);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(Handle::try_current()?.spawn(listen()));
        }
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.0).take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryQueue, MemoryStore};
    use crate::{Backend, BoxFuture, Bus};
    use futures_util::{FutureExt, stream};

    fn is_notified(subscription: &mut Subscription) -> bool {
        subscription.notified().now_or_never().is_some()
    }

    #[test]
    fn a_subscription_is_notified_of_its_topic_and_of_losses() {
        let topics = Topics::default();
        let [mut first, mut second] = ["a", "a"].map(|topic| topics.subscribe(topic.to_owned()));
        let mut other = topics.subscribe("b".to_owned());
        topics.notify("a");
        topics.notify("a");
        assert!(is_notified(&mut first) && !is_notified(&mut first));
        assert!(!is_notified(&mut other));
        topics.notify_all();
        assert!(is_notified(&mut first) && is_notified(&mut second) && is_notified(&mut other));
        drop((first, other));
        topics.notify("a");
        assert!(is_notified(&mut second));
        drop(second);
        assert!(lock(&topics.0).is_empty());
    }

    /// A bus that fails at every other call.
    #[derive(Default)]
    struct Failing(Mutex<u32>);

    impl Bus for Failing {
        fn publish(&self, _: &str, _: Bytes) -> BoxFuture<'_, Result<(), BackendError>> {
            Box::pin(async { Ok(()) })
        }

        fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
            let mut calls = lock(&self.0);
            *calls += 1;
            let answer = if *calls % 2 == 1 {
                Err(BackendError::Full)
            } else {
                let (topic, payload) = ("topic".into(), "payload".into());
                let message = BusEvent::Message { topic, payload };
                let events = [message, BusEvent::Lagged(3)];
                Ok(stream::iter(events.map(Ok)).boxed())
            };
            Box::pin(async { answer })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_listens_again_after_a_growing_pause() {
        let backend = Backend::new(MemoryStore::new(), Failing::default(), MemoryQueue::new());
        let mut listener = Listener::new(TimedBackend::new(backend, Duration::from_secs(1)));
        let mut heard = String::new();
        let begin = Instant::now();
        for _ in 0..10 {
            heard += match listener.next().await {
                Heard::Began => "began ",
                Heard::Message { topic, payload } => {
                    assert_eq!((&*topic, &*payload), ("topic", &b"payload"[..]));
                    "message "
                }
                Heard::Lagged(3) => "lagged ",
                Heard::Lagged(_) => "miscounted ",
                Heard::Lost(Some(_), _) => "failed ",
                Heard::Lost(None, _) => "ended ",
            };
        }
        let once = "failed began message lagged ended ";
        assert_eq!(heard, once.repeat(2));
        let elapsed = begin.elapsed().as_millis();
        assert!((525..=700).contains(&elapsed), "{elapsed}");
    }

    #[tokio::test]
    async fn a_task_listens_once_until_it_is_dropped() {
        let (listening, runs) = (Listening::default(), Arc::new(()));
        for _ in 0..2 {
            let run = runs.clone();
            let listen = || async move {
                let _run = run;
                std::future::pending::<()>().await;
            };
            assert!(listening.start(listen).is_ok());
        }
        assert_eq!(Arc::strong_count(&runs), 2);
        drop(listening);
        while Arc::strong_count(&runs) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
