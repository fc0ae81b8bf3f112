use super::super::Key;
use super::super::error::Failure;
use super::super::outcome::Outcome;
use super::members::Members;
use super::withdraw::run;
use super::{Aftermath, Demand, Phase, Registry, RequestBodyState, State, Verdict};
use std::mem;
use std::task::Waker;

/// Promises that start together.
pub(in crate::promise) struct Starting {
    pub(in crate::promise) members: Members,
    /// Whether no other promises have to start now.
    pub(in crate::promise) are_all: bool,
    /// A running promise was cancelled or removed.
    pub(in crate::promise) has_gap: bool,
}

/// Access for the response future.
impl Registry {
    /// Decides what has to happen at the end of a pass.
    pub(in crate::promise) fn end_pass(&self) -> Verdict {
        let mut state = self.state.lock();
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
            self.state.lock().verdict(),
            Verdict::Repeat | Verdict::Overfull
        )
    }

    pub(in crate::promise) fn pending_keys(&self) -> Vec<Key> {
        self.state.lock().keys(|entry| entry.demand.requires_pass())
    }

    /// Ends a pass whose outcome was discarded: runs its undo functions and queues its promises to start.
    pub(in crate::promise) fn discard_pass(&self) {
        #[cfg(feature = "fragments")]
        let _fragments;
        let undo = {
            let mut state = self.state.lock();
            state.is_settling = true;
            let ledger = state.ledger.as_mut();
            let Some(more) = ledger.and_then(|ledger| ledger.more.as_mut()) else {
                return;
            };
            #[cfg(feature = "fragments")]
            {
                // Dropped after the lock is released, because a render function is user code.
                _fragments = mem::take(&mut more.fragments);
            }
            mem::take(&mut more.undo)
        };
        run(undo);
    }

    /// Starts a group of promises that have to start now.
    pub(in crate::promise) fn take_starting(&self) -> Starting {
        let mut starting = Starting {
            members: Members::default(),
            are_all: true,
            has_gap: false,
        };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(ledger) = &mut state.ledger else {
            return starting;
        };
        starting.has_gap = mem::take(&mut ledger.has_gap);
        if let Some(more) = &mut ledger.more {
            let mut is_removed = |place: usize| ledger.entries.at(place).is_none();
            let mut fits = |place: usize| is_removed(place) || starting.members.add(place);
            let count = more.starting.iter().take_while(|it| fits(**it)).count();
            more.starting.drain(..count);
        }
        if state.is_settling && starting.members.is_empty() {
            let group = ledger.entries.group_from(ledger.queued_from);
            starting.members = Members::at(ledger.queued_from);
            ledger.queued_from += group.len();
            for (number, entry) in group.iter_mut().enumerate() {
                match entry {
                    Some(it) if !it.has_started && !it.is_settled() => {
                        it.has_started = true;
                        starting.members.insert(number);
                    }
                    _ => {}
                }
            }
        }
        starting.are_all = !state.is_starting();
        starting
    }

    /// The name of the promise at this place.
    pub(in crate::promise) fn key(&self, place: usize) -> Option<Key> {
        Some(self.state.lock().at(place)?.key.clone())
    }

    /// Sets the waker to wake when a promise has to start. `false` if a promise has to start already.
    pub(in crate::promise) fn park(&self, waker: &Waker) -> bool {
        {
            let state = self.state.lock();
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
        let mut state = self.state.lock();
        if state.is_starting() {
            return false;
        }
        mem::swap(&mut state.driver, &mut waker);
        true
    }

    /// Begins the next pass and returns its number. `None` if a promise has yet to start. Handles of earlier passes
    /// cannot submit from here on.
    pub(in crate::promise) fn begin_pass(&self) -> Option<u32> {
        let mut state = self.state.lock();
        if state.is_starting() {
            return None;
        }
        state.pass = state.pass.saturating_add(1);
        state.is_settling = false;
        state.publish = false;
        if let Some(ledger) = &mut state.ledger {
            ledger.entries.rewind();
            for entry in ledger.entries.iter_mut() {
                if entry.demand.requires_pass() {
                    entry.demand = Demand::Met;
                }
            }
        }
        Some(state.pass)
    }

    /// Times out all pending promises, and all promises that are submitted from now on. `false` if the request has no
    /// promise.
    pub(in crate::promise) fn time_out(&self) -> bool {
        let pending = {
            let mut state = self.state.lock();
            let ledger = state.ledger.as_ref();
            if ledger.is_none_or(|ledger| ledger.entries.is_empty()) {
                return false;
            }
            state.phase = Phase::TimedOut;
            state.stop(&Failure::TimedOut)
        };
        pending.into_iter().for_each(Aftermath::finish);
        true
    }

    /// Ends the request: cancels all pending promises and drops everything that the registry holds. Remaining handles,
    /// which may be inside a value of a promise, keep only an empty registry alive.
    pub(in crate::promise) fn close(&self, published: bool) {
        let (pending, mut ledger, _body, _driver) = {
            let mut state = self.state.lock();
            if state.has_ended() {
                return;
            }
            state.phase = match published {
                true => Phase::Published,
                false => Phase::Abandoned,
            };
            (
                state.stop(&Failure::Cancelled),
                state.ledger.take(),
                mem::replace(&mut state.body, RequestBodyState::Taken),
                state.driver.take(),
            )
        };
        pending.into_iter().for_each(Aftermath::finish);
        if let Some(more) = ledger.as_mut().and_then(|ledger| ledger.more.as_mut()) {
            let undo = mem::take(&mut more.undo);
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
        if ledger.has_fragments() {
            return Verdict::Stream;
        }
        Verdict::Publish
    }

    /// Whether the response future has to start or to end a promise.
    fn is_starting(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| {
            let more = ledger.more.as_ref();
            let is_queued = self.is_settling && ledger.queued_from < ledger.entries.places();
            is_queued || ledger.has_gap || more.is_some_and(|more| !more.starting.is_empty())
        })
    }

    /// Settles all pending promises with this error.
    fn stop(&mut self, failure: &Failure) -> Vec<Aftermath> {
        let Some(ledger) = &mut self.ledger else {
            return Vec::new();
        };
        if let Some(more) = &mut ledger.more {
            more.starting.clear();
        }
        let mut settled = Vec::new();
        for entry in ledger.entries.iter_mut() {
            if !entry.is_settled() {
                settled.extend(entry.settle(Outcome::failed(failure.clone())));
            }
        }
        settled
    }
}
