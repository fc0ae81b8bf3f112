//! Adapters for the processes of one machine: a file of SQLite is what they share, and it survives them.
//!
//! ```
//! use tower_promises_backend::Backend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("shared.db");
//! // In each process:
//! let backend = Backend::sqlite(path).await?;
//! let revision = backend.store().put("greeting", "hello".into(), None).await?;
//! assert_eq!(revision.get(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # When to use it
//!
//! For a service that runs as one or a few processes on one machine and must not forget what it stored when it is
//! restarted, without a server to install. A write takes a fraction of a millisecond; all writes to a file take turns,
//! and those of one process that come at the same time share a commit. What another process writes is heard within the
//! [poll interval](SqliteBuilder::poll_interval), 20 ms by default, and sooner while both are busy. For one process
//! that may forget, the [`memory`](super::memory) adapters are faster; for several machines SQLite is not made.
//!
//! # What survives what
//!
//! | | values and envelopes | messages and changes |
//! |---|---|---|
//! | a restart, a crash or `kill -9` of a process | all that were written | those that it had yet to hear are not heard |
//! | a crash of the machine, loss of power | all but perhaps the last; all with [`flush_writes`](SqliteBuilder::flush_writes) | the same |
//! | the file is deleted or replaced | none | none; listeners and watchers get an error |
//!
//! # Rules
//!
//! 1. The file belongs to this crate alone. One that has other tables, or a newer schema, is refused. A new
//!    version of this crate brings it to its own schema, which an older one refuses afterwards.
//! 2. It is on a local disk. The write-ahead log needs memory that processes share, so network file systems
//!    are **not** supported, nor are two containers on two machines. Beside the file `x` there are `x-wal` and
//!    `x-shm`: copy a database with the backup command of SQLite, not file by file while it is in use.
//! 3. Each process opens a file once and clones the [`Backend`] from then on. Each [`SqliteDatabase`] has a
//!    thread that writes, up to four that read, and one each for listeners and watchers. Each worker
//!    of a queue that waits looks with every poll interval, and more often while its process is busy.
//! 4. It needs a runtime of tokio with time enabled; outside of one, writes and subscriptions are errors. New
//!    messages and changes are looked for by a task in the runtime of the first who listens. It ends with the last
//!    listener, or with that runtime, and then the streams of all listeners end.
//!
//! # Clocks
//!
//! Leases, delays, times to live and all ages go by a clock of the database: that of the machine, corrected by what is in
//! the file. A process that sees the machine's clock run otherwise than its own monotonic clock, by more than a tenth of
//! a second, corrects it before its next call, for all processes. So a clock that is set forward ends no lease and no
//! value early, and one that is set back delays nothing: an envelope without delay is due, whatever the clock. Where no
//! process has the file open meanwhile, the clock of the database goes on at the latest time that it has shown, or at a
//! later one if the machine's says so. A process that opens the file between such a step and the next call of any other
//! believes the machine until that call, which corrects the clock for all processes and for those that come later. What
//! has no delay is due then too; leases and times to live that the new process began meanwhile are off by the step.
//! Time in which the machine sleeps does not count on systems whose monotonic clock
//! stands still then, as that of Linux.
//!
//! # Limits
//!
//! [`SqliteBuilder`] has the settings: values and messages have a largest size, and the messages and changes that are
//! kept for others a number and an age. Envelopes have a largest size and number. In each process at most 1024 writes
//! are in the queue; more wait before it, none for longer than twice the [busy timeout](SqliteBuilder::busy_timeout).
//! The number of values is not bounded: give them times to live. Those that are over are deleted as others are written,
//! up to 1000 at a time, as are envelopes that ended before the [window](SqliteBuilder::deduplication_window). The file
//! does not shrink; what was deleted makes room for what comes.
//!
//! # Cancel safety
//!
//! A change is one statement, which SQLite does as a whole or not at all; those that come at the same time are
//! committed together. A future that is dropped while it waits for its turn has done nothing; dropped later, its
//! statement runs to its end. No transaction stays open.
//!
//! # Panics
//!
//! [`SqliteBuilder::open`], [`Backend::sqlite`], [`SqliteQueue::take`](super::Queue::take) and the task for
//! listeners use tokio's timers, which panic in a runtime without time; listeners then hear nothing more, and
//! their streams end.
//!
//! # Security
//!
//! The file holds all values in the clear, and deleted ones until their room is used again. On Unix a new file is
//! readable and writable for its owner alone; the permissions of one that exists stay as they are. For
//! several users, create it empty, with permissions of your choice, in a directory that they can write.
//! Whoever can write the file can make every process believe anything: never open one from elsewhere.
//!
//! # Rust version
//!
//! sqlx 0.9 needs Rust 1.94, so this feature does, though the rest of the crate is content with an older one.

mod builder;
mod bus;
mod clock;
mod connections;
mod feed;
mod file;
mod observe;
mod queue;
mod refused;
mod schema;
mod store;
mod sweep;
mod writer;

pub use builder::SqliteBuilder;
pub use bus::SqliteBus;
pub use queue::SqliteQueue;
pub use store::SqliteStore;

use tower_promises_backend::{Backend, BackendError};
use builder::Settings;
use bus::Messages;
use connections::Connections;
use feed::Feed;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Changes;
use tokio::sync::watch;

/// An open database, from which the adapters come. Clones are cheap and share its connections. They are closed
/// with the last clone, adapter and listener.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    connections: Arc<Connections>,
    messages: Arc<Feed<Messages>>,
    changes: Arc<Feed<Changes>>,
    due: Arc<watch::Sender<()>>,
}

impl SqliteDatabase {
    /// Opens a database with the default settings, and creates it if it does not exist.
    ///
    /// Cancel safety: dropped before it resolves, a new file may have been created.
    ///
    /// # Errors
    ///
    /// Those of [`SqliteBuilder::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        Self::builder(path).open().await
    }

    /// Opens a database with other settings.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteBuilder {
        SqliteBuilder::new(path.into())
    }

    async fn open_with(path: &Path, settings: Settings) -> Result<Self, BackendError> {
        let (bus_capacity, watch_capacity) = (settings.bus_capacity, settings.watch_capacity);
        let connections = Arc::new(Connections::open(path, settings).await?);
        Ok(Self {
            messages: Feed::new(connections.clone(), bus_capacity),
            changes: Feed::new(connections.clone(), watch_capacity),
            due: Arc::new(watch::Sender::new(())),
            connections,
        })
    }

    /// All that it has, as a backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::new(self.store(), self.bus(), self.queue())
    }

    /// Its store. All stores of a database share one task for their watchers.
    #[must_use]
    pub fn store(&self) -> SqliteStore {
        SqliteStore::new(self.connections.clone(), self.changes.clone())
    }

    /// Its bus. All buses of a database share one task for their listeners.
    #[must_use]
    pub fn bus(&self) -> SqliteBus {
        SqliteBus::new(self.connections.clone(), self.messages.clone())
    }

    /// Its queue.
    #[must_use]
    pub fn queue(&self) -> SqliteQueue {
        SqliteQueue::new(self.connections.clone(), self.due.clone())
    }
}
