use super::RequestBody;
use super::error::ReplayError;
#[cfg(feature = "spool")]
use super::spool::Spool;
use super::state::State;
use crate::BoxError;
use crate::sync::lock;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The default number of bytes of a body that are kept for replay.
pub(crate) const DEFAULT_MAX_BYTES: usize = 2 * 1024 * 1024;

/// A body that can be read more than once. See the [module docs](crate::body).
///
/// A `ReplayBody` is always `Unpin`. It is `Send` and `Sync` if `B` is `Send`.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
/// use tower_promises::body::ReplayBody;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_promises::BoxError> {
/// // Keeps at most four bytes. `ReplayBody::new` keeps up to 2 MiB.
/// let body = ReplayBody::with_max_bytes(Full::new(Bytes::from("hello")), 4);
/// let again = body.replay();
/// // The reader gets the whole body, however much is kept.
/// assert_eq!(body.collect().await?.to_bytes(), "hello");
/// assert!(!again.is_replayable());
/// assert!(again.collect().await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct ReplayBody<B> {
    /// `None` for a body that was empty from the start.
    shared: Option<Reader<B>>,
}

struct Reader<B> {
    state: Arc<Mutex<State<B>>>,
    /// Readers are numbered in the order of their creation. A higher number supersedes a lower one.
    number: u32,
    /// The reader was refused with an error, which ends the body for it.
    is_refused: bool,
}

impl<B> ReplayBody<B>
where
    B: Body,
{
    /// Wraps `body` and keeps at most 2 MiB of it for replay, which is the default limit of axum's extractors.
    #[must_use]
    pub fn new(body: B) -> Self {
        Self::with_max_bytes(body, DEFAULT_MAX_BYTES)
    }

    /// Wraps `body` and keeps at most `limit` bytes of it for replay, trailers included.
    ///
    /// The limit applies to the kept bytes, not to the bytes that may be read: see
    /// [`is_replayable`](Self::is_replayable).
    #[must_use]
    pub fn with_max_bytes(body: B, limit: usize) -> Self {
        if body.is_end_stream() {
            return Self::default();
        }
        Self {
            shared: Some(Reader {
                state: Arc::new(Mutex::new(State::new(body, limit))),
                number: 0,
                is_refused: false,
            }),
        }
    }
}

/// A body of any type that can be passed to a promise.
pub(crate) trait Detach: Send + Sync {
    /// Returns the whole body and stops keeping it. `None` if the body cannot be replayed.
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
        body.take_over().ok()?;
        let difference = {
            let mut state = lock(&self);
            state.give();
            state.difference()
        };
        difference.show();
        Some(RequestBody::new(body))
    }
}

impl<B> ReplayBody<B>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The body for passing to a promise. `None` for a body that was empty from the start.
    pub(crate) fn to_detach(&self) -> Option<Arc<dyn Detach>> {
        let reader = self.shared.as_ref()?;
        Some(Arc::clone(&reader.state) as _)
    }
}

impl<B> Reader<B> {
    fn new(state: &Arc<Mutex<State<B>>>) -> Self {
        let state = Arc::clone(state);
        let number = lock(&state).next_number();
        Self {
            state,
            number,
            is_refused: false,
        }
    }
}

#[cfg(feature = "spool")]
impl<B> ReplayBody<B>
where
    B: Body,
{
    /// Wraps `body`, keeps at most `limit` bytes of it in memory and stores the rest in a temporary file.
    ///
    /// Beyond the limit the body must be read within a tokio runtime. Without a runtime, or if the file cannot be
    /// written, the present reader gets the whole body and only replay ends, with [`ReplayError::SpoolFailed`].
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::{BodyExt, Full};
    /// use tower_promises::body::{ReplayBody, Spool};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), tower_promises::BoxError> {
    /// let spool = Spool::new(std::env::temp_dir()).max_bytes(16 * 1024 * 1024);
    ///
    /// let upload = Bytes::from(vec![7; 1_000_000]);
    /// let first = ReplayBody::with_spool(Full::new(upload.clone()), 64 * 1024, spool);
    /// let second = first.replay();
    /// assert_eq!(first.collect().await?.to_bytes(), upload);
    /// assert_eq!(second.collect().await?.to_bytes(), upload);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_spool(body: B, limit: usize, spool: Spool) -> Self {
        let this = Self::with_max_bytes(body, limit);
        if let Some(reader) = &this.shared {
            lock(&reader.state).spool_to(spool);
        }
        this
    }
}

