#[cfg(feature = "fragments")]
mod shell;

#[cfg(feature = "fragments")]
pub(crate) use shell::Rest;

use super::observe::{self, ObservedRequest, PassOutcome};
use super::original::Original;
use super::registry::{self, Verdict};
use super::running::{self, Running};
use super::settings::Settings;
use super::{OnTimeout, Promises, Rejection, ResponseForRejection, current};
use crate::BoxError;
use crate::body::ReplayBody;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::any::type_name;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

pin_project! {
    /// Response future for [`PromiseService`](super::PromiseService).
    ///
    /// The future owns everything of a request: dropping it drops the running pass and every promise.
    #[must_use = "futures do nothing unless polled"]
    pub struct PromiseFuture<S, B, H>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        // The fields are in the order in which they have to be dropped.
        #[pin]
        state: State<S::Future>,
        running: Running,
        session: Session,
        service: S,
        original: Original<B>,
        observed: ObservedRequest,
        #[pin]
        deadline: Option<Sleep>,
        is_final_pass: bool,
        // Whether the next poll begins with the promises instead of the inner service.
        promises_first: bool,
        settings: Arc<Settings<H>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        // The inner service is handling a pass.
        Calling {
            #[pin]
            future: F,
        },
        // The pass has ended and its outcome was dropped. The promises are running.
        Settling,
        // All promises have settled. The inner service is polled ready for the next pass.
        Readying,
        // The outcome has been returned.
        Done,
    }
}

/// Ends the request's promises on drop.
struct Session {
    /// `None` only while it is lent to [`Promises::current`].
    promises: Option<Promises>,
    has_ended: bool,
}

impl<S, B, H> PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        mut service: S,
        settings: Arc<Settings<H>>,
        request: Request<B>,
        adjust: impl FnOnce(&mut registry::Settings),
    ) -> Self {
        let (mut parts, body) = request.into_parts();
        let observed = ObservedRequest::new(settings.wants_timings(&parts.extensions));
        let mut registry = settings.registry();
        adjust(&mut registry);
        let body = settings.wrap_body(body);
        let promises = Promises::open(registry, &parts.extensions, body.to_detach());
        let original = Original::of(&parts, body);
        parts.extensions.insert(promises.clone());
        // Created before the service is called, so that the request also ends if the call panics.
        let mut session = Session {
            promises: Some(promises),
            has_ended: false,
        };
        let future = {
            let _scope = current::lend(&mut session.promises);
            service.call(Request::from_parts(parts, original.body.for_pass()))
        };
        Self {
            state: State::Calling { future },
            running: Running::default(),
            session,
            service,
            original,
            observed,
            deadline: settings.timeout.map(sleep),
            is_final_pass: false,
            promises_first: false,
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
            let mut this = self.as_mut().project();
            let timeout = this.settings.promise_timeout;
            match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let promises_first = mem::take(this.promises_first);
                    if promises_first {
                        let _ = this.session.drive(this.running, timeout, this.observed, cx);
                    }
                    let polled = {
                        let _span = this.observed.enter_pass();
                        let _scope = current::lend(&mut this.session.promises);
                        future.poll(cx)
                    };
                    if let Poll::Ready(outcome) = polled {
                        match self.as_mut().end_pass(outcome) {
                            Some(outcome) => return Poll::Ready(outcome),
                            None => continue,
                        }
                    }
                    // Drives promises that start early, and parks for promises that another thread submits.
                    loop {
                        let _ = this.session.drive(this.running, timeout, this.observed, cx);
                        if this.session.promises().registry.park(cx.waker()) {
                            break;
                        }
                    }
                    // An inner service that uses up the cooperative budget in every poll would leave none to the
                    // promises, and promises that do so none to the service. So they take turns.
                    *this.promises_first =
                        !promises_first && !this.running.is_empty() && !has_budget_remaining();
                }
                StateProj::Settling => {
                    let settled = this.session.drive(this.running, timeout, this.observed, cx);
                    let is_settled = settled.is_ready();
                    #[cfg(feature = "fragments")]
                    let is_settled = is_settled || !this.session.promises().registry.is_awaited();
                    if is_settled {
                        if let Some(rejected) = self.as_mut().prepare_pass() {
                            return Poll::Ready(rejected);
                        }
                        continue;
                    }
                    let registry = &this.session.promises().registry;
                    if !registry.park(cx.waker()) {
                        continue;
                    }
                    #[cfg(feature = "operations")]
                    registry.rest(this.running.len());
                }
                StateProj::Readying => {
                    let ready = {
                        let _scope = current::lend(&mut this.session.promises);
                        this.service.poll_ready(cx)
                    };
                    if let Poll::Ready(ready) = ready {
                        if let Err(error) = ready {
                            return Poll::Ready(self.as_mut().finish(Err(error)));
                        }
                        self.as_mut().begin_pass();
                        continue;
                    }
                }
                StateProj::Done => panic!("`PromiseFuture` polled after completion"),
            }

            // Everything that is possible now has been done, and something is pending.
            #[cfg(feature = "blocking")]
            if let Some(rejection) = self.session.promises().registry.overload() {
                return Poll::Ready(self.as_mut().reject(rejection));
            }
            match self.as_mut().poll_deadline(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(outcome)) => return Poll::Ready(outcome),
                Poll::Ready(None) => {}
            }
        }
    }
}

