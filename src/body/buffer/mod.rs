#[cfg(feature = "spool")]
mod overflow;
mod parts;

use super::error::BodyError;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
#[cfg(feature = "spool")]
pub(super) use overflow::Extent;
#[cfg(feature = "spool")]
use overflow::Overflow;
use parts::Parts;

/// Frames below this size are copied into a buffer with a small neighbour. A `Bytes` is four words and may keep a far
/// larger buffer alive, so keeping a small frame by reference may cost many times its length.
const SMALL: usize = 4096;

/// The largest capacity of a buffer for small frames.
const MAX_TAIL: usize = 16 * 1024;

/// The kept part of a body, in order.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    parts: Parts,
    /// The latest small frames, which are not in `parts` yet.
    tail: BytesMut,
    /// The index in `parts` of the next part for the present reader.
    next: usize,
    /// The number of kept bytes of data that the present reader has not got yet.
    unread: u64,
    /// The number of bytes of data and trailers that count against the memory limit.
    memory: usize,
    #[cfg(feature = "spool")]
    overflow: Overflow,
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Data(Bytes),
    #[cfg(feature = "spool")]
    Spooled(Extent),
    Trailers(Box<HeaderMap>),
    Failed(BodyError),
}

impl Buffer {
    /// The number of bytes of data and trailers that count against the memory limit.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.tail.is_empty()
    }

    /// The number of kept bytes of data.
    pub(super) fn data_len(&self) -> u64 {
        let sealed: u64 = self.parts.iter().map(Part::data_len).sum();
        sealed + self.tail.len() as u64
    }

    /// Whether the present reader has got all kept parts.
    pub(super) fn is_read(&self) -> bool {
        self.next == self.parts.len()
    }

    /// The number of kept bytes of data that the present reader has not got yet.
    pub(super) fn unread(&self) -> u64 {
        self.unread
    }

    /// Keeps data that the present reader has just got from the original body.
    pub(super) fn push_data(&mut self, data: &Bytes) {
        self.memory += data.len();
        self.append(data);
    }

    fn append(&mut self, data: &Bytes) {
        debug_assert!(self.is_read());
        if data.is_empty() {
            return;
        }
        if data.len() >= SMALL {
            self.seal();
            self.push(Part::Data(data.clone()));
        } else if self.tail.capacity() - self.tail.len() >= data.len() {
            self.tail.extend_from_slice(data);
        } else if !self.tail.is_empty() {
            let capacity = (self.tail.len() * 2).clamp(data.len(), MAX_TAIL);
            self.seal();
            self.tail = BytesMut::with_capacity(capacity);
            self.tail.extend_from_slice(data);
        } else if let Some(neighbour) = self.take_small_neighbour() {
            self.tail = BytesMut::with_capacity((neighbour.len() + data.len()) * 2);
            self.tail.extend_from_slice(&neighbour);
            self.tail.extend_from_slice(data);
        } else {
            self.push(Part::Data(data.clone()));
        }
    }

    pub(super) fn push_trailers(&mut self, trailers: &HeaderMap) {
        debug_assert!(self.is_read());
        self.memory += size_of_trailers(trailers);
        self.seal();
        self.push(Part::Trailers(Box::new(trailers.clone())));
    }

    pub(super) fn push_error(&mut self, error: BodyError) {
        debug_assert!(self.is_read());
        self.seal();
        self.push(Part::Failed(error));
    }

    /// Moves to the beginning, for a new reader.
    pub(super) fn rewind(&mut self) {
        self.seal();
        self.next = 0;
        self.unread = self.data_len();
        #[cfg(feature = "spool")]
        self.overflow.rewind();
    }

    /// Returns the next part for the present reader. A part in the file remains the next part until the reader has
    /// [advanced](Self::advance) beyond it.
    pub(super) fn next(&mut self) -> Option<Part> {
        let part = self.parts.get(self.next)?.clone();
        #[cfg(feature = "spool")]
        if let Part::Spooled(_) = part {
            return Some(part);
        }
        self.next += 1;
        self.unread -= part.data_len();
        Some(part)
    }

    /// Returns the next part for the present reader, which is the last one, and keeps nothing behind it.
    pub(super) fn next_and_forget(&mut self) -> Option<Part> {
        self.forget_read();
        #[cfg(feature = "spool")]
        if let Some(Part::Spooled(_)) = self.parts.front() {
            return self.next();
        }
        let part = self.parts.pop_front()?;
        self.unread -= part.data_len();
        Some(part)
    }

    /// Stops keeping parts for later readers.
    pub(super) fn release(&mut self) {
        self.memory = 0;
        self.forget_read();
    }

    /// Frees the parts that the present reader has got.
    pub(super) fn forget_read(&mut self) {
        if self.next > 0 {
            self.parts.drop_front(self.next);
            self.next = 0;
        }
        self.tail = BytesMut::new();
    }

    fn push(&mut self, part: Part) {
        self.parts.push_back(part);
        self.next += 1;
    }

    /// Moves the tail into the parts. The spare capacity of the buffer remains in the tail.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let part = Part::Data(self.tail.split().freeze());
            self.push(part);
        }
    }

    fn take_small_neighbour(&mut self) -> Option<Bytes> {
        // Data that stays in memory must not be merged with data that has to leave memory.
        #[cfg(feature = "spool")]
        if self.parts.len() == self.overflow.start() {
            return None;
        }
        let neighbour = match self.parts.back()? {
            Part::Data(data) if data.len() < SMALL => data.clone(),
            _ => return None,
        };
        self.parts.pop_back();
        self.next -= 1;
        Some(neighbour)
    }
}

impl Part {
    fn data_len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            #[cfg(feature = "spool")]
            Self::Spooled(extent) => extent.len,
            Self::Trailers(_) | Self::Failed(_) => 0,
        }
    }
}

pub(super) fn size_of_trailers(trailers: &HeaderMap) -> usize {
    trailers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}
