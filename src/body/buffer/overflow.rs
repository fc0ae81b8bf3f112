use super::{Buffer, Part};
use bytes::Bytes;

/// The kept data beyond the memory limit. It stays in memory until there is enough for a write, and readers get it
/// from memory until it has been written.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    /// The number of bytes of data beyond the memory limit, in memory and in the file.
    total: u64,
    /// The number of these bytes that are in the file.
    written: u64,
    /// The index of the first part that may have to leave memory. 0 while there is room for all parts.
    start: usize,
    /// The number of bytes of the next part that the present reader has got from the file.
    offset: u64,
}

/// A range of the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Extent {
    pub(in super::super) at: u64,
    pub(in super::super) len: u64,
}

impl Buffer {
    /// The number of bytes of data beyond the memory limit.
    pub(in super::super) fn overflowing(&self) -> u64 {
        self.overflow.total
    }

    /// The number of bytes beyond the memory limit that have not been written.
    pub(in super::super) fn unwritten(&self) -> u64 {
        self.overflow.total - self.overflow.written
    }

    /// Whether the file holds a part of the body.
    pub(in super::super) fn is_in_file(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| matches!(part, Part::Spooled(_)))
    }

    /// Keeps data beyond the memory limit that the present reader has just got from the original body.
    pub(in super::super) fn push_overflow(&mut self, data: &Bytes) {
        if self.overflow.total == 0 {
            self.seal();
            self.overflow.start = self.parts.len();
        }
        self.overflow.total += data.len() as u64;
        self.append(data);
    }

    /// The data that has not been written, and its offset in the file. Nothing may be pushed until it is
    /// [marked as written](Self::mark_written).
    pub(in super::super) fn write(&mut self) -> (u64, Vec<Bytes>) {
        self.seal();
        let parts = self.parts.iter().skip(self.overflow.start);
        let data = parts.filter_map(|part| match part {
            Part::Data(data) => Some(data.clone()),
            _ => None,
        });
        (self.overflow.written, data.collect())
    }

    /// Frees the data that is in the file now. The present reader has either got all of that data from memory or has
    /// not reached it, because a reader waits for the end of a write only at these two positions.
    pub(in super::super) fn mark_written(&mut self) {
        let is_read = self.is_read();
        debug_assert!(is_read || self.next < self.overflow.start);
        for part in self.parts.split_off(self.overflow.start) {
            match part {
                Part::Data(data) => self.push_extent(data.len() as u64),
                part => self.parts.push_back(part),
            }
        }
        self.overflow.start = self.parts.len();
        if is_read {
            self.next = self.parts.len();
        }
    }

    fn push_extent(&mut self, len: u64) {
        let at = self.overflow.written;
        self.overflow.written += len;
        match self.parts.back_mut() {
            Some(Part::Spooled(extent)) => extent.len += len,
            _ => self.parts.push_back(Part::Spooled(Extent { at, len })),
        }
    }

    /// The rest of the next part for the present reader, if that part is in the file.
    pub(in super::super) fn next_extent(&self) -> Option<Extent> {
        match self.parts.get(self.next)? {
            Part::Spooled(extent) => Some(Extent {
                at: extent.at + self.overflow.offset,
                len: extent.len - self.overflow.offset,
            }),
            _ => None,
        }
    }

    /// Records that the present reader has got `len` bytes from the file. `len` must not exceed the rest of the part.
    pub(in super::super) fn advance(&mut self, len: u64) {
        self.unread -= len;
        self.overflow.offset += len;
        if let Some(Part::Spooled(extent)) = self.parts.get(self.next) {
            if self.overflow.offset == extent.len {
                self.overflow.offset = 0;
                self.next += 1;
            }
        }
    }
}

impl Extent {
    /// The length, but at most `limit`.
    pub(in super::super) fn at_most(self, limit: usize) -> usize {
        usize::try_from(self.len).map_or(limit, |len| len.min(limit))
    }
}

impl Overflow {
    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn rewind(&mut self) {
        self.offset = 0;
    }
}
