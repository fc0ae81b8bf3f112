//! How requests for operations reach the layer.

use super::body::OperationBody;
use super::core::Core;
use super::future::OperationFuture;
use super::{observe, routes};
use tower_promises_backend::kit::sync::Mutex;
use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Body;
use http_body_util::Empty;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower_service::Service;

/// After how many operations of which none was asked for, and after how long at the earliest, the log says so.
const SUSPICIOUS: (u32, Duration) = (10, Duration::from_secs(60));

/// How long a check may take. It is sent when a server starts, which must not wait for a fallback that never answers.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of the way to the layer.
///
/// A layer on a route of a router cannot tell whether the rest of the router has it as well: neither the request nor the
/// inner service says so. Only requests that arrive, or do not, tell.
#[derive(Default)]
pub(super) struct Mount {
    /// A check has not arrived, and none since. Other requests do not count: where the layer is in a nested router, one
    /// that knows the outer path arrives, and the addresses that clients get lead nowhere all the same.
    is_unreachable: AtomicBool,
    /// A request for an operation has arrived at some time.
    has_arrived: AtomicBool,
    /// The log says that no operation was asked for.
    has_warned: AtomicBool,
    /// How many addresses were given to clients, and since when.
    given: Mutex<(u32, Option<Instant>)>,
}

/// A request that only asks whether it arrives.
#[derive(Clone, Debug, Default)]
pub(super) struct Check {
    has_arrived: Arc<AtomicBool>,
}

impl Mount {
    /// A request below the mount path is here.
    pub(super) fn arrived(&self, extensions: &Extensions) {
        self.has_arrived.store(true, Ordering::Relaxed);
        if let Some(check) = extensions.get::<Check>() {
            self.is_unreachable.store(false, Ordering::Relaxed);
            check.has_arrived.store(true, Ordering::Relaxed);
        }
    }

    /// A client is about to get an address. Returns whether it is time to tell that none was asked for so far.
    pub(super) fn gives(&self) -> bool {
        if self.has_arrived.load(Ordering::Relaxed) {
            return false;
        }
        let (number, patience) = SUSPICIOUS;
        let mut given = self.given.lock();
        let since = *given.1.get_or_insert_with(Instant::now);
        given.0 = given.0.saturating_add(1);
        let is_suspicious = given.0 > number && since.elapsed() >= patience;
        // Once is enough.
        is_suspicious && !self.has_warned.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.is_unreachable.load(Ordering::Relaxed)
    }
}

impl Core {
    /// Checks the way from outside an application to this.
    pub(super) async fn check_mount<S, B>(&self, mut app: S) -> Result<(), UnreachableMount>
    where
        S: Service<Request<B>>,
        B: Default,
    {
        let check = Check::default();
        let mut request = Request::new(B::default());
        let path = format!("{}/check", self.settings.mount);
        if let Ok(uri) = path.parse() {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(check.clone());
            let send = async {
                let is_ready = std::future::poll_fn(|cx| app.poll_ready(cx)).await.is_ok();
                if is_ready {
                    // What it is answered with does not matter.
                    let _ = app.call(request).await;
                }
            };
            // Nor does it whether it is answered.
            let _ = timeout(CHECK_TIMEOUT, send).await;
        }
        if check.has_arrived.load(Ordering::Relaxed) {
            return Ok(());
        }
        let is_unreachable = &self.mount.is_unreachable;
        is_unreachable.store(true, Ordering::Relaxed);
        let unreachable = UnreachableMount::at(&self.settings.mount);
        observe::unreachable(&unreachable);
        Err(unreachable)
    }
}

/// Service that answers requests for operations and no others, for a router that has the layer on some of its routes
/// only.
///
/// [`OperationLayer::routes`](super::OperationLayer::routes) makes one. It takes paths with the mount path and, for
/// routers that remove it, paths without.
#[derive(Clone)]
pub struct OperationRoutes {
    core: Arc<Core>,
}

impl OperationRoutes {
    pub(super) fn of(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl<B> Service<Request<B>> for OperationRoutes
where
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    type Response = Response<OperationBody<Empty<Bytes>>>;
    type Error = Infallible;
    type Future = OperationFuture<Empty<Bytes>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let core = self.core.clone();
        let (parts, body) = request.into_parts();
        OperationFuture::new(async move { Ok(routes::answer(core, parts, body).await) })
    }
}

impl fmt::Debug for OperationRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationRoutes")
            .field("mount", &self.core.settings.mount)
            .finish()
    }
}

/// Requests for operations do not reach the layer, so their addresses would lead nowhere.
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
