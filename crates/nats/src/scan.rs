//! Reading of the messages of a stream, in their order.

use super::connection::{Connection, Stored};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures_util::StreamExt;
use std::time::{Duration, SystemTime};
use tokio::time::{sleep, timeout};
use tower_promises_backend::BackendError;

/// The number of messages of a request.
const BATCH: usize = 500;

/// The time after which the server deletes the consumer of a scan.
const INACTIVE: Duration = Duration::from_secs(10);

/// The number of [looks](Scan::begin) for a list.
pub(super) const LOOKS: usize = 64;

/// The time after which a scan that waits for a message asks the stream whether there is one, and the pause before it
/// asks for messages again that the server has not delivered.
const LOOK: Duration = Duration::from_millis(50);

/// The messages of a stream that were there when the scan began, and some that come later.
///
/// The scan pulls them. A consumer that pushes begins later, because the server first has to find its subscription.
///
/// The server's count of a consumer's pending messages is wrong for a while when messages are replaced: it holds some that
/// are gone, and not yet those that have come in their place. So a scan that must not miss a replaced message asks the
/// stream whether there are more, a limited number of times, because others may write all the time.
pub(super) struct Scan {
    stream: Stream<()>,
    /// `None` after the last message.
    consumer: Option<Consumer<Config>>,
    batch: Option<Batch>,
    /// The sequence of the last message that has arrived.
    after: u64,
    /// The sequence of the last message when the scan began.
    last: u64,
    /// Whether the server counts no message after the last one that has arrived.
    may_be_last: bool,
    /// How many more times the stream is asked for messages that the server has not counted.
    looks: usize,
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
    /// Begins after the message with the sequence `after`. Without `looks`, the scan ends with the messages that are there
    /// now, and those that are replaced meanwhile are missing.
    pub(super) async fn begin(
        connection: &Connection,
        stream: &Stream<()>,
        after: Option<u64>,
        headers_only: bool,
        looks: usize,
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
            let may_be_last = consumer.cached_info().num_pending == 0;
            Ok(Some((consumer, last, may_be_last)))
        };
        let (consumer, last, may_be_last) = match connection.in_time(open).await? {
            Some((consumer, last, may_be_last)) => (Some(consumer), last, may_be_last),
            None => (None, 0, true),
        };
        Ok(Self {
            stream: stream.clone(),
            consumer,
            batch: None,
            after: after.unwrap_or(0),
            last,
            may_be_last,
            looks,
            received: 0,
            patience: connection.settings().timeout,
        })
    }

    /// Returns the next message, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Scanned>, BackendError> {
        let Some(message) = in_time(self.patience, self.arrival()).await?? else {
            self.consumer = None;
            return Ok(None);
        };
        let info = message.info().map_err(BackendError::unavailable)?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let time = SystemTime::from(info.published);
        self.received += 1;
        if info.consumer_sequence != self.received {
            return Err(BackendError::unavailable(
                "the connection has lost messages of a list",
            ));
        }
        self.after = sequence;
        self.may_be_last = pending == 0;
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

    async fn arrival(&mut self) -> Result<Option<Message>, BackendError> {
        let Some(consumer) = &self.consumer else {
            return Ok(None);
        };
        if self.looks == 0 && (self.may_be_last || self.after >= self.last) {
            return Ok(None);
        }
        if self.may_be_last {
            if !has_after(&self.stream, self.after).await? {
                return Ok(None);
            }
            self.looks -= 1;
        }
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
            match timeout(LOOK, batch.next()).await {
                Ok(Some(message)) => return message.map(Some).map_err(BackendError::unavailable),
                Ok(None) => {
                    self.batch = None;
                    if !is_new {
                        continue;
                    }
                    sleep(LOOK).await;
                }
                Err(_) => {}
            }
            if !has_after(&self.stream, self.after).await? {
                return Ok(None);
            }
        }
    }
}

/// Whether the stream has a message after one.
async fn has_after(stream: &Stream<()>, sequence: u64) -> Result<bool, BackendError> {
    let next = stream.get_first_raw_message_by_subject(">", sequence + 1);
    match next.await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(BackendError::unavailable(error)),
    }
}

async fn in_time<T>(after: Duration, answer: impl Future<Output = T>) -> Result<T, BackendError> {
    let answer = timeout(after, answer).await;
    answer.map_err(|_| BackendError::timed_out(after))
}
