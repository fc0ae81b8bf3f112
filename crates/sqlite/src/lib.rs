//! Adapters for the processes of one machine, which share an SQLite file.
//!
//! ```
//! use tower_promises_sqlite::SqliteDatabase;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("shared.db");
//! // In each process:
//! let backend = SqliteDatabase::open(path).await?.backend();
//! let revision = backend.store().put("greeting", "hello".into(), None).await?;
//! assert_eq!(revision.get(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # When to use it
//!
//! For a service that runs as one or a few processes on one machine and must keep its state across restarts, without a
//! server to install. A write takes a fraction of a millisecond. All writes to a file take turns, and concurrent writes
//! of one process share a commit. Writes of other processes arrive within the [poll
//! interval](SqliteBuilder::poll_interval), 20 ms by default, and sooner while both processes are busy. For one process
//! that needs no persistence, the [`memory`](tower_promises_backend::memory) adapters are faster. SQLite cannot be
//! shared by several machines.
//!
//! # Durability
//!
//! | | values and envelopes | messages and changes |
//! |---|---|---|
//! | a restart, a crash or `kill -9` of a process | all that were written | messages and changes that the process had not received are lost |
//! | a crash of the machine, loss of power | all except perhaps the last; all with [`flush_writes`](SqliteBuilder::flush_writes) | the same |
//! | the file is deleted or replaced | none | none; listeners and watchers get an error |
//!
//! # Rules
//!
//! 1. The file belongs to this crate alone, unless the application [shares](SqliteBuilder::share_file) it. A file that
//!    has other tables, or a newer schema, is refused. A new version of this crate migrates its tables to its own
//!    schema, which older versions then refuse.
//! 2. The file is on a local disk. The write-ahead log needs memory that the processes share, so network file systems
//!    are **not** supported, nor are containers on different machines. SQLite creates `x-wal` and `x-shm` next to the
//!    file `x`. Copy a database that is in use with the backup command of SQLite, not file by file.
//! 3. Each process opens a file once and clones the [`Backend`]. Each [`SqliteDatabase`] has one thread for writes, up
//!    to four for reads, and one each for listeners and watchers. A worker that waits for envelopes polls its queue at
//!    the poll interval, and more often while its process is busy.
//! 4. The adapters need a tokio runtime with time enabled. Outside of a runtime, writes and subscriptions fail. A task
//!    in the runtime of the first listener or watcher polls for new messages or changes. It ends when the last of them
//!    is dropped, or with that runtime. The streams of all of them then end.
//!
//! # Transactions
//!
//! The [backend](SqliteDatabase::backend) can write in a transaction of the application, over a connection of the
//! application's own pool: a [`Transactional`](tower_promises_backend::Transactional) backend. The task of an order, for
//! example, then exists if and only if the order does.
//!
//! ```
//! use tower_promises_sqlite::sqlx::{self, sqlite::{SqliteConnectOptions, SqlitePool}};
//! use tower_promises_backend::{ApplicationConnection, Envelope};
//! use tower_promises_sqlite::SqliteDatabase;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("shop.db");
//! let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
//! let pool = SqlitePool::connect_with(options).await?;
//! sqlx::query("CREATE TABLE orders (item TEXT)").execute(&pool).await?;
//! let backend = SqliteDatabase::builder(path).share_file(true).open().await?.backend();
//!
//! let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
//! sqlx::query("INSERT INTO orders VALUES ('tea')").execute(&mut *transaction).await?;
//! // What `submit(task).within(&mut *transaction)` of `tower-promises-tasks` does:
//! let mut joined = backend.join(ApplicationConnection::new(&mut *transaction)).await?;
//! joined.enqueue(Envelope::new("mails", "confirm/tea", "ada@example.org".into())).await?;
//! joined.finish().await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! 1. The tables of the application are in the same file. A transaction over two files, one of which is attached, is
//!    refused: with a write-ahead log, SQLite commits each file by itself, and a crash could separate them.
//! 2. The connection is a `SqliteConnection` of sqlx 0.9, such as `&mut *transaction`, or an owned
//!    `Transaction<'static, Sqlite>`, in a transaction that sqlx has begun, with `begin` or `begin_with`. Savepoints,
//!    the nested transactions of sqlx, work as expected.
//! 3. Begin the transaction with `BEGIN IMMEDIATE`. It then waits for other writers, up to the busy timeout of its
//!    connection. A deferred transaction that has read and then writes fails at once with
//!    [`BackendError::Conflict`] if another connection writes, or has written since: roll it back and begin again.
//! 4. From its first write on, a transaction holds the only lock for writes. All writes of this crate, in all processes,
//!    wait for its commit, for at most their busy timeout. So await nothing slow in between. Reads do not wait.
//! 5. After the commit, workers, watchers and listeners find the writes with their next poll, also in the process of the
//!    transaction: at most one [poll interval](SqliteBuilder::poll_interval) later, and within a few milliseconds if the
//!    commit follows at once.
//! 6. Whether the commit survives a loss of power depends on the `synchronous` setting of the application's connection.
//!
//! # Clocks
//!
//! Leases, delays, times to live and all ages use a clock of the database: the clock of the machine, plus a correction
//! that is stored in the file. If a process detects that the clock of the machine deviates from its own monotonic clock
//! by more than a tenth of a second, it corrects the clock of the database before its next call, for all processes. So
//! setting the clock forward ends no lease and no value early, and setting it back delays nothing: an envelope without
//! a delay is due, whatever the clock shows. If no process has the file open meanwhile, the clock of the database
//! continues at the latest time that it has shown, or at the time of the machine if that is later. A process that opens
//! the file after such a step, but before the next call of any process that had the file open, uses the clock of the
//! machine until that call. The call corrects the clock for all processes, and for processes that open the file later.
//! An envelope without a delay is due then too. Leases and times to live that the new process started meanwhile are
//! wrong by the step. While the machine sleeps, no time counts on systems whose monotonic clock stops, such as Linux.
//!
//! # Limits
//!
//! [`SqliteBuilder`] sets the maximum sizes of values and messages, the number and age of the messages and changes that
//! are retained for other processes, and the maximum size and number of envelopes. In each process at most 1024 writes
//! are queued. Further writes wait for room, for at most twice the [busy timeout](SqliteBuilder::busy_timeout). The
//! number of values is not bounded: give them times to live. Writes delete expired values, envelopes that ended
//! before the [window](SqliteBuilder::deduplication_window), and messages and changes that are not retained, up to 1000 of
//! each at a time. The file does not shrink, but the space of deleted entries is reused.
//!
//! # Cancel safety
//!
//! A change is one statement, which SQLite executes completely or not at all. Concurrent changes are committed
//! together. A future that is dropped while it waits for its turn has no effect. If it is dropped later, its statement
//! runs to its end. No transaction stays open.
//!
//! # Panics
//!
//! [`SqliteBuilder::open`], [`SqliteDatabase::open`], [`SqliteQueue::take`](tower_promises_backend::Queue::take) and
//! the task for listeners use tokio's timers, which panic in a runtime without time enabled. The streams of listeners
//! then end.
//!
//! # Security
//!
//! The file contains all values in plain text, and deleted values until their space is reused. On Unix, a new file is
//! readable and writable for its owner only, and the permissions of an existing file are not changed. To share a file
//! between users, create it empty, with permissions of your choice, in a directory to which all of them can write. A
//! user that can write the file can forge anything for every process: never open a file from an untrusted source.
//!
//! # Rust version
//!
//! This package needs Rust 1.94, because sqlx 0.9 does. The packages that use a backend work with older versions.

