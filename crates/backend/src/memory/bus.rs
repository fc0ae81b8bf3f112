use crate::kit::limits::{DEFAULT_BUS_CAPACITY, DEFAULT_MAX_MESSAGE_BYTES, capacity, check_size};
use crate::{BackendError, Bus, BusEvent, BusStream, check_name};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// A [`Bus`] within one process.
///
/// A message is kept until every listener has read it: with the default settings at most 1024 messages of 64 KiB each,
/// 64 MiB in total, and almost nothing while all listeners keep up. Messages are not copied.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    messages: broadcast::Sender<(Arc<str>, Bytes)>,
    max_message_bytes: usize,
}

/// Builds a [`MemoryBus`] with settings other than the defaults.
#[derive(Clone, Copy, Debug)]
#[must_use = "`build` creates the bus"]
pub struct MemoryBusBuilder {
    capacity: usize,
    max_message_bytes: usize,
}

impl MemoryBusBuilder {
    /// Sets the number of messages that are buffered for a listener that falls behind, by default 1024. The number is
    /// clamped to 1 to 1,000,000, and may be rounded up.
    pub fn bus_capacity(mut self, messages: usize) -> Self {
        self.capacity = capacity(messages);
        self
    }

    /// Sets the maximum size of a message, in bytes, by default 64 KiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Creates the bus.
    #[must_use]
    pub fn build(self) -> MemoryBus {
        MemoryBus {
            messages: broadcast::Sender::new(self.capacity),
            max_message_bytes: self.max_message_bytes,
        }
    }
}

impl MemoryBus {
    /// Creates a bus with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder for other settings.
    pub fn builder() -> MemoryBusBuilder {
        MemoryBusBuilder {
            capacity: DEFAULT_BUS_CAPACITY,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
        }
    }

    fn send(&self, topic: &str, payload: Bytes) -> Result<(), BackendError> {
        check_name(topic)?;
        check_size(payload.len(), self.max_message_bytes)?;
        // Fails if there are no listeners, which is not an error.
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
