use super::page::Page;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pin_project! {
    /// Response body for [`FragmentService`](super::FragmentService).
    ///
    /// It contains the response body of the inner service, then the fragments that were pending, in the order in which
    /// they become ready, then the closing tags of the page, then the trailers of the inner body. The body of a response
    /// without pending fragments is that of the inner service.
    ///
    /// Promises run while the body is polled. Dropping the body drops them.
    pub struct FragmentBody<B> {
        #[pin]
        inner: B,
        // `None` for a response without pending fragments.
        page: Option<Box<Page>>,
    }
}

impl<B> FragmentBody<B> {
    pub(super) fn whole(inner: B) -> Self {
        Self { inner, page: None }
    }

    pub(super) fn streaming(inner: B, page: Box<Page>) -> Self {
        Self {
            inner,
            page: Some(page),
        }
    }
}

impl<B: Body> Body for FragmentBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(page) = this.page else {
            let frame = ready!(this.inner.poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map(to_bytes)));
        };
        while !page.has_ended() {
            match this.inner.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match to_bytes(frame).into_data() {
                    Ok(data) => {
                        let data = page.push(data);
                        if !data.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            page.push_trailers(trailers);
                        }
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    page.abort();
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    let data = page.end();
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Poll::Pending => {
                    page.drive(cx);
                    return Poll::Pending;
                }
            }
        }
        page.poll_rest(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.page {
            None => self.inner.is_end_stream(),
            Some(page) => page.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.page {
            None => self.inner.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

fn to_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

impl<B: fmt::Debug> fmt::Debug for FragmentBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragmentBody")
            .field("inner", &self.inner)
            .field("streams", &self.page.is_some())
            .finish()
    }
}
