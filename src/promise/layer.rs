#[cfg(doc)]
use super::Rejection;
use super::settings::Settings;
use super::{DefaultResponseForRejection, OnTimeout, PromiseService, Start};
#[cfg(feature = "blocking")]
use crate::blocking::BlockingPool;
use std::fmt;
#[cfg(feature = "spool")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tower_layer::Layer;

/// Layer that applies the [`PromiseService`] middleware.
///
/// See the [module docs](crate::promise) for an example.
///
/// ```
/// use axum::{Router, routing::get};
/// use std::time::Duration;
/// use tower_promises::{PromiseError, PromiseLayer, Promises};
///
/// async fn page(promises: Promises) -> Result<String, PromiseError> {
///     promises.result_or_submit("name", async || "Ferris".to_owned())
/// }
///
/// let layer = PromiseLayer::new()
///     .promise_timeout(Duration::from_secs(2))
///     .timeout(Duration::from_secs(10))
///     .max_passes(4);
/// // After the routes, because `layer` applies to the routes before it.
/// let app: Router = Router::new().route("/", get(page)).layer(layer);
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use]
pub struct PromiseLayer<H = DefaultResponseForRejection> {
    settings: Settings<H>,
}

impl PromiseLayer {
    /// Creates a layer with the default settings: 16 passes, 1024 promises, 2 MiB of body, no timeouts, promises that
    /// start when a pass ends.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Default for PromiseLayer {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
        }
    }
}

impl<H> PromiseLayer<H> {
    /// Sets how many passes a request may have. Default 16.
    ///
    /// A request whose last pass requests another promise is [rejected](super::Rejection::TooManyPasses). With 2, a
    /// request has at most two passes. Values below 1 count as 1.
    pub fn max_passes(mut self, passes: usize) -> Self {
        self.settings.max_passes = passes.max(1);
        self
    }

    /// Sets how many promises a request may have, in all its passes together. Default 1024.
    ///
    /// A promise beyond the limit is not submitted, and the request is
    /// [rejected](super::Rejection::TooManyPromises) when the pass ends.
    pub fn max_promises(mut self, promises: usize) -> Self {
        self.settings.max_promises = promises;
        self
    }

    /// Sets how many bytes of the request body are kept for later passes. Default 2 MiB, which is the default limit of
    /// axum's extractors.
    ///
    /// The setting limits memory, not the size of a body that a handler may read. With a `spool_dir` (feature `spool`)
    /// the bytes beyond the limit go to a file. Otherwise a request of which more bytes were read is
    /// [rejected](super::Rejection::BodyTooLarge) if promises are pending at the end of the pass.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// Stores the part of a body that exceeds [`max_body_bytes`](Self::max_body_bytes) in a temporary file in this
    /// directory, up to [`max_spool_bytes`](Self::max_spool_bytes). By default there is no file.
    ///
    /// The service must then be called within a tokio runtime, whose blocking threads write and read the file. See
    /// [the module docs](crate::body#temporary-files) for details.
    ///
    /// If the file cannot be written, the pass that reads the body continues. If promises are pending at the end of the
    /// pass, the request is [rejected](super::Rejection::SpoolFailed).
    ///
    /// ```
    /// use tower_promises::PromiseLayer;
    ///
    /// let layer = PromiseLayer::new()
    ///     .max_body_bytes(64 * 1024)
    ///     .spool_dir("/var/tmp")
    ///     .max_spool_bytes(1024 * 1024 * 1024);
    /// # let _ = layer;
    /// ```
    #[cfg(feature = "spool")]
    pub fn spool_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.spool_dir = Some(directory.into().into());
        self
    }

    /// Sets how many bytes of one body its temporary file may hold. Default 64 MiB. The setting has no effect without a
    /// [`spool_dir`](Self::spool_dir).
    ///
    /// The limit is in addition to [`max_body_bytes`](Self::max_body_bytes). The disk needs room for one file for each
    /// concurrent request. A request of which more bytes were read is [rejected](super::Rejection::BodyTooLarge) if
    /// promises are pending at the end of the pass.
    #[cfg(feature = "spool")]
    pub fn max_spool_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_spool_bytes = bytes;
        self
    }

    /// Sets when a promise starts. Default [`Start::PassEnd`].
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// Sets how long each promise may take from its start. By default a promise may take as long as the request.
    ///
    /// A promise that takes longer is dropped and reads as [`TimedOut`](super::PromiseError::TimedOut). The handler
    /// decides how to respond.
    pub fn promise_timeout(mut self, timeout: Duration) -> Self {
        self.settings.promise_timeout = Some(timeout);
        self
    }

    /// Sets how long a request may take, with all passes and promises. By default there is no limit, and a request ends
    /// when the client disconnects.
    ///
    /// [`on_timeout`](Self::on_timeout) sets what happens then.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Sets what happens to a request that exceeds [`timeout`](Self::timeout). Default
    /// [`OnTimeout::Reject`].
    pub fn on_timeout(mut self, on_timeout: OnTimeout) -> Self {
        self.settings.on_timeout = on_timeout;
        self
    }

    /// Sets whether each response has [`Passes`](super::Passes) in its extensions, if its request had a promise that
    /// started. Default `false`: only a response whose request came through a
    /// [`ServerTimingLayer`](crate::observe::ServerTimingLayer) that shows the header has them.
    #[cfg(feature = "server-timing")]
    pub fn timings(mut self, timings: bool) -> Self {
        self.settings.timings = timings;
        self
    }

    /// Sets the pool that runs blocking promises. By default each layer has its own pool with the
    /// [default limits](crate::blocking#default-limits).
    #[cfg(feature = "blocking")]
    pub fn blocking(mut self, pool: BlockingPool) -> Self {
        self.settings.pool = pool;
        self
    }

    /// Sets the response to a request that the layer rejects.
    ///
    /// `on_rejection` is any [`ResponseForRejection`](super::ResponseForRejection), for example a closure. The
    /// [default](DefaultResponseForRejection) responds with `application/problem+json` if the response body is
    /// `From<Bytes>`. For a body that is only `Default`, use
    /// [`EmptyResponseForRejection`](super::EmptyResponseForRejection). For a body that is neither, such as the bodies
    /// of some inner layers, add tower-http's `MapResponseBodyLayer::new(Body::new)` inside this layer. In every case
    /// the layer adds the [`Rejection`] to the extensions of the response.
    ///
    /// ```
    /// use http::Response;
    /// use tower_promises::PromiseLayer;
    /// use tower_promises::promise::Rejection;
    ///
    /// let layer = PromiseLayer::new().on_rejection(|rejection: Rejection| {
    ///     let mut response = Response::new(format!("sorry: {}", rejection.status()));
    ///     *response.status_mut() = rejection.status();
    ///     response
    /// });
    /// # let _ = layer;
    /// ```
    pub fn on_rejection<T>(self, on_rejection: T) -> PromiseLayer<T> {
        PromiseLayer {
            settings: self.settings.with_on_rejection(on_rejection),
        }
    }
}

impl<S, H> Layer<S> for PromiseLayer<H>
where
    H: Clone,
{
    type Service = PromiseService<S, H>;

    fn layer(&self, inner: S) -> Self::Service {
        PromiseService::with_settings(inner, Arc::new(self.settings.clone()))
    }
}

impl<H> fmt::Debug for PromiseLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt_as("PromiseLayer", None, f)
    }
}
