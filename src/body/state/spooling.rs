use super::{Retention, State};
use crate::BoxError;
use crate::body::disk::{CHUNK, Disk, Finished};
use crate::body::error::ReplayError;
use crate::body::spool::Spool;
use bytes::Bytes;
use http_body::Frame;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The additional state of a body with a spool.
pub(super) struct Spooling {
    spool: Spool,
    disk: Disk,
    /// The error of a failed write.
    failure: Option<Arc<io::Error>>,
    /// The present reader got an error from the file, which ends the body for this reader.
    has_read_failed: bool,
}

impl<B> State<B> {
    pub(in super::super) fn spool_to(&mut self, spool: Spool) {
        self.spooling = Some(Spooling {
            spool,
            disk: Disk::default(),
            failure: None,
            has_read_failed: false,
        });
    }

    /// The largest number of bytes to keep, in memory and in the file.
    pub(super) fn total_limit(&self) -> usize {
        let in_file = self.spooling.as_ref().map_or(0, |s| s.spool.max_bytes);
        let in_file = usize::try_from(in_file).unwrap_or(usize::MAX);
        self.limit.saturating_add(in_file)
    }

    /// The largest number of bytes in memory when trailers are added. Trailers never go to the file. The limit exceeds
    /// the memory limit, so that a body whose data fits into the file does not fail because of its trailers.
    pub(super) fn limit_of_trailers(&self) -> usize {
        let beyond = if self.spooling.is_some() { CHUNK } else { 0 };
        self.limit.saturating_add(beyond)
    }

    pub(super) fn spool_failure(&self) -> ReplayError {
        match &self.spooling {
            Some(Spooling {
                spool,
                failure: Some(error),
                ..
            }) => spool.failed(Arc::clone(error)),
            _ => ReplayError::Released,
        }
    }

    pub(super) fn has_read_failed(&self) -> bool {
        self.spooling.as_ref().is_some_and(|s| s.has_read_failed)
    }

    pub(super) fn rewind_spool(&mut self) {
        if let Some(spooling) = &mut self.spooling {
            spooling.has_read_failed = false;
        }
    }

    /// Closes the file if no reader will need it.
    pub(super) fn close_spool(&mut self) {
        if let Some(spooling) = &mut self.spooling {
            if !self.buffer.is_in_file() {
                spooling.disk = Disk::default();
            }
        }
    }

    /// Keeps data that the present reader has just got, if memory has no room for it. Returns whether the data was
    /// handled.
    pub(super) fn spool(&mut self, data: &Bytes) -> bool {
        let Some(spooling) = &mut self.spooling else {
            return false;
        };
        let overflowing = self.buffer.overflowing();
        let room = self.limit.saturating_sub(self.buffer.memory());
        let fits_memory = data.is_empty() || (overflowing == 0 && data.len() <= room);
        if fits_memory || self.retention != Retention::All {
            return false;
        }
        if data.len() as u64 > spooling.spool.max_bytes.saturating_sub(overflowing) {
            self.outgrow();
            return true;
        }
        self.buffer.push_overflow(data);
        if self.buffer.unwritten() >= CHUNK as u64 {
            let (at, data) = self.buffer.write();
            let directory = &spooling.spool.directory;
            if let Err(error) = spooling.disk.start_write(directory, at, data) {
                self.settle(Finished::Write(Err(error)));
            }
        }
        true
    }

    /// Ready when no write is running, so that the original body may be polled.
    pub(super) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.retention == Retention::All {
            let Some(spooling) = &mut self.spooling else {
                break;
            };
            match ready!(spooling.disk.poll(cx)) {
                Some(finished) => self.settle(finished),
                None => break,
            }
        }
        Poll::Ready(())
    }

    /// Reads the next piece of the file for the present reader.
    pub(super) fn poll_file(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let (Some(spooling), Some(wanted)) = (&mut self.spooling, self.buffer.next_extent())
            else {
                return Poll::Ready(None);
            };
            if spooling.has_read_failed {
                return Poll::Ready(None);
            }
            let failed = match ready!(spooling.disk.poll(cx)) {
                Some(Finished::Read { at, result }) if at == wanted.at => match result {
                    Ok(data) => {
                        self.buffer.advance(data.len() as u64);
                        self.read_ahead();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(error) => error,
                },
                // An operation that a former reader has started.
                Some(finished) => {
                    self.settle(finished);
                    continue;
                }
                None => match spooling.disk.start_read(wanted.at, wanted.at_most(CHUNK)) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            spooling.has_read_failed = true;
            let error = spooling.spool.failed(Arc::new(failed));
            return Poll::Ready(Some(Err(error.into())));
        }
    }

    /// Starts to read the next chunk while the present reader handles this one.
    fn read_ahead(&mut self) {
        let next = self.buffer.next_extent();
        if let (Some(spooling), Some(next)) = (&mut self.spooling, next) {
            // The reader gets the error when it polls for the chunk.
            let _ = spooling.disk.start_read(next.at, next.at_most(CHUNK));
        } else if self.retention != Retention::All {
            self.buffer.forget_read();
            self.close_spool();
        }
    }

    fn settle(&mut self, finished: Finished) {
        match finished {
            // The last reader gets the written data from memory.
            _ if self.retention != Retention::All => {}
            // A read for a former reader.
            Finished::Read { .. } => {}
            Finished::Write(Ok(())) => self.buffer.mark_written(),
            Finished::Write(Err(error)) => {
                if let Some(spooling) = &mut self.spooling {
                    spooling.failure = Some(Arc::new(error));
                }
                self.end_retention(Retention::SpoolFailed);
            }
        }
    }
}

impl Spool {
    fn failed(&self, error: Arc<io::Error>) -> ReplayError {
        ReplayError::SpoolFailed {
            directory: Arc::clone(&self.directory),
            error,
        }
    }
}
