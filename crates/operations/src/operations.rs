use super::instance::Instance;
use super::metrics;
use super::mount::UnreachableMount;
use super::observe;
use super::record::{Key, OperationStatus, Record, principal_digest};
use super::records::{Changed, MAX_LISTED};
use http::Request;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock;
use tower_service::Service;

/// Handle to the operations of a layer, for application code and for other handlers.
///
/// [`OperationLayer::operations`](super::OperationLayer::operations) creates a handle, and every request has one in its
/// extensions. Clones are cheap and share the same operations. Unless documented otherwise, a handle covers the
/// operations of all instances that share the backend.
///
/// The handle does not check principals: the caller must check permissions first.
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
    pub(super) instance: Arc<Instance>,
}

/// A snapshot of an operation.
#[derive(Clone)]
pub struct Operation {
    record: Record,
}

impl Operations {
    pub(super) fn of(instance: Arc<Instance>) -> Self {
        Self { instance }
    }

    /// Returns the operation with this id, or `None` if there is none or it has expired. Declares the operation lost if
    /// its [lease](super::OperationLayer::lease) has ended, as a request for it does.
    ///
    /// ```
    /// use tower_promises_operations::{Operations, OperationStatus};
    ///
    /// /// A handler of the application's own, which has checked permissions.
    /// async fn is_done(operations: &Operations, id: &str) -> Result<bool, tower_promises_backend::BackendError> {
    ///     let operation = operations.get(id).await?;
    ///     Ok(operation.is_some_and(|operation| operation.status() == OperationStatus::Succeeded))
    /// }
    /// # let _ = is_done;
    /// ```
    ///
    /// # Errors
    ///
    /// If the backend does not answer.
    pub async fn get(&self, id: &str) -> Result<Option<Operation>, BackendError> {
        let record = self.instance.read_or_declare_lost(&Key::of(id)).await?;
        Ok(record.map(|record| Operation { record }))
    }

    /// Returns the operations of a principal, newest first. If there are more than 256, the oldest are left out.
    /// Operations without a principal are never listed. Operations that another version of this crate has stored in a
    /// format that this version cannot read are left out too.
    ///
    /// # Errors
    ///
    /// If the backend does not answer.
    pub async fn list(&self, principal: &str) -> Result<Vec<Operation>, BackendError> {
        let principal = principal_digest(principal);
        let mut operations = Vec::new();
        for id in self.instance.records.list(&principal).await?.iter().rev() {
            if operations.len() == MAX_LISTED {
                break;
            }
            match self.get(id).await {
                // One unreadable operation must not hide the others.
                Err(error @ BackendError::Unreadable { .. }) => {
                    observe::backend_failed(&Key::of(id), &error);
                }
                // Ids of removed operations stay in the list until the list is full.
                found => operations.extend(found?),
            }
        }
        Ok(operations)
    }

    /// Cancels an operation. Returns whether this call has cancelled it: of several concurrent calls one returns
    /// `true`, and none does if the operation has ended.
    ///
    /// When the future resolves, work in this process that awaits has been dropped, and work that blocks its thread has
    /// been notified. Work in another process is dropped as soon as that process receives the message, at the latest
    /// after a third of the [lease](super::OperationLayer::lease).
    ///
    /// Cancel safety: once the future has been polled, it cancels the operation even if it is dropped.
    ///
    /// ```
    /// use tower_promises_operations::Operations;
    ///
    /// /// A customer has closed the account.
    /// async fn stop_all(operations: &Operations, customer: &str) -> Result<(), tower_promises_backend::BackendError> {
    ///     for operation in operations.list(customer).await? {
    ///         operations.cancel(operation.id()).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = stop_all;
    /// ```
    ///
    /// # Errors
    ///
    /// If the backend does not answer. The operation may or may not be cancelled.
    pub async fn cancel(&self, id: &str) -> Result<bool, BackendError> {
        let changed = self.instance.cancel(&Key::of(id), |_| true).await?;
        Ok(matches!(changed, Changed::Yes(_)))
    }

    /// Checks that requests for operations reach the layer through this application, which must be the whole
    /// application that the server gets. If they do not, the failure is logged as an error. From then on, requests stay
    /// on their connection instead of getting an address that does not work, until a later check succeeds.
    ///
    /// The check sends one `GET` below the mount path, and waits up to 10 seconds until the application is ready and
    /// has answered. If an outer layer refuses the request, for example for lack of credentials, the check fails as
    /// well. Call it before the server starts, and in a test, within a tokio runtime whose timers are enabled.
    ///
    /// Cancel safety: if the future is dropped before it resolves, nothing changes, except that a check which has
    /// reached the layer counts.
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
    /// If the request does not reach the layer in that time. The text explains how to mount the layer.
    pub async fn check_mount<S, B>(&self, app: S) -> Result<(), UnreachableMount>
    where
        S: Service<Request<B>>,
        B: Default,
    {
        let path = &self.instance.settings.mount;
        let checked = self.instance.mount.check(app, path).await;
        checked.inspect_err(observe::unreachable)
    }

    /// Returns how many operations this process runs. Requests whose client still waits for the first reply are not
    /// counted.
    #[must_use]
    pub fn running(&self) -> usize {
        self.instance.drain.running()
    }

    /// Prepares the end of this process: waits until its operations have ended, at most for `deadline`, and gives up
    /// the rest. Returns how many operations were given up.
    ///
    /// From the first call on, no request becomes an operation. A slow request stays on its connection, and the
    /// graceful shutdown of the server waits for it. Operations that are given up fail with the code `ShuttingDown`.
    /// Event streams end, so that clients connect to another instance. Call this method before the server shuts down,
    /// so that clients can continue to poll in the meantime.
    ///
    /// Cancel safety: dropped before it resolves, nothing is given up, and nothing becomes an operation.
    pub async fn drain(&self, limit: Duration) -> usize {
        let given_up = self.instance.drain.drain(limit).await;
        metrics::given_up(given_up);
        // Waits until the runners have stored the ends, or the store does not answer.
        self.instance.drain.ended().await;
        given_up
    }
}

impl Operation {
    pub(super) fn of(record: Record) -> Self {
        Self { record }
    }

    /// Returns the id. It is a secret: any client that knows it can see the operation, unless the operation has a
    /// principal.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> OperationStatus {
        self.record.status
    }

    /// Returns how much is done, in percent, if the work has reported it.
    #[must_use]
    pub fn progress(&self) -> Option<f64> {
        self.record.progress
    }

    /// Returns the latest message of the work. It is plain text: escape it.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.record.message.as_deref()
    }

    /// Whether the operation is durable and waits without using memory.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        let durable = self.record.durable.as_ref();
        let is_suspended = durable.is_some_and(|durable| durable.is_suspended());
        is_suspended && !self.status().is_terminal()
    }

    /// Returns the number of runs of a durable operation.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record
            .durable
            .as_ref()
            .map_or(0, |durable| durable.runs)
    }

    /// Returns the error code of an operation that has failed or was cancelled.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        self.record.error.as_ref().map(|error| &*error.code)
    }

    /// Returns the address that the client wants to be called at the end of the operation, if it has set one and
    /// [may](super::OperationLayer::callbacks).
    #[must_use]
    pub fn callback(&self) -> Option<&str> {
        self.record.callback.as_deref()
    }

    /// Returns the time of creation.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        clock::time(self.record.created)
    }

    /// Returns the time of the end.
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

/// Omits the id, which is a secret.
impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("status", &self.record.status)
            .field("progress", &self.record.progress)
            .finish_non_exhaustive()
    }
}