mod builder;
mod bus;
mod clock;
mod connections;
mod database;
mod feed;
mod file;
mod migrations;
mod observe;
mod queue;
mod refused;
mod savepoint;
mod schema;
mod store;
mod sweep;
mod tables;
mod transaction;
mod writer;

pub use builder::SqliteBuilder;
pub use bus::SqliteBus;
pub use queue::SqliteQueue;
pub use sqlx;
pub use store::SqliteStore;

use builder::Settings;
use bus::Messages;
use connections::Connections;
use feed::Feed;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Changes;
use tokio::sync::watch;
use tower_promises_backend::{Backend, BackendError};

/// An open database, and the adapters that use it. Clones are cheap and share the connections, which close when the
/// last clone, adapter and listener are dropped.
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
    /// Cancel safety: if the future is dropped before it resolves, a new file may have been created.
    ///
    /// # Errors
    ///
    /// Those of [`SqliteBuilder::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        Self::builder(path).open().await
    }

    /// Returns a builder for other settings.
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

    /// Returns all adapters as a backend, which can also write in [transactions of the application](self#transactions).
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::new(self.store(), self.bus(), self.queue()).transactional(self.clone())
    }

    /// Returns the store. All stores of a database share one task for their watchers.
    #[must_use]
    pub fn store(&self) -> SqliteStore {
        SqliteStore::new(self.connections.clone(), self.changes.clone())
    }

    /// Returns the bus. All buses of a database share one task for their listeners.
    #[must_use]
    pub fn bus(&self) -> SqliteBus {
        SqliteBus::new(self.connections.clone(), self.messages.clone())
    }

    /// Returns the queue.
    #[must_use]
    pub fn queue(&self) -> SqliteQueue {
        SqliteQueue::new(self.connections.clone(), self.due.clone())
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
