use super::builder::Settings;
use super::clock::Clock;
use super::observe;
use super::streams::{Streams, is_leaderless, is_missing, is_refused};
use super::sweep::sweep;
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::{BackendError, deadline};
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
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// How often it is seen whether the connection is still the same.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// The pauses before a call is made again whose streams were not there: a cluster may have to choose their leaders.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often the server is asked what time it has.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// The client, and how it is used.
pub(super) struct Connection {
    client: Client,
    context: Context,
    settings: Settings,
    streams: Streams,
    clock: Clock,
    /// Locked while the server is asked for the time because something seems to be over.
    asking: Mutex<()>,
    tasks: OnceLock<[AbortOnDrop; 2]>,
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
    /// Connects the adapters, and creates the streams that do not exist.
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
            asking: Mutex::new(()),
            tasks: OnceLock::new(),
        });
        let prepare = || async {
            let made = connection.streams.made();
            if made == 0 {
                connection.streams.make(&connection, made).await?;
            }
            connection.set_clock().await
        };
        connection.in_time(prepare).await?;
        // As long as an adapter has the connection.
        let sweep = tokio::spawn(sweep(
            Arc::downgrade(&connection),
            connection.settings.sweep_interval,
        ));
        let number = connection.number();
        let watch = tokio::spawn(watch_clock(Arc::downgrade(&connection), number));
        let tasks = [sweep, watch].map(|task| AbortOnDrop(task.abort_handle()));
        // They are set once.
        let _ = connection.tasks.set(tasks);
        Ok(connection)
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

    /// How much is left of a time that began at a stamp of the server. Nothing is over by an old sample of its clock, which
    /// may have been set back since. Many calls at once ask once. Where the server refuses the message that asks, because it
    /// is full, the old sample has to do.
    pub(super) async fn left(
        &self,
        began: SystemTime,
        time: Duration,
    ) -> Result<Duration, BackendError> {
        let left = self.clock.left(began, time);
        if !left.is_zero() || self.clock.is_fresh() {
            return Ok(left);
        }
        let _asking = self.asking.lock().await;
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

    /// Asks the server what time it has, by the stamp of a message. Servers of 2.9 say it in no other way.
    async fn set_clock(&self) -> Result<(), BackendError> {
        let subject = format!("{}.leases.clock", self.settings.prefix);
        let asked = Instant::now();
        let stored = self.publish(&subject, PublishMessage::build()).await?;
        let answered = Instant::now();
        let Some(last) = self.last(&self.streams.leases, &subject).await? else {
            // It was deleted just now, and the next time comes.
            return Ok(());
        };
        let is_ours = stored.is_some_and(|stored| stored.sequence == last.sequence);
        let answered = if is_ours { answered } else { Instant::now() };
        self.clock.sample(last.time, asked, answered);
        Ok(())
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

    /// What a call answers, in time. While the connection is lost, requests wait for the next one. Where the server has
    /// lost the streams, they are made again, and then so is the call, which has done nothing. Where a cluster chooses a
    /// leader, the call waits for it.
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
                match self.streams.make(self, made).await {
                    Err(error) if !is_leaderless(&error) => return Err(error),
                    _ => {}
                }
                pause = Some(backoff.pause());
            }
        };
        deadline::in_time(self.settings.timeout, answer).await
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

    /// Stores a message and returns what the server says about it, or `None` where the subject has not the
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

/// Asks the server for the time again and again, and when there is a new connection: it may be to another server.
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
                // The clock goes on as it did.
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

/// An error of the server that has no other words.
pub(super) fn refused(status: StatusCode, description: Option<&str>) -> BackendError {
    let description = description.unwrap_or("it gives no reason");
    BackendError::unavailable(format!("the server has answered {status}: {description}"))
}
