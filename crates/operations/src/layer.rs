use super::instance::Instance;
use super::operations::{Operation, Operations};
use super::page::{ErrorContext, PageContext, Strings};
use super::service::{OperationRoutes, OperationService};
use super::settings::{Escalate, MOUNT, OnDisconnect, Settings};
use http::request;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_layer::Layer;
use tower_promises_backend::kit::clock::LONGEST;
use tower_promises_backend::{Backend, BoxError};

/// Layer that applies the [`OperationService`] middleware.
///
/// ```
/// use std::time::Duration;
/// use tower_promises_backend::Backend;
/// use tower_promises_operations::OperationLayer;
///
/// let layer = OperationLayer::new(Backend::memory())
///     .wait(Duration::from_secs(1))
///     .public_origin("https://reports.example.com")
///     .principal(|request| {
///         // Set by an outer authentication layer.
///         request.extensions.get::<String>().cloned()
///     });
/// let operations = layer.operations();
/// # let _ = operations;
/// ```
///
/// Clones share their running operations and limits with each other, with their [services](OperationService),
/// [routes](Self::routes) and [handles](Self::operations). A process needs one layer.
///
/// A setter changes neither other clones nor services, routes and handles that were created before: it returns a layer
/// that shares only the backend with them, like the layer of another process. So call the setters first.
#[derive(Clone)]
#[must_use]
pub struct OperationLayer {
    backend: Backend,
    instance: Arc<Instance>,
}

impl OperationLayer {
    /// Creates a layer that stores operations in this backend, with the default settings.
    pub fn new(backend: Backend) -> Self {
        Self::with_settings(backend, Settings::default())
    }

    /// Creates a layer that stores operations in this process, with the default settings.
    pub fn memory() -> Self {
        Self::new(Backend::memory())
    }

    fn with_settings(backend: Backend, settings: Settings) -> Self {
        Self {
            instance: Instance::new(backend.clone(), settings),
            backend,
        }
    }

    /// Changes the settings. The other clones keep their instance.
    pub(super) fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.instance.settings.clone();
        change(&mut settings);
        Self::with_settings(self.backend, settings)
    }

    /// Returns a service that answers requests for operations. Mount it in a router that has the layer only on some of
    /// its routes: with `Router::route_layer`, or on a method router of axum, the layer never sees such requests.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use tower_promises_operations::OperationLayer;
    ///
    /// let operations = OperationLayer::memory();
    /// let app: Router = Router::new()
    ///     .route("/import", post(async || "imported"))
    ///     .route_layer(operations.clone())
    ///     .route_service("/.operations/{*rest}", operations.routes());
    /// # let _ = app;
    /// ```
    #[must_use]
    pub fn routes(&self) -> OperationRoutes {
        OperationRoutes::of(self.instance.clone())
    }

    /// Returns a handle to the operations, for code outside of handlers.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations::of(self.instance.clone())
    }
}

