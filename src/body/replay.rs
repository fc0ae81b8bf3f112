use super::RequestBody;
use super::error::{BodyError, ReplayError};
use super::kept::{Kept, Part, size_of_trailers};
use crate::BoxError;
use crate::sync::lock;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

/// How many bytes of a body are kept for replay unless you say otherwise: 2 MiB, which is also what
/// axum's extractors accept by default.
pub const DEFAULT_MAX_BYTES: usize = 2 * 1024 * 1024;

/// A body that can be read again. See the [module docs](crate::body).
///
/// It is `Unpin` and, where `B` is `Send`, `Send` and `Sync`, whatever else `B` is.
pub struct ReplayBody<B> {
    /// `None` for a body that was empty from the start.
    shared: Option<Reader<B>>,
}

struct Reader<B> {
    state: Arc<Mutex<State<B>>>,
    /// Readers are numbered as they are made. A higher number supersedes a lower one.
    number: u32,
}

struct State<B> {
    source: Source<B>,
    kept: Kept,
    retention: Retention,
    limit: usize,
    /// The reader that frames go to.
    reader: u32,
    /// The number of the reader made last.
    newest: u32,
    /// Where the present reader waits, so that it learns that it was superseded.
    waker: Option<Waker>,
}

enum Source<B> {
    /// Nobody has asked for a frame yet, so the body need not be pinned.
    Unread(B),
    Reading(Pin<Box<B>>),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Retention {
    /// Everything read so far is kept.
    All,
    /// The present reader is the last one.
    Released,
    /// More was read than may be kept.
    Outgrown,
}

/// What a reader gets when it asks for a frame.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// The next frame.
    Present,
    /// The first frame: it would take over.
    New,
    /// An error.
    Refused,
}

impl<B> ReplayBody<B>
where
    B: Body,
{
    /// Wraps `body` and keeps at most [`DEFAULT_MAX_BYTES`] of it for replay.
    #[must_use]
    pub fn new(body: B) -> Self {
        Self::with_max_bytes(body, DEFAULT_MAX_BYTES)
    }

    /// Wraps `body` and keeps at most `limit` bytes of it for replay, trailers included.
    ///
    /// The limit bounds what is kept, not what may be read: see [`is_replayable`](Self::is_replayable).
    #[must_use]
    pub fn with_max_bytes(body: B, limit: usize) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        let state = State {
            source: Source::Unread(body),
            kept: Kept::default(),
            retention: Retention::All,
            limit,
            reader: 0,
            newest: 0,
            waker: None,
        };
        Self {
            shared: Some(Reader {
                state: Arc::new(Mutex::new(state)),
                number: 0,
            }),
        }
    }
}

/// A body of any type that can be handed to a promise.
pub(crate) trait Detach: Send + Sync {
    /// The whole body, of which nothing is kept from now on. `None` if it cannot be replayed.
    fn detach(self: Arc<Self>) -> Option<RequestBody>;
}

impl<B> Detach for Mutex<State<B>>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn detach(self: Arc<Self>) -> Option<RequestBody> {
        let body = ReplayBody {
            shared: Some(Reader::new(&self)),
        };
        if !body.take_over() {
            return None;
        }
        body.release();
        Some(RequestBody::new(body))
    }
}

impl<B> ReplayBody<B>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// What can be handed to a promise. `None` for a body that was empty from the start.
    pub(crate) fn to_detach(&self) -> Option<Arc<dyn Detach>> {
        let reader = self.shared.as_ref()?;
        Some(Arc::clone(&reader.state) as _)
    }
}

impl<B> Reader<B> {
    fn new(state: &Arc<Mutex<State<B>>>) -> Self {
        let state = Arc::clone(state);
        let number = {
            let mut state = lock(&state);
            state.newest += 1;
            state.newest
        };
        Self { state, number }
    }
}

impl<B> ReplayBody<B> {
    /// A body that is empty from the start.
    pub(crate) fn empty() -> Self {
        Self { shared: None }
    }

    /// Makes another reader of the same body, which starts at the beginning.
    ///
    /// The new reader takes over when it asks for its first frame; until then the present one goes
    /// on undisturbed. So a clone of a request can be set aside before the request is sent, as
    /// `tower::retry` does.
    ///
    /// ```
    /// use http::Request;
    /// use tower_promises::body::ReplayBody;
    ///
    /// // What `tower::retry::Policy::clone_request` needs:
    /// fn clone_request<B>(request: &Request<ReplayBody<B>>) -> Option<Request<ReplayBody<B>>> {
    ///     if !request.body().is_replayable() {
    ///         return None;
    ///     }
    ///     let mut clone = Request::new(request.body().replay());
    ///     *clone.method_mut() = request.method().clone();
    ///     *clone.uri_mut() = request.uri().clone();
    ///     *clone.headers_mut() = request.headers().clone();
    ///     Some(clone)
    /// }
    /// ```
    #[must_use]
    pub fn replay(&self) -> Self {
        let shared = self.shared.as_ref();
        let shared = shared.map(|reader| Reader::new(&reader.state));
        Self { shared }
    }

