mod future;
mod header;
mod layer;
mod service;

pub use future::ServerTimingFuture;
pub use layer::ServerTimingLayer;
pub use service::ServerTimingService;
