use super::NatsBackend;
use async_nats::Client;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::LONGEST;
use tower_promises_backend::kit::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity,
};

const SHORTEST: Duration = Duration::from_millis(1);

/// The shortest window that the server accepts.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

/// Opens a [`NatsBackend`] with settings other than the defaults.
///
/// Settings of streams ([`replicas`](Self::replicas), [`in_memory`](Self::in_memory),
/// [`deduplication_window`](Self::deduplication_window), [`max_values`](Self::max_values) and
/// [`max_envelopes`](Self::max_envelopes)) apply when a process creates the streams, or creates them again after the
/// server has lost them. Other processes use the streams as they are. Change existing streams with the tools of NATS.
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
    pub(super) pull_expiry: Duration,
    pub(super) sweep_interval: Duration,
    pub(super) max_value_bytes: usize,
    pub(super) max_message_bytes: usize,
    pub(super) bus_capacity: usize,
    pub(super) watch_capacity: usize,
    pub(super) max_values: Option<usize>,
    pub(super) max_envelopes: usize,
    pub(super) max_envelope_bytes: usize,
    pub(super) deduplication_window: Duration,
}

impl NatsBuilder {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            settings: Settings {
                prefix: "tower-promises".to_owned(),
                replicas: 1,
                in_memory: false,
                timeout: Duration::from_secs(5),
                pull_expiry: Duration::from_secs(5),
                sweep_interval: Duration::from_secs(5 * 60),
                max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
                max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                bus_capacity: DEFAULT_BUS_CAPACITY,
                watch_capacity: DEFAULT_WATCH_CAPACITY,
                max_values: None,
                max_envelopes: 100_000,
                max_envelope_bytes: DEFAULT_MAX_ENVELOPE_BYTES,
                deduplication_window: DEFAULT_DEDUPLICATION_WINDOW,
            },
        }
    }

    /// Sets the prefix of the names of streams and subjects, by default `tower-promises`. Applications that share a
    /// server but not a backend need different prefixes. A prefix has 1 to 100 letters, digits, `-` and `_`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.prefix = prefix.into();
        self
    }

    /// Sets the number of servers of a cluster that store the streams, by default 1. The value is clamped to 1 to 5.
    /// With 3, the backend survives the loss of one server.
    pub fn replicas(mut self, servers: usize) -> Self {
        self.settings.replicas = servers.clamp(1, 5);
        self
    }

    /// Sets whether the streams are in the server's memory instead of on its disk, by default no. In memory, nothing
    /// survives a restart of the server, or of all servers with a replica. Empty streams are then created again.
    pub fn in_memory(mut self, in_memory: bool) -> Self {
        self.settings.in_memory = in_memory;
        self
    }

    /// Sets how long a call waits for the server, by default 5 seconds. While the connection is lost, calls wait for
    /// the next connection. A call that takes longer fails with [`BackendError::TimedOut`]. Only
    /// [`take`](tower_promises_backend::Queue::take) waits longer, for envelopes. At least a millisecond.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.settings.timeout = time.clamp(SHORTEST, LONGEST);
        self
    }

    /// Sets how long the server keeps the pull request of a worker that waits for envelopes, by default 5 seconds. Then
    /// the worker sends another request. The setting delays nothing: envelopes are delivered at once, and after a
    /// reconnection a worker sends another request within half a second. While a worker waits, the server sends a
    /// heartbeat each second, or twice in this time if that is shorter. A worker that receives nothing for two and a half
    /// seconds sends another request. At least a millisecond.
    pub fn pull_expiry(mut self, time: Duration) -> Self {
        self.settings.pull_expiry = time.clamp(SHORTEST, LONGEST);
        self
    }

    /// Sets how often expired messages are deleted from the server, by default 5 minutes: values whose time to live has
    /// ended, markers of deletions, and records of envelopes that have ended. They stay for one more interval. For
    /// this, one process at a time reads the keys of all values and all such records. At least a millisecond. Choose an
    /// interval that is longer than a worker can be suspended.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.settings.sweep_interval = interval.clamp(SHORTEST, LONGEST);
        self
    }

    /// Sets the maximum size of a value in bytes, by default 256 KiB. The server also limits values, bus messages and
    /// envelopes, by default to 1 MiB, of which 8 KiB are reserved for headers. The lower limit applies.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = bytes;
        self
    }

    /// Sets the maximum size of a bus message in bytes, by default 64 KiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Sets how many messages are buffered for a listener that falls behind, by default 1024, which is at most 64 MiB
    /// with the default sizes. The value is clamped to 1 to 1,000,000 and may be rounded up.
    pub fn bus_capacity(mut self, messages: usize) -> Self {
        self.settings.bus_capacity = capacity(messages);
        self
    }

    /// Sets how many changes are buffered for a watcher that falls behind, by default 256, which is at most 64 MiB with
    /// the default sizes. The value is clamped to 1 to 1,000,000 and may be rounded up.
    pub fn watch_capacity(mut self, changes: usize) -> Self {
        self.settings.watch_capacity = capacity(changes);
        self
    }

    /// Sets the maximum number of values. Expired values count until a [sweep](Self::sweep_interval) deletes them. A
    /// further value fails with [`BackendError::Full`], while existing values can be replaced and deleted. By default
    /// only the limits of the server apply.
    ///
    /// The limit is a number of values because the server enforces it exactly. To enforce a limit on the bytes of a
    /// stream, servers of version 2.9 delete the oldest messages, although the stream is configured to refuse new ones.
    pub fn max_values(mut self, values: usize) -> Self {
        self.settings.max_values = Some(values);
        self
    }

    /// Sets the maximum number of envelopes in all queues together, by default 100,000, which is at most 25 GiB with the
    /// default sizes. Queued, delayed and leased envelopes count. A further envelope fails with [`BackendError::Full`].
    pub fn max_envelopes(mut self, envelopes: usize) -> Self {
        self.settings.max_envelopes = envelopes;
        self
    }

    /// Sets the maximum size of the payload of an envelope in bytes, by default 256 KiB.
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_envelope_bytes = bytes;
        self
    }

    /// Sets how long the id of an envelope is known after it was enqueued, by default 2 minutes. The server holds the
    /// ids in memory. At least 100 ms.
    pub fn deduplication_window(mut self, time: Duration) -> Self {
        self.settings.deduplication_window = time.clamp(SHORTEST_WINDOW, LONGEST);
        self
    }

    /// Opens the backend, and creates missing streams.
    ///
    /// Cancel safety: if the future is dropped before it resolves, streams may have been created.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] if the prefix is invalid. [`BackendError::TimedOut`] or
    /// [`BackendError::Unavailable`] if the server does not answer, has no JetStream, or refuses to create a stream.
    /// The sources of the error give the reason.
    pub async fn open(self) -> Result<NatsBackend, BackendError> {
        NatsBackend::open_with(self.client, self.settings).await
    }
}
