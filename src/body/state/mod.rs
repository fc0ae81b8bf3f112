#[cfg(feature = "spool")]
mod spooling;

use super::buffer::{Buffer, Part, size_of_trailers};
use super::error::{BodyError, ReplayError};
use crate::BoxError;
use crate::gauge::{Difference, Gauge, REPLAY_BYTES};
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
#[cfg(feature = "spool")]
use spooling::Spooling;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

/// How much is kept of a body that is too large to be kept as a whole: enough to look at its beginning in one pass and
/// read it in the next.
const BEGINNING: usize = 64 * 1024;

/// The state that the readers of a body share.
pub(super) struct State<B> {
    source: Source<B>,
    buffer: Buffer,
    retention: Retention,
    /// Bytes that may be kept in memory.
    limit: usize,
    /// The size hint exceeds what may be kept.
    is_declared_too_large: bool,
    /// The number of the present reader, which gets the frames.
    reader: u32,
    /// The number of the reader that was created last.
    newest: u32,
    /// The waker of the present reader, which is woken when another reader supersedes it.
    waker: Option<Waker>,
    /// Shows the number of bytes kept in memory.
    gauge: Gauge,
    /// `None` without a spool.
    #[cfg(feature = "spool")]
    spooling: Option<Spooling>,
}

enum Source<B> {
    /// No reader has polled for a frame yet, so the body need not be pinned.
    Unread(B),
    Reading(Pin<Box<B>>),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Retention {
    /// All frames so far are kept.
    All,
    /// The present reader is the last one, because the request was answered.
    Released,
    /// The present reader is the last one, because a promise has the body.
    Given,
    /// More bytes were read than may be kept.
    Outgrown,
    /// Data could not be written to the temporary file.
    #[cfg(feature = "spool")]
    SpoolFailed,
}

/// The result for a reader that polls for a frame.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// The reader gets the next frame.
    Present,
    /// The reader takes over and gets the first frame.
    New,
    /// The reader gets an error.
    Refused,
}

impl<B> State<B> {
    pub(super) fn new(body: B, limit: usize) -> Self {
        Self {
            source: Source::Unread(body),
            buffer: Buffer::default(),
            retention: Retention::All,
            limit,
            is_declared_too_large: false,
            reader: 0,
            newest: 0,
            waker: None,
            gauge: Gauge::new(&REPLAY_BYTES),
            #[cfg(feature = "spool")]
            spooling: None,
        }
    }

    /// The change of the number of bytes kept in memory. The caller shows it after releasing the lock.
    pub(super) fn difference(&mut self) -> Difference {
        self.gauge.prepare(self.buffer.memory())
    }

    /// Returns the number of a new reader.
    pub(super) fn next_number(&mut self) -> u32 {
        self.newest += 1;
        self.newest
    }

    pub(super) fn is_replayable(&self) -> bool {
        match self.retention {
            Retention::All => true,
            Retention::Given => false,
            _ => matches!(self.source, Source::Unread(_)),
        }
    }

    /// The error for a new reader. `None` if a new reader would get the whole body.
    pub(super) fn refusal(&self) -> Option<ReplayError> {
        if self.is_replayable() {
            return None;
        }
        Some(match self.retention {
            Retention::All | Retention::Released => ReplayError::Released,
            Retention::Given => ReplayError::Superseded,
            Retention::Outgrown => ReplayError::TooLarge {
                limit: self.total_limit(),
            },
            #[cfg(feature = "spool")]
            Retention::SpoolFailed => self.spool_failure(),
        })
    }

    /// Makes this reader the present reader, unless a newer reader has taken over. Returns the waker of the superseded
    /// reader. The caller wakes it after releasing the lock.
    pub(super) fn admit(&mut self, number: u32) -> Result<Option<Waker>, ReplayError> {
        if number < self.reader {
            return Err(ReplayError::Superseded);
        }
        if number > self.reader {
            if let Some(error) = self.refusal() {
                return Err(error);
            }
            self.reader = number;
            self.buffer.rewind();
            #[cfg(feature = "spool")]
            self.rewind_spool();
            return Ok(self.waker.take());
        }
        Ok(None)
    }

    /// Sets the waker of the present reader. Returns the former waker. The caller drops it after releasing the lock.
    pub(super) fn park(&mut self, waker: &Waker) -> Option<Waker> {
        self.waker.replace(waker.clone())
    }

    /// Makes the present reader the last one, unless it already is.
    pub(super) fn release(&mut self) {
        if self.retention == Retention::All {
            self.end_retention(Retention::Released);
        }
    }

    /// Makes the present reader the last one, even if no frame has been read yet.
    pub(super) fn give(&mut self) {
        self.end_retention(Retention::Given);
    }

    /// Whether a promise has the body.
    pub(super) fn is_given(&self) -> bool {
        self.retention == Retention::Given
    }

