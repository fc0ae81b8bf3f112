use super::body::OperationRequestBody;
use super::durable::{self, Recording, Settlement, Settling};
use super::operations::{Operation, Operations};
use super::record::Key;
use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use tower_promises_backend::{BackendError, BoxError};
use tower_service::Service;

/// Durable operations.
impl Operations {
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
    /// let layer = OperationLayer::memory().durable(|request| request.method == "POST");
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
    /// ```
    /// use tower_promises_operations::Operations;
    /// use tower_promises_operations::durable::{Settlement, Settling};
    ///
    /// /// A page of the application, where a manager has approved the order of this operation.
    /// async fn approve(operations: &Operations, id: &str) -> Result<bool, tower_promises_backend::BoxError> {
    ///     let settlement = Settlement::value(&true)?;
    ///     let settled = operations.settle(id, "approval", &settlement).await?;
    ///     Ok(matches!(settled, Settling::Settled))
    /// }
    /// # let _ = approve;
    /// ```
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
    /// ```
    /// use tower_promises_operations::Operations;
    ///
    /// /// After a version with the fix was deployed.
    /// async fn repair(operations: &Operations) -> Result<(), tower_promises_backend::BackendError> {
    ///     for operation in operations.lost().await? {
    ///         // What `reserve` and all later promises have done is done again.
    ///         operations.forget_from(operation.id(), "reserve").await?;
    ///     }
    ///     for operation in operations.lost().await? {
    ///         operations.send_again(operation.id()).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = repair;
    /// ```
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
    /// begins again. Returns whether this call did so. [`lost`](Self::lost) has an example.
    ///
    /// # Errors
    ///
    /// If the backend does not answer. The call can be repeated.
    pub async fn send_again(&self, id: &str) -> Result<bool, BackendError> {
        durable::send_again(&self.instance, &Key::of(id)).await
    }

    /// Lets a durable operation forget the promise with this name and all that it has remembered later, and begins a
    /// run, in which these promises run again. Only operations that are suspended, or have failed with the code `Lost`,
    /// can forget. Returns whether this call did so. [`lost`](Self::lost) has an example.
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
    pub async fn recording(&self, id: &str) -> Result<Option<Recording>, BackendError> {
        durable::recorded(&self.instance, &Key::of(id)).await
    }
}
