use super::header::{self, Limits};
use crate::promise::Passes;
use http::{HeaderName, Response};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

pin_project! {
    /// Response future for [`ServerTimingService`](super::ServerTimingService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ServerTimingFuture<F> {
        #[pin]
        inner: F,
        // `None` if the client is not to see it.
        limits: Option<Limits>,
    }
}

impl<F> ServerTimingFuture<F> {
    pub(super) fn new(inner: F, limits: Option<Limits>) -> Self {
        Self { inner, limits }
    }
}

impl<F, R, E> Future for ServerTimingFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let passes = response.extensions().get::<Passes>();
        if let (Some(limits), Some(passes)) = (*this.limits, passes) {
            if let Some(timing) = header::value(passes, limits) {
                response.headers_mut().append(SERVER_TIMING, timing);
            }
        }
        Poll::Ready(Ok(response))
    }
}
