use super::PostgresDatabase;
use super::refused::{OpenError, Refused};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use std::str::FromStr;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity, rows,
};

/// Shorter calls would fail on a busy server.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// Longer calls would keep messages and changes from being deleted.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The server accepts statements of a gigabyte, in which bytes take two digits each.
const LARGEST: usize = 64 * 1024 * 1024;

/// A connection that was idle for longer is tested before it is used.
const TRUSTED: Duration = Duration::from_secs(1);

/// Opens a [`PostgresDatabase`] with settings other than the defaults.
///
/// Processes that share a schema should have the same settings. If their retentions differ, the shortest applies.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_promises_postgres::PostgresDatabase;
///
/// # async fn connect() -> Result<(), tower_promises_backend::BackendError> {
/// let backend = PostgresDatabase::builder()
///     .schema("shop_work")
///     .max_connections(20)
///     .timeout(Duration::from_secs(5))
///     .connect("postgres://shop@db.internal/shop")
///     .await?
///     .backend();
/// # let _ = backend;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "`connect` and `open` open the database"]
pub struct PostgresBuilder {
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) schema: String,
    pub(super) max_connections: u32,
    pub(super) timeout: Duration,
    pub(super) notify: bool,
    pub(super) poll_interval: Duration,
    pub(super) max_value_bytes: usize,
    pub(super) max_message_bytes: usize,
    pub(super) bus_capacity: usize,
    pub(super) watch_capacity: usize,
    pub(super) retained_messages: u32,
    pub(super) retained_changes: u32,
    pub(super) retention: Duration,
    pub(super) max_envelopes: u32,
    pub(super) max_envelope_bytes: usize,
    pub(super) deduplication_window: Duration,
}

impl Settings {
    /// Opens a pool of connections that work through a pooler, and are tested if they were idle.
    fn pool(&self, options: PgConnectOptions) -> PgPool {
        // A pooler refuses the parameter, and no statement of this package returns such a number. A pooler need not
        // support prepared statements either, of which this package has none.
        let options = options
            .extra_float_digits(None)
            .statement_cache_capacity(0)
            .disable_statement_logging();
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.timeout * 2)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    if metadata.idle_for > TRUSTED {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options)
    }
}

