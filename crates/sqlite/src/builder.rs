use super::SqliteDatabase;
use std::path::PathBuf;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity, rows,
};

const SHORTEST_BUSY_TIMEOUT: Duration = Duration::from_millis(1);

/// SQLite counts milliseconds in 31 bits.
const LONGEST_BUSY_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// The limit of SQLite itself is about a billion bytes for a whole row.
const LARGEST: usize = 256 * 1024 * 1024;

/// Opens a [`SqliteDatabase`] with settings other than the defaults.
///
/// Processes that share a file should have the same settings. If their retentions differ, the shortest applies.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_promises_sqlite::SqliteDatabase;
///
/// # async fn open() -> Result<(), tower_promises_backend::BackendError> {
/// let backend = SqliteDatabase::builder("/var/lib/app/shared.db")
///     .poll_interval(Duration::from_millis(5))
///     .flush_writes(true)
///     .open()
///     .await?
///     .backend();
/// # let _ = backend;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "`open` opens the database"]
pub struct SqliteBuilder {
    path: PathBuf,
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) poll_interval: Duration,
    pub(super) busy_timeout: Duration,
    pub(super) flush_writes: bool,
    pub(super) is_shared: bool,
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
    pub(super) fn retention_milliseconds(&self) -> i64 {
        i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn window_milliseconds(&self) -> i64 {
        let window = i64::try_from(self.deduplication_window.as_millis());
        window.unwrap_or(i64::MAX)
    }
}

impl SqliteBuilder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            settings: Settings {
                poll_interval: Duration::from_millis(20),
                busy_timeout: Duration::from_secs(5),
                flush_writes: false,
                is_shared: false,
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

    /// Sets how often this process polls for writes of other processes, by default 20 ms. The interval is the maximum
    /// delay of their messages, changes and envelopes. Writes of this process arrive at once. The process polls only
    /// while it has listeners, watchers or workers, and up to 16 times as often just after it has written or found
    /// something, when an answer is likely. Waiting workers share these more frequent polls. At least a millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets how long a call waits for a lock that another process holds, by default 5 seconds. A call that takes longer
    /// fails with [`BackendError::TimedOut`] and writes nothing. With other calls of this process before it, a call may
    /// wait twice as long. Reads wait for no lock, except for the first read after the clock of the machine was set,
    /// which begins with a write. [`watch`](tower_promises_backend::Store::watch) begins with a write, too. The value is
    /// clamped to 1 ms to 24 days.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout.clamp(SHORTEST_BUSY_TIMEOUT, LONGEST_BUSY_TIMEOUT);
        self
    }

    /// Sets whether a write resolves only when it has reached the disk, by default no.
    ///
    /// In both cases, writes survive any end of the process, and the file stays intact. If not set, a crash of the
    /// machine or a loss of power may undo the last writes. If set, each write costs a flush of the disk, which often
    /// takes a hundred times as long.
    pub fn flush_writes(mut self, flush: bool) -> Self {
        self.settings.flush_writes = flush;
        self
    }

    /// Sets whether the file may also have tables of the application, by default no. Then the application can write to
    /// its own tables and to this database in [one transaction](super#transactions).
    ///
    /// The names of the tables, indexes, triggers and views of this crate begin with `promises_`. The header of the file
    /// stays the application's, with its `application_id` and `user_version`, unless this crate has created the file
    /// without this setting. The file is switched to a write-ahead log, also for the application.
    pub fn share_file(mut self, share: bool) -> Self {
        self.settings.is_shared = share;
        self
    }

    /// Sets the maximum size of a value in bytes, by default 256 KiB. At most 256 MiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = bytes.min(LARGEST);
        self
    }

    /// Sets the maximum size of a bus message in bytes, by default 64 KiB. At most 256 MiB.
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

    /// Sets how many messages are retained in the file for other processes, by default 4096, which is at most 256 MiB
    /// with the default sizes. At least 1. Temporarily there may be 64 more for each process that writes.
    pub fn retained_messages(mut self, messages: usize) -> Self {
        self.settings.retained_messages = rows(messages).max(1);
        self
    }

    /// Sets how many changes are retained in the file for other processes, by default 1024, which is at most 256 MiB
    /// with the default sizes. Changes are written there only while a process watches the store, and for a minute after.
    /// At least 1. Temporarily there may be 64 more for each process that writes.
    pub fn retained_changes(mut self, changes: usize) -> Self {
        self.settings.retained_changes = rows(changes).max(1);
        self
    }

    /// Sets how long messages and changes are retained in the file, by default 60 seconds. A process that did not run
    /// for longer, because its machine slept or a debugger stopped it, is notified of missed messages and changes. A
    /// later write deletes them, except for the newest.
    pub fn retention(mut self, time: Duration) -> Self {
        self.settings.retention = time;
        self
    }

    /// Sets the maximum number of envelopes in all queues together, by default 100,000, which is at most 25 GiB with
    /// the default sizes. A further envelope fails with [`BackendError::Full`]. Envelopes that have ended do not count.
    pub fn max_envelopes(mut self, envelopes: usize) -> Self {
        self.settings.max_envelopes = rows(envelopes);
        self
    }

    /// Sets the maximum size of the payload of an envelope in bytes, by default 256 KiB. At most 256 MiB.
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

    /// Opens the database, and creates it if it does not exist, on Unix with permissions for its owner only.
    ///
    /// Cancel safety: if the future is dropped before it resolves, a new file may have been created.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] if the path is not that of a file (in-memory databases are not supported), or if
    /// the file cannot be read and written, belongs to another application, or was written by a newer version of this
    /// crate with another schema. The sources of the error give the reason. Never [`BackendError::TimedOut`]: a lock
    /// that is held for too long is `Unavailable` too.
    pub async fn open(self) -> Result<SqliteDatabase, BackendError> {
        SqliteDatabase::open_with(&self.path, self.settings).await
    }
}
