use super::ServerTimingFuture;
use super::header::Limits;
use crate::promise::TimingsWanted;
use http::{Request, Response, request};
use std::any::type_name;
use std::fmt;
use std::task::{Context, Poll};
use tower_service::Service;

/// Middleware that adds the `Server-Timing` header. See [`ServerTimingLayer`](super::ServerTimingLayer).
#[derive(Clone)]
pub struct ServerTimingService<S, F> {
    inner: S,
    is_visible: F,
    limits: Limits,
}

impl<S, F> ServerTimingService<S, F> {
    pub(super) fn new(inner: S, is_visible: F, limits: Limits) -> Self {
        Self {
            inner,
            is_visible,
            limits,
        }
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

impl<S, F, B, R> Service<Request<B>> for ServerTimingService<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Fn(&request::Parts) -> bool,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ServerTimingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let is_visible = (self.is_visible)(&parts);
        if is_visible {
            parts.extensions.insert(TimingsWanted);
        }
        let future = self.inner.call(Request::from_parts(parts, body));

        ServerTimingFuture::new(future, is_visible.then_some(self.limits))
    }
}

impl<S, F> fmt::Debug for ServerTimingService<S, F>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTimingService")
            .field("inner", &self.inner)
            .field("is_visible", &format_args!("{}", type_name::<F>()))
            .field("limits", &self.limits)
            .finish()
    }
}
