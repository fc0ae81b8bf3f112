//! Adapters for many machines, which share a PostgreSQL database.
//!
//! ```no_run
//! use tower_promises_postgres::PostgresDatabase;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On each machine:
//! let database = PostgresDatabase::connect("postgres://app@db.internal/app").await?;
//! let backend = database.backend();
//! let revision = backend.store().put("greeting", "hello".into(), None).await?;
//! # let _ = revision;
//! # Ok(())
//! # }
//! ```
//!
//! # When to use it
//!
//! For a service that has a PostgreSQL database already, and wants no message broker. A write takes one round trip and
//! one commit. Concurrent writes of one process share round trips and commits. For one machine without a database server,
//! use `tower-promises-sqlite`. For many machines with a NATS server, `tower-promises-nats` has shorter delays.
//!
//! # Durability
//!
//! | event | values and envelopes | messages and changes |
//! |---|---|---|
//! | a restart, a crash or `kill -9` of a process | all that were written | messages and changes that the process had not received are lost |
//! | a restart of the server | the same | none are lost; calls fail meanwhile |
//! | a crash of the server, loss of power | all that were acknowledged, unless `synchronous_commit` or `fsync` is off | listeners and watchers get an error |
//! | the loss of the server, with a replica that takes its place | all that were acknowledged, if `synchronous_standby_names` is set; otherwise those that the replica had received ([failover](#failover)) | listeners and watchers get an error |
//!
//! # Failover
//!
//! A replica of the server that is promoted continues with the values, envelopes, leases and known ids that it has received.
//!
//! 1. With asynchronous replication, the default of PostgreSQL, it may lack the last commits that were acknowledged: values
//!    then have earlier revisions, envelopes that were enqueued are lost, and envelopes that had ended are delivered again.
//!    With `synchronous_standby_names`, a write waits until a replica has received it. Promote that replica. While none
//!    answers, writes fail with [`TimedOut`], and may take effect later. Reads and messages go on.
//! 2. After commits were lost, the server assigns their revisions again. Restart all processes then, because one that ran
//!    before may hold a revision that now belongs to another value. Leases have random tokens: a lost one fits no delivery.
//! 3. Give the processes an address that leads to the primary server: a name, a virtual address, or a proxy. sqlx connects to
//!    one host, and knows no `target_session_attrs`.
//! 4. Calls fail until the address leads to the new primary server. Then they succeed without a restart, workers go on, and
//!    leases continue. Listeners and watchers get an error, and listen again.
//! 5. [`connect`] and [`open`] refuse a replica. If an address leads a running process to a replica, calls fail at once with an
//!    error that says so, and close their connections. So each connection to a replica fails once after the address has
//!    changed. [`get`] and [`list`] answer with what the replica has received.
//! 6. Logical replication does not copy sequences: advance those of the schema before the new server is used.
//! 7. Stop the old primary server before the replica is promoted, and never start it as a primary server again. What it still
//!    acknowledges is lost.
//!
//! # Rules
//!
//! 1. The server is PostgreSQL 13 or later, and the encoding of the database is UTF8. The adapters are tested with
//!    version 15.
//! 2. The tables are in a [schema](PostgresBuilder::schema) that belongs to this crate alone. [`connect`] and [`open`]
//!    create and migrate it, under a lock, so that many processes can start at once. A new version of this crate migrates
//!    the schema, which older versions then refuse when they start. Processes of the older version that run already
//!    continue to work if the changelog does not say otherwise.
//! 3. Each process opens the database once and clones the [`Backend`].
//! 4. The adapters need a tokio runtime with time enabled. Calls, listeners and watchers use the runtime in which the
//!    database was opened, because the connections belong to it.
//! 5. A call is one statement, in a transaction of its own or together with other calls. The adapters hold no transaction
//!    open.
//!
//! # Transactions
//!
//! The [backend](PostgresDatabase::backend) can write in a transaction of the application, over a connection of the
//! application's own pool: a [`Transactional`](tower_promises_backend::Transactional) backend. The task of an order, for
//! example, then exists if and only if the order does.
//!
//! ```no_run
//! use tower_promises_backend::{ApplicationConnection, Envelope};
//! use tower_promises_postgres::PostgresDatabase;
//! use tower_promises_postgres::sqlx::{self, PgPool};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = PgPool::connect("postgres://app@db.internal/app").await?;
//! let backend = PostgresDatabase::open(pool.clone()).await?.backend();
//!
//! let mut transaction = pool.begin().await?;
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
//! 1. The tables of the application are in the same database. The connection is a `PgConnection` of sqlx 0.9, such as
//!    `&mut *transaction`, or an owned `Transaction<'static, Postgres>`, in a transaction that sqlx has begun. Savepoints,
//!    the nested transactions of sqlx, work as expected.
//! 2. A transaction holds locks on the keys and ids that it writes. Other writes of the same keys wait for its end, for at
//!    most their [timeout](PostgresBuilder::timeout), together with the writes that share their statement. Other writes do
//!    not wait.
//! 3. A failure of the server, such as a lock that is waited for too long, ends the transaction, as every failure in a
//!    transaction of PostgreSQL does. [`BackendError::Conflict`] says that it may be repeated, also if another process has
//!    enqueued the same id meanwhile.
//! 4. The notification to workers, watchers and listeners is part of the transaction, and is sent with its commit.
//!
//! # Sizing
//!
//! A call uses one connection at a time, and calls of one kind, such as writes or reads of values, at most two, whatever
//! their number. A pool of one connection suffices, and more than ten are seldom useful. A process with listeners, watchers
//! or workers has one more connection, for notifications. A waiting worker and a feed of messages or changes cost a
//! statement a second.
//!
//! A commit waits for the disk of the server. The throughput of a process is therefore that of the disk times the number
//! of calls that share a commit, up to 128. Changes of one key take turns. A worker takes and settles as many envelopes at a
//! time as are ready. A settlement waits up to a millisecond for others. If the process takes envelopes meanwhile, both
//! share a commit: if the take fails, the worker settles again. So more handlers make it faster, and so does a
//! [`prefetch`](tower_promises_backend::WorkOptions::prefetch) of some dozens if they take less than a few milliseconds. With a
//! prefetch of 100, an envelope costs the server about a third of the processor time that it costs without one with 16
//! handlers.
//!
//! The tables of envelopes and values have dead rows, which autovacuum removes. It is configured to do so early. A busy
//! process also runs `VACUUM` for the two tables of envelopes that are to be delivered, about once for 8,192 calls and for
//! at most a twentieth of the time, if its role owns them and its pool has more than one connection. A transaction that
//! stays open for hours, in any database of the server, keeps dead rows from being removed: each take then passes the
//! entries of envelopes that are gone. It also keeps messages from being deleted.
//!
//! # PgBouncer
//!
//! The adapters work behind PgBouncer in every mode: they use no prepared statements, no settings of a session, and no
//! locks of a session. Notifications do not arrive through the modes `transaction` and `statement`. A process detects
//! that and polls at the [poll interval](PostgresBuilder::poll_interval). [`notify(false)`](PostgresBuilder::notify) saves
//! the attempt, which is repeated every five minutes. `default_pool_size` may be 1.
//!
//! # Notifications
//!
//! `NOTIFY` only wakes: what is announced is in a table. Notifications are sent after the commit of what they announce,
//! by at most one statement at a time for each process, because PostgreSQL serialises the commits of all transactions that
//! notify. A notification that is lost costs up to a second.
//!
//! # Clocks
//!
//! Leases, delays, times to live and all ages use the clock of the server. The clocks of the machines do not matter. A
//! change of the clock of the server is not detected: leases and times to live that run at that time are then wrong by the
//! step. An envelope without a delay is due, whatever the clock shows.
//!
//! # Limits
//!
//! [`PostgresBuilder`] sets the maximum sizes of values and messages, the number and age of the messages and changes that
//! are retained for other processes, and the maximum size and number of envelopes. In each process at most 1024 writes
//! of each kind are queued. Further writes wait for room. The number of values is not bounded: give them times to live.
//! Writes delete expired values, up to 1000 at a time, and envelopes that ended before the
//! [window](PostgresBuilder::deduplication_window). After each second or 512 calls of a process, the next 1000 envelopes are
//! looked at, in turn, so a large table keeps ended envelopes for longer than the window. Their ids are known only during
//! the window.
//!
//! # Cancel safety
//!
//! A change is one statement, which the server executes completely or not at all. A future that is dropped while it waits
//! for its turn has no effect. If it is dropped later, its statement runs to its end in a task. No transaction stays open,
//! and no connection returns to the pool with an answer that belongs to another call. A statement that exceeds the
//! [timeout](PostgresBuilder::timeout) may take effect later; its connection is closed.
//!
//! # Panics
//!
//! Without a tokio runtime, calls fail. In a runtime without time enabled, they panic.
//!
//! # Security
//!
//! A role that can write the schema can forge anything for every process. Statements contain their arguments: a server
//! or a pool that logs statements logs values too. The pool of [`connect`] logs none. TLS is a feature of sqlx, such as
//! `tls-rustls-ring-native-roots`, which the application chooses in its own dependency on sqlx; the URL then sets
//! `sslmode=verify-full`.
//!
//! # Rust version
//!
//! This package needs Rust 1.94, because sqlx 0.9 does. The packages that use a backend work with older versions.
//!
//! [`connect`]: PostgresDatabase::connect
//! [`open`]: PostgresDatabase::open
//! [`get`]: tower_promises_backend::Store::get
//! [`list`]: tower_promises_backend::Store::list
//! [`TimedOut`]: BackendError::TimedOut

