use super::super::Key;
use super::super::Start;
use super::super::error::SubmitError;
use super::super::slot::{AnySlot, Slot, Type, Work};
use super::{Admission, Demand, Entry, Phase, Registry, RequestBodyState, State, Vacancy};
use crate::body::RequestBody;
use crate::sync::lock;
use std::mem;
use std::sync::Arc;

/// Submitting.
impl Registry {
    /// Adds a promise, whose name was [missing](Found::Nothing) there.
    pub(in crate::promise) fn submit<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: Key,
        demand: Demand,
        vacancy: Vacancy,
        work: Work<T>,
    ) -> Result<Admission, SubmitError> {
        self.add(pass, Arc::new(Slot::new(key, work)), demand, vacancy)
    }

    // What is not added is user code, which is dropped after the lock was released, as all arguments are.
    fn add(
        &self,
        pass: usize,
        slot: Arc<dyn AnySlot>,
        demand: Demand,
        vacancy: Vacancy,
    ) -> Result<Admission, SubmitError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let value = slot.value_type();
        if let Some(admission) = self.admit(state, pass, slot.key(), value, demand, vacancy)? {
            if admission == Admission::TimedOut {
                state.insert(slot.timed_out(), Demand::Met, vacancy);
            }
            return Ok(admission);
        }
        let driver = if self.settings.start == Start::Eager || state.is_settling {
            state.insert(Arc::clone(&slot), demand, vacancy);
            state.ledger().starting.push(slot);
            state.driver.take()
        } else {
            let entry = state.insert(slot, demand, vacancy);
            entry.is_queued = true;
            None
        };
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Admission::Pending)
    }

    /// [`submit`](Self::submit) for work that reads the body of the request.
    pub(in crate::promise) fn submit_body<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: Key,
        demand: Demand,
        work: impl FnOnce(RequestBody) -> Work<T>,
    ) -> Result<Admission, SubmitError> {
        let body = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let value = Type::of::<T>();
            match self.admit(state, pass, &key, value, demand, Vacancy::default())? {
                Some(Admission::Pending) => return Ok(Admission::Pending),
                // The body is taken only for a promise that will run.
                Some(Admission::TimedOut) => RequestBodyState::Here(None),
                None => mem::replace(&mut state.body, RequestBodyState::Taken),
            }
        };
        let body = match body {
            RequestBodyState::Here(None) => RequestBody::default(),
            RequestBodyState::Taken => return Err(SubmitError::BodyTaken { key }),
            RequestBodyState::Here(Some(body)) => match Arc::clone(&body).detach() {
                Some(body) => body,
                None => {
                    let mut state = lock(&self.state);
                    // A request that has ended meanwhile keeps nothing.
                    if !state.has_ended() {
                        state.body = RequestBodyState::Here(Some(body));
                    }
                    return Err(SubmitError::BodyRead { key });
                }
            },
        };
        // This is user code, so no lock is held.
        let work = work(body);
        self.submit(pass, key, demand, Vacancy::default(), work)
    }

    /// What becomes of a promise that is submitted, if not a new one.
    fn admit(
        &self,
        state: &mut State,
        pass: usize,
        key: &Key,
        wanted: Type,
        demand: Demand,
        vacancy: Vacancy,
    ) -> Result<Option<Admission>, SubmitError> {
        if !state.is_current(pass) {
            return Err(SubmitError::Ended { key: key.clone() });
        }
        if !state.is_still(vacancy) {
            if let Some(entry) = state.entry_mut(key) {
                return entry.admit_again(wanted, demand);
            }
        }
        if self.outer_slot(state, key).is_some() {
            return Err(SubmitError::AlreadyResolved { key: key.clone() });
        }
        self.make_room(state, key)?;
        let has_timed_out = state.phase == Phase::TimedOut;
        Ok(has_timed_out.then_some(Admission::TimedOut))
    }

    pub(super) fn make_room(&self, state: &mut State, key: &Key) -> Result<(), SubmitError> {
        let ledger = state.ledger();
        if ledger.count < self.settings.max_promises {
            return Ok(());
        }
        ledger.is_overfull = true;
        Err(SubmitError::TooManyPromises {
            key: key.clone(),
            limit: self.settings.max_promises,
        })
    }
}

impl Entry {
    /// Admits one more submission of a promise that there is.
    fn admit_again(
        &mut self,
        wanted: Type,
        demand: Demand,
    ) -> Result<Option<Admission>, SubmitError> {
        let key = || self.key().clone();
        if self.is_settled() {
            return Err(SubmitError::AlreadyResolved { key: key() });
        }
        let found = self.slot.value_type();
        if !wanted.matches(found) {
            return Err(SubmitError::WrongType {
                key: key(),
                expected: wanted.name,
                found: found.name,
            });
        }
        if demand > self.demand {
            self.demand = demand;
        }
        Ok(Some(Admission::Pending))
    }
}
