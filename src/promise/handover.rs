use super::waiters::Waiters;
use std::mem;
use std::sync::Arc;

/// The progress of a promise, from its work to its outcome. The lock of its request guards it.
///
/// The work is user code. The thread that polls it takes it out, polls it without the lock, and puts it back. Meanwhile
/// any other thread may settle the promise. Then the first thread gets the work back and drops it without the lock.
pub(super) struct Progress<W, O> {
    stage: Stage<W, O>,
    /// `None` until code awaits the promise.
    waiters: Option<Arc<Waiters<O>>>,
}

enum Stage<W, O> {
    /// The work. `None` while a thread is polling it.
    Pending(Option<W>),
    Settled(O),
}

/// The parts of a promise that has just settled. All of them involve user code.
#[must_use]
pub(super) struct Remains<W, O> {
    /// Unfinished work, to be dropped.
    pub(super) work: Option<W>,
    /// The waiters, to be told the outcome.
    pub(super) waiters: Option<Arc<Waiters<O>>>,
}

/// The result of taking out the work.
pub(super) enum Taken<W, O> {
    Work(W),
    /// Another thread is polling the work.
    Busy,
    Settled(O),
}

impl<W, O: Clone> Progress<W, O> {
    /// The progress of a promise with this work, or of a promise that is settled next.
    #[inline]
    pub(super) fn new(work: Option<W>) -> Self {
        Self {
            stage: Stage::Pending(work),
            waiters: None,
        }
    }

    /// The outcome. `None` if the promise is pending.
    #[inline]
    pub(super) fn outcome(&self) -> Option<&O> {
        match &self.stage {
            Stage::Settled(outcome) => Some(outcome),
            Stage::Pending(_) => None,
        }
    }

    /// Takes the work out for a poll.
    #[inline]
    pub(super) fn take(&mut self) -> Taken<W, O> {
        match &mut self.stage {
            Stage::Pending(work) => work.take().map_or(Taken::Busy, Taken::Work),
            Stage::Settled(outcome) => Taken::Settled(outcome.clone()),
        }
    }

    /// Puts the work back after a poll. Returns it if the promise has settled meanwhile.
    #[inline]
    pub(super) fn put_back(&mut self, work: W) -> Result<(), W> {
        match &mut self.stage {
            Stage::Pending(polled @ None) => {
                *polled = Some(work);
                Ok(())
            }
            Stage::Pending(Some(_)) | Stage::Settled(_) => Err(work),
        }
    }

    /// Settles the promise. Returns the outcome if the promise has already settled.
    #[inline]
    pub(super) fn settle(&mut self, outcome: O) -> Result<Remains<W, O>, O> {
        if self.outcome().is_some() {
            return Err(outcome);
        }
        let work = match mem::replace(&mut self.stage, Stage::Settled(outcome)) {
            Stage::Pending(work) => work,
            Stage::Settled(_) => None,
        };
        let waiters = self.waiters.take();
        Ok(Remains { work, waiters })
    }

    /// Settles a promise that is polled and not awaited, so that nothing remains. Otherwise returns the outcome.
    #[inline]
    pub(super) fn settle_alone(&mut self, outcome: O) -> Result<(), O> {
        match self.stage {
            Stage::Pending(None) if self.waiters.is_none() => {
                self.stage = Stage::Settled(outcome);
                Ok(())
            }
            _ => Err(outcome),
        }
    }

    /// The waiters of a pending promise.
    pub(super) fn waiters(&mut self) -> Arc<Waiters<O>> {
        Arc::clone(self.waiters.get_or_insert_default())
    }
}
