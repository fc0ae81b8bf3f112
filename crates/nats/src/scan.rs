//! Reading of the messages of a stream, in their order.

use super::connection::{Connection, Stored};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tower_promises_backend::BackendError;

/// The number of messages of a request.
const BATCH: usize = 500;

/// The time after which the server deletes the consumer of a scan.
const INACTIVE: Duration = Duration::from_secs(10);

/// The time after which a scan that waits for a message asks whether there is one.
const LOOK: Duration = Duration::from_millis(50);

/// The messages of a stream that were there when the scan began.
///
/// The scan pulls them. A consumer that pushes begins later, because the server first has to find its subscription.
pub(super) struct Scan {
    /// `None` after the last message.
    consumer: Option<Consumer<Config>>,
    batch: Option<Batch>,
    /// The number of messages that have arrived.
    received: u64,
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
            let consumer = Config {
                deliver_policy,
                headers_only,
                ack_policy: AckPolicy::None,
                inactive_threshold: INACTIVE,
                memory_storage: true,
                num_replicas: 1,
                ..Default::default()
            };
            let consumer = stream.create_consumer(consumer).await;
            let consumer = consumer.map_err(BackendError::unavailable)?;
            // The last messages may have been deleted.
            let is_empty = consumer.cached_info().num_pending == 0;
            Ok((!is_empty).then_some(consumer))
        };
        Ok(Self {
            consumer: connection.in_time(open).await?,
            batch: None,
            received: 0,
            patience: connection.settings().timeout,
        })
    }

    /// Returns the next message, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Scanned>, BackendError> {
        let Some(message) = self.message().await? else {
            self.consumer = None;
            return Ok(None);
        };
        let info = message.info().map_err(BackendError::unavailable)?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let time = SystemTime::from(info.published);
        if pending == 0 {
            self.consumer = None;
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

    async fn message(&mut self) -> Result<Option<Message>, BackendError> {
        let patience = self.patience;
        let message = in_time(patience, self.arrival()).await??;
        self.received += u64::from(message.is_some());
        Ok(message)
    }

    async fn arrival(&mut self) -> Result<Option<Message>, BackendError> {
        let Some(consumer) = &self.consumer else {
            return Ok(None);
        };
        let mut is_new = false;
        loop {
            let batch = match &mut self.batch {
                Some(batch) => batch,
                None => {
                    is_new = true;
                    let batch = consumer.fetch().max_messages(BATCH).messages();
                    let batch = batch.await.map_err(BackendError::unavailable)?;
                    self.batch.insert(batch)
                }
            };
            let Ok(next) = timeout(LOOK, batch.next()).await else {
                // Messages that are replaced while the scan reads can remain in the server's count of pending messages
                // until its next look at them. The server then waits for another message instead of ending the batch.
                let info = consumer.get_info().await;
                let info = info.map_err(BackendError::unavailable)?;
                if info.num_pending == 0 && info.delivered.consumer_sequence == self.received {
                    return Ok(None);
                }
                continue;
            };
            if let Some(message) = next.transpose().map_err(BackendError::unavailable)? {
                return Ok(Some(message));
            }
            self.batch = None;
            if is_new {
                return Ok(None);
            }
        }
    }
}

async fn in_time<T>(after: Duration, answer: impl Future<Output = T>) -> Result<T, BackendError> {
    let answer = timeout(after, answer).await;
    answer.map_err(|_| BackendError::timed_out(after))
}
