use super::body::FragmentBody;
use super::eligibility::may_stream;
use super::future::FragmentFuture;
use super::settings::Settings;
use crate::BoxError;
use crate::body::ReplayBody;
use crate::promise::{DefaultResponseForRejection, PromiseService, ResponseForRejection};
use http::{Request, Response};
use http_body::Body;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// Middleware that sends a page before it is complete, and its slow parts after it.
///
/// See the [module docs](crate::fragment) for an example.
pub struct FragmentService<S, H = DefaultResponseForRejection> {
    inner: PromiseService<S, H>,
    settings: Arc<Settings>,
}

impl<S, H> FragmentService<S, H> {
    pub(super) fn new(inner: PromiseService<S, H>, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// Gets a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        self.inner.get_ref()
    }

    /// Gets a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        self.inner.get_mut()
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner.into_inner()
    }
}

impl<S, H, B, R> Service<Request<B>> for FragmentService<S, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body,
    H: ResponseForRejection<R>,
{
    type Response = Response<FragmentBody<R>>;
    type Error = S::Error;
    type Future = FragmentFuture<S, B, R, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let may_stream = may_stream(&parts, self.settings.stream_when.as_deref());
        #[cfg(feature = "operations")]
        let progress = parts.extensions.get().cloned();
        let request = Request::from_parts(parts, body);
        let fragments = &self.settings.fragments;
        let inner = self
            .inner
            .call_with_fragments(request, fragments, may_stream);
        let future = FragmentFuture::new(inner, Arc::clone(&self.settings));
        #[cfg(feature = "operations")]
        let future = future.of_operation(progress);
        future
    }
}

impl<S, H> Clone for FragmentService<S, H>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: Arc::clone(&self.settings),
        }
    }
}

impl<S, H> fmt::Debug for FragmentService<S, H>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("FragmentService");
        debug.field("inner", &self.inner);
        self.settings.debug(&mut debug);
        debug.finish()
    }
}
