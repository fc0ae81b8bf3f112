use super::core::Core;
use super::layer::OperationLayer;
use super::page::{PageContext, Strings};
use super::settings::{DEFAULT_MOUNT, Escalate, OnDisconnect, Settings};
use tower_promises_backend::Backend;
use tower_promises_backend::kit::clock::LONGEST;
use http::request;
use std::sync::Arc;
use std::time::Duration;

/// Builds an [`OperationLayer`] that has other than the default settings.
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
///         // What an authentication layer outside has put there.
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

/// When, and for how long. More than a hundred years count as that.
impl OperationLayerBuilder {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            settings: Settings::default(),
            backend,
        }
    }

    /// Which requests can become operations. By default `POST`, `PUT`, `PATCH` and `DELETE` do
    /// [always](Escalate::Always), `HEAD`, `OPTIONS` and `TRACE` [never](Escalate::Never), and others, such as
    /// `GET`, [when preferred](Escalate::WhenPreferred). Requests whose media type begins with `application/grpc` never
    /// do.
    ///
    /// Upgrades and `CONNECT` never do, whatever the predicate says. The body of a request that can become an operation
    /// is read to its end first, so a predicate returns [`Escalate::Never`] for requests whose client sends while it
    /// reads, such as gRPC calls. It should look at nothing that `Vary` does not name, or caches mix up responses. For
    /// a `HEAD` request that never becomes an operation it is called again with the method `GET`, because the response
    /// has the `Vary` of the response to `GET`.
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

    /// How long a client waits for its first reply before the request becomes an operation, default
    /// [`DEFAULT_WAIT`](super::DEFAULT_WAIT). It begins when the request body has been read.
    ///
    /// `Prefer: wait=N` asks for another time, and `Prefer: respond-async` alone for none.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// How long a client can ask to wait by `Prefer: wait=N`, default [`DEFAULT_MAX_WAIT`](super::DEFAULT_MAX_WAIT).
    /// Keep it below what proxies between here and the client take for a dead connection, often 60 seconds.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.settings.max_wait = wait;
        self
    }

    /// What happens to the work of a client that goes away before its first reply, default [`OnDisconnect::Drop`].
    ///
    /// A request with an idempotency key goes on in any case: its client is to come back for it.
    pub fn on_disconnect(mut self, on_disconnect: OnDisconnect) -> Self {
        self.settings.on_disconnect = on_disconnect;
        self
    }

    /// How long an operation may take, default [`DEFAULT_LIFETIME`](super::DEFAULT_LIFETIME). Then it is cancelled.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.lifetime = lifetime.min(LONGEST);
        self
    }

    /// How long status and result are kept after the end, default [`DEFAULT_RETENTION`](super::DEFAULT_RETENTION). For
    /// as long again, the owner is told that the operation is gone (410), then it is unknown (404).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention.min(LONGEST);
        self
    }

    /// Whether a result can be read once only, default no: it can be read until it
    /// [expires](Self::retention), also by a client whose connection broke in the middle.
    ///
    /// With it, a result is gone when its body has been sent to the end, which is when the server has taken all of
    /// it for sending.
    pub fn result_once(mut self, once: bool) -> Self {
        self.settings.result_once = once;
        self
    }

    /// Whether requests with an `Idempotency-Key` run once, however often they are sent. Default no: the header is
    /// left to the inner service.
    ///
    /// See [the rules](super#idempotency-keys).
    pub fn idempotency_keys(mut self, honoured: bool) -> Self {
        self.settings.idempotency_keys = honoured;
        self
    }
}

/// Addresses and people.
impl OperationLayerBuilder {
    /// The path under which operations are, default [`DEFAULT_MOUNT`]. All requests below it are answered by the layer
    /// and never reach the inner service. A slash is added at its beginning and removed at its end. An empty
    /// path is the default. It stands in addresses as it is, so it must not need an encoding. The layer has to see the
    /// paths that clients send: see [how to mount it](super::guide#mounting-the-layer).
    pub fn mount(mut self, path: &str) -> Self {
        self.settings.mount = match path.trim_matches('/') {
            "" => DEFAULT_MOUNT.into(),
            path => format!("/{path}").into(),
        };
        self
    }

    /// The origin that absolute addresses begin with, such as `https://example.com`. By default there is none, and
    /// addresses are path-absolute (`/.operations/…`), which is right for every client that resolves them.
    ///
    /// Addresses are never made from `Host` or a forwarded header, which a client can set to what it likes.
    pub fn public_origin(mut self, origin: &str) -> Self {
        self.settings.origin = origin.trim_end_matches('/').into();
        self
    }

    /// Who makes a request: any text that tells principals apart, such as a user id. Default: nobody in particular.
    ///
    /// An operation belongs to the principal who asked for it; all others are told that there is no such operation.
    /// One of nobody in particular belongs to whoever knows its id, which is unguessable. The text must come from
    /// something that was verified, by an authentication layer outside of this one for example. The store has a digest
    /// of it, not the text.
    pub fn principal(
        mut self,
        principal: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.settings.principal = Arc::new(principal);
        self
    }

    /// Makes the page that browsers see, instead of the layer's own. It gets what it may show and returns HTML.
    pub fn page(
        mut self,
        page: impl Fn(&PageContext<'_>) -> String + Send + Sync + 'static,
    ) -> Self {
        self.settings.page = Some(Arc::new(page));
        self
    }

    /// The texts of the pages, default English.
    pub fn strings(mut self, strings: Strings) -> Self {
        self.settings.strings = Arc::new(strings);
        self
    }
}

/// Limits, all of them per process.
impl OperationLayerBuilder {
    /// How many requests that can become operations this process works on at the same time, default
    /// [`DEFAULT_MAX_RUNNING`](super::DEFAULT_MAX_RUNNING). Those are counted whose client still waits, and those that
    /// are operations. One more is answered with 503 and the inner service not called. Requests whose body is larger
    /// than [`max_body_bytes`](Self::max_body_bytes) or breaks stay on their connection and are not counted.
    pub fn max_running(mut self, requests: usize) -> Self {
        self.settings.max_running = requests;
        self
    }

