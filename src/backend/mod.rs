//! Ports to what processes share: a bus for messages, a store for small values, a queue for work.
//!
//! Capabilities that cross processes, such as `signal`, stand on these three traits and on
//! nothing else. An adapter implements one or all for a database or a message broker; the code that uses
//! them stays the same.
//!
//! | port | what it does | for one process | for one machine (feature `sqlite`) | for many (feature `nats`) |
//! |---|---|---|---|---|
//! | [`Bus`] | every listener hears every message, at most once | [`memory::MemoryBus`] | `sqlite::SqliteBus` | `nats::NatsBus` |
//! | [`Store`] | values with revisions, times to live and compare-and-set | [`memory::MemoryStore`] | `sqlite::SqliteStore` | `nats::NatsStore` |
//! | [`Queue`] | envelopes that are delivered until they are handled | [`memory::MemoryQueue`] | `sqlite::SqliteQueue` | `nats::NatsQueue` |
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use tower_promises::backend::{Backend, CompareAndSet};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_promises::backend::BackendError> {
//! let backend = Backend::memory();
//!
//! // One of many machines takes the lease.
//! let lease = Some(Duration::from_secs(30));
//! let taken = backend.store().compare_and_set("leader", None, "machine 1".into(), lease).await?;
//! assert!(matches!(taken, CompareAndSet::Set(_)));
//! let taken = backend.store().compare_and_set("leader", None, "machine 2".into(), lease).await?;
//! assert_eq!(taken, CompareAndSet::Conflict);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! 1. The truth is in the store. A bus may lose messages, so whoever uses it also looks into the store from
//!    time to time: a lost message costs time, not correctness.
//! 2. What a method promises when two machines call it at once stands in its documentation, and the suites in
//!    `conformance` (feature `conformance`) check it. An adapter that passes them can replace any other.
//! 3. Keys, topics, prefixes, queues and ids follow one rule in all adapters: [`check_name`].
//!
//! # Cancel safety
//!
//! Every future may be dropped at any time. A change that was under way may or may not have happened.
//!
//! # Panics
//!
//! None. The memory adapters need no runtime; the modules `sqlite` and `nats` say what their adapters
//! need.
//!
//! # Security
//!
//! Who can reach the backend can read and write everything in it: keep it in a trusted network. The
//! adapters have limits on sizes and on what they keep.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[allow(dead_code, reason = "the features decide which parts are used")]
pub(crate) mod backoff;
mod bus;
#[cfg(any(feature = "nats", feature = "sqlite"))]
mod claim;
#[allow(dead_code, reason = "the features decide which parts are used")]
pub(crate) mod clock;
#[allow(dead_code, reason = "the features decide which parts are used")]
pub(crate) mod deadline;
mod error;
mod limits;
mod observe;
mod queue;
mod store;
mod work;

pub use bus::{Bus, BusEvent, BusStream};
pub use error::BackendError;
pub use futures_util::future::BoxFuture;
pub use futures_util::stream::BoxStream;
pub use queue::{Capabilities, Enqueued, Envelope, Priority, Queue, Receipt, Taken};
pub use store::{Change, CompareAndSet, Entry, Revision, Store, WatchStream};
pub use work::{
    DEFAULT_CONCURRENCY, DEFAULT_LEASE, Delivery, Handler, Lease, Outcome, WorkOptions,
};

use memory::{MemoryBus, MemoryQueue, MemoryStore};
use std::fmt;
use std::sync::Arc;

/// How many bytes a key, a topic, a queue or an id may have.
pub const MAX_NAME_BYTES: usize = 1024;

/// Checks a key, a topic, a queue or an id: 1 to [`MAX_NAME_BYTES`] bytes, no control character. All else is allowed
/// and means nothing: `a/b` is not below `a`. Adapters call it first, so that all of them behave alike.
///
/// # Errors
///
/// [`BackendError::InvalidName`] where a rule is broken.
pub fn check_name(name: &str) -> Result<(), BackendError> {
    if name.is_empty() {
        return Err(BackendError::InvalidName {
            reason: "it is empty",
        });
    }
    check_prefix(name)
}

/// Checks what a key may start with: as [`check_name`], but it may be empty.
///
/// # Errors
///
/// [`BackendError::InvalidName`] where a rule is broken.
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

/// What a process shares with others: a [`Store`], a [`Bus`] and a [`Queue`]. Clones are cheap and stand for the same
/// backend.
#[derive(Clone)]
pub struct Backend {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    queue: Arc<dyn Queue>,
}

impl Backend {
    /// A backend of these adapters, which may be of different kinds.
    #[must_use]
    pub fn new(store: impl Store, bus: impl Bus, queue: impl Queue) -> Self {
        Self {
            store: Arc::new(store),
            bus: Arc::new(bus),
            queue: Arc::new(queue),
        }
    }

    /// A backend of one process, with the default settings of the [`memory`] adapters. Nothing of it
    /// survives the process.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(MemoryStore::new(), MemoryBus::new(), MemoryQueue::new())
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &dyn Queue {
        &*self.queue
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}