mod announcements;
mod batches;
mod builder;
mod bus;
mod database;
mod feed;
mod notices;
mod observe;
mod queue;
mod receipts;
mod refused;
mod room;
mod schema;
mod snapshot;
mod statement;
mod store;
mod sweep;
mod transaction;
mod vacuum;
mod wakes;

pub use builder::PostgresBuilder;
pub use bus::PostgresBus;
pub use queue::PostgresQueue;
pub use sqlx;
pub use store::PostgresStore;

use announcements::Announcements;
use batches::{Batches, Call};
use builder::Settings;
use bus::{Messages, Publication};
use database::Database;
use feed::Feed;
use notices::Notices;
use queue::Shared;
use room::Room;
use sqlx::PgPool;
use std::fmt;
use std::sync::Arc;
use store::{Changes, Read, Update};
use sweep::Sweep;
use tower_promises_backend::{Backend, BackendError};
use wakes::Wakes;

/// An open database, and the adapters that use it. Clones are cheap and share the pool of connections, which closes when
/// the last clone, adapter and listener are dropped, unless the application has it too.
#[derive(Clone)]
pub struct PostgresDatabase {
    database: Arc<Database>,
    messages: Arc<Feed<Messages>>,
    publications: Arc<Batches<Publication>>,
    changes: Arc<Feed<Changes>>,
    reads: Arc<Batches<Read>>,
    updates: Arc<Batches<Update>>,
    queue: Arc<Shared>,
    /// The name of a table that no other database has.
    identity: Arc<str>,
}

