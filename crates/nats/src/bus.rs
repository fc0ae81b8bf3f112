use super::connection::Connection;
use super::feed::Feed;
use super::names;
use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tower_promises_backend::kit::limits::check_size;
use tower_promises_backend::{BackendError, Bus, BusEvent, BusStream, check_name};

/// A [`Bus`] for the machines that are connected to one server or cluster. [`NatsBackend`](super::NatsBackend) creates
/// it.
///
/// Messages are core NATS messages: they are not stored, and reach connected listeners only. All listeners of a process
/// share one subscription. A listener that falls behind by more than the [capacity](super::NatsBuilder::bus_capacity)
/// gets [`BusEvent::Lagged`].
#[derive(Clone, Debug)]
pub struct NatsBus {
    connection: Arc<Connection>,
    messages: Arc<Feed<Heard>>,
}

/// A topic and a payload.
type Heard = (Arc<str>, Bytes);

impl NatsBus {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let subject = format!("{}.bus.*", connection.settings().prefix);
        let capacity = connection.settings().bus_capacity;
        Self {
            messages: Feed::new(connection.clone(), subject, capacity, read),
            connection,
        }
    }
}

fn read(message: Message) -> Option<Heard> {
    let topic = names::last_name(&message.subject)?;
    Some((topic.into(), message.payload))
}

impl Bus for NatsBus {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            check_name(topic)?;
            let limit = self
                .connection
                .limit(self.connection.settings().max_message_bytes);
            check_size(payload.len(), limit)?;
            let subject = format!(
                "{}.bus.{}",
                self.connection.settings().prefix,
                names::token(topic)
            );
            let publish = || async {
                let (subject, payload) = (subject.clone(), payload.clone());
                let sent = self.connection.client().publish(subject, payload).await;
                sent.map_err(BackendError::unavailable)?;
                self.connection.round_trip().await
            };
            self.connection.in_time(publish).await
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        Box::pin(async {
            let listen = || async {
                let receiver = self.messages.join().await?;
                self.connection.round_trip().await?;
                Ok(receiver)
            };
            let receiver = self.connection.in_time(listen).await?;
            let events = stream::unfold(Some(receiver), async |receiver| {
                let mut receiver = receiver?;
                let event = match receiver.recv().await {
                    Ok(Ok((topic, payload))) => Ok(BusEvent::Message { topic, payload }),
                    Ok(Err(error)) => return Some((Err(error), None)),
                    Err(RecvError::Lagged(missed)) => Ok(BusEvent::Lagged(missed)),
                    Err(RecvError::Closed) => return None,
                };
                Some((event, Some(receiver)))
            });
            Ok(events.boxed())
        })
    }
}
