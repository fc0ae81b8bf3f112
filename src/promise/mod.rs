//! placeholder
mod current;
mod error;
mod future;
mod handle;
mod key;
mod layer;
mod observe;
mod registry;
mod rejection;
mod resolve;
mod running;
mod service;
mod slot;

pub use error::{OrPending, PromiseError, SubmitError};
pub use future::PromiseFuture;
pub use handle::{PromiseResults, Promises};
pub use key::{IntoKey, Key, PromiseKey};
pub use layer::{DEFAULT_MAX_PASSES, DEFAULT_MAX_PROMISES, OnTimeout, PromiseLayer, Start};
pub use rejection::{DefaultResponseForRejection, Rejection, ResponseForRejection, empty_response};
pub use service::PromiseService;