/// Times. More than a hundred years count as a hundred years.
impl OperationLayer {
    /// Sets the function that decides which requests can become operations. By default `POST`, `PUT`, `PATCH` and
    /// `DELETE` can [always](Escalate::Always), `HEAD`, `OPTIONS` and `TRACE` [never](Escalate::Never), and other
    /// methods, such as `GET`, [when preferred](Escalate::WhenPreferred). Requests whose media type begins with
    /// `application/grpc` never can.
    ///
    /// Upgrades and `CONNECT` never can, whatever the function returns. The body of a request that can become an
    /// operation is read to its end first, so the function must return [`Escalate::Never`] for requests whose client
    /// sends while it reads, such as gRPC calls. The function should read only headers that `Vary` names, otherwise
    /// caches mix up responses. For a `HEAD` request that never becomes an operation, it is called again with the
    /// method `GET`, because the response has the `Vary` of the response to `GET`.
    ///
    /// ```
    /// use tower_promises_operations::{Escalate, OperationLayer};
    ///
    /// let layer = OperationLayer::memory()
    ///     .escalate(|request| match request.uri.path() {
    ///         "/report" => Escalate::Always,
    ///         _ => Escalate::Never,
    ///     });
    /// # let _ = layer;
    /// ```
    pub fn escalate(
        self,
        escalate: impl Fn(&request::Parts) -> Escalate + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.escalate = Arc::new(escalate))
    }

    /// Sets how long a client waits for its first reply before the request becomes an operation, by default 2 seconds.
    /// The wait begins when the request body has been read.
    ///
    /// `Prefer: wait=N` sets another wait, and `Prefer: respond-async` alone sets none.
    pub fn wait(self, wait: Duration) -> Self {
        self.with(|settings| settings.wait = wait)
    }

    /// Sets the longest wait that `Prefer: wait=N` can request, by default 30 seconds. Keep it below the idle timeout
    /// of the proxies between server and client, often 60 seconds.
    pub fn max_wait(self, wait: Duration) -> Self {
        self.with(|settings| settings.max_wait = wait)
    }

    /// Sets what happens to the work of a client that disconnects before its first reply, by default
    /// [`OnDisconnect::Drop`].
    ///
    /// The work for a request with an idempotency key always continues: its client is expected to send it again.
    pub fn on_disconnect(self, on_disconnect: OnDisconnect) -> Self {
        self.with(|settings| settings.on_disconnect = on_disconnect)
    }

    /// Sets how long an operation may take, by default one hour. After that it is cancelled.
    pub fn lifetime(self, lifetime: Duration) -> Self {
        self.with(|settings| settings.lifetime = lifetime.min(LONGEST))
    }

    /// Sets how long status and result are stored after the end, by default one hour. After that, the owner gets 410
    /// (gone) for another retention, and then 404 (unknown).
    pub fn retention(self, retention: Duration) -> Self {
        self.with(|settings| settings.retention = retention.min(LONGEST))
    }

    /// Sets whether a result can be read only once, by default no: a result can be read until it
    /// [expires](Self::retention), also by a client whose connection broke while it was reading.
    ///
    /// With this setting, a result is removed when the server has taken the whole body for sending.
    pub fn result_once(self, once: bool) -> Self {
        self.with(|settings| settings.result_once = once)
    }

    /// Sets whether requests with an `Idempotency-Key` run once, however often they are sent. By default no: the header
    /// is left to the inner service.
    ///
    /// See [the rules](super#idempotency-keys).
    pub fn idempotency_keys(self, honoured: bool) -> Self {
        self.with(|settings| settings.idempotency_keys = honoured)
    }
}

/// Calls at the end.
impl OperationLayer {
    /// Sets the function that is called when an operation has ended, in any way, by default none.
    ///
    /// It is called at least once for each operation, after the end is recorded. If it fails, or the process dies before
    /// it has succeeded, it is called again after two [leases](Self::lease), at least 15 seconds, by any process that
    /// shares the backend, until the operation [expires](Self::retention). A process takes part from its first request
    /// on. A call that takes longer than that has failed, and its future is dropped. A client cannot remove an operation
    /// before the function has succeeded: the removal is answered with 503.
    ///
    /// Requests that are answered within the wait are not operations. With an idempotency key, they are.
    ///
    /// The queue of the backend must support [delays](tower_promises_backend::Capabilities::delays). If the queue does
    /// not accept the call, the request stays on its connection. `TaskQueue::on_operation_end` of `tower-promises-tasks`
    /// submits a task, such as a webhook.
    ///
    /// # Panics
    ///
    /// A panic in the function is a failure.
    pub fn on_end<F>(self, on_end: impl Fn(Operation) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let on_end = Arc::new(on_end);
        self.with(|settings| {
            settings.on_end = Some(Arc::new(move |record| {
                let on_end = on_end.clone();
                Box::pin(async move {
                    // In a task of its own, so that a panic is an error here.
                    let called = tokio::spawn(async move { on_end(Operation::of(record)).await });
                    called.await?
                })
            }));
        })
    }

    /// Sets the function that decides whether a client may set the address that is called at the end of its operation,
    /// with the request header `Prefer: callback; url="https://…"` (OData 4.01). By default no client may, and the
    /// preference is ignored.
    ///
    /// The address is available as [`Operation::callback`]; the function of [`on_end`](Self::on_end) calls it. A client
    /// chooses the address, so check its host, and send with a client that refuses private addresses, as `Webhook` of
    /// `tower-promises-tasks` does.
    ///
    /// ```
    /// use tower_promises_operations::OperationLayer;
    ///
    /// let layer = OperationLayer::memory()
    ///     .callbacks(|_, url| url.starts_with("https://"));
    /// # let _ = layer;
    /// ```
    pub fn callbacks(
        self,
        allow: impl Fn(&request::Parts, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.callbacks = Some(Arc::new(allow)))
    }
}

