use crate::backend::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_MAX_MESSAGE_BYTES, capacity, check_size,
};
use crate::backend::{BackendError, Bus, BusEvent, BusStream, check_name};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// A [`Bus`] within one process.
///
/// It keeps messages only as long as a listener has yet to read them: with the defaults at most 1024 of
/// 64 KiB, 64 MiB in all, and next to nothing while all listeners keep up. Messages are not copied.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    messages: broadcast::Sender<(Arc<str>, Bytes)>,
    max_message_bytes: usize,
}

impl MemoryBus {
    /// A bus with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self {
            messages: broadcast::Sender::new(DEFAULT_BUS_CAPACITY),
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
        }
    }

    /// How many messages are kept for a listener that falls behind, default
    /// [`DEFAULT_BUS_CAPACITY`]. It is at least one and may be rounded up; more than a million is a million.
    ///
    /// It makes a new bus: call it before the bus is cloned or listened to.
    #[must_use]
    pub fn capacity(self, messages: usize) -> Self {
        Self {
            messages: broadcast::Sender::new(capacity(messages)),
            ..self
        }
    }

    /// How many bytes a message may have, default [`DEFAULT_MAX_MESSAGE_BYTES`].
    #[must_use]
    pub fn max_message_bytes(self, bytes: usize) -> Self {
        Self {
            max_message_bytes: bytes,
            ..self
        }
    }

    fn send(&self, topic: &str, payload: Bytes) -> Result<(), BackendError> {
        check_name(topic)?;
        check_size(payload.len(), self.max_message_bytes)?;
        // An error says that nobody listens, which is none.
        let _ = self.messages.send((topic.into(), payload));
        Ok(())
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus for MemoryBus {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.send(topic, payload) })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        Box::pin(async {
            let receiver = self.messages.subscribe();
            let events = stream::unfold(receiver, async |mut receiver| {
                let event = match receiver.recv().await {
                    Ok((topic, payload)) => BusEvent::Message { topic, payload },
                    Err(RecvError::Lagged(missed)) => BusEvent::Lagged(missed),
                    Err(RecvError::Closed) => return None,
                };
                Some((Ok(event), receiver))
            });
            Ok(Box::pin(events) as BusStream)
        })
    }
}
