use super::body::OperationRequestBody;
use super::durable::{self, Recording, Settlement, Settling};
use super::instance::Instance;
use super::mount::UnreachableMount;
use super::observe;
use super::record::{Key, Record, Status, principal_digest};
use super::records::{Changed, MAX_LISTED};
use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower_promises_backend::kit::clock;
use tower_promises_backend::{BackendError, BoxError};
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
    instance: Arc<Instance>,
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

    /// Takes up the runs of [durable](super::OperationLayer::durable) operations in this process, until it
    /// [drains](Self::drain). A run is the request of an operation, sent to `service`: the service that the layer wraps,
    /// which is usually a clone of the router before the layer was added. Middleware outside of the layer does not see
    /// it.
    ///
    /// Any number of processes can take up runs, also ones that receive no requests. Each takes at most
    /// [`max_runs`](super::OperationLayer::max_runs) at once. Without such a process, durable operations stay
    /// `NotStarted`. A run whose process is lost begins again in another process after the
    /// [lease](super::OperationLayer::lease).
    ///
    /// When the process drains, the runs that have not ended within the limit are given back, and continue in another
    /// process. Await this future after [`drain`](Self::drain), so that the process does not end before they are.
    ///
    /// ```
    /// use axum::{Router, body::Body, routing::post};
    /// use tower_promises_operations::OperationLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let layer = OperationLayer::memory().durable(|request| request.uri.path() == "/order");
    /// let operations = layer.operations();
    /// let inner: Router = Router::new().route("/order", post(async || "ordered"));
    /// let app = inner.clone().layer(layer);
    ///
    /// let worker = operations.clone();
    /// tokio::spawn(async move { worker.work::<_, Body, _>(inner).await });
    /// # let response = tower::ServiceExt::oneshot(app, http::Request::post("/order").body(Body::empty()).unwrap());
    /// # assert_eq!(response.await.unwrap().status(), 200);
    /// # operations.drain(std::time::Duration::ZERO).await;
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the name of the [queue](super::OperationLayer::durable_queue) is invalid. After errors of the backend the
    /// worker retries.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime with timers enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the runs, which begin again after the lease.
    pub async fn work<S, B, R>(&self, service: S) -> Result<(), BackendError>
    where
        S: Service<Request<OperationRequestBody<B>>, Response = Response<R>>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        S::Error: Into<BoxError> + Send + 'static,
        B: Body<Data: Send, Error: Send> + Send + 'static,
        R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let operations = self.clone();
        let prepare = move |parts: &mut request::Parts| {
            parts.extensions.insert(operations.clone());
        };
        durable::work(self.instance.clone(), service, prepare).await
    }

    /// Settles a promise of a [durable](super::OperationLayer::durable) operation by its name, as a request to its
    /// [address](super::durable::DurableRun::outside_url) does. The first settlement counts. If the operation is
    /// suspended, it continues.
    ///
    /// Cancel safety: if the future is dropped, the promise may or may not be settled. The call can be repeated.
    ///
    /// # Errors
    ///
    /// If the backend does not answer. The call can be repeated.
    pub async fn settle(
        &self,
        id: &str,
        name: &str,
        settlement: &Settlement,
    ) -> Result<Settling, BackendError> {
        let target = durable::Target::Name(name);
        durable::settle(&self.instance, &Key::of(id), target, settlement).await
    }

    /// Returns the suspended operations of a principal, newest first, of those that [`list`](Self::list) returns.
    ///
    /// # Errors
    ///
    /// If the backend does not answer.
    pub async fn suspended(&self, principal: &str) -> Result<Vec<Operation>, BackendError> {
        let mut operations = self.list(principal).await?;
        operations.retain(Operation::is_suspended);
        Ok(operations)
    }

    /// Begins a run of a suspended operation now, although nothing that it waits for has settled. Returns whether the
    /// operation is suspended.
    ///
    /// # Errors
    ///
    /// If the backend does not answer.
    pub async fn resume(&self, id: &str) -> Result<bool, BackendError> {
        durable::resume(&self.instance, &Key::of(id)).await
    }

    /// Returns the durable operations that have failed with the code `Lost` and were not sent again, newest first. If
    /// there are more than 256, the oldest are left out.
    ///
    /// # Errors
    ///
    /// If the backend does not answer.
    pub async fn lost(&self) -> Result<Vec<Operation>, BackendError> {
        let mut operations = Vec::new();
        for id in durable::lost(&self.instance).await?.iter().rev() {
            operations.extend(self.get(id).await?);
        }
        operations.retain(|operation| operation.error_code() == Some("Lost"));
        Ok(operations)
    }

    /// Sends a durable operation that has failed with the code `Lost` again, with all that it remembers. Its lifetime
    /// begins again. Returns whether this call did so.
    ///
    /// # Errors
    ///
    /// If the backend does not answer. The call can be repeated.
    pub async fn send_again(&self, id: &str) -> Result<bool, BackendError> {
        durable::send_again(&self.instance, &Key::of(id)).await
    }

    /// Lets a durable operation forget the promise with this name and all that it has remembered later, and begins a
    /// run, in which these promises run again. Only operations that are suspended, or have failed with the code `Lost`,
    /// can forget. Returns whether this call did so.
    ///
    /// # Errors
    ///
    /// If the backend does not answer. The call can be repeated.
    pub async fn forget_from(&self, id: &str, name: &str) -> Result<bool, BackendError> {
        durable::forget_from(&self.instance, &Key::of(id), name).await
    }

    /// Returns what a durable operation remembers, until it expires or is removed: to replay its handler in a unit test.
    /// `None` if there is no such operation, or if it is not durable.
    ///
    /// # Errors
    ///
    /// If the backend does not answer.
    pub async fn recorded(&self, id: &str) -> Result<Option<Recording>, BackendError> {
        durable::recorded(&self.instance, &Key::of(id)).await
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
        // Waits until the runners have stored the ends, or the store does not answer.
        self.instance.drain.ended().await;
        given_up
    }
}

impl Operation {
    /// Returns the id. It is a secret: any client that knows it can see the operation, unless the operation has a
    /// principal.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> Status {
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
