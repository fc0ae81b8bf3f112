use super::progress::Progress;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The size of the pieces of a body that is read once.
const PIECE_BYTES: usize = 64 * 1024;

pin_project! {
    /// Response body of [`OperationService`](super::OperationService): the unchanged body of the inner service, or a
    /// body of the layer.
    pub struct OperationBody<R> {
        #[pin]
        kind: Kind<R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<R> {
        // The body of the inner service.
        Inner {
            #[pin]
            body: R,
        },
        // A document, a page or a stored result.
        Whole {
            data: Bytes,
            // The callback for the end of the transfer.
            sent: Option<OnSent>,
        },
        // Events, until the operation ends.
        Stream {
            stream: BoxStream<'static, Bytes>,
        },
    }
}

impl<R> OperationBody<R> {
    pub(super) fn inner(body: R) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    pub(super) fn stream(stream: BoxStream<'static, Bytes>) -> Self {
        Self {
            kind: Kind::Stream { stream },
        }
    }

    /// Creates a body that calls `sent` when all data has been sent.
    pub(super) fn once(data: Bytes, sent: impl FnOnce() + Send + Sync + 'static) -> Self {
        let sent = Some(OnSent {
            // An empty body is at its end from the start.
            at_end: data.is_empty(),
            call: Some(Box::new(sent)),
        });
        Self {
            kind: Kind::Whole { data, sent },
        }
    }
}

impl<R> From<Bytes> for OperationBody<R> {
    fn from(data: Bytes) -> Self {
        Self {
            kind: Kind::Whole { data, sent: None },
        }
    }
}

/// An empty body.
///
/// Middleware that answers in place of the inner service needs an empty body, for example the CORS and timeout layers
/// of tower-http.
impl<R> Default for OperationBody<R> {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl<R> Body for OperationBody<R>
where
    R: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Whole { data, sent } => {
                if data.is_empty() {
                    return Poll::Ready(None);
                }
                let Some(sent) = sent else {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                };
                // The body is sent in pieces, so that the server takes the last piece only after the client has
                // received most of the data.
                let piece = data.split_to(data.len().min(PIECE_BYTES));
                sent.at_end = data.is_empty();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            KindProj::Stream { stream } => {
                let data = ready!(stream.as_mut().poll_next(cx));
                Poll::Ready(data.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Whole { data, .. } => data.is_empty(),
            Kind::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            Kind::Stream { .. } => SizeHint::default(),
        }
    }
}

impl<R> fmt::Debug for OperationBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationBody").finish_non_exhaustive()
    }
}

/// Calls a function when its body is dropped after the end of the data.
struct OnSent {
    at_end: bool,
    call: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for OnSent {
    fn drop(&mut self) {
        if let Some(call) = self.call.take().filter(|_| self.at_end) {
            call();
        }
    }
}

pin_project! {
    /// Request body for the inner service of [`OperationService`](super::OperationService): the bytes that the layer
    /// has read from the client's body, and the rest of that body.
    pub struct OperationRequestBody<B>
    where
        B: Body,
    {
        read: Bytes,
        // The rest of the client's body. `None` after its end or an error.
        rest: Option<Pin<Box<B>>>,
        trailers: Option<HeaderMap>,
        error: Option<B::Error>,
        // Notified when the inner service begins to read.
        progress: Option<Progress>,
    }
}

/// An empty body.
impl<B: Body> Default for OperationRequestBody<B> {
    fn default() -> Self {
        Self {
            read: Bytes::new(),
            rest: None,
            trailers: None,
            error: None,
            progress: None,
        }
    }
}

impl<B: Body> OperationRequestBody<B> {
    /// Creates a body that streams from the client.
    pub(super) fn streaming(body: B) -> Self {
        Self {
            rest: Some(Box::pin(body)),
            ..Self::default()
        }
    }

    /// Creates a body that was read before.
    pub(super) fn whole(read: Bytes) -> Self {
        Self {
            read,
            ..Self::default()
        }
    }

    /// Reads a body in full, unless it has more bytes than this.
    pub(super) async fn read(body: B, limit: usize) -> Self {
        let mut this = Self::streaming(body);
        let mut read = BytesMut::new();
        while let Some(body) = &mut this.rest {
            let left = (limit - read.len()) as u64;
            if body.size_hint().lower() > left {
                break;
            }
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => read.extend_from_slice(&data.copy_to_bytes(data.remaining())),
                    Err(frame) => this.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    this.error = Some(error);
                    this.rest = None;
                }
                None => this.rest = None,
            }
            if read.len() > limit {
                break;
            }
        }
        this.read = read.freeze();
        this
    }

    /// Notifies `progress` when the inner service begins to read.
    pub(super) fn watched_by(self, progress: Progress) -> Self {
        Self {
            progress: Some(progress),
            ..self
        }
    }

    /// Whether the whole body has been read.
    pub(super) fn is_whole(&self) -> bool {
        self.rest.is_none() && self.error.is_none()
    }

    /// Whether the body has more bytes than the limit.
    pub(super) fn is_too_large(&self) -> bool {
        self.rest.is_some()
    }

    pub(super) fn read_bytes(&self) -> &Bytes {
        &self.read
    }
}

impl<B: Body> Body for OperationRequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(progress) = this.progress.take() {
            progress.begin();
        }
        if !this.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(this.read)))));
        }
        if let Some(body) = this.rest {
            let frame = ready!(body.as_mut().poll_frame(cx));
            let bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
            return Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(bytes))));
        }
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(
            this.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty()
            && self.error.is_none()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let rest = self.rest.as_ref().map(|body| body.size_hint());
        let mut rest = match rest {
            Some(rest) => rest,
            // The number of bytes that were lost with the error is unknown.
            None if self.error.is_some() => SizeHint::default(),
            None => SizeHint::with_exact(0),
        };
        if let Some(upper) = rest.upper() {
            rest.set_upper(upper.saturating_add(read));
        }
        rest.set_lower(rest.lower().saturating_add(read));
        rest
    }
}

impl<B: Body> fmt::Debug for OperationRequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationRequestBody")
            .field("read", &self.read.len())
            .field("is_whole", &self.is_whole())
            .finish_non_exhaustive()
    }
}
