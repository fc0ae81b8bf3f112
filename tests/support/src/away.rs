//! A bus that is never there.

use bytes::Bytes;
use tower_promises::backend::{BackendError, BoxFuture, Bus, BusStream};

/// A bus whose calls fail.
#[derive(Clone, Copy, Debug)]
pub struct Away;

impl Bus for Away {
    fn publish(&self, _: &str, _: Bytes) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(async { Err(BackendError::unavailable("it is away")) })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        Box::pin(async { Err(BackendError::unavailable("it is away")) })
    }
}
