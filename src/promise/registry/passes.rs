use super::super::error::Failure;
use super::super::slot::AnySlot;
use super::state::run;
use super::{Demand, Entry, Phase, Registry, RequestBodyState, Verdict};
use crate::sync::lock;
use std::mem;
use std::sync::Arc;
use std::task::Waker;

/// For the response future.
impl Registry {
    /// What a pass that ends now asks for.
    pub(in crate::promise) fn end_pass(&self) -> Verdict {
        let mut state = lock(&self.state);
        if state.ledger.is_some() || state.phase != Phase::Open {
            return state.verdict();
        }
        // Most requests end here, so there is no more to it than there has to be.
        state.phase = Phase::Published;
        let body = mem::replace(&mut state.body, RequestBodyState::Taken);
        let driver = state.driver.take();
        drop(state);
        drop((body, driver));
        Verdict::Nothing
    }

    /// Ends a pass whose outcome was discarded: undoes what it has registered undo work for, and makes
    /// its promises start.
    pub(in crate::promise) fn discard_pass(&self) {
        let undo = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            state.is_settling = true;
            let Some(ledger) = &mut state.ledger else {
                return;
            };
            // One allocation, and just as large as is needed.
            let is_queued = |entry: &&Entry| entry.is_queued;
            let count = ledger.entries.iter().filter(is_queued).count();
            ledger.starting.reserve_exact(count);
            for entry in ledger.entries.iter_mut().filter(|entry| entry.is_queued) {
                entry.is_queued = false;
                ledger.starting.push(Arc::clone(&entry.slot));
            }
            mem::take(&mut ledger.undo)
        };
        run(undo);
    }

    /// The promises that are to start now.
    pub(in crate::promise) fn take_starting(&self) -> Vec<Arc<dyn AnySlot>> {
        match &mut lock(&self.state).ledger {
            Some(ledger) => mem::take(&mut ledger.starting),
            None => Vec::new(),
        }
    }

    /// Asks to be woken when a promise is to start. `false` if there is one already.
    pub(in crate::promise) fn park(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if state.is_starting() {
            return false;
        }
        let former = state.driver.replace(waker.clone());
        drop(state);
        // Dropped where no lock is held.
        drop(former);
        true
    }

    /// Begins the next pass, unless a promise is still to start. Handles of the former pass cannot
    /// submit from here on.
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
            for entry in ledger.entries.iter_mut() {
                entry.demand = Demand::Met;
            }
        }
        Some(state.pass)
    }

    /// Ends the time of everything that is pending, and of what is submitted from now on. `false` if
    /// nothing has been submitted at all.
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

    /// Ends the request. Nothing is left running, and nothing is left to be held by the handles that
    /// remain, or by a value that holds one of them.
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
