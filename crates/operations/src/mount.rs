//! The check that requests for operations reach the layer.

use http::{Extensions, Request};
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower_promises_backend::kit::sync::lock;
use tower_service::Service;

/// The number of operations without a single request for one of them, and the minimum time, after which a warning is
/// logged.
const SUSPICIOUS: (u32, Duration) = (10, Duration::from_secs(60));

/// The timeout of a check. A server start must not wait for a fallback that never answers.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The known state of the mount.
///
/// A layer on a route cannot detect whether the other routes of the router have it: neither the request nor the inner
/// service contains that information. Only an arriving request shows it.
#[derive(Default)]
pub(super) struct Mount {
    /// The latest check has not arrived. Other requests do not count: if the layer is in a nested router, a request
    /// with the outer path arrives, although the addresses that clients get do not work.
    is_unreachable: AtomicBool,
    /// A request for an operation has arrived at some time.
    has_arrived: AtomicBool,
    /// The warning has been logged.
    has_warned: AtomicBool,
    /// The number of addresses that clients have got, and the time of the first.
    given: Mutex<(u32, Option<Instant>)>,
}

/// The extension of a request that checks the mount.
#[derive(Clone, Debug, Default)]
pub(super) struct Check {
    has_arrived: Arc<AtomicBool>,
}

impl Mount {
    /// Records the arrival of a request below the mount path.
    pub(super) fn arrived(&self, extensions: &Extensions) {
        self.has_arrived.store(true, Ordering::Relaxed);
        if let Some(check) = extensions.get::<Check>() {
            self.is_unreachable.store(false, Ordering::Relaxed);
            check.has_arrived.store(true, Ordering::Relaxed);
        }
    }

    /// Records that a client gets an address. Returns whether to log that no address has been requested so far.
    pub(super) fn gives(&self) -> bool {
        if self.has_arrived.load(Ordering::Relaxed) {
            return false;
        }
        let (number, patience) = SUSPICIOUS;
        let mut given = lock(&self.given);
        let since = *given.1.get_or_insert_with(Instant::now);
        given.0 = given.0.saturating_add(1);
        let is_suspicious = given.0 > number && since.elapsed() >= patience;
        // The warning is logged once.
        is_suspicious && !self.has_warned.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.is_unreachable.load(Ordering::Relaxed)
    }

    /// Sends a check through an application whose operations are below `path`.
    pub(super) async fn check<S, B>(&self, mut app: S, path: &str) -> Result<(), UnreachableMount>
    where
        S: Service<Request<B>>,
        B: Default,
    {
        let check = Check::default();
        let mut request = Request::new(B::default());
        if let Ok(uri) = format!("{path}/check").parse() {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(check.clone());
            let send = async {
                let is_ready = std::future::poll_fn(|cx| app.poll_ready(cx)).await.is_ok();
                if is_ready {
                    // The answer does not matter.
                    let _ = app.call(request).await;
                }
            };
            // A timeout does not matter either.
            let _ = timeout(CHECK_TIMEOUT, send).await;
        }
        if check.has_arrived.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.is_unreachable.store(true, Ordering::Relaxed);
        Err(UnreachableMount::at(path))
    }
}

/// The error of a check: requests for operations do not reach the layer, so their addresses do not work.
///
/// See [how to mount the layer](super::guide#mounting-the-layer).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreachableMount {
    path: String,
}

impl UnreachableMount {
    pub(super) fn at(mount: &str) -> Self {
        Self {
            path: format!("{mount}/{{id}}"),
        }
    }
}

impl fmt::Display for UnreachableMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "requests for operations, such as `{}`, do not reach `OperationLayer`: add it with `Router::layer` after all \
             routes, merges and fallbacks, or mount `OperationLayer::routes` as well",
            self.path
        )
    }
}

impl Error for UnreachableMount {}
