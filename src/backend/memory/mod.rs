//! Adapters for one process: for services that run on one machine, and for tests.
//!
//! Clones of an adapter stand for the same bus or store. Nothing survives the process.
//!
//! ```
//! use tower_promises::backend::Backend;
//! use tower_promises::backend::memory::{MemoryBus, MemoryStore};
//!
//! let backend = Backend::new(MemoryStore::new().max_bytes(1 << 20), MemoryBus::new());
//! # let _ = backend;
//! ```

mod bus;
mod store;

pub use bus::{DEFAULT_BUS_CAPACITY, DEFAULT_MAX_PAYLOAD_BYTES, MemoryBus};
pub use store::{DEFAULT_MAX_BYTES, DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, MemoryStore};
