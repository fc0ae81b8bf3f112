//! The streams of a backend. They are created again if the server has lost them.

use super::builder::Settings;
use super::observe;
use async_nats::jetstream::context::{
    GetStreamError, PublishError, PublishErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, ConsumerError, ConsumerErrorKind, DiscardPolicy, Info, LastRawMessageErrorKind,
    RawMessageError, Republish, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use futures_util::future::try_join_all;
use serde::Serialize;
use serde_json::Value;
use std::error::Error;
use std::iter::successors;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The token before the number of the incarnation in the destination of changes. Streams of older versions do not have
/// it.
const INCARNATION: &str = "i";

/// How long to wait for an answer about a stream before the request is repeated.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The streams of a backend: their names and their state.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) values: Stream<()>,
    pub(super) envelopes: Stream<()>,
    envelopes_name: String,
    pub(super) leases: Stream<()>,
    /// How long the stream of envelopes knows an id. Another process may have created the stream, with another setting.
    window: StdMutex<Duration>,
    /// How often the streams were created or found.
    made: AtomicU64,
    /// Locked while the streams are created, so that concurrent calls create them once.
    making: Mutex<()>,
}

impl Streams {
    pub(super) async fn new(context: &Context, settings: &Settings) -> Result<Self, BackendError> {
        let stream = async |name: &str| {
            let name = format!("{}-{name}", settings.prefix);
            let stream: Result<_, GetStreamError> = context.get_stream_no_info(name).await;
            stream.map_err(BackendError::unavailable)
        };
        Ok(Self {
            values: stream("store").await?,
            envelopes: stream("queue").await?,
            envelopes_name: format!("{}-queue", settings.prefix),
            leases: stream("leases").await?,
            window: StdMutex::new(settings.deduplication_window),
            made: AtomicU64::new(0),
            making: Mutex::new(()),
        })
    }

    /// The name of the stream of envelopes.
    pub(super) fn envelopes_name(&self) -> &str {
        &self.envelopes_name
    }

    pub(super) fn window(&self) -> Duration {
        *lock(&self.window)
    }

    /// How often the streams were created or found. State that depends on them is created again when the number changes.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Creates the missing streams, unless another call has done so since number `seen`.
    pub(super) async fn make(
        &self,
        context: &Context,
        settings: &Settings,
        seen: u64,
    ) -> Result<(), BackendError> {
        let _making = self.making.lock().await;
        if self.made() != seen {
            return Ok(());
        }
        let configs = configs(settings);
        let make = configs.iter().map(|config| create(context, config));
        let made = try_join_all(make).await?;
        for (info, is_new) in made {
            if is_new && seen > 0 {
                observe::stream_made_again(&info.config.name);
            }
            if info.config.retention == RetentionPolicy::WorkQueue {
                *lock(&self.window) = info.config.duplicate_window;
            }
        }
        self.made.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

/// Creates a stream if it does not exist. Returns whether it was created.
async fn create(context: &Context, config: &Config) -> Result<(Info, bool), BackendError> {
    let name = &config.name;
    let found = async || ask(context, format!("STREAM.INFO.{name}"), &()).await;
    match found().await? {
        Response::Ok(info) => return Ok((info, false)),
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
        Response::Err { error } => return Err(BackendError::unavailable(error)),
    }
    // The client sets the first sequence only with a feature that requires new servers, so the request is sent without
    // it.
    let mut request = serde_json::to_value(config).map_err(BackendError::unavailable)?;
    if let Value::Object(config) = &mut request {
        config.insert("first_seq".to_owned(), incarnation_now().into());
    }
    match ask(context, format!("STREAM.CREATE.{name}"), &request).await? {
        Response::Ok(info) => Ok((info, true)),
        // Another process was faster.
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
            match found().await? {
                Response::Ok(info) => Ok((info, false)),
                Response::Err { error } => Err(BackendError::unavailable(error)),
            }
        }
        Response::Err { error } => Err(BackendError::unavailable(error)),
    }
}

/// Requests information about a stream. A cluster that is choosing a leader may not answer, so the request is repeated
/// until the call that needs the stream times out.
async fn ask(
    context: &Context,
    subject: String,
    request: &impl Serialize,
) -> Result<Response<Info>, BackendError> {
    loop {
        let answer = context.request(subject.clone(), request);
        if let Ok(answer) = timeout(ANSWER_TIME, answer).await {
            return answer.map_err(BackendError::unavailable);
        }
    }
}

/// The number for streams that are created now. It is higher than the sequences in all earlier streams, because no
/// stream receives a message every microsecond.
fn incarnation_now() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(1).max(1)
}

