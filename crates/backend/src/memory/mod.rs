//! Adapters within one process: for services that run as a single process, and for tests.
//!
//! Clones of an adapter share the same bus, store or queue. Nothing survives the process.
//!
//! ```
//! use tower_promises_backend::Backend;
//! use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
//!
//! let store = MemoryStore::builder().max_bytes(1 << 20).build();
//! let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
//! # let _ = backend;
//! ```

mod bus;
mod envelopes;
mod queue;
mod store;

pub use bus::{MemoryBus, MemoryBusBuilder};
pub use queue::{MemoryQueue, MemoryQueueBuilder};
pub use store::{MemoryStore, MemoryStoreBuilder};
