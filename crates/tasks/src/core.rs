use super::builder::Settings;
use super::definition::Run;
use super::hub::{Hub, News};
use super::observe::MakeSpan;
use super::record::Record;
use super::records::Records;
use super::{TaskError, TaskFailure, TaskId, observe};
use http::Extensions;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::topics::{Listening, Subscription};

/// State shared by the handles and workers of a process.
pub(super) struct Core {
    pub(super) records: Records,
    pub(super) settings: Settings,
    pub(super) services: HashMap<Arc<str>, Service>,
    pub(super) state: Extensions,
    pub(super) is_conflict: Option<Arc<IsConflict>>,
    pub(super) make_span: Option<Arc<MakeSpan>>,
    pub(super) hub: Hub,
    /// Held by a suspect task during its last attempt, so that no two of them share the process.
    pub(super) suspect: tokio::sync::Mutex<()>,
    /// The task that listens to the bus. The first subscription starts it.
    pub(super) listening: Listening,
}

pub(super) type IsConflict = dyn Fn(&(dyn Error + 'static)) -> bool + Send + Sync;

/// A service: its task types and limits.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) registry: HashMap<&'static str, Run>,
    pub(super) concurrency: usize,
    pub(super) timeout: Duration,
}

impl Core {
    /// Returns the current runtime.
    pub(super) fn runtime() -> Result<Handle, TaskError> {
        Handle::try_current().map_err(|_| TaskError::NoRuntime)
    }

    /// Subscribes to news of a task. Needs a runtime.
    pub(super) fn subscribe(&self, id: &TaskId, news: News) -> Result<Subscription, TaskError> {
        Self::runtime()?;
        let listen = || self.hub.clone().listen(self.records.backend.clone());
        let _ = self.listening.start(listen);
        Ok(self.hub.subscribe(id, news))
    }

    /// Announces a change of a task in all processes. A lost message is covered by polling.
    pub(super) async fn announce(&self, id: &TaskId, news: News) {
        let topic = id.topic();
        self.hub.tell(&topic, news);
        let payload = news.as_bytes().into();
        if let Err(error) = self.records.backend.publish(&topic, payload).await {
            observe::backend_failed(id, &error);
        }
    }

    /// Applies the application's conflict classifier.
    pub(super) fn classify(&self, failure: TaskFailure) -> TaskFailure {
        match &self.is_conflict {
            Some(is_conflict) => failure.classify(|error| is_conflict(error)),
            None => failure,
        }
    }

    pub(super) async fn find(&self, id: &TaskId) -> Result<Record, TaskError> {
        let found = self.records.find(id).await?;
        found.ok_or_else(|| TaskError::NotFound { id: id.clone() })
    }

    /// Waits for the output of a task. While the backend fails, this function keeps waiting.
    pub(super) async fn output(&self, id: &TaskId) -> Result<Box<RawValue>, TaskError> {
        let mut news = self.subscribe(id, News::Ended)?;
        loop {
            match self.records.find(id).await {
                Ok(Some(record)) => {
                    if let Some(outcome) = record.outcome(id) {
                        return outcome;
                    }
                }
                Ok(None) => return Err(TaskError::NotFound { id: id.clone() }),
                Err(error @ BackendError::Unreadable { .. }) => return Err(error.into()),
                Err(error) => observe::backend_failed(id, &error),
            }
            // The timeout covers lost bus messages.
            let _ = timeout(self.settings.poll_interval, news.notified()).await;
        }
    }
}
