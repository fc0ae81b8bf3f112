use super::super::error::Failure;
use super::super::slot::AnySlot;
use super::state::run;
use super::{Demand, Phase, Registry, RequestBodyState, Verdict};
use crate::sync::lock;
use std::mem;
use std::sync::{Arc, Weak};
use std::task::Waker;

/// For the response future.
impl Registry {
    /// What a pass that ends now asks for.
    pub(in crate::promise) fn verdict(&self) -> Verdict {
        lock(&self.state).verdict()
    }

    /// Ends a pass whose outcome was discarded: undoes what it has registered undo work for, and makes
    /// its promises start.
    pub(in crate::promise) fn discard_pass(&self) {
        let undo = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            state.is_settling = true;
            let queued = mem::take(&mut state.queued);
            state
                .starting
                .extend(queued.iter().filter_map(Weak::upgrade));
            mem::take(&mut state.undo)
        };
        run(undo);
    }

    /// The promises that are to start now.
    pub(in crate::promise) fn take_starting(&self) -> Vec<Arc<dyn AnySlot>> {
        mem::take(&mut lock(&self.state).starting)
    }

    /// Asks to be woken when a promise is to start. `false` if there is one already.
    pub(in crate::promise) fn park(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if !state.starting.is_empty() {
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
        if !state.starting.is_empty() {
            return None;
        }
        state.pass += 1;
        state.is_settling = false;
        state.publish = false;
        for entry in state.entries.values_mut() {
            entry.demand = Demand::Met;
        }
        Some(state.pass)
    }

    /// Ends the time of everything that is pending, and of what is submitted from now on. `false` if
    /// nothing has been submitted at all.
    pub(in crate::promise) fn time_out(&self) -> bool {
        let pending = {
            let mut state = lock(&self.state);
            if state.entries.is_empty() {
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
        #[cfg(feature = "loader")]
        let _attachments;
        let (pending, undo, _entries, _body, _driver) = {
            let mut state = lock(&self.state);
            if state.has_ended() {
                return;
            }
            state.phase = match published {
                true => Phase::Published,
                false => Phase::Abandoned,
            };
            #[cfg(feature = "loader")]
            {
                _attachments = mem::take(&mut state.attachments);
            }
            (
                state.stop(),
                mem::take(&mut state.undo),
                mem::take(&mut state.entries),
                mem::replace(&mut state.body, RequestBodyState::Taken),
                state.driver.take(),
            )
        };
        for slot in pending {
            slot.fail(Failure::Cancelled);
        }
        if !published {
            run(undo);
        }
    }
}
