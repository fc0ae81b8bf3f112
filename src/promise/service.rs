#[cfg(feature = "fragments")]
use super::registry::FragmentSettings;
use super::settings::Settings;
use super::{DefaultResponseForRejection, PromiseFuture, ResponseForRejection};
use crate::BoxError;
use crate::body::ReplayBody;
use http::{Request, Response};
use http_body::Body;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// Middleware that calls a service again once the promises that it requested have settled.
///
/// See the [module docs](crate::promise) for an example.
pub struct PromiseService<S, H = DefaultResponseForRejection> {
    inner: S,
    settings: Arc<Settings<H>>,
}

impl<S, H> PromiseService<S, H> {
    pub(super) fn with_settings(inner: S, settings: Arc<Settings<H>>) -> Self {
        Self { inner, settings }
    }

    /// Takes the service that was polled ready, for one request.
    fn take_ready(&mut self) -> S
    where
        S: Clone,
    {
        // Only the service that was polled ready may be called, and a clone need not be ready. So this request gets
        // the polled service, and the clone replaces it.
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }

    /// Like `call`, for a response whose fragments may follow.
    #[cfg(feature = "fragments")]
    pub(crate) fn call_with_fragments<B>(
        &mut self,
        request: Request<B>,
        fragments: &Arc<FragmentSettings>,
        may_stream: bool,
    ) -> PromiseFuture<S, B, H>
    where
        S: Service<Request<ReplayBody<B>>> + Clone,
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let settings = Arc::clone(&self.settings);
        PromiseFuture::new(self.take_ready(), settings, request, |settings| {
            *settings.fragments = Some(Arc::clone(fragments));
            settings.may_stream = may_stream;
        })
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

impl<S, H, B, R> Service<Request<B>> for PromiseService<S, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
    H: ResponseForRejection<R>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = PromiseFuture<S, B, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let settings = Arc::clone(&self.settings);
        PromiseFuture::new(self.take_ready(), settings, request, |_| {})
    }
}

impl<S, H> Clone for PromiseService<S, H>
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

impl<S, H> fmt::Debug for PromiseService<S, H>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt_as("PromiseService", Some(&self.inner), f)
    }
}
