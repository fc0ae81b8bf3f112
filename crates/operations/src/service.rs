use super::body::{OperationBody, OperationRequestBody};
use super::first_reply;
use super::instance::Instance;
use super::routes::{self, Route};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body;
use std::convert::Infallible;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_promises_backend::BoxError;
use tower_service::Service;

/// Middleware that turns a slow request into a resource.
///
/// See the [crate docs](crate) for an example.
#[derive(Clone)]
pub struct OperationService<S> {
    inner: S,
    instance: Arc<Instance>,
}

impl<S> OperationService<S> {
    pub(super) fn with_instance(inner: S, instance: Arc<Instance>) -> Self {
        Self { inner, instance }
    }

    /// Gets a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Gets a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for OperationService<S>
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<OperationBody<R>>;
    type Error = S::Error;
    type Future = OperationFuture<R, S::Error>;

    /// Always ready: status requests must not wait until the inner service has capacity. A request for the inner
    /// service waits for it in the response future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let instance = self.instance.clone();
        if Route::of(request.uri().path(), &instance.settings.mount).is_some() {
            let (parts, body) = request.into_parts();
            return OperationFuture::new(
                async move { Ok(routes::answer(instance, parts, body).await) },
            );
        }
        // The clone may not be ready. The caller may have polled the inner service ready before it was wrapped.
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        OperationFuture::new(first_reply::answer(instance, service, request))
    }
}

impl<S: fmt::Debug> fmt::Debug for OperationService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationService")
            .field("inner", &self.inner)
            .field("settings", &self.instance.settings)
            .finish()
    }
}

/// Service that answers only requests for operations, for a router that has the layer on some of its routes.
///
/// [`OperationLayer::routes`](super::OperationLayer::routes) creates it. It accepts paths with the mount path and, for
/// routers that remove the mount path, paths without it.
#[derive(Clone)]
pub struct OperationRoutes {
    instance: Arc<Instance>,
}

impl OperationRoutes {
    pub(super) fn of(instance: Arc<Instance>) -> Self {
        Self { instance }
    }
}

impl<B> Service<Request<B>> for OperationRoutes
where
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    // No response has a body of an inner service. `http-body` itself implements its trait for `String`.
    type Response = Response<OperationBody<String>>;
    type Error = Infallible;
    type Future = OperationFuture<String, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let instance = self.instance.clone();
        let (parts, body) = request.into_parts();
        OperationFuture::new(async move { Ok(routes::answer(instance, parts, body).await) })
    }
}

impl fmt::Debug for OperationRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationRoutes")
            .field("mount", &self.instance.settings.mount)
            .finish()
    }
}

/// Response future of [`OperationService`](super::OperationService).
///
/// Dropping the future before it is ready drops the work, unless the layer is
/// [configured](super::OperationLayer::on_disconnect) to continue it.
#[must_use = "futures do nothing unless polled"]
pub struct OperationFuture<R, E> {
    future: BoxFuture<'static, Result<Response<OperationBody<R>>, E>>,
}

impl<R, E> OperationFuture<R, E> {
    pub(super) fn new(
        future: impl Future<Output = Result<Response<OperationBody<R>>, E>> + Send + 'static,
    ) -> Self {
        Self {
            future: Box::pin(future),
        }
    }
}

impl<R, E> Future for OperationFuture<R, E> {
    type Output = Result<Response<OperationBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<R, E> fmt::Debug for OperationFuture<R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationFuture").finish_non_exhaustive()
    }
}
