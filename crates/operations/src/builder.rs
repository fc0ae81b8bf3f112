use super::instance::Instance;
use super::layer::OperationLayer;
use super::page::{PageContext, Strings};
use super::settings::{Escalate, MOUNT, OnDisconnect, Settings};
use http::request;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::Backend;
use tower_promises_backend::kit::clock::LONGEST;

/// Builds an [`OperationLayer`] with custom settings.
///
/// ```
/// use std::time::Duration;
/// use tower_promises_operations::OperationLayer;
/// use tower_promises_backend::Backend;
///
/// let layer = OperationLayer::builder(Backend::memory())
///     .wait(Duration::from_secs(1))
///     .public_origin("https://reports.example.com")
///     .principal(|request| {
///         // Set by an outer authentication layer.
///         request.extensions.get::<String>().cloned()
///     })
///     .build();
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
#[must_use = "`build` makes the layer"]
pub struct OperationLayerBuilder {
    settings: Settings,
    backend: Backend,
}

/// Times. More than a hundred years count as a hundred years.
impl OperationLayerBuilder {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            settings: Settings::default(),
            backend,
        }
    }

    /// Sets the function that decides which requests can become operations. By default `POST`, `PUT`, `PATCH` and
    /// `DELETE` can [always](Escalate::Always), `HEAD`, `OPTIONS` and `TRACE` [never](Escalate::Never), and other
    /// methods, such as `GET`, [when preferred](Escalate::WhenPreferred). Requests whose media type begins with
    /// `application/grpc` never can.
    ///
    /// Upgrades and `CONNECT` never can, whatever the predicate returns. The body of a request that can become an
    /// operation is read to its end first, so the predicate must return [`Escalate::Never`] for requests whose client
    /// sends while it reads, such as gRPC calls. The predicate should read only headers that `Vary` names, otherwise
    /// caches mix up responses. For a `HEAD` request that never becomes an operation, it is called again with the
    /// method `GET`, because the response has the `Vary` of the response to `GET`.
    ///
    /// ```
    /// use tower_promises_operations::OperationLayer;
    /// use tower_promises_backend::Backend;
    /// use tower_promises_operations::Escalate;
    ///
    /// let layer = OperationLayer::builder(Backend::memory())
    ///     .predicate(|request| match request.uri.path() {
    ///         "/report" => Escalate::Always,
    ///         _ => Escalate::Never,
    ///     })
    ///     .build();
    /// # let _ = layer;
    /// ```
    pub fn predicate(
        mut self,
        predicate: impl Fn(&request::Parts) -> Escalate + Send + Sync + 'static,
    ) -> Self {
        self.settings.predicate = Arc::new(predicate);
        self
    }

    /// Sets how long a client waits for its first reply before the request becomes an operation, by default 2 seconds.
    /// The wait begins when the request body has been read.
    ///
    /// `Prefer: wait=N` sets another wait, and `Prefer: respond-async` alone sets none.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Sets the longest wait that `Prefer: wait=N` can request, by default 30 seconds. Keep it below the idle timeout
    /// of the proxies between server and client, often 60 seconds.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.settings.max_wait = wait;
        self
    }

    /// Sets what happens to the work of a client that disconnects before its first reply, by default
    /// [`OnDisconnect::Drop`].
    ///
    /// The work for a request with an idempotency key always continues: its client is expected to send it again.
    pub fn on_disconnect(mut self, on_disconnect: OnDisconnect) -> Self {
        self.settings.on_disconnect = on_disconnect;
        self
    }

    /// Sets how long an operation may take, by default one hour. After that it is cancelled.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.lifetime = lifetime.min(LONGEST);
        self
    }

    /// Sets how long status and result are stored after the end, by default one hour. After that, the owner gets 410
    /// (gone) for another retention, and then 404 (unknown).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention.min(LONGEST);
        self
    }

    /// Sets whether a result can be read only once, by default no: a result can be read until it
    /// [expires](Self::retention), also by a client whose connection broke while it was reading.
    ///
    /// With this setting, a result is removed when the server has taken the whole body for sending.
    pub fn result_once(mut self, once: bool) -> Self {
        self.settings.result_once = once;
        self
    }

    /// Sets whether requests with an `Idempotency-Key` run once, however often they are sent. By default no: the header
    /// is left to the inner service.
    ///
    /// See [the rules](super#idempotency-keys).
    pub fn idempotency_keys(mut self, honoured: bool) -> Self {
        self.settings.idempotency_keys = honoured;
        self
    }
}

