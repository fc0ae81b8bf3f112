use super::body::{OperationBody, OperationRequestBody};
use super::core::Core;
use super::first_reply;
use super::future::OperationFuture;
use super::routes::{self, Route};
use super::settings::Settings;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_promises_backend::{Backend, BoxError};
use tower_service::Service;

/// Middleware that turns a slow request into a resource.
///
/// See the [module docs](crate::operation) for an example.
#[derive(Clone)]
pub struct OperationService<S> {
    inner: S,
    core: Arc<Core>,
}

impl<S> OperationService<S> {
    /// Wraps `inner` with the default settings and a backend of its own.
    pub fn new(inner: S) -> Self {
        Self::with_core(inner, Core::new(Backend::memory(), Settings::default()))
    }

    pub(super) fn with_core(inner: S, core: Arc<Core>) -> Self {
        Self { inner, core }
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
        let core = self.core.clone();
        if Route::of(request.uri().path(), &core.settings.mount).is_some() {
            let (parts, body) = request.into_parts();
            return OperationFuture::new(
                async move { Ok(routes::answer(core, parts, body).await) },
            );
        }
        // The clone may not be ready. The caller may have polled the inner service ready before it was wrapped.
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        OperationFuture::new(first_reply::answer(core, service, request))
    }
}

impl<S: fmt::Debug> fmt::Debug for OperationService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationService")
            .field("inner", &self.inner)
            .field("settings", &self.core.settings)
            .finish()
    }
}
