use super::builder::Settings;
use super::clock::Clock;
use super::observe;
use super::streams::{Streams, is_leaderless, is_missing, is_refused};
use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, RequestErrorKind, StatusCode};
use bytes::Bytes;
use std::error::Error;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex as StdMutex, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::deadline;
use tower_promises_backend::kit::sync::lock;

/// The interval of checks whether the connection is still the same.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// The pauses before a call that found its streams missing is repeated. A cluster may first have to choose the leaders
/// of the streams.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The interval of requests for the time of the server.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// The client, with the settings and the state that all adapters share.
pub(super) struct Connection {
    client: Client,
    context: Context,
    settings: Settings,
    streams: Streams,
    clock: Clock,
    /// Locked while the clock of the server is read because something seems to be expired.
    reading_clock: Mutex<()>,
    tasks: StdMutex<Vec<AbortOnDrop>>,
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
    /// The timestamp of the server.
    pub(super) time: SystemTime,
    pub(super) headers: async_nats::HeaderMap,
    pub(super) payload: Bytes,
}

impl Connection {
    /// Connects the adapters, and creates missing streams.
    pub(super) async fn open(
        client: Client,
        settings: Settings,
    ) -> Result<Arc<Self>, BackendError> {
        let context = ContextBuilder::new()
            .timeout(settings.timeout)
            .ack_timeout(settings.timeout)
            .build(client.clone());
        let connection = Arc::new(Self {
            streams: Streams::new(&context, &settings).await?,
            client,
            context,
            settings,
            clock: Clock::default(),
            reading_clock: Mutex::new(()),
            tasks: StdMutex::default(),
        });
        let prepare = || async {
            if connection.streams.made() == 0 {
                connection.make_streams(0).await?;
            }
            connection.set_clock().await
        };
        connection.in_time(prepare).await?;
        let number = connection.number();
        let watch = tokio::spawn(watch_clock(Arc::downgrade(&connection), number));
        connection.abort_on_drop(watch.abort_handle());
        Ok(connection)
    }

    /// Ends a task when the last adapter is dropped.
    pub(super) fn abort_on_drop(&self, task: AbortHandle) {
        lock(&self.tasks).push(AbortOnDrop(task));
    }

    /// Creates the missing streams, unless another call has done so since number `seen`.
    async fn make_streams(&self, seen: u64) -> Result<(), BackendError> {
        let (context, settings) = (&self.context, &self.settings);
        self.streams.make(context, settings, seen).await
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

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The remaining part of a duration that started at a timestamp of the server. Nothing expires by an old sample of
    /// the clock, because the clock may have been set back meanwhile. Concurrent calls share one request for the time.
    /// If the server refuses that request because its storage is full, the old sample is used.
    pub(super) async fn left(
        &self,
        began: SystemTime,
        time: Duration,
    ) -> Result<Duration, BackendError> {
        let left = self.clock.left(began, time);
        if !left.is_zero() || self.clock.is_fresh() {
            return Ok(left);
        }
        let _reading = self.reading_clock.lock().await;
        if !self.clock.is_fresh() {
            match self.set_clock().await {
                Err(error) if is_refused(&error) => {
                    observe::clock_not_set(&error);
                    self.clock.was_asked(Instant::now());
                }
                set => set?,
            }
        }
        Ok(self.clock.left(began, time))
    }

    /// Reads the time of the server from the timestamp of a message. Servers of version 2.9 offer no other way.
    async fn set_clock(&self) -> Result<(), BackendError> {
        let subject = format!("{}.leases.clock", self.settings.prefix);
        let asked = Instant::now();
        let stored = self.publish(&subject, PublishMessage::build()).await?;
        let answered = Instant::now();
        let Some(last) = self.last(&self.streams.leases, &subject).await? else {
            // The message was deleted meanwhile. The next request sets the clock.
            return Ok(());
        };
        let is_ours = stored.is_some_and(|stored| stored.sequence == last.sequence);
        let answered = if is_ours { answered } else { Instant::now() };
        self.clock.sample(last.time, asked, answered);
        Ok(())
    }

    /// The number of the present connection to a server, or `None` while there is no connection.
    pub(super) fn number(&self) -> Option<u64> {
        let is_connected = self.client.connection_state() == State::Connected;
        is_connected.then(|| self.connects())
    }

    /// The number of connections so far.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Resolves when there is a newer connection than number `connects`.
    pub(super) async fn reconnected(&self, connects: u64) {
        while self.number().is_none_or(|number| number == connects) {
            sleep(LOOK).await;
        }
    }

    /// Returns the result of a call, within the timeout. While the connection is lost, requests wait for the next
    /// connection. If the server has lost the streams, they are created again, and the call, which had no effect, is
    /// repeated. While a cluster chooses a leader, the call waits for it.
    pub(super) async fn in_time<T, F>(&self, call: impl Fn() -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, BackendError>>,
    {
        let answer = async {
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            let mut pause = None;
            loop {
                let made = self.streams.made();
                match call().await {
                    Err(error) if is_missing(&error) => {}
                    answer => return answer,
                }
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
                match self.make_streams(made).await {
                    Err(error) if !is_leaderless(&error) => return Err(error),
                    _ => {}
                }
                pause = Some(backoff.pause());
            }
        };
        deadline::in_time(self.settings.timeout, answer).await
    }

    /// Resolves when the server has processed all earlier messages of this connection.
    pub(super) async fn round_trip(&self) -> Result<(), BackendError> {
        // The subject has no subscribers, so the server answers at once.
        let subject = format!("{}.nobody", self.settings.prefix);
        match self.client.request(subject, Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(self.request_error(error)),
        }
    }

    /// Stores a message and returns the acknowledgement of the server, or `None` if the subject does not have the
    /// expected last sequence.
    pub(super) async fn publish(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<Option<PublishAck>, BackendError> {
        let message = message.outbound_message(subject.to_owned());
        let sent = match message.headers {
            Some(headers) => {
                let subject = message.subject;
                self.context
                    .publish_with_headers(subject, headers, message.payload)
                    .await
            }
            None => self.context.publish(message.subject, message.payload).await,
        };
        // The first future sends the message. The second resolves when the message is stored.
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

    /// The last message with a subject. The leader of the stream answers, because other servers may be behind.
    pub(super) async fn last(
        &self,
        stream: &Stream<()>,
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
            // The server has one code for all storage failures.
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
        BackendError::timed_out(self.settings.timeout)
    }

    /// The maximum size of a payload: the given limit, or the limit of the server minus the headers if that is lower.
    pub(super) fn limit(&self, asked: usize) -> usize {
        const HEADERS: usize = 8 * 1024;
        let server = self.client.max_payload();
        asked.min(server.saturating_sub(HEADERS))
    }
}

/// Asks the server for the time at regular intervals, and after a new connection, which may be to another server.
async fn watch_clock(connection: Weak<Connection>, mut connects: Option<u64>) {
    let mut asked = Instant::now();
    loop {
        sleep(LOOK).await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        let number = connection.number();
        let is_other = number.is_some() && number != connects;
        if is_other || asked.elapsed() >= CLOCK_INTERVAL {
            asked = Instant::now();
            match connection.in_time(|| connection.set_clock()).await {
                Ok(()) => connects = number.or(connects),
                // The clock continues with the earlier sample.
                Err(error) => observe::clock_not_set(&error),
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// An error for an unexpected status of the server.
pub(super) fn refused(status: StatusCode, description: Option<&str>) -> BackendError {
    let description = description.unwrap_or("it gives no reason");
    BackendError::unavailable(format!("the server has answered {status}: {description}"))
}
