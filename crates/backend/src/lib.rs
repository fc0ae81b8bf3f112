//! Ports to the state that processes share: a bus for messages, a store for small values, a queue for work.
//!
//! `tower-promises` re-exports this crate as `tower_promises::backend`, with its feature of the same name.
//!
//! Signals, operations and tasks depend on these three traits only. An adapter implements one or all of them for a
//! database or a message broker. Code that uses the traits works with every adapter.
//!
//! | port | purpose | one process | one machine ([`tower-promises-sqlite`](https://docs.rs/tower-promises-sqlite)) | several ([`tower-promises-postgres`](https://docs.rs/tower-promises-postgres)) | several ([`tower-promises-nats`](https://docs.rs/tower-promises-nats)) |
//! |---|---|---|---|---|---|
//! | [`Bus`] | messages to every listener, at most once | [`memory::MemoryBus`] | `SqliteBus` | `PostgresBus` | `NatsBus` |
//! | [`Store`] | values with revisions and compare-and-set | [`memory::MemoryStore`] | `SqliteStore` | `PostgresStore` | `NatsStore` |
//! | [`Queue`] | envelopes, delivered until handled | [`memory::MemoryQueue`] | `SqliteQueue` | `PostgresQueue` | `NatsQueue` |
//! | [`Transactional`] | the same in a transaction of the application | | `SqliteDatabase` | `PostgresDatabase` | |
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use tower_promises_backend::{Backend, CompareAndSet};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_promises_backend::BackendError> {
//! let backend = Backend::memory();
//!
//! // One of several machines takes the lease.
//! let lease = Some(Duration::from_secs(30));
//! let taken = backend.store().compare_and_set("leader", None, "machine 1".into(), lease).await?;
//! assert!(matches!(taken, CompareAndSet::Set(_)));
//! let taken = backend.store().compare_and_set("leader", None, "machine 2".into(), lease).await?;
//! assert_eq!(taken, CompareAndSet::Conflict);
//! # Ok(())
//! # }
//! ```
//!
//! # Choice of a backend
//!
//! | | memory | SQLite | PostgreSQL | NATS JetStream |
//! |---|---|---|---|---|
//! | for | one process, tests | the processes of one machine | many machines that share a database | many machines |
//! | needs | nothing | a local disk | PostgreSQL 13 or later | `nats-server` 2.9 or later with JetStream |
//! | survives a crash of the process | nothing | everything | everything | everything |
//! | survives a loss of power | nothing | all but the last writes; with `flush_writes` all | everything | all but the last writes of each server; with `replicas` everything |
//! | survives the loss of a machine | nothing | nothing | with a synchronous replica everything | with `replicas` everything |
//! | a write waits for | nothing | a file | a round trip and a flush of the server's disk | a round trip |
//! | other processes learn of it | | after up to 20 ms | with a notification, after about a round trip; behind PgBouncer after up to 100 ms | after about a round trip |
//! | throughput is bounded by | the processor | one writer at a time | commits a second, times the calls that share one | the server |
//! | for short handlers, [`prefetch`](WorkOptions::prefetch) | saves little | saves writes | saves commits | saves round trips |
//! | leave it when | there is a second process, or a restart must lose nothing | there is a second machine | the load of the database hurts its other users | no machine should run a broker, or work must be submitted within a transaction of a database |
//!
//! `cargo bench -p benches --bench backends` measures all of them.
//!
//! # Rules
//!
//! 1. The store is authoritative. A bus may lose messages, so its users also read the store periodically: a lost
//!    message costs time, not correctness.
//! 2. Each method documents its behaviour when two machines call it at once. The suites in `conformance` (feature
//!    `conformance`) check this behaviour. Adapters that pass the suites are interchangeable.
//! 3. Keys, topics, prefixes, queues and ids follow one rule in all adapters: [`check_name`].
//!
//! # Cancel safety
//!
//! Every future may be dropped at any time. A change that was in progress may or may not have taken effect.
//!
//! # Panics
//!
//! [`Queue::work`], and [`Queue::take`] of the memory queue, need a tokio runtime with timers and may panic without
//! one. The other calls of the memory adapters need no runtime. The packages of the other adapters document their
//! requirements.
//!
//! # Security
//!
//! A process with access to the backend can read and write everything in it: keep the backend in a trusted network. The
//! adapters limit sizes and the amount of stored data.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
#[doc(hidden)]
pub mod kit;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;

mod bus;
mod error;
mod handler;
#[cfg(not(feature = "metrics"))]
mod metrics;
mod observe;
mod queue;
mod store;
mod transaction;
mod worker;

pub use bus::{Bus, BusEvent, BusStream};
pub use error::BackendError;
pub use futures_util::future::BoxFuture;
pub use futures_util::stream::BoxStream;
pub use handler::{Delivery, Handler, Lease, Outcome};
pub use queue::{Capabilities, Enqueued, Envelope, Priority, Queue, Receipt, Taken};
pub use store::{Change, CompareAndSet, Entry, Listed, Page, Revision, Store, WatchStream};
pub use transaction::{ApplicationConnection, JoinedTransaction, Transactional};
pub use worker::WorkOptions;

/// A boxed error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

use memory::{MemoryBus, MemoryQueue, MemoryStore};
use std::fmt;
use std::sync::Arc;

/// The maximum size of a key, topic, queue or id, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// Checks a key, topic, queue or id: 1 to 1024 bytes, without control characters. All other characters are allowed and
/// have no special meaning: `a/b` is not below `a`. Adapters call this function first, so that all of them behave
/// alike.
///
/// # Errors
///
/// [`BackendError::InvalidName`] if a rule is violated.
pub fn check_name(name: &str) -> Result<(), BackendError> {
    if name.is_empty() {
        return Err(BackendError::InvalidName {
            reason: "it is empty",
        });
    }
    check_prefix(name)
}

/// Checks a prefix of keys. The rules are those of [`check_name`], except that a prefix may be empty.
///
/// # Errors
///
/// [`BackendError::InvalidName`] if a rule is violated.
pub fn check_prefix(prefix: &str) -> Result<(), BackendError> {
    let reason = if prefix.len() > MAX_NAME_BYTES {
        "it has more than 1024 bytes"
    } else if prefix.chars().any(char::is_control) {
        "it has a control character"
    } else {
        return Ok(());
    };
    Err(BackendError::InvalidName { reason })
}

/// The state that processes share: a [`Store`], a [`Bus`] and a [`Queue`]. Clones are cheap and share the same backend.
#[derive(Clone)]
pub struct Backend {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    queue: Arc<dyn Queue>,
    /// `None` if the adapters cannot write in a transaction of the application.
    transactions: Option<Arc<dyn Transactional>>,
}

impl Backend {
    /// Creates a backend from adapters, which may be of different kinds.
    #[must_use]
    pub fn new(store: impl Store, bus: impl Bus, queue: impl Queue) -> Self {
        Self {
            store: Arc::new(store),
            bus: Arc::new(bus),
            queue: Arc::new(queue),
            transactions: None,
        }
    }

    /// Adds the adapter for transactions of the application. It must write to the store, the bus and the queue of this
    /// backend.
    #[must_use]
    pub fn transactional(self, transactions: impl Transactional) -> Self {
        Self {
            transactions: Some(Arc::new(transactions)),
            ..self
        }
    }

    /// Creates a backend within one process, with the default settings of the [`memory`] adapters. Nothing survives the
    /// process.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(MemoryStore::new(), MemoryBus::new(), MemoryQueue::new())
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Returns the bus.
    #[must_use]
    pub fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// Returns the queue.
    #[must_use]
    pub fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// Joins the transaction that a connection of the application is in, see [`Transactional::join`], also for cancel
    /// safety.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unsupported`] if the backend has no adapter for such transactions. Otherwise the errors of
    /// [`Transactional::join`].
    pub async fn join<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> Result<Box<dyn JoinedTransaction + 'c>, BackendError> {
        let Some(transactions) = &self.transactions else {
            return Err(BackendError::unsupported("transactions of the application"));
        };
        transactions.join(connection).await
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
