use super::body::TasksPageBody;
use futures_util::future::BoxFuture;
use http::Response;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Response future of [`TasksPage`](super::TasksPage).
#[must_use = "futures do nothing unless polled"]
pub struct TasksPageFuture {
    pub(super) answer: BoxFuture<'static, Response<TasksPageBody>>,
}

impl Future for TasksPageFuture {
    type Output = Result<Response<TasksPageBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for TasksPageFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TasksPageFuture").finish_non_exhaustive()
    }
}