impl PostgresDatabase {
    /// Connects to a server with the default settings, and creates or migrates the schema.
    ///
    /// Cancel safety: that of [`PostgresBuilder::connect`].
    ///
    /// # Errors
    ///
    /// Those of [`PostgresBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, BackendError> {
        Self::builder().connect(url).await
    }

    /// Opens the database of a pool that the application has, with the default settings.
    ///
    /// Cancel safety: that of [`PostgresBuilder::connect`].
    ///
    /// # Errors
    ///
    /// Those of [`PostgresBuilder::connect`].
    pub async fn open(pool: PgPool) -> Result<Self, BackendError> {
        Self::builder().open(pool).await
    }

    /// Returns a builder for other settings.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::new()
    }

    async fn open_with(pool: PgPool, settings: Settings) -> Result<Self, BackendError> {
        schema::check_name(&settings)?;
        let (bus_capacity, watch_capacity) = (settings.bus_capacity, settings.watch_capacity);
        let wakes = Wakes::new(&settings);
        let database = Arc::new(Database::new(pool, settings));
        let identity = schema::migrate(&database).await?;
        let announcements = Announcements::new(database.clone(), wakes);
        let notices = Notices::new(database.clone(), announcements.clone());
        let sweep = Sweep::new(database.clone());
        let parts = (&database, &announcements, &sweep);
        let queue = Shared {
            database: database.clone(),
            notices: notices.clone(),
            room: Room::new(database.clone()),
            additions: batches(parts),
            renewals: batches(parts),
            settlements: batches(parts),
        };
        Ok(Self {
            messages: Feed::new(database.clone(), notices.clone(), bus_capacity),
            publications: batches(parts),
            changes: Feed::new(database.clone(), notices, watch_capacity),
            reads: batches(parts),
            updates: batches(parts),
            queue: Arc::new(queue),
            database,
            identity: identity.into(),
        })
    }

    /// Returns all adapters as a backend, which can also write in [transactions of the application](self#transactions).
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::new(self.store(), self.bus(), self.queue()).transactional(self.clone())
    }

    /// Returns the store. All stores of a database share one task for their watchers.
    #[must_use]
    pub fn store(&self) -> PostgresStore {
        PostgresStore::new(
            self.database.clone(),
            self.changes.clone(),
            self.reads.clone(),
            self.updates.clone(),
        )
    }

    /// Returns the bus. All buses of a database share one task for their listeners.
    #[must_use]
    pub fn bus(&self) -> PostgresBus {
        PostgresBus::new(
            self.database.clone(),
            self.messages.clone(),
            self.publications.clone(),
        )
    }

    /// Returns the queue.
    #[must_use]
    pub fn queue(&self) -> PostgresQueue {
        PostgresQueue::new(self.queue.clone())
    }
}

fn batches<C: Call>(
    (database, announcements, sweep): (&Arc<Database>, &Arc<Announcements>, &Arc<Sweep>),
) -> Arc<Batches<C>> {
    Batches::new(database.clone(), announcements.clone(), sweep.clone())
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDatabase")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