    /// How many of them one [principal](Self::principal) may have, default
    /// [`DEFAULT_MAX_RUNNING_PER_PRINCIPAL`](super::DEFAULT_MAX_RUNNING_PER_PRINCIPAL). One more is answered with 429
    /// and the inner service not called. It does not hold for nobody in particular.
    pub fn max_running_per_principal(mut self, requests: usize) -> Self {
        self.settings.max_running_per_principal = requests;
        self
    }

    /// How many request bodies this process receives at the same time, default 256. Requests whose body has not arrived
    /// yet count here, and not as [running](Self::max_running). One more is answered with 503 and the inner service
    /// not called. Requests without a body are not counted.
    ///
    /// Each of them takes up to [`max_body_bytes`](Self::max_body_bytes) of memory.
    pub fn max_receiving(mut self, requests: usize) -> Self {
        self.settings.max_receiving = requests;
        self
    }

    /// How many of these bodies one [principal](Self::principal) may send, default 20. One more is answered with 429 and
    /// the inner service not called. Requests without a principal are not limited by this.
    pub fn max_receiving_per_principal(mut self, requests: usize) -> Self {
        self.settings.max_receiving_per_principal = requests;
        self
    }

    /// How long the body of a request that can become an operation may take to arrive, default 60 seconds. Then the
    /// request is answered with 408 and the inner service not called. It holds for the form of the cancel button, too.
    pub fn receive_timeout(mut self, timeout: Duration) -> Self {
        self.settings.receive_timeout = timeout;
        self
    }

    /// How many bytes of a request body are read, and kept in memory, before the work begins. Default
    /// [`DEFAULT_MAX_BODY_BYTES`](super::DEFAULT_MAX_BODY_BYTES). A request with a larger body is not refused: it
    /// streams to the inner service, stays on its connection and is not counted as [running](Self::max_running). With an
    /// idempotency key it is refused (413).
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// How many bytes a result may have, headers included, default
    /// [`DEFAULT_MAX_RESULT_BYTES`](super::DEFAULT_MAX_RESULT_BYTES). An operation with a larger one has failed. A
    /// response that comes within the wait may have any size.
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_result_bytes = bytes;
        self
    }

    /// How many bytes all results of this process may have that are still kept, default
    /// [`DEFAULT_MAX_STORED_BYTES`](super::DEFAULT_MAX_STORED_BYTES); each operation counts as 1 KiB more than its
    /// result. Where it is reached, new requests are answered with 503, and a result that has no room fails its
    /// operation.
    ///
    /// Keep it well below what the store can hold: that of [`Backend::memory`] holds 64 MiB.
    pub fn max_stored_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_stored_bytes = bytes;
        self
    }

    /// How many of those bytes one [principal](Self::principal) may have. Where that is reached, its new requests are
    /// answered with 429, and a result of its that has no room fails its operation. It does not hold for nobody in
    /// particular. Default: a quarter of all, and as much as one result may have where that is more.
    pub fn max_stored_bytes_per_principal(mut self, bytes: usize) -> Self {
        self.settings.max_stored_bytes_per_principal = Some(bytes);
        self
    }

    /// How often the progress of an operation goes to the store at most, where others see it. Default
    /// [`DEFAULT_PROGRESS_INTERVAL`](super::DEFAULT_PROGRESS_INTERVAL). The first change goes there at once, and the
    /// last with the end.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.settings.progress_interval = interval.min(LONGEST);
        self
    }

    /// How long an operation outlives the last sign of life of the process that works on it, default
    /// [`DEFAULT_LEASE`](super::DEFAULT_LEASE). A sign is given three times in that time. After its end, a process that is
    /// asked for the operation shows it as running for as long again, from its first look on. If there is still no sign, it
    /// ends the operation: it has failed with the code `Lost`. Each process that is asked counts for itself. A client that
    /// asks often, or follows the events, learns it within two leases. It is at least three milliseconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.clamp(Duration::from_millis(3), LONGEST);
        self
    }

    /// When a client is told to ask again, default [`DEFAULT_RETRY_AFTER`](super::DEFAULT_RETRY_AFTER). Whole seconds,
    /// rounded up, at least one, go into `Retry-After`. The page reloads itself as often where no script runs.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.settings.retry_after = delay.min(LONGEST);
        self
    }

    /// How often an event stream on which nothing happens sends a comment, default
    /// [`DEFAULT_HEARTBEAT`](super::DEFAULT_HEARTBEAT), so that nothing in between takes it for dead. It then also
    /// looks into the store, in case the bus has lost a message or the [lease](Self::lease) has ended, so a shorter
    /// lease counts instead. It is at least a millisecond.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.settings.heartbeat = interval.max(Duration::from_millis(1));
        self
    }

    /// How long the backend may take for one answer, default
    /// [`DEFAULT_BACKEND_TIMEOUT`](super::DEFAULT_BACKEND_TIMEOUT). A request that cannot become an operation for that
    /// reason stays on its connection; one for an operation is answered with 503.
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.settings.backend_timeout = timeout;
        self
    }

    /// Makes the layer. Each call makes one with limits and running operations of its own, as if in a process of its
    /// own; a process needs one, and clones it.
    pub fn build(self) -> OperationLayer {
        OperationLayer::of(Core::new(self.backend, self.settings))
    }
}
