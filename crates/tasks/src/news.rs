//! Subscriptions to tasks, and the listener for changes in other processes.

use super::{TaskId, observe};
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::topics::{Heard, Listener, Subscription, Topics};

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

/// The subscriptions of this process, by the news that they are for.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions([Topics; 3]);

impl Subscriptions {
    /// Subscribes to one kind of news of a task. Ends count as changes, too.
    pub(super) fn subscribe(&self, id: &TaskId, news: News) -> Subscription {
        self.0[news as usize].subscribe(id.topic())
    }

    /// Notifies the subscribers in this process.
    pub(super) fn tell(&self, topic: &str, news: News) {
        if news == News::Ended {
            self.0[News::Changed as usize].notify(topic);
        }
        self.0[news as usize].notify(topic);
    }

    /// Listens to all processes until the task is aborted.
    pub(super) async fn listen(self, backend: TimedBackend) {
        let mut listener = Listener::new(backend);
        loop {
            match listener.next().await {
                // The bus also carries messages of other modules. Their topics have no subscriptions here.
                Heard::Message { topic, payload } => {
                    if let Some(news) = News::parse(&payload) {
                        self.tell(&topic, news);
                    }
                }
                Heard::Began | Heard::Lagged(_) => self.0.iter().for_each(Topics::notify_all),
                Heard::Lost(error, pause) => observe::bus_lost(error.as_ref(), pause),
            }
        }
    }
}
