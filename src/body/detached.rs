use super::ReplayBody;
use crate::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The body of a request, handed to a promise by
/// [`submit_body`](crate::promise::Promises::submit_body), which reads it in its own time.
///
/// Nothing of it is kept for a later pass: what has been read is gone. Its errors are those of
/// [`ReplayBody`].
pub struct RequestBody {
    body: UnsyncBoxBody<Bytes, BoxError>,
}

impl RequestBody {
    pub(crate) fn new<B>(body: ReplayBody<B>) -> Self
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self {
            body: body.boxed_unsync(),
        }
    }
}

/// A body that is empty from the start.
impl Default for RequestBody {
    fn default() -> Self {
        Self {
            body: UnsyncBoxBody::default(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("size_hint", &self.size_hint())
            .finish()
    }
}
