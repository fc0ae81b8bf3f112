use super::NatsBackend;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::LONGEST;
use tower_promises_backend::kit::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity,
};
use async_nats::Client;
use std::time::Duration;

/// What the names of streams and subjects start with.
const DEFAULT_PREFIX: &str = "tower-promises";

/// How long a call waits for the server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a worker waits for envelopes before it asks the server again.
const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How often what is over is deleted from the server.
const DEFAULT_SWEEP_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How many envelopes there are at most.
const DEFAULT_MAX_ENVELOPES: u64 = 1_000_000;

const SHORTEST: Duration = Duration::from_millis(1);

/// The server's own least window.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

/// Opens a [`NatsBackend`] with other than the default settings.
///
/// Settings of streams ([`replicas`](Self::replicas), [`in_memory`](Self::in_memory),
/// [`deduplication_window`](Self::deduplication_window), [`max_values`](Self::max_values) and
/// [`max_envelopes`](Self::max_envelopes)) are those of the process that creates them, or that makes them again when the
/// server has lost them. Other processes take them as they are. The tools of NATS change them.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_promises_nats::{NatsBackend, async_nats};
///
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// let client = async_nats::connect("nats.internal:4222").await?;
/// let backend = NatsBackend::builder(client)
///     .prefix("shop")
///     .replicas(3)
///     .timeout(Duration::from_secs(2))
///     .open()
///     .await?
///     .backend();
/// # let _ = backend;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "`open` opens the backend"]
pub struct NatsBuilder {
    client: Client,
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) prefix: String,
    pub(super) replicas: usize,
    pub(super) in_memory: bool,
    pub(super) timeout: Duration,
    pub(super) poll_interval: Duration,
    pub(super) sweep_interval: Duration,
    pub(super) deduplication_window: Duration,
    pub(super) max_value_bytes: usize,
    pub(super) max_message_bytes: usize,
    pub(super) max_envelope_bytes: usize,
    pub(super) max_values: Option<u64>,
    pub(super) max_envelopes: u64,
    pub(super) bus_capacity: usize,
    pub(super) watch_capacity: usize,
}

