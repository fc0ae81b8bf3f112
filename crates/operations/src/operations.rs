use super::core::{Core, Phase};
use super::mount::UnreachableMount;
use super::observe;
use super::record::{Key, Record};
use super::records::{Changed, MAX_LISTED};
use super::status::Status;
use tower_promises_backend::{BackendError, clock};
use http::Request;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tower_service::Service;

/// A handle to the operations of a layer, for application code and for other handlers.
///
/// [`OperationLayer::operations`](super::OperationLayer::operations) makes one, and every request has one in its
/// extensions. Clones are cheap and stand for the same operations. It sees those of all instances that share the
/// backend, except where it says otherwise.
///
/// It knows no principals: check who may do what before you ask it.
///
/// ```
/// use std::time::Duration;
/// use tower_promises_operations::OperationLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_promises_backend::BackendError> {
/// let layer = OperationLayer::memory();
/// let operations = layer.operations();
///
/// for operation in operations.list("user 7").await? {
///     println!("{}: {}", operation.id(), operation.status());
/// }
/// // Before the process ends.
/// operations.drain(Duration::from_secs(30)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Operations {
    core: Arc<Core>,
}

/// An operation as it was when it was asked for.
#[derive(Clone)]
pub struct Operation {
    record: Record,
}

impl Operations {
    pub(super) fn of(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The operation with this id, or `None` if there is none or its time is over.
    ///
    /// # Errors
    ///
    /// Where the backend does not answer.
    pub async fn get(&self, id: &str) -> Result<Option<Operation>, BackendError> {
        let record = self.core.load(&Key::of(id)).await?;
        Ok(record.map(|record| Operation { record }))
    }

    /// The operations of a principal, newest first. Of more than 256, the oldest are left out; those of nobody in
    /// particular are not listed at all, nor are those that another version has stored and this one cannot read.
    ///
    /// # Errors
    ///
    /// Where the backend does not answer.
    pub async fn list(&self, principal: &str) -> Result<Vec<Operation>, BackendError> {
        let principal = Core::principal_digest(principal);
        let mut operations = Vec::new();
        for id in self.core.records.list(&principal).await?.iter().rev() {
            if operations.len() == MAX_LISTED {
                break;
            }
            match self.get(id).await {
                // It hides no others.
                Err(error @ BackendError::Unreadable { .. }) => {
                    observe::backend_failed(&Key::of(id), &error);
                }
                // Those that are gone stay in the list until it is full.
                found => operations.extend(found?),
            }
        }
        Ok(operations)
    }

    /// Cancels an operation. Returns whether that took effect: of many that cancel it at once, one is told so, and
    /// none if it has ended.
    ///
    /// When it resolves, a work of this process that waits has been dropped, and one that blocks its thread has been
    /// told. One of another process is dropped as soon as that hears of it, at the latest after a third of the
    /// [lease](super::OperationLayerBuilder::lease).
    ///
    /// Cancel safety: once it was polled, it cancels the operation also when it is dropped.
    ///
    /// # Errors
    ///
    /// Where the backend does not answer. The operation may or may not be cancelled.
    pub async fn cancel(&self, id: &str) -> Result<bool, BackendError> {
        let changed = self.core.cancel(&Key::of(id), |_| true).await?;
        Ok(matches!(changed, Changed::Yes(_)))
    }

    /// Checks that requests for operations reach the layer when they are sent to this application, which is the whole of
    /// it as the server gets it. Where they do not, that is logged as an error, and from then on requests stay on their
    /// connection instead of getting an address that leads nowhere, until a later check succeeds.
    ///
    /// It sends one `GET` below the mount path, and waits for at most 10 seconds until the application is ready and has
    /// answered. Layers outside that refuse it, such as authentication, look like a wrong mount. Call it before the server
    /// starts, and in a test, within a tokio runtime whose timers are enabled.
    ///
    /// Cancel safety: dropped before it resolves, it changes nothing, except that a check which has arrived counts.
    ///
    /// ```
    /// use axum::body::Body;
    /// use axum::{Router, routing::post};
    /// use tower_promises_operations::OperationLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let layer = OperationLayer::memory();
    /// let operations = layer.operations();
    /// let right = Router::new().route("/import", post(async || "")).layer(layer.clone());
    /// let wrong = Router::new().route("/import", post(async || "")).route_layer(layer);
    ///
    /// assert!(operations.check_mount::<_, Body>(right).await.is_ok());
    /// assert!(operations.check_mount::<_, Body>(wrong).await.is_err());
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Where the request does not arrive in that time. The text says how to mount the layer.
    pub async fn check_mount<S, B>(&self, app: S) -> Result<(), UnreachableMount>
    where
        S: Service<Request<B>>,
        B: Default,
    {
        self.core.check_mount(app).await
    }

    /// How many operations this process works on. Requests whose client still waits for the first reply are not
    /// counted.
    #[must_use]
    pub fn running(&self) -> usize {
        *self.core.running_count.borrow()
    }

    /// Lets this process end: waits until its operations have ended, for this long at most, and gives up the rest.
    /// Returns how many were given up.
    ///
    /// From the first call on no request becomes an operation: a slow one stays on its connection, and is waited for
    /// by the graceful shutdown of the server. Operations that are given up have failed with the code
    /// `ShuttingDown`. Event streams end, so that clients connect to another instance. Call it before the server
    /// shuts down, so that clients can go on asking in the meantime.
    ///
    /// Cancel safety: dropped before it resolves, nothing is given up, and nothing becomes an operation.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let raise = |to: Phase| {
            self.core.phase.send_if_modified(|phase| {
                let raised = (*phase).max(to);
                std::mem::replace(phase, raised) != raised
            });
        };
        raise(Phase::Draining);
        let mut running = self.core.running_count.subscribe();
        let none = timeout(deadline, running.wait_for(|running| *running == 0));
        let _ = none.await;
        let given_up = self.running();
        raise(Phase::GivingUp);
        // It ends when the store has been told, or does not answer.
        let _ = running.wait_for(|running| *running == 0).await;
        given_up
    }
}

impl Operation {
    /// Its id, which is a secret: who knows it can see the operation, unless it has a principal.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.record.status
    }

    /// How much is done, in percent, if the work has said so.
    #[must_use]
    pub fn progress(&self) -> Option<f64> {
        self.record.progress
    }

    /// What the work has said about itself. It is a text: escape it.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.record.message.as_deref()
    }

    /// Why it has failed or was cancelled, as a short word.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        self.record.error.as_ref().map(|error| &*error.code)
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        clock::time(self.record.created)
    }

    /// When it has ended.
    #[must_use]
    pub fn finished(&self) -> Option<SystemTime> {
        let finished = self.record.finished?;
        Some(clock::time(finished))
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

/// Without the id, which is a secret.
impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("status", &self.record.status)
            .field("progress", &self.record.progress)
            .finish_non_exhaustive()
    }
}
