mod future;
mod header;
mod layer;
mod service;

pub use future::ServerTimingFuture;
pub use layer::{DEFAULT_MAX_BYTES, DEFAULT_MAX_ENTRIES, ServerTimingLayer};
pub use service::ServerTimingService;
