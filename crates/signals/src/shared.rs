use super::message::{self, Message};
use super::settings::Settings;
use super::waiters::Waiters;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::{Backend, BackendError};
use uuid::Uuid;

/// State shared with the listening task. It is separate from [`Instance`](super::instance::Instance), because the task
/// must not keep itself alive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) backend: TimedBackend,
    pub(super) settings: Settings,
    pub(super) waiters: Waiters,
    /// Whether the subscription to the bus is active.
    pub(super) listening: watch::Sender<bool>,
    /// A random id that identifies this instance in messages.
    pub(super) origin: String,
    claims: AtomicU64,
}

impl Shared {
    pub(super) fn new(backend: Backend, settings: Settings) -> Self {
        Self {
            backend: TimedBackend::new(backend, settings.backend_timeout),
            settings,
            waiters: Waiters::new(settings.max_waiters, settings.max_waiters_per_name),
            listening: watch::Sender::new(false),
            origin: Uuid::new_v4().simple().to_string(),
            claims: AtomicU64::new(0),
        }
    }

    /// Sends a value to the other processes.
    pub(super) async fn publish(
        &self,
        path: &str,
        value: &Bytes,
        claim: Option<&str>,
    ) -> Result<(), BackendError> {
        let payload = Message::encode(&self.origin, claim, value);
        let payload = payload.map_err(BackendError::unavailable)?;
        self.backend.publish(&message::topic(path), payload).await
    }

    /// Offers a value to the other processes, so that one waiter of one of them gets it.
    pub(super) async fn offer(&self, path: &str, value: &Bytes) -> Result<(), BackendError> {
        let number = self.claims.fetch_add(1, Ordering::Relaxed);
        let claim = format!("{}-{number}", self.origin);
        self.publish(path, value, Some(&claim)).await
    }
}
