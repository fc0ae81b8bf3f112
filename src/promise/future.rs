use super::layer::Settings;
use super::registry::Verdict;
use super::running::Running;
use super::{OnTimeout, Promises, Rejection, ResponseForRejection, observe};
use crate::body::ReplayBody;
use http::{Request, Response, request};
use http_body::Body;
use pin_project_lite::pin_project;
use std::any::type_name;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep};
use tower_service::Service;

pin_project! {
    /// Response future for [`PromiseService`](super::PromiseService).
    ///
    /// It holds all there is of a request: dropping it drops the running pass and every promise.
    pub struct PromiseFuture<S, B, H>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        // In the order in which they are to be dropped.
        #[pin]
        state: State<S::Future>,
        running: Running,
        session: Session,
        service: S,
        original: Original<B>,
        #[pin]
        deadline: Option<Sleep>,
        is_final_pass: bool,
        settings: Arc<Settings<H>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        // The inner service handles a pass.
        Calling {
            #[pin]
            future: F,
        },
        // The pass has ended and its outcome was dropped. Its promises run.
        Settling,
        // Everything has settled. The inner service is asked whether it is ready for the next pass.
        Readying,
        // The outcome has been returned.
        Done,
    }
}

/// The request as the client sent it.
struct Original<B> {
    parts: request::Parts,
    /// Never read itself. The bodies of the passes are made from it.
    body: ReplayBody<B>,
}

/// Ends the request's promises when it is dropped.
struct Session {
    promises: Promises,
}

impl<S, B, H> PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    pub(super) fn new(
        mut service: S,
        settings: Arc<Settings<H>>,
        promises: Promises,
        request: Request<B>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let original = Original {
            parts,
            body: ReplayBody::with_max_bytes(body, settings.max_body_bytes),
        };
        let session = Session { promises };
        let request = original.request(&session.promises);
        let future = session.promises.scope(|| service.call(request));
        Self {
            state: State::Calling { future },
            running: Running::new(settings.promise_timeout),
            session,
            service,
            original,
            deadline: settings.timeout.map(tokio::time::sleep),
            is_final_pass: false,
            settings,
        }
    }
}