impl NatsBuilder {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            settings: Settings {
                prefix: DEFAULT_PREFIX.to_owned(),
                replicas: 1,
                in_memory: false,
                timeout: DEFAULT_TIMEOUT,
                poll_interval: DEFAULT_POLL_INTERVAL,
                sweep_interval: DEFAULT_SWEEP_INTERVAL,
                deduplication_window: DEFAULT_DEDUPLICATION_WINDOW,
                max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
                max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                max_envelope_bytes: DEFAULT_MAX_ENVELOPE_BYTES,
                max_values: None,
                max_envelopes: DEFAULT_MAX_ENVELOPES,
                bus_capacity: DEFAULT_BUS_CAPACITY,
                watch_capacity: DEFAULT_WATCH_CAPACITY,
            },
        }
    }

    /// What the names of streams and subjects start with, default [`DEFAULT_PREFIX`]. Applications that share a
    /// server without sharing a backend have different ones. Letters, digits, `-` and `_`, at most 100.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.prefix = prefix.into();
        self
    }

    /// On how many servers of a cluster the streams are kept, default 1. It is at least 1 and at most 5; with 3
    /// the backend survives the loss of one server.
    pub fn replicas(mut self, servers: usize) -> Self {
        self.settings.replicas = servers.clamp(1, 5);
        self
    }

    /// Whether streams are kept in the server's memory instead of on its disk, default no. Then nothing survives a
    /// restart of the server, or of all that have a replica; empty streams are made again.
    pub fn in_memory(mut self, in_memory: bool) -> Self {
        self.settings.in_memory = in_memory;
        self
    }

    /// How long a call waits for the server, default [`DEFAULT_TIMEOUT`]. While the connection is lost, calls wait
    /// for the next one. Then it is [`BackendError::TimedOut`]. Only [`take`](tower_promises_backend::Queue::take) waits
    /// longer, for envelopes. It is at least a millisecond.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.settings.timeout = time.clamp(SHORTEST, LONGEST);
        self
    }

    /// How long a worker waits for envelopes before it asks the server again, default
    /// [`DEFAULT_POLL_INTERVAL`]. Envelopes are delivered at once, and a worker that was connected again asks within
    /// half a second. While a worker waits, the server says each second that it does, or twice in the interval if that is
    /// shorter; a worker that hears nothing for two and a half seconds asks again. It is at least a millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.clamp(SHORTEST, LONGEST);
        self
    }

    /// How often what is over is deleted from the server, default [`DEFAULT_SWEEP_INTERVAL`]: values whose time to
    /// live is over, marks of deletions, and records of envelopes that have ended. They stay for one more
    /// interval. One process at a time reads the keys of all values for that, and all such records. It is at
    /// least a millisecond; choose it longer than a worker can stand still.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.settings.sweep_interval = interval.clamp(SHORTEST, LONGEST);
        self
    }

    /// For how long the id of an envelope is known after it was enqueued, default
    /// [`DEFAULT_DEDUPLICATION_WINDOW`]. The server keeps the ids in memory. It is at least 100 ms.
    pub fn deduplication_window(mut self, time: Duration) -> Self {
        self.settings.deduplication_window = time.clamp(SHORTEST_WINDOW, LONGEST);
        self
    }

    /// How many bytes a value may have, default [`DEFAULT_MAX_VALUE_BYTES`]. For this and the next two the server
    /// has a limit too, by default a mebibyte; of it 8 KiB are for headers. The lower one counts.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = bytes;
        self
    }

    /// How many bytes a message of the bus may have, default [`DEFAULT_MAX_MESSAGE_BYTES`].
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// How many bytes the payload of an envelope may have, default [`DEFAULT_MAX_ENVELOPE_BYTES`].
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_envelope_bytes = bytes;
        self
    }

    /// How many values there are at most, those that are over included until a [sweep](Self::sweep_interval) has
    /// deleted them. A new one more is [`BackendError::Full`]; those that are there can be replaced and deleted. By
    /// default the limits of the server alone count.
    ///
    /// It is a number because the server keeps it exactly. To keep a limit on the bytes of a stream, servers of 2.9
    /// delete the oldest messages, though told not to.
    pub fn max_values(mut self, values: u64) -> Self {
        self.settings.max_values = Some(values);
        self
    }

    /// How many envelopes there are in all queues at most, default [`DEFAULT_MAX_ENVELOPES`]: those that are queued,
    /// delayed or leased. More are [`BackendError::Full`].
    pub fn max_envelopes(mut self, envelopes: u64) -> Self {
        self.settings.max_envelopes = envelopes;
        self
    }

    /// How many messages are kept in memory for a listener that falls behind, default
    /// [`DEFAULT_BUS_CAPACITY`]: with the default sizes at most 64 MiB. It is at least one and may be rounded
    /// up; more than a million is a million.
    pub fn bus_capacity(mut self, messages: usize) -> Self {
        self.settings.bus_capacity = capacity(messages);
        self
    }

    /// How many changes are kept in memory for a watcher that falls behind, default
    /// [`DEFAULT_WATCH_CAPACITY`]: with the default sizes at most 64 MiB. It is at least one and may be
    /// rounded up; more than a million is a million.
    pub fn watch_capacity(mut self, changes: usize) -> Self {
        self.settings.watch_capacity = capacity(changes);
        self
    }

    /// Opens the backend, and creates its streams if they do not exist.
    ///
    /// Cancel safety: dropped before it resolves, streams may have been created.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] where the prefix is not valid. [`BackendError::TimedOut`] and
    /// [`BackendError::Unavailable`] where the server does not answer, has no JetStream, or refuses to create a
    /// stream; the sources of the error say which.
    pub async fn open(self) -> Result<NatsBackend, BackendError> {
        NatsBackend::open_with(self.client, self.settings).await
    }
}
