use super::connection::{Connection, LOOK};
use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender};
use tokio::time::{MissedTickBehavior, interval};
use tower_promises_backend::BackendError;

/// A subscription that all listeners of a process share. One task reads it, so that each message crosses the network
/// once, and a slow listener does not delay the others.
pub(super) struct Feed<T> {
    connection: Arc<Connection>,
    subject: String,
    capacity: usize,
    read: fn(Message) -> Option<T>,
    running: Mutex<Option<WeakSender<Event<T>>>>,
}

pub(super) type Event<T> = Result<T, BackendError>;

impl<T: Clone + Send + 'static> Feed<T> {
    /// Creates the feed of a subject. Messages that `read` cannot parse are ignored.
    pub(super) fn new(
        connection: Arc<Connection>,
        subject: String,
        capacity: usize,
        read: fn(Message) -> Option<T>,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            subject,
            capacity,
            read,
            running: Mutex::default(),
        })
    }

    /// Adds a listener. The subscription is active after the next round trip. The listener may also receive messages
    /// that were published before.
    pub(super) async fn join(self: &Arc<Self>) -> Result<Receiver<Event<T>>, BackendError> {
        let runtime = Handle::try_current().map_err(BackendError::unavailable)?;
        let mut running = self.running.lock().await;
        if let Some(sender) = running.as_ref().and_then(WeakSender::upgrade) {
            return Ok(sender.subscribe());
        }
        let number = self.connection.number();
        let client = self.connection.client();
        let subscriber = client.subscribe(self.subject.clone()).await;
        let subscriber = subscriber.map_err(BackendError::unavailable)?;
        let (sender, receiver) = broadcast::channel(self.capacity);
        *running = Some(sender.downgrade());
        // Only the task owns the sender, so the streams of all listeners end when the task ends for any reason.
        runtime.spawn(self.clone().run(sender, subscriber, number));
        Ok(receiver)
    }

    async fn run(
        self: Arc<Self>,
        sender: Sender<Event<T>>,
        heard: Subscriber,
        number: Option<u64>,
    ) {
        let Err(error) = self.follow(&sender, heard, number).await else {
            return;
        };
        // Cleared before the error is sent, so that a listener that joins again starts a new task.
        *self.running.lock().await = None;
        // Sending fails if there are no listeners, which is not an error.
        let _ = sender.send(Err(error));
    }

    /// Forwards messages until there are no listeners.
    async fn follow(
        &self,
        sender: &Sender<Event<T>>,
        mut heard: Subscriber,
        number: Option<u64>,
    ) -> Result<(), BackendError> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = match select(heard.next(), pin!(look.tick())).await {
                Either::Left((message, _)) => Some(message),
                Either::Right(_) => None,
            };
            // The client subscribes again by itself, but messages in between are lost.
            if number.is_none() || self.connection.number() != number {
                return Err(BackendError::unavailable("the connection was lost"));
            }
            match message {
                Some(Some(message)) => {
                    if let Some(item) = (self.read)(message) {
                        let _ = sender.send(Ok(item));
                    }
                }
                Some(None) => return Err(BackendError::unavailable("the client was closed")),
                None => {
                    let mut running = self.running.lock().await;
                    if sender.receiver_count() == 0 {
                        *running = None;
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl<T> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}