/// Addresses, principals and pages.
impl OperationLayerBuilder {
    /// Sets the path below which the addresses of operations are, by default `/.operations`. The layer answers all
    /// requests below it, and none of them reaches the inner service. A slash is added at the beginning and removed at
    /// the end. An empty path is the default. The path is copied into addresses unchanged, so it must not need an
    /// encoding. The layer must see the paths that clients send: see [how to mount
    /// it](super::guide#mounting-the-layer).
    pub fn mount(mut self, path: &str) -> Self {
        self.settings.mount = match path.trim_matches('/') {
            "" => MOUNT.into(),
            path => format!("/{path}").into(),
        };
        self
    }

    /// Sets the origin that absolute addresses begin with, such as `https://example.com`. By default there is none, and
    /// addresses are path-absolute (`/.operations/…`), which every client that resolves addresses understands.
    ///
    /// Addresses are never built from `Host` or a forwarded header, because clients choose their values.
    pub fn public_origin(mut self, origin: &str) -> Self {
        self.settings.origin = origin.trim_end_matches('/').into();
        self
    }

    /// Sets the function that returns the principal of a request: any text that tells principals apart, such as a user
    /// id. By default requests have no principal.
    ///
    /// An operation belongs to the principal of its request; all other principals get 404. An operation without a
    /// principal belongs to every client that knows its id, which is unguessable. The text must come from a verified
    /// source, for example an outer authentication layer. The store contains a digest of the text.
    pub fn principal(
        mut self,
        principal: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.settings.principal = Arc::new(principal);
        self
    }

    /// Sets a function that renders the page of an operation in place of the layer's own. It gets all data of the page
    /// and returns HTML.
    pub fn page(
        mut self,
        page: impl Fn(&PageContext<'_>) -> String + Send + Sync + 'static,
    ) -> Self {
        self.settings.page = Some(Arc::new(page));
        self
    }

    /// Sets the texts of the pages, by default English.
    pub fn strings(mut self, strings: Strings) -> Self {
        self.settings.strings = Arc::new(strings);
        self
    }
}

/// Limits. All are per process.
impl OperationLayerBuilder {
    /// Sets how many requests that can become operations this process runs at the same time, by default 1000. The count
    /// includes requests whose client still waits, and operations. A request beyond the limit is answered with 503, and
    /// the inner service is not called. A request whose body is larger than [`max_body_bytes`](Self::max_body_bytes) or
    /// breaks stays on its connection and is not counted.
    pub fn max_running(mut self, requests: usize) -> Self {
        self.settings.max_running = requests;
        self
    }

    /// Sets how many of these requests a [principal](Self::principal) may have, by default 20. A request beyond the
    /// limit is answered with 429, and the inner service is not called. Requests without a principal are not limited.
    pub fn max_running_per_principal(mut self, requests: usize) -> Self {
        self.settings.max_running_per_principal = requests;
        self
    }

    /// Sets how many request bodies this process receives at the same time, by default 256. Requests whose body has not
    /// arrived yet count here, and not as [running](Self::max_running). A request beyond the limit is answered with
    /// 503, and the inner service is not called. Requests without a body are not counted.
    ///
    /// Each body takes up to [`max_body_bytes`](Self::max_body_bytes) of memory.
    pub fn max_receiving(mut self, requests: usize) -> Self {
        self.settings.max_receiving = requests;
        self
    }

