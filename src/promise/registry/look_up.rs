use super::super::Key;
use super::super::error::{PromiseError, SubmitError};
use super::super::outcome::{Kind, Outcome, Waiters};
use super::super::waiters::wake;
use super::entries::Vacancy;
use super::{Demand, Entry, Reader, Registry, State};
use crate::sync::MutexGuard;
use std::ptr::fn_addr_eq;
use std::sync::Arc;

/// What a promise is looked up for.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::promise) enum Purpose {
    /// The caller needs the value in this pass.
    Read,
    /// The caller requests that the promise runs.
    Submit,
    /// The caller awaits the value.
    Wait,
}

/// A promise that there is.
pub(in crate::promise) enum Present {
    Settled(Outcome),
    Pending,
    /// A pending promise that was looked up for [`Purpose::Wait`].
    Awaited(Awaiting),
}

/// The right to await a pending promise. It counts as one of the promise's waiters.
pub(in crate::promise) struct Awaiting {
    pub(in crate::promise) place: usize,
    pub(in crate::promise) waiters: Arc<Waiters>,
}

/// The reason why there is no promise.
pub(super) enum Missing {
    /// There is none with this name.
    Nothing(Vacancy),
    Refused(Box<SubmitError>),
}

impl Registry {
    /// Looks up the promise with this name, and records the purpose of the look-up.
    pub(super) fn look_up(
        &self,
        reader: Reader,
        key: &Key,
        kind: Kind,
        purpose: Purpose,
    ) -> Result<Present, Missing> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let vacancy = match state.look_up(key) {
            Ok((place, entry)) => {
                // Most look-ups that find a promise end here.
                if let (Purpose::Read, Some(outcome)) = (purpose, entry.progress.outcome()) {
                    if fn_addr_eq(kind, entry.kind) {
                        let outcome = outcome.clone();
                        entry.meet(reader.pass);
                        return Ok(Present::Settled(outcome));
                    }
                }
                return self.record(guard, place, reader, key, kind, purpose);
            }
            Err(vacancy) => vacancy,
        };
        if self.outer.is_none() && !state.has_ended() {
            return Err(Missing::Nothing(vacancy));
        }
        self.look_up_outside(guard, vacancy, reader, key, kind, purpose)
    }

    /// Records a look-up that has found the promise at this place.
    #[inline(never)]
    fn record(
        &self,
        mut guard: MutexGuard<'_, State>,
        place: usize,
        reader: Reader,
        key: &Key,
        kind: Kind,
        purpose: Purpose,
    ) -> Result<Present, Missing> {
        let state = &mut *guard;
        if purpose == Purpose::Submit && !state.is_current(reader.pass) {
            return Err(SubmitError::Ended { key: key.clone() }.into());
        }
        let this_pass = state.pass;
        let is_required = state.is_required_by(reader);
        let Some(entry) = state.at(place) else {
            unreachable!("a look-up finds no removed promise");
        };
        purpose.check(key, kind, entry.kind, entry.is_settled())?;
        let present = entry.record(purpose, place, reader.pass, this_pass, is_required);
        match &present {
            Present::Awaited(_) if !entry.has_started => self.start(guard, place),
            #[cfg(feature = "fragments")]
            Present::Pending if reader.fragment.is_some() => state.note_wait(reader, place),
            _ => {}
        }
        Ok(present)
    }

    /// Looks up the promise in the outer request.
    #[cold]
    fn look_up_outside(
        &self,
        mut guard: MutexGuard<'_, State>,
        vacancy: Vacancy,
        reader: Reader,
        key: &Key,
        kind: Kind,
        purpose: Purpose,
    ) -> Result<Present, Missing> {
        let state = &mut *guard;
        if state.has_ended() || purpose == Purpose::Submit && !state.is_current(reader.pass) {
            return Err(SubmitError::Ended { key: key.clone() }.into());
        }
        let outer = self.outer_outcome(state, key);
        // The outer promise may have been removed meanwhile. Then its value, which is user code, is dropped with
        // `outer`.
        drop(guard);
        let Some((found, outcome)) = outer else {
            return Err(Missing::Nothing(vacancy));
        };
        purpose.check(key, kind, found, true)?;
        Ok(Present::Settled(outcome))
    }

    /// The outcome of the settled promise with this name in the outer request. Pending promises of the outer request
    /// are not visible, because they may be waiting for this very request.
    #[inline]
    pub(super) fn outer_outcome(&self, state: &State, key: &Key) -> Option<(Kind, Outcome)> {
        let outer = self.outer.as_ref()?;
        let more = state.ledger.as_ref().and_then(|it| it.more.as_ref());
        match more.is_some_and(|more| more.hidden.contains(key)) {
            true => None,
            false => outer.settled_outcome(key),
        }
    }

    fn settled_outcome(&self, key: &Key) -> Option<(Kind, Outcome)> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let pass = state.pass;
        if let Some(entry) = state.entry_mut(key) {
            let outcome = entry.progress.outcome()?.clone();
            entry.advice.read_in(pass);
            return Some((entry.kind, outcome));
        }
        self.outer_outcome(state, key)
    }

    /// Starts a pending promise at once.
    pub(super) fn start(&self, mut state: MutexGuard<'_, State>, place: usize) {
        if !self.is_driven {
            return;
        }
        if let Some(entry) = state.at(place) {
            entry.has_started = true;
        }
        state.ledger().more().starting.push(place);
        let driver = state.driver.take();
        // A waker is user code, so it is woken after the lock is released.
        drop(state);
        driver.into_iter().for_each(wake);
    }
}

