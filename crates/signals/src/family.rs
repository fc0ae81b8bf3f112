use super::builder::Settings;
use super::listener;
use super::message::{self, Message};
use super::waiters::Waiters;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::TryCurrentError;
use tokio::sync::watch;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::topics::Listening;
use tower_promises_backend::{Backend, BackendError};
use uuid::Uuid;

/// State shared by all handles and waits of one [`Signals`]. Dropping the last of them ends the listening task.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) core: Arc<Core>,
    listening: Listening,
}

/// State shared with the listening task. It is separate from [`Family`], because the task must not keep itself alive.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) backend: TimedBackend,
    pub(super) settings: Settings,
    pub(super) waiters: Waiters,
    /// Whether the subscription to the bus is active.
    pub(super) listening: watch::Sender<bool>,
    /// A random id that identifies this instance in messages.
    pub(super) origin: String,
    claims: AtomicU64,
}

impl Family {
    pub(super) fn new(backend: Backend, settings: Settings) -> Self {
        Self {
            core: Arc::new(Core {
                backend: TimedBackend::new(backend, settings.backend_timeout),
                settings,
                waiters: Waiters::new(settings.max_waiters, settings.max_waiters_per_name),
                listening: watch::Sender::new(false),
                origin: Uuid::new_v4().simple().to_string(),
                claims: AtomicU64::new(0),
            }),
            listening: Listening::default(),
        }
    }

    /// Starts the listening task if it is not running. The task ends early only with its runtime.
    pub(super) fn start(&self) -> Result<(), TryCurrentError> {
        self.listening.start(|| listener::run(self.core.clone()))
    }
}

impl Core {
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
