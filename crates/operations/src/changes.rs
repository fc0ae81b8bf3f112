//! Changes of operations: their subscribers in this process, and the messages that announce them to other processes.

use super::limits::Limits;
use super::observe;
use super::record::{Key, RECORD_BYTES, TOPIC_PREFIX};
use std::sync::Arc;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::topics::{Heard, Listener, Subscription, Topics};

/// The subscribers of this process to changes of operations.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    all: Topics,
    /// For changes that may have ended an operation.
    ends: Topics,
}

impl Changes {
    /// Subscribes to all changes of an operation.
    pub(super) fn all(&self, key: &Key) -> Subscription {
        self.all.subscribe(key.topic())
    }

    /// Subscribes to changes that may have ended an operation.
    pub(super) fn ends(&self, key: &Key) -> Subscription {
        self.ends.subscribe(key.topic())
    }

    /// Wakes the subscribers of this process.
    pub(super) fn notify(&self, topic: &str, message: &[u8]) {
        self.all.notify(topic);
        if matches!(message, ENDED | REMOVED) {
            self.ends.notify(topic);
        }
    }

    /// Listens to the other instances until the task is aborted. Stops counting results that they remove.
    pub(super) async fn listen(self, backend: TimedBackend, limits: Arc<Limits>) {
        let mut listener = Listener::new(backend);
        loop {
            match listener.next().await {
                Heard::Message { topic, payload } => {
                    // The bus carries messages of other modules too.
                    let Some(key) = topic.strip_prefix(TOPIC_PREFIX) else {
                        continue;
                    };
                    match &*payload {
                        REMOVED => limits.forget(&Key::parse(key)),
                        CONSUMED => limits.shrink(&Key::parse(key), RECORD_BYTES),
                        _ => {}
                    }
                    self.notify(&topic, &payload);
                }
                Heard::Began | Heard::Lagged(_) => {
                    self.all.notify_all();
                    self.ends.notify_all();
                }
                Heard::Lost(error, pause) => observe::bus_lost(error.as_ref(), pause),
            }
        }
    }
}

/// The messages on the bus.
pub(super) const ENDED: &[u8] = b"ended";
pub(super) const CHANGED: &[u8] = b"changed";
pub(super) const REMOVED: &[u8] = b"removed";
/// The result has been read and removed.
pub(super) const CONSUMED: &[u8] = b"consumed";