impl<S, B, R, H> Future for PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    H: ResponseForRejection<R>,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            let promises = &this.session.promises;
            match this.state.project() {
                StateProj::Calling { future } => {
                    if let Poll::Ready(outcome) = promises.scope(|| future.poll(cx)) {
                        match self.as_mut().end_pass(outcome) {
                            Some(outcome) => return Poll::Ready(outcome),
                            None => continue,
                        }
                    }
                    this.running.start(promises.registry().take_starting());
                    let _ = promises.scope(|| this.running.poll(cx));
                }
                StateProj::Settling => {
                    let started = promises.registry().take_all();
                    let is_idle = started.is_empty();
                    this.running.start(started);
                    if promises.scope(|| this.running.poll(cx)).is_ready() {
                        // What has just run may have submitted more.
                        if is_idle {
                            self.as_mut().project().state.set(State::Readying);
                        }
                        continue;
                    }
                }
                StateProj::Readying => {
                    if let Poll::Ready(ready) = promises.scope(|| this.service.poll_ready(cx)) {
                        if let Err(error) = ready {
                            return Poll::Ready(self.as_mut().finish(Err(error)));
                        }
                        self.as_mut().begin_pass();
                        continue;
                    }
                }
                StateProj::Done => panic!("`PromiseFuture` polled after completion"),
            }

            // All there is to do has been done, and something is pending.
            if let Some(outcome) = self.as_mut().poll_deadline(cx) {
                match outcome {
                    Some(outcome) => return Poll::Ready(outcome),
                    None => continue,
                }
            }
            if self.session.promises.registry().park(cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl<S, B, R, H> PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    H: ResponseForRejection<R>,
{
    /// Publishes the outcome of a pass and returns it, or drops it.
    fn end_pass(
        mut self: Pin<&mut Self>,
        outcome: Result<Response<R>, S::Error>,
    ) -> Option<Result<Response<R>, S::Error>> {
        let mut this = self.as_mut().project();
        let promises = &this.session.promises;
        let settings = &**this.settings;
        let rejection = match promises.registry().verdict() {
            Verdict::Publish => return Some(self.finish(outcome)),
            Verdict::Overfull => Some(Rejection::TooManyPromises {
                limit: settings.max_promises,
            }),
            Verdict::Repeat if promises.pass() >= settings.max_passes => {
                Some(Rejection::TooManyPasses {
                    limit: settings.max_passes,
                    pending: promises.registry().pending_keys(),
                })
            }
            Verdict::Repeat if !this.original.body.is_replayable() => {
                Some(Rejection::BodyTooLarge {
                    limit: settings.max_body_bytes,
                })
            }
            Verdict::Repeat => None,
        };

        // What the pass holds, a permit of a concurrency limit for example, is released before
        // anything is waited for.
        this.state.set(State::Settling);
        discard::<_, S::Error>(promises.pass(), outcome);
        match rejection {
            Some(rejection) => Some(self.reject(rejection)),
            None => {
                promises.registry().discard_pass();
                None
            }
        }
    }

    fn begin_pass(self: Pin<&mut Self>) {
        let mut this = self.project();
        let promises = this.session.promises.next_pass();
        this.session.promises = promises.clone();
        let request = this.original.request(&promises);
        let future = promises.scope(|| this.service.call(request));
        this.state.set(State::Calling { future });
    }

    /// `None` while there is time. Otherwise the outcome, or `Some(None)` if the final pass is to begin.
    fn poll_deadline(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Option<Option<Result<Response<R>, S::Error>>> {
        let mut this = self.as_mut().project();
        let after = this.settings.timeout?;
        if this.deadline.as_mut().as_pin_mut()?.poll(cx).is_pending() {
            return None;
        }
        let registry = this.session.promises.registry();
        if this.settings.on_timeout == OnTimeout::Reject
            || *this.is_final_pass
            || !this.original.body.is_replayable()
            || !registry.time_out()
        {
            return Some(Some(self.reject(Rejection::TimedOut { after })));
        }
        *this.is_final_pass = true;
        this.state.set(State::Readying);
        this.running.clear();
        registry.discard_pass();
        if let Some(deadline) = this.deadline.as_pin_mut() {
            deadline.reset(Instant::now() + after);
        }
        Some(None)
    }

    fn reject(self: Pin<&mut Self>, rejection: Rejection) -> Result<Response<R>, S::Error> {
        let mut this = self.project();
        this.state.set(State::Done);
        this.running.clear();
        this.session.promises.registry().close(false);
        observe::rejected(&rejection);

        let on_rejection = &this.settings.on_rejection;
        let mut response = on_rejection.response_for_rejection(rejection.clone());
        response.extensions_mut().insert(rejection);
        Ok(response)
    }

    /// Ends the request with the outcome of its last pass.
    fn finish(
        self: Pin<&mut Self>,
        outcome: Result<Response<R>, S::Error>,
    ) -> Result<Response<R>, S::Error> {
        let mut this = self.project();
        this.state.set(State::Done);
        this.running.clear();
        this.session.promises.registry().close(true);
        // A response may go on reading the body, which is not kept any longer.
        this.original.body.release();
        outcome
    }
}

impl<B> Original<B> {
    fn request(&self, promises: &Promises) -> Request<ReplayBody<B>> {
        let body = self.body.replay();
        body.take_over();
        let mut request = Request::from_parts(self.parts.clone(), body);
        request.extensions_mut().insert(promises.clone());
        request
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.promises.registry().close(false);
    }
}

fn discard<R, E>(pass: usize, outcome: Result<Response<R>, E>) {
    match outcome {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            drop(body);
            observe::response_discarded(pass, &Response::from_parts(parts, ()));
        }
        Err(error) => {
            drop(error);
            observe::error_discarded(pass, type_name::<E>());
        }
    }
}

impl<S, B, H> fmt::Debug for PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "Calling",
            State::Settling => "Settling",
            State::Readying => "Readying",
            State::Done => "Done",
        };
        f.debug_struct("PromiseFuture")
            .field("state", &format_args!("{state}"))
            .field("promises", &self.session.promises)
            .finish_non_exhaustive()
    }
}