    /// Whether a new reader would get the whole body.
    ///
    /// Turns false, for good, once more bytes were read than may be kept.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        match &self.shared {
            Some(reader) => lock(&reader.state).is_replayable(),
            None => true,
        }
    }

    /// Makes this the present reader before it asks for a frame. `false` if the body cannot be replayed.
    pub(crate) fn take_over(&self) -> bool {
        let Some(reader) = &self.shared else {
            return true;
        };
        let admitted = lock(&reader.state).admit(reader.number);
        match admitted {
            Ok(superseded) => {
                superseded.into_iter().for_each(Waker::wake);
                true
            }
            Err(_) => false,
        }
    }

    /// Declares the present reader to be the last one: nothing is kept for another from now on.
    pub(crate) fn release(&self) {
        if let Some(reader) = &self.shared {
            let mut state = lock(&reader.state);
            if state.retention == Retention::All {
                state.retention = Retention::Released;
                state.kept.forget_read();
            }
        }
    }
}

impl<B> State<B> {
    fn is_replayable(&self) -> bool {
        self.retention == Retention::All || matches!(self.source, Source::Unread(_))
    }

    /// Lets a reader read, if no newer one has taken over. Returns the waker of the one it supersedes, to
    /// be woken once the lock is released.
    fn admit(&mut self, number: u32) -> Result<Option<Waker>, ReplayError> {
        if number < self.reader {
            return Err(ReplayError::Superseded);
        }
        if number > self.reader {
            if !self.is_replayable() {
                return Err(match self.retention {
                    Retention::Outgrown => ReplayError::TooLarge { limit: self.limit },
                    Retention::All | Retention::Released => ReplayError::Released,
                });
            }
            self.reader = number;
            self.kept.rewind();
            return Ok(self.waker.take());
        }
        Ok(None)
    }

    /// What a reader of this number would be.
    fn standing(&self, number: u32) -> Standing {
        if number == self.reader {
            Standing::Present
        } else if number > self.reader && self.is_replayable() {
            Standing::New
        } else {
            Standing::Refused
        }
    }

    /// Takes note of a frame that goes to the present reader, as long as there is room.
    fn keep(&mut self, size: usize, push: impl FnOnce(&mut Kept)) {
        if self.retention != Retention::All {
            return;
        }
        if self.kept.total().saturating_add(size) > self.limit {
            self.retention = Retention::Outgrown;
            self.kept = Kept::default();
        } else {
            push(&mut self.kept);
        }
    }

    fn next_kept(&mut self) -> Option<Part> {
        match self.retention {
            Retention::All => self.kept.next(),
            Retention::Released | Retention::Outgrown => self.kept.next_and_forget(),
        }
    }
}

impl<B> State<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Source::Unread(_) = self.source {
            if let Source::Unread(body) = mem::replace(&mut self.source, Source::Ended) {
                self.source = Source::Reading(Box::pin(body));
            }
        }
        let Source::Reading(body) = &mut self.source else {
            return Poll::Ready(None);
        };
        match ready!(body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                if let Some(data) = frame.data_ref() {
                    self.keep(data.len(), |kept| kept.push_data(data));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.keep(size_of_trailers(trailers), |kept| {
                        kept.push_trailers(trailers);
                    });
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.source = Source::Ended;
                let error = BodyError::new(error.into());
                self.keep(0, |kept| kept.push_error(error.clone()));
                Poll::Ready(Some(Err(error.to_box_error())))
            }
            None => {
                self.source = Source::Ended;
                Poll::Ready(None)
            }
        }
    }
}

impl<B> Source<B>
where
    B: Body,
{
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Unread(body) => body.is_end_stream(),
            Self::Reading(body) => body.is_end_stream(),
            Self::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Unread(body) => body.size_hint(),
            Self::Reading(body) => body.size_hint(),
            Self::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(reader) = &self.shared else {
            return Poll::Ready(None);
        };
        let mut state = lock(&reader.state);
        let superseded = match state.admit(reader.number) {
            Ok(superseded) => superseded,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        let frame = match state.next_kept() {
            Some(Part::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Part::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(*trailers)))),
            Some(Part::Failed(error)) => Poll::Ready(Some(Err(error.to_box_error()))),
            None => state.poll_source(cx),
        };
        let mut former = None;
        if frame.is_pending() {
            former = state.waker.replace(cx.waker().clone());
        }
        // Wakers are other people's code: they run, and are dropped, where no lock is held.
        drop(state);
        drop(former);
        superseded.into_iter().for_each(Waker::wake);
        frame
    }

    fn is_end_stream(&self) -> bool {
        let Some(reader) = &self.shared else {
            return true;
        };
        let state = lock(&reader.state);
        let is_read = match state.standing(reader.number) {
            Standing::Present => state.kept.is_read(),
            Standing::New => state.kept.is_empty(),
            // What awaits this reader is an error, not the end.
            Standing::Refused => return false,
        };
        is_read && state.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(reader) = &self.shared else {
            return SizeHint::with_exact(0);
        };
        let state = lock(&reader.state);
        let kept = match state.standing(reader.number) {
            Standing::Present => state.kept.unread(),
            Standing::New => state.kept.data_len(),
            Standing::Refused => return SizeHint::default(),
        } as u64;
        let mut hint = state.source.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(hint.lower().saturating_add(kept));
        hint
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReplayBody");
        match &self.shared {
            Some(reader) => {
                let state = lock(&reader.state);
                debug
                    .field("reader", &reader.number)
                    .field("present_reader", &state.reader)
                    .field("kept_bytes", &state.kept.total())
                    .field("retention", &state.retention)
                    .finish()
            }
            None => debug.field("kept_bytes", &0).finish_non_exhaustive(),
        }
    }
}
