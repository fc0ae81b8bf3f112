//! Wakes the tasks of this process that wait for messages, changes and envelopes.

use super::builder::Settings;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tower_promises_backend::kit::sync::lock;

/// The pause between two polls while notifications arrive. One of them may be lost, and no delivery may be more than a
/// second late.
const POLL_WITH_NOTIFICATIONS: Duration = Duration::from_millis(900);

/// How many times as often an active process polls without notifications.
const ACTIVE_LOOKS: u32 = 16;

/// What a task waits for: the messages or changes of all processes, or the envelopes of a queue. Its text is the payload
/// of a notification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Topic(Arc<str>);

impl Topic {
    pub(super) fn messages() -> Self {
        Self("messages".into())
    }

    pub(super) fn changes() -> Self {
        Self("changes".into())
    }

    pub(super) fn queue(name: &str) -> Self {
        // No other topic has a slash. A name is shorter than the longest payload, 8000 bytes.
        Self(format!("queue/{name}").into())
    }

    /// The topic of a notification.
    pub(super) fn notified(payload: &str) -> Self {
        Self(payload.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

pub(super) struct Wakes {
    poll_interval: Duration,
    topics: Mutex<HashMap<Topic, watch::Sender<()>>>,
    /// Whether notifications of other processes arrive.
    has_notifications: AtomicBool,
    /// When this process last wrote something, or found something new.
    active: Mutex<Instant>,
}

impl Wakes {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            poll_interval: settings.poll_interval,
            topics: Mutex::default(),
            has_notifications: AtomicBool::new(false),
            active: Mutex::new(Instant::now()),
        })
    }

    /// Returns a receiver that is notified when there may be something new.
    pub(super) fn subscribe(self: &Arc<Self>, topic: Topic) -> Waiting {
        let receiver = lock(&self.topics)
            .entry(topic.clone())
            .or_default()
            .subscribe();
        Waiting {
            receiver: Some(receiver),
            topic,
            wakes: self.clone(),
        }
    }

    /// Wakes the tasks that wait for a topic.
    pub(super) fn wake(&self, topic: &Topic) {
        if let Some(sender) = lock(&self.topics).get(topic) {
            sender.send_replace(());
        }
    }

    /// Sets whether notifications arrive, and wakes all tasks: some may have been lost, and the pauses change.
    pub(super) fn set_notifications(&self, arrive: bool) {
        if self.has_notifications.swap(arrive, Ordering::SeqCst) != arrive || !arrive {
            for sender in lock(&self.topics).values() {
                sender.send_replace(());
            }
        }
    }

    /// Notes an event after which more events are likely to follow soon.
    pub(super) fn mark_active(&self) {
        *lock(&self.active) = Instant::now();
    }

    /// The pause before the next poll. Without notifications, an answer to the latest write of this process usually comes
    /// soon or not at all, so the pause is as long as the time since that write, within bounds.
    pub(super) fn pause(&self) -> Duration {
        if self.has_notifications.load(Ordering::SeqCst) {
            return POLL_WITH_NOTIFICATIONS;
        }
        let longest = self.poll_interval;
        let idle = lock(&self.active).elapsed();
        idle.clamp(longest / ACTIVE_LOOKS, longest)
    }
}

/// A task that waits for a topic. The topic is forgotten when no task waits for it.
pub(super) struct Waiting {
    receiver: Option<watch::Receiver<()>>,
    topic: Topic,
    wakes: Arc<Wakes>,
}

impl Waiting {
    /// Ignores what was before. Call this before the database is asked, so that nothing new is ignored.
    pub(super) fn mark_unchanged(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            receiver.mark_unchanged();
        }
    }

    /// Resolves when there may be something new.
    pub(super) async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // The sender exists as long as this receiver.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut topics = lock(&self.wakes.topics);
        self.receiver = None;
        if topics
            .get(&self.topic)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Topic, Wakes};
    use crate::PostgresBuilder;
    use std::sync::Arc;
    use tokio_test::{assert_pending, assert_ready, task};
    use tower_promises_backend::kit::sync::lock;

    #[test]
    fn a_topic_wakes_its_own_tasks_and_is_forgotten_with_them() {
        let wakes: Arc<Wakes> = Wakes::new(PostgresBuilder::new().settings());
        let mut one = wakes.subscribe(Topic::queue("one"));
        let mut other = wakes.subscribe(Topic::queue("other"));
        wakes.wake(&Topic::notified("queue/one"));
        assert_ready!(task::spawn(one.changed()).poll());
        assert_pending!(task::spawn(other.changed()).poll());
        wakes.wake(&Topic::queue("one"));
        one.mark_unchanged();
        assert_pending!(task::spawn(one.changed()).poll());
        wakes.set_notifications(true);
        assert_ready!(task::spawn(one.changed()).poll());
        assert_ready!(task::spawn(other.changed()).poll());
        drop(one);
        assert_eq!(lock(&wakes.topics).len(), 1);
    }
}
