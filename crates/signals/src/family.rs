use super::builder::Settings;
use super::listener;
use super::message::{self, Message};
use super::waiters::Waiters;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower_promises_backend::kit::deadline;
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{Backend, BackendError};
use uuid::Uuid;

/// State shared by all handles and waits of one [`Signals`]. Dropping the last of them ends the listening task.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) core: Arc<Core>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// State shared with the listening task. It is separate from [`Family`], because the task must not keep itself alive.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) backend: Backend,
    pub(super) settings: Settings,
    pub(super) waiters: Waiters,
    /// Whether the subscription to the bus is active.
    pub(super) listening: watch::Sender<bool>,
    /// A random id that identifies this instance in messages.
    pub(super) origin: String,
    claims: AtomicU64,
}

/// There is no tokio runtime for the listening task.
#[derive(Debug)]
pub(super) struct NoRuntime;

impl Family {
    pub(super) fn new(backend: Backend, settings: Settings) -> Self {
        Self {
            core: Arc::new(Core {
                backend,
                settings,
                waiters: Waiters::new(settings.max_waiters, settings.max_waiters_per_name),
                listening: watch::Sender::new(false),
                origin: Uuid::new_v4().simple().to_string(),
                claims: AtomicU64::new(0),
            }),
            task: Mutex::new(None),
        }
    }

    /// Starts the listening task if it is not running. The task ends early only with its runtime.
    pub(super) fn start(&self) -> Result<(), NoRuntime> {
        let mut task = lock(&self.task);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let runtime = Handle::try_current().map_err(|_| NoRuntime)?;
            *task = Some(runtime.spawn(listener::run(self.core.clone())));
        }
        Ok(())
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl Core {
    /// Waits for the backend, at most for the backend timeout. Needs a runtime with timers.
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        deadline::in_time(self.settings.backend_timeout, answer).await
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
        let topic = message::topic(path);
        self.in_time(self.backend.bus().publish(&topic, payload))
            .await
    }

    /// Offers a value to the other processes, so that one waiter of one of them gets it.
    pub(super) async fn offer(&self, path: &str, value: &Bytes) -> Result<(), BackendError> {
        let number = self.claims.fetch_add(1, Ordering::Relaxed);
        let claim = format!("{}-{number}", self.origin);
        self.publish(path, value, Some(&claim)).await
    }
}
