//! What happens after a pass whose response can be published while fragments of it are pending.

use super::super::observe::{ObservedRequest, PassOutcome};
use super::super::registry::PendingFragment;
use super::super::running::Running;
use super::super::{Promises, ResponseForRejection};
use super::{PromiseFuture, Session};
use crate::body::ReplayBody;
use http::{Request, Response};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tower_service::Service;

/// The rest of a request whose response was published: the promises that its fragments wait for.
///
/// Dropping it drops every promise.
pub(crate) struct Rest {
    // The fields are in the order in which they have to be dropped.
    running: Running,
    session: Session,
    observed: ObservedRequest,
    promise_timeout: Option<Duration>,
    /// The end of the time that the whole request may take.
    deadline: Option<Instant>,
    max_renders: usize,
}

impl<S, B, R, H> PromiseFuture<S, B, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    H: ResponseForRejection<R>,
{
    /// Whether the response that this future has returned has pending fragments. Then the caller calls one of the
    /// functions below.
    pub(crate) fn has_pending_fragments(&self) -> bool {
        !self.session.has_ended
    }

    /// Lets fragments that are pending, now or later, cause a further pass.
    pub(crate) fn require_fragments(self: Pin<&mut Self>) {
        let session = self.project().session;
        if !session.has_ended {
            session.promises().registry.require_fragments();
        }
    }

    /// Publishes the response, and returns what its fragments wait for.
    pub(crate) fn publish_shell(self: Pin<&mut Self>, response: &mut Response<R>) -> Rest {
        let this = self.project();
        this.session.promises().registry.begin_stream();
        this.original.body.release();
        // Its fragments wait for promises that start now.
        this.observed.open();
        this.observed.end_pass(PassOutcome::Published);
        this.observed.annotate(response);
        Rest {
            running: mem::take(this.running),
            session: mem::replace(this.session, Session::ended()),
            observed: mem::replace(this.observed, ObservedRequest::ended()),
            promise_timeout: this.settings.promise_timeout,
            deadline: this.deadline.as_pin_mut().map(|it| it.deadline()),
            max_renders: this.settings.max_passes,
        }
    }

    /// Publishes the response without its pending fragments, which are dropped.
    pub(crate) fn publish_without_fragments(
        self: Pin<&mut Self>,
        response: Response<R>,
    ) -> Result<Response<R>, S::Error> {
        self.finish(Ok(response))
    }

    /// Discards the response, so that a later pass renders all of it. Returns the outcome of the request if it is
    /// rejected; otherwise the future has to be polled again.
    pub(crate) fn discard_shell(
        self: Pin<&mut Self>,
        response: Response<R>,
    ) -> Option<Result<Response<R>, S::Error>> {
        let registry = &self.session.promises().registry;
        registry.require_fragments();
        self.end_pass(Ok(response))
    }
}

impl Rest {
    pub(crate) fn promises(&self) -> &Promises {
        self.session.promises()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How often a fragment may be rendered.
    pub(crate) fn max_renders(&self) -> usize {
        self.max_renders
    }

    /// Whether a fragment waits for promises.
    pub(crate) fn has_fragments(&self) -> bool {
        self.promises().registry.has_fragments()
    }

    /// Takes a fragment whose promises have settled.
    pub(crate) fn take_ready(&self) -> Option<PendingFragment> {
        self.promises().registry.take_ready_fragment()
    }

    /// Runs the promises. Ready when a fragment is ready; otherwise the task is woken for that.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (running, observed) = (&mut self.running, &mut self.observed);
            let _ = self
                .session
                .drive(running, self.promise_timeout, observed, cx);
            let registry = &self.session.promises().registry;
            // Also if a fragment is ready: the caller may wait for the inner body, which may wait for a promise.
            if registry.park(cx.waker()) {
                return match registry.has_ready_fragment() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            }
        }
    }

    /// Lets all pending promises time out, and all promises that are submitted from now on.
    pub(crate) fn time_out(&mut self) {
        self.promises().registry.time_out();
        self.running.clear();
    }

    /// Like [`time_out`](Self::time_out), from any thread. Does nothing after the end of the request.
    pub(crate) fn time_out_later(&self) -> impl FnOnce() + Send + use<> {
        let registry = Arc::downgrade(&self.promises().registry);
        move || {
            if let Some(registry) = registry.upgrade() {
                registry.time_out();
            }
        }
    }

    /// Enters the span of the pass until the guard is dropped.
    pub(crate) fn enter(&self) -> impl Sized {
        self.observed.enter_pass()
    }

    /// Ends the request after its last fragment.
    pub(crate) fn finish(&mut self) {
        #[cfg(feature = "tracing")]
        {
            let _span = self.observed.enter_pass();
            let registry = &self.session.promises().registry;
            registry.advise_on_response(http::StatusCode::OK);
        }
        self.running.clear();
        self.session.end(true);
        self.observed.end(PassOutcome::Published);
    }
}