/// Addresses, principals and pages.
impl OperationLayer {
    /// Sets the path below which the addresses of operations are, by default `/.operations`. The layer answers all
    /// requests below it, and none of them reaches the inner service. A slash is added at the beginning and removed at
    /// the end. An empty path is the default. The path is copied into addresses unchanged, so it must not need an
    /// encoding. The layer must see the paths that clients send: see [how to mount
    /// it](super::guide#mounting-the-layer).
    pub fn mount(self, path: &str) -> Self {
        self.with(|settings| {
            settings.mount = match path.trim_matches('/') {
                "" => MOUNT.into(),
                path => format!("/{path}").into(),
            }
        })
    }

    /// Sets the origin that absolute addresses begin with, such as `https://example.com`. By default there is none, and
    /// addresses are path-absolute (`/.operations/…`), which every client that resolves addresses understands.
    ///
    /// Addresses are never built from `Host` or a forwarded header, because clients choose their values.
    pub fn public_origin(self, origin: &str) -> Self {
        self.with(|settings| settings.origin = origin.trim_end_matches('/').into())
    }

    /// Sets the function that returns the principal of a request: any text that tells principals apart, such as a user
    /// id. By default requests have no principal.
    ///
    /// An operation belongs to the principal of its request; all other principals get 404. An operation without a
    /// principal belongs to every client that knows its id, which is unguessable. The text must come from a verified
    /// source, for example an outer authentication layer. The store contains a digest of the text.
    pub fn principal(
        self,
        principal: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.principal = Arc::new(principal))
    }

    /// Sets a function that renders the page of an operation in place of the layer's own. It gets all data of the page
    /// and returns HTML.
    pub fn page(self, page: impl Fn(&PageContext<'_>) -> String + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.page = Some(Arc::new(page)))
    }

    /// Sets a function that renders the pages for errors and for cancelled operations in place of the layer's own, for
    /// example with a link back to the application. It returns HTML. The status stays that of the error.
    pub fn error_page(
        self,
        page: impl Fn(&ErrorContext<'_>) -> String + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.error_page = Some(Arc::new(page)))
    }

    /// Sets the texts of the pages, by default English.
    pub fn strings(self, strings: Strings) -> Self {
        self.with(|settings| settings.strings = Arc::new(strings))
    }
}

/// Limits. All are per process.
impl OperationLayer {
    /// Sets how many requests that can become operations this process runs at the same time, by default 1000. The count
    /// includes requests whose client still waits, and operations. A request beyond the limit is answered with 503, and
    /// the inner service is not called. A request whose body is larger than [`max_body_bytes`](Self::max_body_bytes) or
    /// breaks stays on its connection and is not counted.
    pub fn max_running(self, requests: usize) -> Self {
        self.with(|settings| settings.max_running = requests)
    }

    /// Sets how many of these requests a [principal](Self::principal) may have, by default 20. A request beyond the
    /// limit is answered with 429, and the inner service is not called. Requests without a principal are not limited.
    pub fn max_running_per_principal(self, requests: usize) -> Self {
        self.with(|settings| settings.max_running_per_principal = requests)
    }

    /// Sets how many request bodies this process receives at the same time, by default 256. Requests whose body has not
    /// arrived yet count here, and not as [running](Self::max_running). A request beyond the limit is answered with
    /// 503, and the inner service is not called. Requests without a body are not counted.
    ///
    /// Each body takes up to [`max_body_bytes`](Self::max_body_bytes) of memory.
    pub fn max_receiving(self, requests: usize) -> Self {
        self.with(|settings| settings.max_receiving = requests)
    }

    /// Sets how many of these bodies a [principal](Self::principal) may send, by default 20. A request beyond the limit
    /// is answered with 429, and the inner service is not called. Requests without a principal are not limited.
    pub fn max_receiving_per_principal(self, requests: usize) -> Self {
        self.with(|settings| settings.max_receiving_per_principal = requests)
    }

    /// Sets how long the body of a request that can become an operation may take to arrive, by default 60 seconds.
    /// After that the request is answered with 408, and the inner service is not called. The timeout also applies to
    /// the form of the cancel button.
    pub fn receive_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.receive_timeout = timeout)
    }

    /// Sets how many bytes of a request body are read into memory before the work begins, by default 2 MiB. A request
    /// with a larger body is not refused: it streams to the inner service, stays on its connection and does not count
    /// as [running](Self::max_running). With an idempotency key, and if it is durable, it is refused (413).
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_body_bytes = bytes)
    }

    /// Sets how many bytes a result may have, including headers, by default 4 MiB. An operation with a larger result
    /// fails. A response that begins within the wait may have any size.
    pub fn max_result_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_result_bytes = bytes)
    }

    /// Sets how many bytes all stored results of this process may have together, by default 32 MiB. Each operation
    /// counts as 1 KiB more than its result, until its [`retention`](Self::retention) is over. When the limit is reached,
    /// new requests are answered with 503, and an operation whose result has no room fails. A durable operation does not
    /// fail: its result counts in the process that ends it, beyond the limit if need be.
    ///
    /// The default has room for 30,000 small results, which are nine a second with the default retention of an hour. For
    /// more, multiply: 20 operations a second whose results have 1 KiB, kept for an hour, take 20 × 3600 × 2 KiB, so set
    /// 150 MiB, or a retention of ten minutes, which takes 24 MiB.
    ///
    /// Keep the limit well below the capacity of the store. The capacity of [`Backend::memory`] is 64 MiB.
    pub fn max_stored_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_stored_bytes = bytes)
    }

    /// Sets how many of these bytes a [principal](Self::principal) may have. When the limit is reached, the principal's
    /// new requests are answered with 429, and its operations whose result has no room fail. Requests without a
    /// principal are not limited. By default a quarter of the total, and at least the size of one result.
    pub fn max_stored_bytes_per_principal(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_stored_bytes_per_principal = Some(bytes))
    }

    /// Sets the minimum interval between two writes of an operation's progress to the store, where other processes see
    /// it, by default 200 milliseconds. The first change is written at once, and the last with the end.
    pub fn progress_interval(self, interval: Duration) -> Self {
        self.with(|settings| settings.progress_interval = interval.min(LONGEST))
    }

    /// Sets how long an operation stays valid after the last sign of life of the process that runs it, by default 15
    /// seconds and at least three milliseconds. The process renews the lease three times in that time. After the lease
    /// has expired, a process that gets a request for the operation shows it as running for one more lease, from the
    /// first request on. If there is still no renewal, the process ends the operation: it is `Failed` with the code
    /// `Lost`. Each process counts for itself. A client that polls often, or follows the events, sees the end within
    /// two leases.
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|settings| settings.lease = lease.clamp(Duration::from_millis(3), LONGEST))
    }

    /// Sets the delay in `Retry-After`, by default one second. The header has whole seconds, rounded up, at least one.
    /// A page without scripts reloads itself after this time or later, see
    /// [`PageContext::reload`](crate::page::PageContext::reload).
    pub fn retry_after(self, delay: Duration) -> Self {
        self.with(|settings| settings.retry_after = delay.min(LONGEST))
    }

    /// Sets how often an idle event stream sends a comment, by default 15 seconds and at least a millisecond, so that
    /// proxies do not close the connection. The stream then also reads the store, in case the bus has lost a message or
    /// the [lease](Self::lease) has ended. If the lease is shorter than this interval, the lease is the interval.
    pub fn heartbeat(self, interval: Duration) -> Self {
        self.with(|settings| settings.heartbeat = interval.max(Duration::from_millis(1)))
    }

    /// Sets the timeout of a backend call, by default 5 seconds. A request that cannot become an operation because of a
    /// timeout stays on its connection. A request for an operation is answered with 503.
    pub fn backend_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.backend_timeout = timeout)
    }
}

impl<S> Layer<S> for OperationLayer {
    type Service = OperationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OperationService::with_instance(inner, self.instance.clone())
    }
}

impl fmt::Debug for OperationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationLayer")
            .field("settings", &self.instance.settings)
            .finish()
    }
}
