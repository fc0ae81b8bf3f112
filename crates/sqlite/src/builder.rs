use super::SqliteDatabase;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity,
};
use std::path::PathBuf;
use std::time::Duration;

/// How often a process looks for what others have written, while somebody listens.
const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a call waits for a lock.
const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many messages are kept in the file for other processes.
const DEFAULT_RETAINED_MESSAGES: u32 = 4096;

/// How many changes are kept in the file for other processes.
const DEFAULT_RETAINED_CHANGES: u32 = 1024;

/// How long messages and changes are kept in the file for other processes.
const DEFAULT_RETENTION: Duration = Duration::from_secs(60);

/// How many envelopes there are at most.
const DEFAULT_MAX_ENVELOPES: u32 = 100_000;

const SHORTEST_BUSY_TIMEOUT: Duration = Duration::from_millis(1);

/// SQLite counts milliseconds in 31 bits.
const LONGEST_BUSY_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// SQLite's own limit is about a billion for a whole row.
const LARGEST: usize = 256 * 1024 * 1024;

/// Opens a [`SqliteDatabase`] with other than the default settings.
///
/// Processes that share a file should have the same settings. Where retentions differ, the shortest counts.
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
                poll_interval: DEFAULT_POLL_INTERVAL,
                busy_timeout: DEFAULT_BUSY_TIMEOUT,
                flush_writes: false,
                max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
                max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                bus_capacity: DEFAULT_BUS_CAPACITY,
                watch_capacity: DEFAULT_WATCH_CAPACITY,
                retained_messages: DEFAULT_RETAINED_MESSAGES,
                retained_changes: DEFAULT_RETAINED_CHANGES,
                retention: DEFAULT_RETENTION,
                max_envelopes: DEFAULT_MAX_ENVELOPES,
                max_envelope_bytes: DEFAULT_MAX_ENVELOPE_BYTES,
                deduplication_window: DEFAULT_DEDUPLICATION_WINDOW,
            },
        }
    }

    /// How often this process looks for what other processes have written, default
    /// [`DEFAULT_POLL_INTERVAL`]. It is how late their messages, changes and envelopes arrive at most; those of this
    /// process arrive at once. It looks only while somebody listens, watches or works, and up to 16 times as
    /// often just after it has written or found something, when an answer is likely. Workers that wait share these more
    /// frequent looks. It is at least a millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// How long a call waits for a lock that another process holds, default [`DEFAULT_BUSY_TIMEOUT`]. Then
    /// it is [`BackendError::TimedOut`], and nothing was written. With other calls of this process before it,
    /// a call may wait twice as long. Reads wait for no lock, except for the first after the clock of the machine was set,
    /// which is a write before it is a read. It is at least a millisecond, and at most 24 days.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout.clamp(SHORTEST_BUSY_TIMEOUT, LONGEST_BUSY_TIMEOUT);
        self
    }

    /// Whether a write resolves only when the disk has it, default no.
    ///
    /// In either case what was written survives the end of the process, however it ends, and the file stays
    /// whole. Without it a crash of the machine or a loss of power may undo the last writes; with it each
    /// write costs a flush of the disk, which is often a hundred times as long.
    pub fn flush_writes(mut self, flush: bool) -> Self {
        self.settings.flush_writes = flush;
        self
    }

    /// How many bytes a value may have, default [`DEFAULT_MAX_VALUE_BYTES`], at most 256 MiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = bytes.min(LARGEST);
        self
    }

    /// How many bytes a message of the bus may have, default [`DEFAULT_MAX_MESSAGE_BYTES`], at most 256 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes.min(LARGEST);
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

    /// How many messages are kept in the file for other processes, default [`DEFAULT_RETAINED_MESSAGES`]:
    /// with the default sizes at most 256 MiB. At least one is. For a while there may be 64 more for each
    /// process that writes.
    pub fn retained_messages(mut self, messages: u32) -> Self {
        self.settings.retained_messages = messages.max(1);
        self
    }

    /// How many changes are kept in the file for other processes, default [`DEFAULT_RETAINED_CHANGES`]: with
    /// the default sizes at most 256 MiB. At least one is. For a while there may be 64 more for each process
    /// that writes.
    pub fn retained_changes(mut self, changes: u32) -> Self {
        self.settings.retained_changes = changes.max(1);
        self
    }

    /// How long messages and changes are kept in the file, default [`DEFAULT_RETENTION`]. A process that did
    /// not run for that long, because its machine slept or a debugger held it, is told that it has
    /// missed some. They are deleted with a later write, the newest excepted.
    pub fn retention(mut self, time: Duration) -> Self {
        self.settings.retention = time;
        self
    }

    /// How many envelopes there are in all queues at most, default [`DEFAULT_MAX_ENVELOPES`]: with the default
    /// sizes at most 25 GiB. More are [`BackendError::Full`]. Those that have ended do not count.
    pub fn max_envelopes(mut self, envelopes: u32) -> Self {
        self.settings.max_envelopes = envelopes;
        self
    }

    /// How many bytes the payload of an envelope may have, default [`DEFAULT_MAX_ENVELOPE_BYTES`], at most
    /// 256 MiB.
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_envelope_bytes = bytes.min(LARGEST);
        self
    }

    /// For how long the id of an envelope is known after it has ended, default
    /// [`DEFAULT_DEDUPLICATION_WINDOW`]. Then it is deleted with a later write.
    pub fn deduplication_window(mut self, time: Duration) -> Self {
        self.settings.deduplication_window = time;
        self
    }

    /// Opens the database, and creates it if it does not exist: on Unix readable and writable for its owner
    /// alone.
    ///
    /// Cancel safety: dropped before it resolves, a new file may have been created.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] where the path is not that of a file (databases in memory are not
    /// supported), where the file cannot be read and written, belongs to another application, or was written
    /// by a newer version of this crate with another schema. The sources of the error say which.
    /// [`BackendError::TimedOut`] never: a lock held for too long is `Unavailable` too.
    pub async fn open(self) -> Result<SqliteDatabase, BackendError> {
        SqliteDatabase::open_with(&self.path, self.settings).await
    }
}