/// The incarnation of the stream that publishes a change to a subject. Zero for streams of older versions.
pub(super) fn incarnation(subject: &str) -> u64 {
    // The prefix is one token, and may be equal to [`INCARNATION`].
    let mut tokens = subject.split('.').skip(1);
    let is_numbered = tokens.next() == Some("changes") && tokens.next() == Some(INCARNATION);
    let number = tokens.next().filter(|_| is_numbered);
    number.and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// The incarnation of the stream of values.
pub(super) fn incarnation_of(info: &Info) -> u64 {
    let republish = info.config.republish.as_ref();
    republish.map_or(0, |republish| incarnation(&republish.destination))
}

/// Whether the error means that a stream does not exist, or that no server has it at present. The call had no effect
/// then.
pub(super) fn is_missing(error: &BackendError) -> bool {
    is_leaderless(error)
        || causes(error).any(|error| {
            if let Some(error) = error.downcast_ref::<PublishError>() {
                return error.kind() == PublishErrorKind::StreamNotFound;
            }
            if let Some(error) = error.downcast_ref::<RequestError>() {
                return error.kind() == RequestErrorKind::NoResponders;
            }
            code(error) == Some(ErrorCode::STREAM_NOT_FOUND)
        })
}

/// Whether the error means that a cluster is choosing a leader.
pub(super) fn is_leaderless(error: &BackendError) -> bool {
    causes(error).any(|error| code(error) == Some(ErrorCode::CLUSTER_NOT_AVAILABLE))
}

/// Whether the server has refused the request although the streams exist.
pub(super) fn is_refused(error: &BackendError) -> bool {
    matches!(error, BackendError::Full)
        || (!is_missing(error) && causes(error).any(|error| code(error).is_some()))
}

fn causes(error: &BackendError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(error.source(), |error| (*error).source())
}

/// The error code of the server. Some errors of the client have it in their source, others in their kind.
fn code(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    if let Some(error) = error.downcast_ref::<jetstream::Error>() {
        return Some(error.error_code());
    }
    if let Some(error) = error.downcast_ref::<RawMessageError>()
        && let LastRawMessageErrorKind::JetStream(error) = error.kind()
    {
        return Some(error.error_code());
    }
    if let Some(error) = error.downcast_ref::<ConsumerError>()
        && let ConsumerErrorKind::JetStream(error) = error.kind()
    {
        return Some(error.error_code());
    }
    None
}

/// The streams for values, envelopes and leases.
fn configs(settings: &Settings) -> [Config; 3] {
    let prefix = &settings.prefix;
    let stream = |name: &str, subject: &str| Config {
        name: format!("{prefix}-{name}"),
        subjects: vec![format!("{prefix}.{name}.{subject}")],
        storage: if settings.in_memory {
            StorageType::Memory
        } else {
            StorageType::File
        },
        num_replicas: settings.replicas,
        // A full stream refuses new messages instead of deleting old ones.
        discard: DiscardPolicy::New,
        max_bytes: -1,
        max_messages: -1,
        ..Default::default()
    };
    // To the server, a value below one means no limit.
    let limit = |messages: usize| i64::try_from(messages.max(1)).unwrap_or(-1);
    let incarnation = incarnation_now();
    let values = Config {
        max_messages_per_subject: 1,
        max_messages: settings.max_values.map_or(-1, limit),
        // A refused message is not republished. A subscription to the subjects themselves would receive it.
        republish: Some(Republish {
            source: format!("{prefix}.store.>"),
            destination: format!("{prefix}.changes.{INCARNATION}.{incarnation}.>"),
            headers_only: false,
        }),
        ..stream("store", "*")
    };
    let envelopes = Config {
        retention: RetentionPolicy::WorkQueue,
        max_messages: limit(settings.max_envelopes),
        duplicate_window: settings.deduplication_window,
        ..stream("queue", "*.*")
    };
    let leases = Config {
        max_messages_per_subject: 1,
        ..stream("leases", "*")
    };
    [values, envelopes, leases]
}
