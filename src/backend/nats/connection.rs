use super::builder::Settings;
use super::sweep::Sweep;
use crate::backend::BackendError;
use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, RequestErrorKind, StatusCode};
use bytes::Bytes;
use std::error::Error;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// How often it is seen whether the connection is still the same.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// The client, and how it is used.
pub(super) struct Connection {
    client: Client,
    context: Context,
    settings: Settings,
    sweeping: OnceLock<AbortOnDrop>,
}

/// A task that ends with the connection.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A message in a stream.
pub(super) struct Stored {
    pub(super) sequence: u64,
    /// When the server has stored it, by its clock.
    pub(super) time: SystemTime,
    pub(super) headers: async_nats::HeaderMap,
    pub(super) payload: Bytes,
}

impl Connection {
    pub(super) fn new(client: Client, settings: Settings) -> Self {
        let context = ContextBuilder::new()
            .timeout(settings.timeout)
            .ack_timeout(settings.timeout)
            .build(client.clone());
        Self {
            client,
            context,
            settings,
            sweeping: OnceLock::new(),
        }
    }

    /// Sweeps as long as somebody has the connection.
    pub(super) fn sweep(self: &Arc<Self>, sweep: Sweep) {
        let interval = self.settings.sweep_interval;
        let task = tokio::spawn(sweep.run(Arc::downgrade(self), interval));
        // There is one for each connection.
        let _ = self.sweeping.set(AbortOnDrop(task.abort_handle()));
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Which connection to a server it is, or `None` where there is none at present.
    pub(super) fn number(&self) -> Option<u64> {
        let is_connected = self.client.connection_state() == State::Connected;
        is_connected.then(|| self.connects())
    }

    /// How often there was a new connection.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Resolves when there is a newer connection than those.
    pub(super) async fn reconnected(&self, connects: u64) {
        while self.number().is_none_or(|number| number == connects) {
            sleep(LOOK).await;
        }
    }

    /// What an answer is, in time. While the connection is lost, requests wait for the next one.
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let after = self.settings.timeout;
        let answer = timeout(after, answer).await;
        answer.unwrap_or(Err(BackendError::TimedOut { after }))
    }

    /// Resolves when the server has done what was sent to it before.
    pub(super) async fn round_trip(&self) -> Result<(), BackendError> {
        // Nobody listens there, and the server says so at once.
        let nobody = format!("{}.nobody", self.settings.prefix);
        match self.client.request(nobody, Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(self.request_error(error)),
        }
    }

    pub(super) async fn create(&self, config: Config) -> Result<Stream, BackendError> {
        let stream = self.context.get_or_create_stream(config).await;
        stream.map_err(BackendError::unavailable)
    }

    /// Stores a message and returns what the server says about it, or `None` where the subject has not the
    /// expected last sequence.
    pub(super) async fn publish(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<Option<PublishAck>, BackendError> {
        let message = message.outbound_message(subject);
        let sent = match message.headers {
            Some(headers) => {
                let subject = message.subject;
                self.context
                    .publish_with_headers(subject, headers, message.payload)
                    .await
            }
            None => self.context.publish(message.subject, message.payload).await,
        };
        // The second answer says that it is stored.
        let stored = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(self.publish_error(error)),
        }
    }

    /// The last message with a subject. The leader of the stream answers: another server may be behind.
    pub(super) async fn last(
        &self,
        stream: &Stream,
        subject: &str,
    ) -> Result<Option<Stored>, BackendError> {
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Stored {
                sequence: message.sequence,
                time: SystemTime::from(message.time),
                headers: message.headers,
                payload: message.payload,
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BackendError::unavailable(error)),
        }
    }

    fn publish_error(&self, error: PublishError) -> BackendError {
        let source = error
            .source()
            .and_then(|source| source.downcast_ref::<jetstream::Error>());
        match (error.kind(), source.map(jetstream::Error::error_code)) {
            (PublishErrorKind::TimedOut, _) => self.timed_out(),
            (
                _,
                Some(
                    ErrorCode::INSUFFICIENT_RESOURCES
                    | ErrorCode::STORAGE_RESOURCES_EXCEEDED
                    | ErrorCode::MEMORY_RESOURCES_EXCEEDED
                    | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
                ),
            ) => BackendError::Full,
            // One code for all that goes wrong with the storage.
            (_, Some(ErrorCode::STREAM_STORE_FAILED))
                if source.is_some_and(|source| source.to_string().contains("maximum")) =>
            {
                BackendError::Full
            }
            _ => BackendError::unavailable(error),
        }
    }

    pub(super) fn request_error(
        &self,
        error: async_nats::error::Error<RequestErrorKind>,
    ) -> BackendError {
        match error.kind() {
            RequestErrorKind::TimedOut => self.timed_out(),
            _ => BackendError::unavailable(error),
        }
    }

    fn timed_out(&self) -> BackendError {
        BackendError::TimedOut {
            after: self.settings.timeout,
        }
    }

    /// How many bytes something may have: what was asked for, if the server takes it beside the headers.
    pub(super) fn limit(&self, asked: usize) -> usize {
        const HEADERS: usize = 8 * 1024;
        let server = self.client.max_payload();
        asked.min(server.saturating_sub(HEADERS))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// An error of the server that has no other words.
pub(super) fn refused(status: StatusCode, description: Option<&str>) -> BackendError {
    let description = description.unwrap_or("it gives no reason");
    BackendError::unavailable(format!("the server has answered {status}: {description}"))
}