impl Default for PostgresBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl PostgresBuilder {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings {
                schema: "tower_promises".to_owned(),
                max_connections: 10,
                timeout: Duration::from_secs(10),
                notify: true,
                poll_interval: Duration::from_millis(100),
                max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
                max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                bus_capacity: DEFAULT_BUS_CAPACITY,
                watch_capacity: DEFAULT_WATCH_CAPACITY,
                retained_messages: 4096,
                retained_changes: 1024,
                retention: Duration::from_secs(60),
                max_envelopes: 100_000,
                max_envelope_bytes: DEFAULT_MAX_ENVELOPE_BYTES,
                deduplication_window: DEFAULT_DEDUPLICATION_WINDOW,
            },
        }
    }

    #[cfg(test)]
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets the schema, by default `tower_promises`. It is created if it does not exist. Processes with different schemas
    /// share nothing. The name has 1 to 63 lower-case letters of ASCII, digits and underscores, begins with a letter, and
    /// not with `pg_`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.settings.schema = name.into();
        self
    }

    /// Sets the maximum number of connections of the pool that [`connect`](Self::connect) opens, by default 10 and at
    /// least 1. A call uses one connection at a time, and concurrent writes share a connection. A process with listeners,
    /// watchers or workers has one more connection, which is not in the pool, unless [`notify`](Self::notify) is off.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.settings.max_connections = connections.max(1);
        self
    }

    /// Sets how long the database has for a statement, together with the wait for a connection, by default 10 seconds. A
    /// call that takes longer fails with [`BackendError::TimedOut`], or with an error that says that there was no
    /// connection. With other calls of this process before it, a call may take twice as long. The value is clamped to
    /// 100 ms to an hour.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
        self
    }

    /// Sets whether the process uses `LISTEN` and `NOTIFY`, by default yes. All processes of a schema should have the same
    /// setting.
    ///
    /// If it does not, or if notifications do not arrive because a pooler such as PgBouncer in transaction mode is in
    /// between, the process polls at the [poll interval](Self::poll_interval).
    pub fn notify(mut self, notify: bool) -> Self {
        self.settings.notify = notify;
        self
    }

    /// Sets how often this process polls if it gets no notifications, by default 100 ms. The interval is the maximum delay
    /// of messages, changes and envelopes of other processes. The process polls only while it has listeners, watchers or
    /// workers, and up to 16 times as often just after it has written or found something, when an answer is likely. With
    /// notifications it polls once a second, in case that one was lost. At least a millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the maximum size of a value in bytes, by default 256 KiB. At most 64 MiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = bytes.min(LARGEST);
        self
    }

    /// Sets the maximum size of a bus message in bytes, by default 64 KiB. At most 64 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes.min(LARGEST);
        self
    }

    /// Sets how many messages are buffered in memory for a listener that falls behind, by default 1024, which is at
    /// most 64 MiB with the default sizes. The value is clamped to 1 to 1,000,000 and may be rounded up.
    pub fn bus_capacity(mut self, messages: usize) -> Self {
        self.settings.bus_capacity = capacity(messages);
        self
    }

    /// Sets how many changes are buffered in memory for a watcher that falls behind, by default 256, which is at most
    /// 64 MiB with the default sizes. The value is clamped to 1 to 1,000,000 and may be rounded up.
    pub fn watch_capacity(mut self, changes: usize) -> Self {
        self.settings.watch_capacity = capacity(changes);
        self
    }

    /// Sets how many messages are retained in the database for other processes, by default 4096, which is at most 256 MiB
    /// with the default sizes. At least 1. Between two sweeps, which follow writes about once a second, and while a
    /// transaction of the server is older than the messages, there may be more.
    pub fn retained_messages(mut self, messages: usize) -> Self {
        self.settings.retained_messages = rows(messages).max(1);
        self
    }

    /// Sets how many changes are retained in the database for other processes, by default 1024, which is at most 256 MiB
    /// with the default sizes. At least 1. There may be more, as for [messages](Self::retained_messages).
    pub fn retained_changes(mut self, changes: usize) -> Self {
        self.settings.retained_changes = rows(changes).max(1);
        self
    }

    /// Sets how long messages and changes are retained in the database, by default 60 seconds. A process that did not run
    /// for longer, because its machine slept or a debugger stopped it, is notified of missed messages and changes.
    pub fn retention(mut self, time: Duration) -> Self {
        self.settings.retention = time;
        self
    }

    /// Sets the maximum number of envelopes in all queues together, by default 100,000, which is at most 25 GiB with the
    /// default sizes. A further envelope fails with [`BackendError::Full`]. Envelopes that have ended do not count. Each
    /// process counts again every ten seconds, or every second if the number is near the limit, so several processes may
    /// exceed it by what they enqueue meanwhile.
    pub fn max_envelopes(mut self, envelopes: usize) -> Self {
        self.settings.max_envelopes = rows(envelopes);
        self
    }

    /// Sets the maximum size of the payload of an envelope in bytes, by default 256 KiB. At most 64 MiB.
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_envelope_bytes = bytes.min(LARGEST);
        self
    }

    /// Sets how long the id of an envelope is known after it has ended, by default 2 minutes. A later write then
    /// deletes it.
    pub fn deduplication_window(mut self, time: Duration) -> Self {
        self.settings.deduplication_window = time;
        self
    }

    /// Connects to a server, and creates or migrates the schema. The address is a URL such as
    /// `postgres://user:password@host:5432/database`. The connections belong to a new pool.
    ///
    /// Processes that connect at once migrate one after the other. A schema that is up to date needs no permission to
    /// create anything.
    ///
    /// Cancel safety: if the future is dropped before it resolves, the schema may have been created.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] if the address or the name of the schema is invalid, or if the server cannot be
    /// reached, is read-only or older than version 13, if the encoding of the database is not UTF8, if the role may not
    /// create the schema, or if a newer version of this crate has migrated it. The sources of the error give the reason.
    /// [`BackendError::TimedOut`] if the server does not answer in time.
    pub async fn connect(self, url: &str) -> Result<PostgresDatabase, BackendError> {
        let options = PgConnectOptions::from_str(url).map_err(|error| {
            BackendError::unavailable(OpenError {
                schema: self.settings.schema.clone(),
                refused: Refused::Sql(error),
            })
        })?;
        let pool = self.settings.pool(options);
        PostgresDatabase::open_with(pool, self.settings).await
    }

    /// Opens the database of a pool that the application has, and creates or migrates the schema. The pool may be smaller
    /// than the number of concurrent calls, which then wait for each other.
    ///
    /// Cancel safety: as with [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub async fn open(self, pool: PgPool) -> Result<PostgresDatabase, BackendError> {
        PostgresDatabase::open_with(pool, self.settings).await
    }
}
