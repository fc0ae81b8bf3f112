use super::super::error::{Failure, PromiseError, SubmitError};
use super::super::slot::{AnySlot, Slot, Type, Work};
use super::super::{Key, Start};
use super::state::{downcast, is_same, run};
use super::{
    Admission, Demand, Entry, Found, Phase, Registry, RequestBodyState, State, Undo, Vacancy,
    Verdict,
};
use crate::body::RequestBody;
use crate::sync::lock;
use std::mem;
use std::sync::Arc;

/// For the handles.
impl Registry {
    /// What there is of the promise of this name.
    pub(in crate::promise) fn find<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: &Key,
    ) -> Found<T> {
        let wanted = Type::of::<T>();
        let slot = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let this_pass = state.pass;
            match state.look_up(key) {
                Ok(entry) => {
                    let found = entry.slot.value_type();
                    if !wanted.matches(found) {
                        return Found::OfAnotherType(found);
                    }
                    if !entry.is_settled() {
                        if pass == this_pass {
                            entry.demand = Demand::Missed;
                            entry.advice.missed();
                        }
                        return Found::Pending;
                    }
                    entry.meet(pass);
                    return Found::Settled(downcast(Arc::clone(&entry.slot)));
                }
                Err(vacancy) => {
                    if state.has_ended() {
                        return Found::Ended;
                    }
                    match self.outer_slot(state, key) {
                        Some(slot) => slot,
                        None => return Found::Nothing(vacancy),
                    }
                }
            }
        };
        let found = slot.value_type();
        match wanted.matches(found) {
            true => Found::Settled(downcast(slot)),
            false => Found::OfAnotherType(found),
        }
    }

    /// The settled promise of this name in the request that this one is a part of. One that is pending
    /// there may be waiting for this very request, so it is none of this request's business.
    #[inline]
    fn outer_slot(&self, state: &State, key: &Key) -> Option<Arc<dyn AnySlot>> {
        let outer = self.outer.as_ref()?.registry();
        let ledger = state.ledger.as_ref();
        if ledger.is_some_and(|ledger| ledger.hidden.contains(key)) {
            return None;
        }
        let mut guard = lock(&outer.state);
        let outer_state = &mut *guard;
        let pass = outer_state.pass;
        match outer_state.entry_mut(key) {
            Some(entry) => entry.is_settled().then(|| {
                entry.advice.read_in(pass);
                Arc::clone(&entry.slot)
            }),
            None => outer.outer_slot(outer_state, key),
        }
    }

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
        let driver = if self.start == Start::Eager || state.is_settling {
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

    /// Takes part in awaiting the promise of this name, which `make` makes where there is none.
    ///
    /// Each success is to be followed by one call of [`leave`](Self::leave).
    pub(in crate::promise) fn join<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: &Key,
        make: impl FnOnce() -> Work<T>,
    ) -> Result<Arc<Slot<T>>, PromiseError> {
        if let Some(slot) = self.join_present(pass, key, Type::of::<T>(), None)? {
            return Ok(downcast(slot));
        }
        // `make` is user code, so the lock was released, and another thread may be faster.
        let made: Arc<dyn AnySlot> = Arc::new(Slot::new(key.clone(), make()));
        let joined = self.join_present(pass, key, Type::of::<T>(), Some(&made))?;
        Ok(downcast(joined.unwrap_or(made)))
    }

    fn join_present(
        &self,
        pass: usize,
        key: &Key,
        wanted: Type,
        absent: Option<&Arc<dyn AnySlot>>,
    ) -> Result<Option<Arc<dyn AnySlot>>, PromiseError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let slot = if let Some(entry) = state.entry_mut(key) {
            wanted.check(&*entry.slot)?;
            entry.waiters += 1;
            Arc::clone(&entry.slot)
        } else if let Some(slot) = self.outer_slot(state, key) {
            return wanted.check(&*slot).map(|()| Some(slot));
        } else if !state.is_current(pass) {
            return Err(PromiseError::Ended { key: key.clone() });
        } else if state.phase == Phase::TimedOut {
            return Err(Failure::TimedOut.of(key.clone()));
        } else {
            self.make_room(state, key)
                .map_err(|error| PromiseError::Rejected { error })?;
            let Some(slot) = absent else {
                return Ok(None);
            };
            let entry = state.insert(Arc::clone(slot), Demand::Met, Vacancy::default());
            entry.waiters = 1;
            Arc::clone(slot)
        };
        let mut driver = None;
        if self.is_driven && !slot.is_settled() {
            state.ledger().starting.push(Arc::clone(&slot));
            driver = state.driver.take();
        }
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Some(slot))
    }

    /// Ends what [`join`](Self::join) began. A promise that nobody wants any more is dropped.
    pub(in crate::promise) fn leave<T: Send + Sync + 'static>(
        &self,
        slot: &Arc<Slot<T>>,
        waiter: Option<u64>,
        has_read: bool,
    ) {
        slot.waiters().unregister(waiter);
        let unwanted = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let key = slot.key();
            let pass = state.pass;
            match state.entry_mut(key) {
                Some(entry) if is_same(&entry.slot, slot) => {
                    entry.waiters -= 1;
                    if has_read {
                        entry.meet(pass);
                    }
                    if entry.is_settled() || entry.waiters > 0 || entry.demand != Demand::Met {
                        None
                    } else {
                        state.remove(key)
                    }
                }
                _ => None,
            }
        };
        if let Some(entry) = unwanted {
            entry.slot.fail(Failure::Cancelled);
        }
        if !self.is_driven {
            // Another waiter has to poll the work now.
            slot.waiters().wake();
        }
    }

    pub(in crate::promise) fn cancel(&self, key: &Key) -> bool {
        let slot = match lock(&self.state).entry(key) {
            Some(entry) => Arc::clone(&entry.slot),
            None => return false,
        };
        // User code is dropped here, so no lock is held.
        if !slot.fail(Failure::Cancelled) {
            return false;
        }
        let mut state = lock(&self.state);
        if let Some(entry) = state.entry_mut(key) {
            if Arc::ptr_eq(&entry.slot, &slot) {
                entry.demand = Demand::Met;
            }
        }
        true
    }

    pub(in crate::promise) fn clear(&self, key: &Key) -> bool {
        self.remove(key, Entry::is_settled)
    }

    pub(in crate::promise) fn reset(&self, key: &Key) -> bool {
        self.remove(key, |_| true)
    }

    fn remove(&self, key: &Key, condition: impl Fn(&Entry) -> bool) -> bool {
        let entry = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            match state.entry(key) {
                Some(entry) if condition(entry) => state.remove(key),
                Some(_) => return false,
                None if state.has_ended() => return false,
                None if self.outer_slot(state, key).is_some() => {
                    state.ledger().hidden.push(key.clone());
                    return true;
                }
                None => return false,
            }
        };
        // Dropped here, where no lock is held.
        entry
            .map(|entry| entry.slot.fail(Failure::Cancelled))
            .is_some()
    }

    pub(in crate::promise) fn publish(&self, pass: usize) {
        let mut state = lock(&self.state);
        if state.is_running(pass) {
            state.publish = true;
        }
    }

    pub(in crate::promise) fn will_discard(&self) -> bool {
        !matches!(lock(&self.state).verdict(), Verdict::Publish)
    }

    /// All names, in the order in which they came.
    pub(in crate::promise) fn keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|_| true)
    }

    pub(in crate::promise) fn pending_keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|entry| entry.demand != Demand::Met)
    }

    pub(in crate::promise) fn on_discard(&self, pass: usize, undo: Undo) {
        let mut state = lock(&self.state);
        if state.is_running(pass) {
            state.ledger().undo.push(undo);
            return;
        }
        let was_published = pass == state.pass && state.phase == Phase::Published;
        drop(state);
        if !was_published {
            run([undo]);
        }
    }

    fn make_room(&self, state: &mut State, key: &Key) -> Result<(), SubmitError> {
        let ledger = state.ledger();
        if ledger.count < self.max_promises {
            return Ok(());
        }
        ledger.is_overfull = true;
        Err(SubmitError::TooManyPromises {
            key: key.clone(),
            limit: self.max_promises,
        })
    }

    pub(in crate::promise) fn pass(&self) -> usize {
        lock(&self.state).pass
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
