//! The inner call, in its own task.

use super::body::{OperationBody, OperationRequestBody};
use super::progress::Progress;
use super::record::{Failure, Key};
use super::result::Outcome;
use super::{condition, observe};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, request};
use http_body::Body;
use std::any::Any;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::task::{JoinError, JoinHandle};
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::panic;
use tower_service::Service;

/// A task that is aborted on drop.
pub(super) struct Task<T> {
    handle: JoinHandle<T>,
    progress: Progress,
    has_ended: bool,
}

/// The inner call until its response begins.
pub(super) type Call<R, E> = Task<Result<Response<R>, E>>;

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn(
        progress: Progress,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let current = progress.clone();
        let future = async move { current.scope(future).await };
        let future = tracing::Instrument::in_current_span(future);
        Self {
            handle: tokio::spawn(future),
            progress,
            has_ended: false,
        }
    }

    /// Returns the output if the task has ended.
    pub(super) fn poll_now(&mut self) -> Option<Result<T, JoinError>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(self).poll(&mut cx) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Aborts the task and resolves when its future has been dropped.
    async fn stop(&mut self) {
        if !self.has_ended {
            self.progress.cancel();
            self.handle.abort();
            let progress = self.progress.clone();
            if self.await.is_err_and(|error| error.is_panic()) {
                progress.begin();
            }
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = Pin::new(&mut self.handle).poll(cx);
        self.has_ended |= ended.is_ready();
        ended
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.progress.cancel();
            self.handle.abort();
        }
    }
}

/// Calls the inner service as if the layer were absent.
pub(super) async fn on_connection<S, B, R>(
    service: S,
    mut parts: request::Parts,
    body: OperationRequestBody<B>,
) -> Result<Response<R>, S::Error>
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>>,
    B: Body,
{
    let progress = Progress::detached();
    parts.extensions.insert(progress.clone());
    let request = Request::from_parts(parts, body);
    progress.scope(call(service, request, &progress)).await
}

/// Returns a function that spawns the inner call as a task.
pub(super) fn start<S, B, R>(
    service: S,
    mut parts: request::Parts,
    body: OperationRequestBody<B>,
) -> impl FnOnce() -> Call<R, S::Error> + Send + 'static
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Send + 'static,
{
    move || {
        let progress = Progress::new();
        condition::remove(&mut parts);
        parts.extensions.insert(progress.clone());
        let body = body.watched_by(progress.clone());
        let request = Request::from_parts(parts, body);
        let reports = progress.clone();
        Task::spawn(
            progress,
            async move { call(service, request, &reports).await },
        )
    }
}

/// Calls a service once it is ready.
async fn call<S, Q>(
    mut service: S,
    request: Q,
    progress: &Progress,
) -> Result<S::Response, S::Error>
where
    S: Service<Q>,
{
    // The service may be a clone that is not ready.
    poll_fn(|cx| service.poll_ready(cx)).await?;
    progress.start();
    let mut response = pin!(service.call(request));
    poll_fn(|cx| {
        let polled = response.as_mut().poll(cx);
        // An immediate error may come from a layer that has not passed the request on.
        if !matches!(polled, Poll::Ready(Err(_))) {
            progress.begin();
        }
        polled
    })
    .await
}

/// Returns the output of a task as if it had run in the caller's task.
pub(super) async fn unwrapped<T>(ended: Result<T, JoinError>) -> T {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(outcome) => outcome,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime shuts down and drops this future.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Runs a change to its end, even if the client disconnects.
pub(super) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = T> + Send + 'static,
) -> T {
    let change = tracing::Instrument::in_current_span(change);
    unwrapped(tokio::spawn(change).await).await
}

/// The work of an operation until its result is complete.
pub(super) enum Work<R, E> {
    Calling(Call<R, E>),
    Collecting(Task<Collected>),
}

pub(super) type Collected = Result<Outcome, Uncollected>;

/// The reason why a response has no result.
pub(super) enum Uncollected {
    TooLarge,
    Failed(BoxError),
}

/// The reason why the inner service has ended without a result.
pub(super) enum Unanswered<E> {
    /// The inner service has returned an error.
    Error(E),
    /// The inner service has panicked before it had a response.
    Panic(Box<dyn Any + Send>),
    /// The response cannot be the result.
    Failed(Failure),
}

impl<R, E> Work<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    /// Returns the result, or the reason why there is none. Cancel safe.
    pub(super) async fn end(&mut self, key: &Key, limit: usize) -> Result<Outcome, Unanswered<E>> {
        loop {
            match self {
                Self::Calling(call) => match (&mut *call).await {
                    Ok(Ok(response)) => {
                        let progress = call.progress().clone();
                        let collecting = Task::spawn(progress, collect(response, limit));
                        *self = Self::Collecting(collecting);
                    }
                    Ok(Err(error)) => return Err(Unanswered::Error(error)),
                    Err(error) => {
                        return Err(match error.try_into_panic() {
                            Ok(panic) => Unanswered::Panic(panic),
                            Err(_) => Unanswered::Failed(shutting_down()),
                        });
                    }
                },
                Self::Collecting(collecting) => {
                    return match collecting.await {
                        Ok(Ok(outcome)) => Ok(outcome),
                        Ok(Err(Uncollected::TooLarge)) => Err(Unanswered::Failed(too_large())),
                        Ok(Err(Uncollected::Failed(error))) => {
                            observe::service_failed(key, &*error);
                            Err(Unanswered::Failed(failed("ServiceError")))
                        }
                        Err(error) => Err(Unanswered::Failed(match error.try_into_panic() {
                            Ok(panic) => panicked(key, &*panic),
                            Err(_) => shutting_down(),
                        })),
                    };
                }
            }
        }
    }

    /// Drops the work, and resolves when the future has been dropped.
    pub(super) async fn stop(&mut self) {
        match self {
            Self::Calling(call) => call.stop().await,
            Self::Collecting(collecting) => collecting.stop().await,
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        match self {
            Self::Calling(call) => call.progress(),
            Self::Collecting(collecting) => collecting.progress(),
        }
    }
}

pub(super) fn failed(code: &str) -> Failure {
    Failure::new(code, "The request could not be completed.")
}

pub(super) fn too_large() -> Failure {
    Failure::new("ResultTooLarge", "The result is too large to be kept.")
}

/// Logs a panic.
pub(super) fn panicked(key: &Key, panic: &(dyn Any + Send)) -> Failure {
    observe::panicked(key, panic::text(panic).unwrap_or("a panic without a text"));
    failed("Panicked")
}

/// A task that was not aborted here is stopped only by the shutdown of the runtime.
fn shutting_down() -> Failure {
    Failure::new("ShuttingDown", "The server is shutting down.")
}

/// Reads the body of a response, up to `limit` bytes.
async fn collect<R>(response: Response<R>, limit: usize) -> Collected
where
    R: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let (parts, body) = response.into_parts();
    let mut body = pin!(OperationBody::inner(body));
    let mut data = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| Uncollected::Failed(error.into()))?;
        // Trailers are not stored.
        if let Ok(bytes) = frame.into_data() {
            if bytes.len() > limit.saturating_sub(data.len()) {
                return Err(Uncollected::TooLarge);
            }
            data.extend_from_slice(&bytes);
        }
    }
    let outcome = Outcome::new(parts.status, parts.headers, data.freeze());
    if outcome.size() > limit {
        return Err(Uncollected::TooLarge);
    }
    Ok(outcome)
}
