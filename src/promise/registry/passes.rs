use super::super::Key;
use super::super::error::Failure;
use super::super::slot::AnySlot;
use super::withdraw::run;
use super::{Demand, Entry, Ledger, Phase, Registry, RequestBodyState, State, Verdict};
use crate::sync::lock;
use std::mem;
use std::sync::Arc;
use std::task::Waker;

/// Access for the response future.
impl Registry {
    /// Decides what has to happen at the end of a pass.
    pub(in crate::promise) fn end_pass(&self) -> Verdict {
        let mut state = lock(&self.state);
        if state.ledger.is_some() || state.phase != Phase::Open {
            return state.verdict();
        }
        // Most requests end here, so this path does only the necessary work.
        state.phase = Phase::Published;
        let body = mem::replace(&mut state.body, RequestBodyState::Taken);
        let driver = state.driver.take();
        drop(state);
        drop((body, driver));
        Verdict::Nothing
    }

    pub(in crate::promise) fn will_discard(&self) -> bool {
        matches!(
            lock(&self.state).verdict(),
            Verdict::Repeat | Verdict::Overfull
        )
    }

    pub(in crate::promise) fn pending_keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|entry| entry.demand.requires_pass())
    }

    /// Ends a pass whose outcome was discarded: runs its undo functions and queues its promises to start.
    pub(in crate::promise) fn discard_pass(&self) {
        #[cfg(feature = "fragments")]
        let _fragments;
        let undo = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            state.is_settling = true;
            let Some(ledger) = &mut state.ledger else {
                return;
            };
            ledger.start_queued();
            #[cfg(feature = "fragments")]
            {
                // Dropped after the lock is released, because a render function is user code.
                _fragments = mem::take(&mut ledger.fragments);
            }
            mem::take(&mut ledger.undo)
        };
        run(undo);
    }

    /// Takes the promises that have to start now.
    pub(in crate::promise) fn take_starting(&self) -> Vec<Arc<dyn AnySlot>> {
        match &mut lock(&self.state).ledger {
            Some(ledger) => mem::take(&mut ledger.starting),
            None => Vec::new(),
        }
    }

    /// Sets the waker to wake when a promise has to start. `false` if a promise has to start already.
    pub(in crate::promise) fn park(&self, waker: &Waker) -> bool {
        {
            let state = lock(&self.state);
            if state.is_starting() {
                return false;
            }
            if state
                .driver
                .as_ref()
                .is_some_and(|driver| driver.will_wake(waker))
            {
                return true;
            }
        }
        // A waker is user code, so it is cloned and dropped without the lock.
        let mut waker = Some(waker.clone());
        let mut state = lock(&self.state);
        if state.is_starting() {
            return false;
        }
        mem::swap(&mut state.driver, &mut waker);
        true
    }

    /// Begins the next pass and returns its number. `None` if a promise has yet to start. Handles of earlier passes
    /// cannot submit from here on.
    pub(in crate::promise) fn begin_pass(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        if state.is_starting() {
            return None;
        }
        state.pass += 1;
        state.is_settling = false;
        state.publish = false;
        if let Some(ledger) = &mut state.ledger {
            ledger.entries.rewind();
            for entry in ledger
                .entries
                .iter_mut()
                .filter(|it| it.demand.requires_pass())
            {
                entry.demand = Demand::Met;
            }
        }
        Some(state.pass)
    }

    /// Times out all pending promises, and all promises that are submitted from now on. `false` if the request has no
    /// promise.
    pub(in crate::promise) fn time_out(&self) -> bool {
        let pending = {
            let mut state = lock(&self.state);
            let ledger = state.ledger.as_ref();
            if ledger.is_none_or(|ledger| ledger.entries.is_empty()) {
                return false;
            }
            state.phase = Phase::TimedOut;
            state.stop()
        };
        for slot in pending {
            slot.fail(Failure::TimedOut);
        }
        true
    }

    /// Ends the request: cancels all pending promises and drops everything that the registry holds. Remaining handles,
    /// which may be inside a value of a promise, keep only an empty registry alive.
    pub(in crate::promise) fn close(&self, published: bool) {
        let (pending, ledger, _body, _driver) = {
            let mut state = lock(&self.state);
            if state.has_ended() {
                return;
            }
            state.phase = match published {
                true => Phase::Published,
                false => Phase::Abandoned,
            };
            (
                state.stop(),
                state.ledger.take(),
                mem::replace(&mut state.body, RequestBodyState::Taken),
                state.driver.take(),
            )
        };
        for slot in pending {
            slot.fail(Failure::Cancelled);
        }
        if let Some(mut ledger) = ledger {
            let undo = mem::take(&mut ledger.undo);
            if !published {
                run(undo);
            }
        }
    }
}

impl Verdict {
    /// Whether the request ends with the outcome of the pass.
    pub(in crate::promise) fn is_publish(self) -> bool {
        #[cfg(feature = "fragments")]
        if self == Self::Stream {
            return true;
        }
        self == Self::Publish
    }
}

impl Ledger {
    /// Lets the promises start that were to start when the pass ends.
    pub(super) fn start_queued(&mut self) {
        // Reserves exactly the necessary size, in one allocation.
        let is_queued = |entry: &&Entry| entry.is_queued;
        let count = self.entries.iter().filter(is_queued).count();
        self.starting.reserve_exact(count);
        for entry in self.entries.iter_mut().filter(|entry| entry.is_queued) {
            entry.is_queued = false;
            self.starting.push(Arc::clone(&entry.slot));
        }
    }
}

impl State {
    fn verdict(&self) -> Verdict {
        if self.phase != Phase::Open {
            return Verdict::Publish;
        }
        let Some(ledger) = &self.ledger else {
            return Verdict::Publish;
        };
        let is_published = self.publish;
        #[cfg(feature = "fragments")]
        let is_published = is_published || self.is_streaming;
        if !is_published {
            if ledger.is_overfull {
                return Verdict::Overfull;
            }
            let mut entries = ledger.entries.iter();
            if entries.any(|entry| entry.demand.requires_pass()) {
                return Verdict::Repeat;
            }
        }
        #[cfg(feature = "fragments")]
        if !ledger.fragments.is_empty() {
            return Verdict::Stream;
        }
        Verdict::Publish
    }

    /// Whether a promise has yet to start.
    fn is_starting(&self) -> bool {
        let ledger = self.ledger.as_ref();
        ledger.is_some_and(|ledger| !ledger.starting.is_empty())
    }

    /// Takes all pending promises. The caller fails them after releasing the lock.
    fn stop(&mut self) -> Vec<Arc<dyn AnySlot>> {
        let Some(ledger) = &mut self.ledger else {
            return Vec::new();
        };
        let mut pending = mem::take(&mut ledger.starting);
        for entry in ledger.entries.iter().filter(|entry| !entry.is_settled()) {
            pending.push(Arc::clone(&entry.slot));
        }
        pending
    }
}
