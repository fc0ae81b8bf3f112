use super::body::OperationBody;
use futures_util::future::BoxFuture;
use http::Response;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Response future of [`OperationService`](super::OperationService).
///
/// Dropping the future before it is ready drops the work, unless the layer is
/// [configured](super::OperationLayerBuilder::on_disconnect) to continue it.
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