    /// The result for a reader with this number.
    fn standing(&self, number: u32) -> Standing {
        if number == self.reader {
            Standing::Present
        } else if number > self.reader && self.is_replayable() {
            Standing::New
        } else {
            Standing::Refused
        }
    }

    fn keep_data(&mut self, data: &Bytes) {
        let limit = if self.is_declared_too_large {
            self.limit.min(BEGINNING)
        } else {
            #[cfg(feature = "spool")]
            if self.spool(data) {
                return;
            }
            self.limit
        };
        self.keep(data.len(), limit, |buffer| buffer.push_data(data));
    }

    /// Keeps a frame that the present reader has just got, if there is room.
    fn keep(&mut self, size: usize, limit: usize, push: impl FnOnce(&mut Buffer)) {
        if self.retention != Retention::All {
            return;
        }
        if size > limit.saturating_sub(self.buffer.memory()) {
            self.outgrow();
        } else {
            push(&mut self.buffer);
        }
    }

    fn outgrow(&mut self) {
        // Nothing is lost: the present reader has got all of it already.
        self.buffer = Buffer::default();
        self.end_retention(Retention::Outgrown);
    }

    /// Keeps nothing from now on, except for the present reader, which is the last one.
    fn end_retention(&mut self, retention: Retention) {
        self.retention = retention;
        self.buffer.release();
        #[cfg(feature = "spool")]
        self.close_spool();
    }

    fn next_kept(&mut self) -> Option<Part> {
        match self.retention {
            Retention::All => self.buffer.next(),
            _ => self.buffer.next_and_forget(),
        }
    }

    /// The largest number of bytes to keep.
    #[cfg(not(feature = "spool"))]
    fn total_limit(&self) -> usize {
        self.limit
    }

    /// The largest number of bytes in memory when trailers are added.
    #[cfg(not(feature = "spool"))]
    fn limit_of_trailers(&self) -> usize {
        self.limit
    }
}

impl<B> State<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Polls for the next frame of the present reader.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(match self.next_kept() {
            Some(Part::Data(data)) => Ok(Frame::data(data)),
            #[cfg(feature = "spool")]
            Some(Part::Spooled(_)) => return self.poll_file(cx),
            Some(Part::Trailers(trailers)) => Ok(Frame::trailers(*trailers)),
            Some(Part::Failed(error)) => Err(error.to_box_error()),
            None => {
                #[cfg(feature = "spool")]
                ready!(self.poll_written(cx));
                return self.poll_source(cx);
            }
        }))
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Source::Unread(_) = self.source {
            if let Source::Unread(body) = mem::replace(&mut self.source, Source::Ended) {
                let least = body.size_hint().lower();
                self.source = Source::Reading(Box::pin(body));
                self.is_declared_too_large = least > self.total_limit() as u64;
            }
        }
        let Source::Reading(body) = &mut self.source else {
            return Poll::Ready(None);
        };
        match ready!(body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                if let Some(data) = frame.data_ref() {
                    self.keep_data(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    let limit = self.limit_of_trailers();
                    self.keep(size_of_trailers(trailers), limit, |buffer| {
                        buffer.push_trailers(trailers);
                    });
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.source = Source::Ended;
                let error = BodyError::new(error.into());
                self.keep(0, self.limit, |buffer| buffer.push_error(error.clone()));
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

impl<B> State<B>
where
    B: Body,
{
    pub(super) fn is_end_stream(&self, number: u32) -> bool {
        let is_read = match self.standing(number) {
            #[cfg(feature = "spool")]
            Standing::Present if self.has_read_failed() => return true,
            Standing::Present => self.buffer.is_read(),
            Standing::New => self.buffer.is_empty(),
            // This reader gets an error, not the end.
            Standing::Refused => return false,
        };
        is_read && self.source.is_end_stream()
    }

    pub(super) fn size_hint(&self, number: u32) -> SizeHint {
        let kept = match self.standing(number) {
            #[cfg(feature = "spool")]
            Standing::Present if self.has_read_failed() => return SizeHint::with_exact(0),
            Standing::Present => self.buffer.unread(),
            Standing::New => self.buffer.data_len(),
            Standing::Refused => return SizeHint::default(),
        };
        let mut hint = self.source.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(hint.lower().saturating_add(kept));
        hint
    }
}

impl<B> State<B> {
    /// Adds the fields for `Debug`.
    pub(super) fn describe(&self, debug: &mut std::fmt::DebugStruct<'_, '_>) {
        debug
            .field("present_reader", &self.reader)
            .field("kept_bytes", &self.buffer.memory());
        #[cfg(feature = "spool")]
        debug.field("spooled_bytes", &self.buffer.overflowing());
        debug.field("retention", &self.retention);
    }
}
