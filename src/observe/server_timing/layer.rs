use super::ServerTimingService;
use super::header::Limits;
use http::request;
use std::any::type_name;
use std::fmt;
use tower_layer::Layer;

/// Layer that applies the [`ServerTimingService`] middleware: it turns the [`Passes`](crate::promise::Passes) of a
/// response into a [`Server-Timing`](https://www.w3.org/TR/server-timing/) header, which the developer tools of
/// browsers draw as bars, and which scripts read as `PerformanceServerTiming`.
///
/// It stands outside of [`PromiseLayer`](crate::PromiseLayer).
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_promises::PromiseLayer;
/// use tower_promises::observe::ServerTimingLayer;
///
/// let layers = ServiceBuilder::new()
///     // Who sees it: here, requests that a proxy has marked as coming from the staff.
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
/// There is an entry for each pass, and one for each promise that has started, in the order in which they settled. A
/// name is that of the promise where each character that is no token (RFC 9110, section 5.6.2) is an underscore. The
/// description is the name as it is, with question marks for what is not printable ASCII, followed by what became of
/// the promise if it has no value. Of a name there are at most 64 characters in both. The header has at most
/// 2048 bytes, and 32 entries of each kind, by default: the slowest. `dur` is in
/// milliseconds. A response that has taken a single pass and has no promise gets no header. One that there is already
/// stays, and ours comes after it.
///
/// Browsers show it to scripts of the same origin. Others need `Timing-Allow-Origin`, which is yours to set.
///
/// # Security
///
/// Names of promises may be secrets, and durations tell what is in a cache. So the layer shows them only to requests
/// for which the function given to [`new`](Self::new) returns `true`. A header such as that of the example says
/// something only where a proxy removes it from all other requests. A cache keeps the header with the response: where
/// one that is shared stands in front, show it only with responses that are `private` or not stored at all.
#[derive(Clone)]
#[must_use]
pub struct ServerTimingLayer<F> {
    is_visible: F,
    limits: Limits,
}

impl<F> ServerTimingLayer<F> {
    /// Shows timings to the requests for which `is_visible` returns `true`.
    ///
    /// It is asked before the request is handled.
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

    /// Sets how many promises are shown at most, and how many passes. Default 32.
    ///
    /// If there are more, the slowest are shown.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.limits.max_entries = entries;
        self
    }

    /// Sets how long the value of the header may be, in bytes. Default 2048.
    ///
    /// Proxies refuse responses with large headers: nginx takes 4 KiB for all of them together on most machines. The
    /// default is half of it.
    ///
    /// If there is more, the slowest promises that fit are shown, and all passes unless they alone are too long. The
    /// entry of a pass has about 20 bytes, that of a promise about 30 and twice its name, at most 250. Headers of
    /// others, also another `Server-Timing`, are not counted.
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