    /// Sets how many of these bodies a [principal](Self::principal) may send, by default 20. A request beyond the limit
    /// is answered with 429, and the inner service is not called. Requests without a principal are not limited.
    pub fn max_receiving_per_principal(mut self, requests: usize) -> Self {
        self.settings.max_receiving_per_principal = requests;
        self
    }

    /// Sets how long the body of a request that can become an operation may take to arrive, by default 60 seconds.
    /// After that the request is answered with 408, and the inner service is not called. The timeout also applies to
    /// the form of the cancel button.
    pub fn receive_timeout(mut self, timeout: Duration) -> Self {
        self.settings.receive_timeout = timeout;
        self
    }

    /// Sets how many bytes of a request body are read into memory before the work begins, by default 2 MiB. A request
    /// with a larger body is not refused: it streams to the inner service, stays on its connection and does not count
    /// as [running](Self::max_running). With an idempotency key it is refused (413).
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// Sets how many bytes a result may have, including headers, by default 4 MiB. An operation with a larger result
    /// fails. A response that begins within the wait may have any size.
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_result_bytes = bytes;
        self
    }

    /// Sets how many bytes all stored results of this process may have together, by default 32 MiB. Each operation
    /// counts as 1 KiB more than its result. When the limit is reached, new requests are answered with 503, and an
    /// operation whose result has no room fails.
    ///
    /// Keep the limit well below the capacity of the store. The capacity of [`Backend::memory`] is 64 MiB.
    pub fn max_stored_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_stored_bytes = bytes;
        self
    }

    /// Sets how many of these bytes a [principal](Self::principal) may have. When the limit is reached, the principal's
    /// new requests are answered with 429, and its operations whose result has no room fail. Requests without a
    /// principal are not limited. By default a quarter of the total, and at least the size of one result.
    pub fn max_stored_bytes_per_principal(mut self, bytes: usize) -> Self {
        self.settings.max_stored_bytes_per_principal = Some(bytes);
        self
    }

    /// Sets the minimum interval between two writes of an operation's progress to the store, where other processes see
    /// it, by default 200 milliseconds. The first change is written at once, and the last with the end.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.settings.progress_interval = interval.min(LONGEST);
        self
    }

    /// Sets how long an operation stays valid after the last sign of life of the process that runs it, by default 15
    /// seconds and at least three milliseconds. The process renews the lease three times in that time. After the lease
    /// has expired, a process that gets a request for the operation shows it as running for one more lease, from the
    /// first request on. If there is still no renewal, the process ends the operation: it is `Failed` with the code
    /// `Lost`. Each process counts for itself. A client that polls often, or follows the events, sees the end within
    /// two leases.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.clamp(Duration::from_millis(3), LONGEST);
        self
    }

    /// Sets the delay in `Retry-After`, by default one second. The header has whole seconds, rounded up, at least one.
    /// The page reloads itself at the same interval if scripts do not run.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.settings.retry_after = delay.min(LONGEST);
        self
    }

    /// Sets how often an idle event stream sends a comment, by default 15 seconds and at least a millisecond, so that
    /// proxies do not close the connection. The stream then also reads the store, in case the bus has lost a message or
    /// the [lease](Self::lease) has ended. If the lease is shorter than this interval, the lease is the interval.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.settings.heartbeat = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the timeout of a backend call, by default 5 seconds. A request that cannot become an operation because of a
    /// timeout stays on its connection. A request for an operation is answered with 503.
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.settings.backend_timeout = timeout;
        self
    }

    /// Creates the layer. Each call creates a layer with limits and running operations of its own, as if in a separate
    /// process. A process needs one layer; clones share it.
    pub fn build(self) -> OperationLayer {
        OperationLayer::of(Instance::new(self.backend, self.settings))
    }
}