impl Present {
    /// The outcome for a reader that does not wait.
    #[inline]
    pub(in crate::promise) fn read<T: Clone + 'static>(&self, key: Key) -> Result<T, PromiseError> {
        match self {
            Self::Settled(outcome) => outcome.read(&key),
            Self::Pending | Self::Awaited(_) => Err(PromiseError::Pending { key }),
        }
    }
}

impl Entry {
    /// Records a look-up that found this promise at this place. `is_required` tells whether a value that the reader
    /// misses requires another pass.
    #[inline(always)]
    pub(super) fn record(
        &mut self,
        purpose: Purpose,
        place: usize,
        pass: u32,
        this_pass: u32,
        is_required: bool,
    ) -> Present {
        if let Some(outcome) = self.progress.outcome() {
            let outcome = outcome.clone();
            match purpose {
                Purpose::Read => self.meet(pass),
                Purpose::Wait => self.meet(this_pass),
                Purpose::Submit => {}
            }
            return Present::Settled(outcome);
        }
        match purpose {
            Purpose::Wait => return Present::Awaited(self.await_at(place)),
            Purpose::Submit | Purpose::Read if !is_required => {
                if self.demand == Demand::Met {
                    self.demand = Demand::Deferred;
                }
                self.advice.missed();
            }
            Purpose::Submit if !self.demand.requires_pass() => self.demand = Demand::Submitted,
            Purpose::Read if pass == this_pass => {
                self.demand = Demand::Missed;
                self.advice.missed();
            }
            Purpose::Submit | Purpose::Read => {}
        }
        Present::Pending
    }

    /// Adds a waiter.
    fn await_at(&mut self, place: usize) -> Awaiting {
        self.waiters += 1;
        let waiters = self.progress.waiters();
        Awaiting { place, waiters }
    }

    /// Records that the value was read.
    #[inline]
    pub(super) fn meet(&mut self, pass: u32) {
        self.advice.read_in(pass);
        if self.demand == Demand::Submitted {
            self.demand = Demand::Met;
        }
    }
}

impl Purpose {
    /// Checks that the found promise serves this purpose of a caller that wants values of this type.
    #[inline(always)]
    fn check(
        self,
        key: &Key,
        wanted: Kind,
        found: Kind,
        is_settled: bool,
    ) -> Result<(), Box<SubmitError>> {
        if self == Self::Submit && is_settled {
            return Err(Box::new(SubmitError::AlreadyResolved { key: key.clone() }));
        }
        // Most often it is the same function. The compiler may merge and double functions, so another address says
        // nothing.
        if fn_addr_eq(wanted, found) {
            return Ok(());
        }
        let (wanted, found) = (wanted(), found());
        if wanted.matches(found) {
            return Ok(());
        }
        Err(Box::new(SubmitError::WrongType {
            key: key.clone(),
            expected: wanted.name,
            found: found.name,
        }))
    }
}

impl From<SubmitError> for Missing {
    fn from(error: SubmitError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<Box<SubmitError>> for Missing {
    fn from(error: Box<SubmitError>) -> Self {
        Self::Refused(error)
    }
}