impl<S, B, R, H> PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    H: ResponseForRejection<R>,
{
    /// Ends a pass. Returns the outcome if the request ends with it; otherwise drops it.
    fn end_pass(
        mut self: Pin<&mut Self>,
        mut outcome: Result<Response<R>, S::Error>,
    ) -> Option<Result<Response<R>, S::Error>> {
        let mut this = self.as_mut().project();
        let promises = this.session.promises();
        let settings = &**this.settings;
        let verdict = promises.registry.end_pass();
        #[cfg(feature = "fragments")]
        if verdict == Verdict::Stream && outcome.is_ok() {
            // The caller decides, so the request has not ended.
            this.state.set(State::Done);
            return Some(outcome);
        }
        if verdict.is_publish() {
            return Some(self.finish(outcome));
        }
        if verdict == Verdict::Nothing {
            this.session.has_ended = true;
            self.release(&mut outcome);
            return Some(outcome);
        }
        let rejection = match verdict {
            Verdict::Overfull => Some(Rejection::TooManyPromises {
                limit: settings.max_promises,
            }),
            Verdict::Repeat if promises.pass() >= settings.max_passes => {
                Some(Rejection::TooManyPasses {
                    limit: settings.max_passes,
                    pending: promises.registry.pending_keys(),
                })
            }
            Verdict::Repeat => {
                let refusal = this.original.body.refusal();
                refusal.map(|error| settings.rejection_of_body(&error))
            }
            _ => None,
        };

        // Drops the pass before anything is awaited, to release what it holds, for example a permit of a concurrency
        // limit.
        this.state.set(State::Settling);
        if rejection.is_none() {
            this.observed.end_pass(PassOutcome::Discarded);
        }
        {
            let _span = this.observed.enter_pass();
            discard::<_, S::Error>(promises.pass(), outcome);
        }
        match rejection {
            Some(rejection) => Some(self.reject(rejection)),
            None => {
                #[cfg(feature = "tracing")]
                {
                    let _span = this.observed.enter_pass();
                    promises.registry.advise_on_keys();
                }
                promises.registry.discard_pass();
                None
            }
        }
    }

    /// Prepares the next pass after all promises have settled. Returns the outcome of the request if it is rejected.
    fn prepare_pass(mut self: Pin<&mut Self>) -> Option<Result<Response<R>, S::Error>> {
        #[cfg(feature = "blocking")]
        if let Some(rejection) = self.session.promises().registry.overload() {
            return Some(self.reject(rejection));
        }
        let mut this = self.as_mut().project();
        // A promise that was submitted meanwhile still belongs to the pass before, and may read its body.
        this.session.promises = Some(this.session.promises().next_pass()?);
        // From here on, readers that still hold the body of the former pass, for example in a promise, get an error.
        match this.original.body.for_next_pass() {
            Ok(body) => this.original.body = body,
            Err(error) => {
                let rejection = this.settings.rejection_of_body(&error);
                return Some(self.reject(rejection));
            }
        }
        this.state.set(State::Readying);
        None
    }

