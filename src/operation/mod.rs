//! Middleware that makes a resource of a slow request.

mod accept;
mod body;
mod builder;
mod cancel;
mod core;
mod events;
mod first_reply;
mod future;
mod hub;
mod idempotency;
mod layer;
mod limits;
mod observe;
mod operations;
pub mod page;
mod prefer;
mod progress;
mod record;
mod records;
mod reply;
mod result;
mod routes;
mod runner;
mod service;
mod status;
mod work;

pub use body::{OperationBody, OperationRequestBody};
pub use builder::{
    DEFAULT_BACKEND_TIMEOUT, DEFAULT_HEARTBEAT, DEFAULT_LEASE, DEFAULT_LIFETIME,
    DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_RESULT_BYTES, DEFAULT_MAX_RUNNING,
    DEFAULT_MAX_RUNNING_PER_PRINCIPAL, DEFAULT_MAX_STORED_BYTES, DEFAULT_MAX_WAIT, DEFAULT_MOUNT,
    DEFAULT_PROGRESS_INTERVAL, DEFAULT_RETENTION, DEFAULT_RETRY_AFTER, DEFAULT_WAIT, Escalate,
    OnDisconnect, OperationLayerBuilder,
};
pub use future::OperationFuture;
pub use layer::OperationLayer;
pub use operations::{Operation, Operations};
pub use progress::{MAX_MESSAGE_BYTES, Progress};
pub use service::OperationService;
pub use status::Status;
