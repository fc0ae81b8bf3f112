use super::ServerTimingService;
use super::header::Limits;
use http::request;
use std::any::type_name;
use std::fmt;
use tower_layer::Layer;

/// Layer that applies the [`ServerTimingService`] middleware. It turns the [`Passes`](crate::promise::Passes) of a
/// response into a [`Server-Timing`](https://www.w3.org/TR/server-timing/) header. Developer tools of browsers draw the
/// header as bars, and scripts read it as `PerformanceServerTiming`.
///
/// Place the layer outside [`PromiseLayer`](crate::PromiseLayer).
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_promises::PromiseLayer;
/// use tower_promises::observe::ServerTimingLayer;
///
/// let layers = ServiceBuilder::new()
///     // Shows the header to requests that a proxy has marked as coming from the staff.
///     .layer(ServerTimingLayer::new(|request| request.headers.contains_key("x-staff")))
///     .layer(PromiseLayer::new());
/// # let _ = layers;
/// ```
///
/// # The header
///
/// ```text
/// server-timing: pass-1;dur=0.412, pass-2;dur=1.080, user_7;desc="user:7";dur=53.120
/// ```
///
/// There is an entry for each pass, and one for each promise that has started, in the order in which they settled. The
/// entry of a promise has the promise's name, with an underscore for each character that is not allowed in a token
/// (RFC 9110, section 5.6.2). Its description is the name with question marks for characters that are not printable
/// ASCII, followed by the outcome if the promise has no value. Both contain at most 64 characters of the name. `dur` is
/// in milliseconds.
///
/// By default the header has at most 2048 bytes, 32 passes and 32 promises. If there are more, it has the slowest. A
/// response that took a single pass and has no promise gets no header. An existing `Server-Timing` header is kept, and
/// this one is appended.
///
/// Browsers show the header to scripts of the same origin. Other origins need `Timing-Allow-Origin`, which the
/// application sets.
///
/// # Security
///
/// Names of promises may be secret, and durations reveal what is cached. The layer therefore shows the header only to
/// requests for which the function passed to [`new`](Self::new) returns `true`. A request header as in the example is
/// trustworthy only if a proxy removes it from all other requests. A cache stores the header with the response: behind
/// a shared cache, show the header only with responses that are `private` or not stored.
#[derive(Clone)]
#[must_use]
pub struct ServerTimingLayer<F> {
    is_visible: F,
    limits: Limits,
}

impl<F> ServerTimingLayer<F> {
    /// Shows the header to requests for which `is_visible` returns `true`.
    ///
    /// The function is called before the request is handled.
    pub fn new(is_visible: F) -> Self
    where
        F: Fn(&request::Parts) -> bool,
    {
        Self {
            is_visible,
            limits: Limits {
                max_entries: 32,
                max_bytes: 2048,
            },
        }
    }

    /// Sets the largest number of promises, and the largest number of passes, in the header. Default 32.
    ///
    /// If there are more, the slowest are shown.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.limits.max_entries = entries;
        self
    }

    /// Sets the largest length of the header's value in bytes. Default 2048.
    ///
    /// Proxies refuse responses with large headers: nginx accepts 4 KiB for all headers together on most machines. The
    /// default is half of that.
    ///
    /// If there is more, the header has the slowest promises that fit, and all passes unless these alone are too long.
    /// The entry of a pass has about 20 bytes. The entry of a promise has about 30 bytes and twice its name, at most
    /// 250. Other headers, including another `Server-Timing`, are not counted.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_bytes = bytes;
        self
    }
}

impl<S, F> Layer<S> for ServerTimingLayer<F>
where
    F: Clone,
{
    type Service = ServerTimingService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerTimingService::new(inner, self.is_visible.clone(), self.limits)
    }
}

impl<F> fmt::Debug for ServerTimingLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTimingLayer")
            .field("is_visible", &format_args!("{}", type_name::<F>()))
            .field("limits", &self.limits)
            .finish()
    }
}