    fn begin_pass(self: Pin<&mut Self>) {
        let mut this = self.project();
        let promises = this.session.promises();
        let request = match this.settings.is_last_pass(promises.pass()) {
            true => this.original.take_request(promises),
            false => this.original.request(promises),
        };
        this.observed.begin_pass();
        #[cfg(feature = "operations")]
        promises.registry.work();
        // If the service panics, no later poll calls it with a request that has been taken.
        this.state.set(State::Done);
        let future = {
            let _span = this.observed.enter_pass();
            let _scope = current::lend(&mut this.session.promises);
            this.service.call(request)
        };
        this.state.set(State::Calling { future });
    }

    /// Ready when the time is up: with the outcome, or with `None` if the final pass has to begin.
    fn poll_deadline(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Response<R>, S::Error>>> {
        let mut this = self.as_mut().project();
        let (Some(after), Some(deadline)) =
            (this.settings.timeout, this.deadline.as_mut().as_pin_mut())
        else {
            return Poll::Pending;
        };
        ready!(running::poll_deadline(deadline, cx));

        let registry = &this.session.promises().registry;
        if this.settings.on_timeout == OnTimeout::Reject
            || *this.is_final_pass
            || this.original.body.refusal().is_some()
            || !registry.time_out()
        {
            return Poll::Ready(Some(self.reject(Rejection::TimedOut { after })));
        }
        *this.is_final_pass = true;
        // The pass is dropped before its promises.
        this.state.set(State::Settling);
        this.running.clear();
        this.observed.end_pass(PassOutcome::Discarded);
        registry.discard_pass();
        this.deadline.set(Some(sleep(after)));
        Poll::Ready(None)
    }

    fn reject(self: Pin<&mut Self>, rejection: Rejection) -> Result<Response<R>, S::Error> {
        let mut this = self.project();
        this.state.set(State::Done);
        this.running.clear();
        this.session.end(false);
        {
            let _span = this.observed.enter_pass();
            observe::rejected(&rejection);
        }
        this.observed.end(PassOutcome::Rejected);

        let on_rejection = &this.settings.on_rejection;
        let mut response = on_rejection.response_for_rejection(rejection.clone());
        response.extensions_mut().insert(rejection);
        this.observed.annotate(&mut response);
        Ok(response)
    }

    /// Ends the request with the outcome of its last pass.
    fn finish(
        mut self: Pin<&mut Self>,
        mut outcome: Result<Response<R>, S::Error>,
    ) -> Result<Response<R>, S::Error> {
        let mut this = self.as_mut().project();
        this.state.set(State::Done);
        // Must run before the running promises are cancelled below.
        #[cfg(feature = "tracing")]
        if let Ok(response) = &outcome {
            let _span = this.observed.enter_pass();
            let registry = &this.session.promises().registry;
            registry.advise_on_response(response.status());
        }
        this.running.clear();
        this.session.end(true);
        self.release(&mut outcome);
        outcome
    }

    /// Releases all resources after the promises have ended.
    #[inline(always)]
    fn release(self: Pin<&mut Self>, outcome: &mut Result<Response<R>, S::Error>) {
        let mut this = self.project();
        this.state.set(State::Done);
        // A response may continue to read the body, of which nothing is kept any more.
        this.original.body.release();
        match outcome {
            Ok(response) => {
                this.observed.end(PassOutcome::Published);
                this.observed.annotate(response);
            }
            Err(_) => this.observed.end(PassOutcome::Failed),
        }
    }
}

impl Session {
    /// A session that owns nothing.
    #[cfg(feature = "fragments")]
    fn ended() -> Self {
        Self {
            promises: None,
            has_ended: true,
        }
    }

    fn end(&mut self, published: bool) {
        if !self.has_ended {
            self.has_ended = true;
            self.promises().registry.close(published);
        }
    }

    fn promises(&self) -> &Promises {
        let promises = self.promises.as_ref();
        promises.unwrap_or_else(|| unreachable!("a loan ends before the session is used again"))
    }

    /// Starts new promises and polls all running promises. Ready when no promise is running; otherwise the task is
    /// woken when a promise makes progress.
    fn drive(
        &mut self,
        running: &mut Running,
        timeout: Option<Duration>,
        observed: &mut ObservedRequest,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        running.start(&self.promises().registry, timeout, observed);
        let _scope = current::lend(&mut self.promises);
        running.poll(cx)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end(false);
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