impl<B> ReplayBody<B> {
    /// Creates another reader of the same body, which starts at the beginning.
    ///
    /// The new reader takes over when it polls for its first frame. Until then the present reader is not affected. So a
    /// request can be cloned before it is sent, as `tower::retry` does.
    ///
    /// ```
    /// use http::Request;
    /// use tower_promises::body::ReplayBody;
    ///
    /// // An implementation of `tower::retry::Policy::clone_request`:
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
    /// Returns `false`, permanently, once more bytes were read than may be kept, bytes could not be kept, or a promise
    /// has taken the body. After the request was answered, only a body that has not been read is replayable.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        match &self.shared {
            Some(reader) => lock(&reader.state).is_replayable(),
            None => true,
        }
    }

    /// Creates the body that a pass gets. It shares the number of this reader, from which nothing reads.
    pub(crate) fn for_pass(&self) -> Self {
        let shared = self.shared.as_ref().map(|reader| Reader {
            state: Arc::clone(&reader.state),
            number: reader.number,
            is_refused: false,
        });
        Self { shared }
    }

    /// Creates the body for the next pass, which takes over from all other readers. The body is empty if a promise has
    /// the original body. An error if the body cannot be replayed.
    pub(crate) fn for_next_pass(&self) -> Result<Self, ReplayError> {
        if self.shared.is_none() || self.is_given() {
            return Ok(Self::default());
        }
        let body = self.replay();
        body.take_over()?;
        Ok(body)
    }

    /// The error of [`for_next_pass`](Self::for_next_pass), if there would be one.
    pub(crate) fn refusal(&self) -> Option<ReplayError> {
        let state = lock(&self.shared.as_ref()?.state);
        match state.is_given() {
            true => None,
            false => state.refusal(),
        }
    }

    fn is_given(&self) -> bool {
        let reader = self.shared.as_ref();
        reader.is_some_and(|reader| lock(&reader.state).is_given())
    }

    /// Makes this the present reader before it polls for a frame. An error if the body cannot be replayed.
    fn take_over(&self) -> Result<(), ReplayError> {
        if let Some(reader) = &self.shared {
            let superseded = lock(&reader.state).admit(reader.number)?;
            superseded.into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    /// Makes the present reader the last one: nothing is kept for other readers from now on.
    pub(crate) fn release(&self) {
        if let Some(reader) = &self.shared {
            let difference = {
                let mut state = lock(&reader.state);
                state.release();
                state.difference()
            };
            difference.show();
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(reader) = self.shared.as_mut().filter(|reader| !reader.is_refused) else {
            return Poll::Ready(None);
        };
        let mut state = lock(&reader.state);
        let superseded = match state.admit(reader.number) {
            Ok(superseded) => superseded,
            Err(error) => {
                reader.is_refused = true;
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        let frame = state.poll_frame(cx);
        let former = frame.is_pending().then(|| state.park(cx.waker())).flatten();
        let difference = state.difference();
        // Wakers and the recorder behind the gauge are user code: they run, and are dropped, after the lock is
        // released.
        drop(state);
        difference.show();
        drop(former);
        superseded.into_iter().for_each(Waker::wake);
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.shared {
            Some(reader) if !reader.is_refused => lock(&reader.state).is_end_stream(reader.number),
            _ => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.shared {
            Some(reader) if !reader.is_refused => lock(&reader.state).size_hint(reader.number),
            _ => SizeHint::with_exact(0),
        }
    }
}

/// Creates a body that is empty from the start.
impl<B> Default for ReplayBody<B> {
    fn default() -> Self {
        Self { shared: None }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReplayBody");
        match &self.shared {
            Some(reader) => {
                debug.field("reader", &reader.number);
                lock(&reader.state).describe(&mut debug);
                debug.finish()
            }
            None => debug.field("kept_bytes", &0).finish_non_exhaustive(),
        }
    }
}
