//! Adapters within one process: for services that run as a single process, and for tests.
//!
//! Clones of an adapter share the same bus, store or queue. Nothing survives the process.
//!
//! ```
//! use tower_promises::backend::Backend;
//! use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
//!
//! let store = MemoryStore::new().max_bytes(1 << 20);
//! let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
//! # let _ = backend;
//! ```

mod bus;
mod line;
mod queue;
mod store;

pub use super::limits::{
    DEFAULT_BUS_CAPACITY, DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY,
};
pub use bus::MemoryBus;
pub use queue::{DEFAULT_MAX_ENVELOPES, DEFAULT_MAX_QUEUE_BYTES, MemoryQueue};
pub use store::{DEFAULT_MAX_BYTES, MemoryStore};
