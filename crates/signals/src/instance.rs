use super::listener;
use super::settings::Settings;
use super::shared::Shared;
use std::sync::Arc;
use tokio::runtime::TryCurrentError;
use tower_promises_backend::Backend;
use tower_promises_backend::kit::topics::Listening;

/// An instance of [`Signals`](super::Signals), held by its handles and waits. Dropping the last of them ends the
/// listening task.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) shared: Arc<Shared>,
    listening: Listening,
}

impl Instance {
    pub(super) fn new(backend: Backend, settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared::new(backend, settings)),
            listening: Listening::default(),
        }
    }

    /// Starts the listening task if it is not running. The task ends early only with its runtime.
    pub(super) fn start(&self) -> Result<(), TryCurrentError> {
        self.listening.start(|| listener::run(self.shared.clone()))
    }
}
