use super::FragmentError;
use super::FragmentService;
use super::settings::Settings;
use crate::PromiseLayer;
#[cfg(doc)]
use crate::Promises;
use crate::promise::DefaultResponseForRejection;
use http::request;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_layer::Layer;

/// Layer that applies the [`FragmentService`] middleware. It contains a [`PromiseLayer`].
///
/// See the [module docs](crate::fragment) for an example.
#[derive(Clone)]
#[must_use]
pub struct FragmentLayer<H = DefaultResponseForRejection> {
    promises: PromiseLayer<H>,
    settings: Settings,
}

impl FragmentLayer {
    /// Creates a layer with the default settings: those of [`PromiseLayer::new`], a grace of 10 milliseconds, a timeout
    /// of 30 seconds, 256 pending fragments, 256 KiB of rendered fragments, no script.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Default for FragmentLayer {
    fn default() -> Self {
        Self {
            promises: PromiseLayer::new(),
            settings: Settings::default(),
        }
    }
}

impl<H> FragmentLayer<H> {
    /// Sets the layer that runs the passes and promises, with its settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_promises::PromiseLayer;
    /// use tower_promises::fragment::FragmentLayer;
    ///
    /// let layer = FragmentLayer::new()
    ///     .promises(PromiseLayer::new().promise_timeout(Duration::from_secs(5)));
    /// # let _ = layer;
    /// ```
    ///
    /// [`PromiseLayer::timeout`] limits the whole request. A page that streams when that time is over ends as with
    /// [`timeout`](Self::timeout).
    pub fn promises<T>(self, promises: PromiseLayer<T>) -> FragmentLayer<T> {
        FragmentLayer {
            promises,
            settings: self.settings,
        }
    }

    /// Sets how long a response waits for fragments that become ready soon. Default 10 milliseconds.
    ///
    /// These fragments are rendered into the page, without their fallbacks. The time begins when everything has settled
    /// that was read outside of fragments. With zero only fragments that are ready at that moment are part of the page.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Sets how long fragments may take from the beginning of the response. Default 30 seconds.
    ///
    /// A fragment that is pending then is rendered once more, and its promises read as
    /// [`TimedOut`](crate::PromiseError::TimedOut). Then the page ends. The promises end in time even if the
    /// client does not read.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Sets how many fragments of a page may be pending at once. Default 256.
    ///
    /// The page waits for a further fragment, as for a value that is read outside of fragments.
    pub fn max_fragments(mut self, fragments: usize) -> Self {
        self.settings
            .set_fragments(|it| it.max_fragments = fragments);
        self
    }

    /// Sets how many bytes of rendered fragments may wait for the client to read them. Default 256 KiB.
    ///
    /// No further fragment is rendered before the client has read these bytes. One fragment may exceed the limit,
    /// because the length of a fragment is known only after it was rendered.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_buffered_bytes = bytes;
        self
    }

    /// Sets a condition for the requests whose pages may stream. All other requests get the whole page.
    ///
    /// The condition is in addition to [the built-in conditions](crate::fragment#pages-that-do-not-stream). Use it for
    /// crawlers, or for a choice of the reader:
    ///
    /// ```
    /// use http::header::USER_AGENT;
    /// use http::request::Parts;
    /// use tower_promises::fragment::FragmentLayer;
    ///
    /// let layer = FragmentLayer::new().stream_when(|request: &Parts| {
    ///     let agent = request.headers.get(USER_AGENT);
    ///     let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    ///     !agent.contains("bot") && request.uri.query() != Some("whole")
    /// });
    /// # let _ = layer;
    /// ```
    pub fn stream_when(
        mut self,
        condition: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.stream_when = Some(Arc::new(condition));
        self
    }

    /// Sets what a page shows in place of a fragment that failed. By default it shows nothing.
    ///
    /// The function returns HTML. The error is logged in any case. The function must not show the error to clients.
    pub fn on_error(
        mut self,
        on_error: impl Fn(&FragmentError) -> String + Send + Sync + 'static,
    ) -> Self {
        let on_error = Arc::new(on_error);
        self.settings
            .set_fragments(|it| it.on_error = Some(on_error));
        self
    }

    /// Adds a script for browsers that do not replace fragments themselves. By default there is none.
    ///
    /// `address` is where the application serves [`SCRIPT`](super::SCRIPT), as `text/javascript`. The layer adds a
    /// `<script src="…" async>` to pages that stream. There is no inline code, so the script works under a
    /// `Content-Security-Policy` of `default-src 'self'`.
    pub fn script(mut self, address: &str) -> Self {
        self.settings.set_script(address);
        self
    }
}

impl<S, H> Layer<S> for FragmentLayer<H>
where
    H: Clone,
{
    type Service = FragmentService<S, H>;

    fn layer(&self, inner: S) -> Self::Service {
        FragmentService::new(self.promises.layer(inner), Arc::new(self.settings.clone()))
    }
}

impl<H> fmt::Debug for FragmentLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("FragmentLayer");
        debug.field("promises", &self.promises);
        self.settings.debug(&mut debug);
        debug.finish()
    }
}
