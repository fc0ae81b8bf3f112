//! Reading of the messages of a stream, in their order.

use super::connection::{Connection, Stored};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tower_promises_backend::BackendError;

/// The messages of a stream that were there when the scan began.
pub(super) struct Scan {
    messages: Option<Ordered>,
    patience: Duration,
}

/// A message, and its subject.
pub(super) struct Scanned {
    pub(super) subject: String,
    pub(super) stored: Stored,
}

impl Scan {
    /// Begins after the message with the sequence `after`.
    pub(super) async fn begin(
        connection: &Connection,
        stream: &Stream<()>,
        after: Option<u64>,
        headers_only: bool,
    ) -> Result<Self, BackendError> {
        let open = || async {
            let info = stream.get_info().await.map_err(BackendError::unavailable)?;
            let last = info.state.last_sequence;
            if info.state.messages == 0 || after.is_some_and(|after| after >= last) {
                return Ok(None);
            }
            let deliver_policy = match after {
                Some(after) => DeliverPolicy::ByStartSequence {
                    start_sequence: after + 1,
                },
                None => DeliverPolicy::All,
            };
            let consumer = OrderedConfig {
                deliver_subject: connection.client().new_inbox(),
                deliver_policy,
                headers_only,
                ..Default::default()
            };
            let consumer = stream.create_consumer(consumer).await;
            let consumer = consumer.map_err(BackendError::unavailable)?;
            // The last messages may have been deleted.
            if consumer.cached_info().num_pending == 0 {
                return Ok(None);
            }
            let messages = consumer.messages().await;
            Ok(Some(messages.map_err(BackendError::unavailable)?))
        };
        Ok(Self {
            messages: connection.in_time(open).await?,
            patience: connection.settings().timeout,
        })
    }

    /// Returns the next message, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Scanned>, BackendError> {
        let Some(messages) = &mut self.messages else {
            return Ok(None);
        };
        let next = timeout(self.patience, messages.next()).await;
        let Some(message) = next.map_err(|_| BackendError::timed_out(self.patience))? else {
            self.messages = None;
            return Ok(None);
        };
        let message = message.map_err(BackendError::unavailable)?;
        let info = message.info().map_err(BackendError::unavailable)?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let time = SystemTime::from(info.published);
        if pending == 0 {
            self.messages = None;
        }
        let message = message.message;
        Ok(Some(Scanned {
            subject: message.subject.to_string(),
            stored: Stored {
                sequence,
                time,
                headers: message.headers.unwrap_or_default(),
                payload: message.payload,
            },
        }))
    }
}
