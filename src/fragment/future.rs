use super::body::FragmentBody;
use super::eligibility::Shell;
use super::observe;
use super::page::Page;
use super::rendering::Rendering;
use super::settings::Settings;
use crate::body::ReplayBody;
use crate::promise::{PromiseFuture, ResponseForRejection, poll_deadline};
use http::header::{ACCEPT, CONTENT_LENGTH, ETAG, HeaderName, HeaderValue, VARY};
use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep};
#[cfg(feature = "operations")]
use tower_promises_operations::Progress;
use tower_service::Service;

pin_project! {
    /// Response future for [`FragmentService`](super::FragmentService).
    ///
    /// The future, and then the body of the response, own everything of a request: dropping them drops every promise.
    #[must_use = "futures do nothing unless polled"]
    pub struct FragmentFuture<S, B, R, H>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        #[pin]
        state: State<S, B, R, H>,
        start: Instant,
        settings: Arc<Settings>,
        is_stored: IsStored,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplaced]
    enum State<S, B, R, H>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        // The passes of the request.
        Passing {
            #[pin]
            inner: PromiseFuture<S, B, H>,
        },
        // The response is there. Fragments that become ready soon become part of it.
        Grace {
            response: Response<R>,
            page: Box<Page>,
            // `None` if the response does not wait.
            grace: Option<Pin<Box<Sleep>>>,
        },
        // The response has been returned.
        Done,
    }
}

impl<S, B, R, H> FragmentFuture<S, B, R, H>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) fn new(inner: PromiseFuture<S, B, H>, settings: Arc<Settings>) -> Self {
        Self {
            state: State::Passing { inner },
            start: Instant::now(),
            settings,
            is_stored: IsStored::default(),
        }
    }

    /// Lets the page be whole if the request becomes an operation.
    #[cfg(feature = "operations")]
    pub(super) fn of_operation(self, progress: Option<Progress>) -> Self {
        Self {
            is_stored: IsStored(progress),
            ..self
        }
    }
}

impl<S, B, R, H> Future for FragmentFuture<S, B, R, H>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    R: Body,
    H: ResponseForRejection<R>,
{
    type Output = Result<Response<FragmentBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Passing { mut inner } => {
                    // Decided before the pass goes on, because a transaction in the service that is called commits if
                    // the pass is not discarded.
                    if this.is_stored.get() {
                        inner.as_mut().require_fragments();
                    }
                    let outcome = ready!(inner.as_mut().poll(cx));
                    let outcome = match outcome {
                        Ok(mut response) if inner.has_pending_fragments() => {
                            match Shell::of(&response) {
                                Shell::Streams => {
                                    let rest = inner.publish_shell(&mut response);
                                    let settings = Arc::clone(this.settings);
                                    let rendering = Rendering::new(rest, *this.start, settings);
                                    let page = Box::new(Page::new(rendering, response.status()));
                                    let grace = this.settings.grace;
                                    let grace = (!grace.is_zero()).then(|| Box::pin(sleep(grace)));
                                    this.state.set(State::Grace {
                                        response,
                                        page,
                                        grace,
                                    });
                                    continue;
                                }
                                Shell::MustBeWhole => match inner.discard_shell(response) {
                                    Some(outcome) => outcome,
                                    None => continue,
                                },
                                Shell::HasNoFragments => inner.publish_without_fragments(response),
                            }
                        }
                        outcome => outcome,
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(outcome.map(|it| it.map(FragmentBody::whole)));
                }
                StateProj::Grace { page, grace, .. } => {
                    if page.poll_inline(cx).is_pending() {
                        if let Some(grace) = grace {
                            ready!(poll_deadline(grace.as_mut(), cx));
                        }
                    }
                    let state = this.state.project_replace(State::Done);
                    let StateReplaced::Grace {
                        response, mut page, ..
                    } = state
                    else {
                        unreachable!("the state was matched above")
                    };
                    page.begin();
                    let (mut head, body) = response.into_parts();
                    adapt(
                        &mut head.headers,
                        body.size_hint().exact(),
                        page.is_complete(),
                    );
                    let body = FragmentBody::streaming(body, page);
                    return Poll::Ready(Ok(Response::from_parts(head, body)));
                }
                StateProj::Done => panic!("`FragmentFuture` polled after completion"),
            }
        }
    }
}

/// Whether the response is stored before a client gets it, as that of an operation is.
#[derive(Default)]
struct IsStored(#[cfg(feature = "operations")] Option<Progress>);

impl IsStored {
    fn get(&self) -> bool {
        #[cfg(feature = "operations")]
        if let Some(progress) = &self.0 {
            return progress.is_stored();
        }
        false
    }
}

/// Adapts the headers of a page with fragments, whose inner body has this length.
fn adapt(headers: &mut HeaderMap, length: Option<u64>, is_complete: bool) {
    if let Some(stated) = headers.remove(CONTENT_LENGTH) {
        // A router sets the length of the inner body, which is no mistake of the handler.
        if length.is_none_or(|length| stated != HeaderValue::from(length)) {
            observe::contradicting_header(&CONTENT_LENGTH);
        }
    }
    // It belongs to the page without its fragments.
    headers.remove(ETAG);
    // Clients whose `Accept` does not name `text/html` get another form of the page.
    headers.append(VARY, HeaderValue::from(ACCEPT));
    if !is_complete {
        // RFC 10036, and the older header of nginx with the same purpose.
        let incremental = HeaderName::from_static("incremental");
        headers.insert(incremental, HeaderValue::from_static("?1"));
        let buffering = HeaderName::from_static("x-accel-buffering");
        headers.insert(buffering, HeaderValue::from_static("no"));
    }
}

impl<S, B, R, H> fmt::Debug for FragmentFuture<S, B, R, H>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Passing { .. } => "Passing",
            State::Grace { .. } => "Grace",
            State::Done => "Done",
        };
        f.debug_struct("FragmentFuture")
            .field("state", &format_args!("{state}"))
            .finish_non_exhaustive()
    }
}
