use super::super::error::{Failure, SubmitError};
use super::super::slot::{AnySlot, Slot, Type, Work};
use super::super::{Key, Start};
use super::entries::Vacancy;
use super::{Demand, Entry, Phase, Reader, Registry, RequestBodyState, State};
use crate::body::RequestBody;
use crate::sync::lock;
use std::mem;
use std::sync::{Arc, MutexGuard};
use std::task::Waker;

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

/// The result of a look-up.
pub(in crate::promise) enum Found<'a, T> {
    Promise(Arc<Slot<T>>),
    /// There is no promise with this name.
    Nothing(Reservation<'a>),
}

/// The right to submit a promise whose name a look-up has not found.
///
/// A reservation does not block other callers, and dropping it has no effect. If another promise was added after the
/// look-up, a submission repeats the look-up first.
pub(in crate::promise) struct Reservation<'a> {
    registry: &'a Registry,
    reader: Reader,
    key: &'a Key,
    purpose: Purpose,
    vacancy: Vacancy,
}

impl Registry {
    /// Looks up the promise with this name, and records the purpose of the look-up.
    ///
    /// Each promise that is found or submitted for [`Purpose::Wait`] requires one call of [`leave`](Self::leave).
    pub(in crate::promise) fn find<'a, T: Send + Sync + 'static>(
        &'a self,
        reader: Reader,
        key: &'a Key,
        purpose: Purpose,
    ) -> Result<Found<'a, T>, SubmitError> {
        let wanted = Type::of::<T>();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let this_pass = state.pass;
        if purpose == Purpose::Submit && !state.is_current(reader.pass) {
            return Err(SubmitError::Ended { key: key.clone() });
        }
        let is_required = state.is_required_by(reader);
        let slot = match state.look_up(key) {
            Ok(entry) => {
                purpose.check(wanted, &*entry.slot)?;
                entry.record(purpose, reader.pass, this_pass, is_required);
                let slot = Arc::clone(&entry.slot);
                #[cfg(feature = "fragments")]
                if reader.fragment.is_some() && purpose != Purpose::Wait && !slot.is_settled() {
                    state.note_wait(reader, key);
                }
                match purpose {
                    Purpose::Wait => self.start(guard, &slot),
                    Purpose::Read | Purpose::Submit => drop(guard),
                }
                slot
            }
            Err(vacancy) => {
                if state.has_ended() {
                    return Err(SubmitError::Ended { key: key.clone() });
                }
                let outer = self.outer_slot(state, key);
                // The outer promise may have been removed meanwhile. Then its value, which is user code, is dropped
                // with `outer`.
                drop(guard);
                let Some(slot) = outer else {
                    return Ok(Found::Nothing(Reservation {
                        registry: self,
                        reader,
                        key,
                        purpose,
                        vacancy,
                    }));
                };
                purpose.check(wanted, &*slot)?;
                slot
            }
        };
        let slot = slot.into_any().downcast();
        Ok(Found::Promise(slot.unwrap_or_else(|_| {
            unreachable!("the type was checked above")
        })))
    }

    /// The settled promise with this name in the outer request. Pending promises of the outer request are not visible,
    /// because they may be waiting for this very request.
    #[inline]
    pub(super) fn outer_slot(&self, state: &State, key: &Key) -> Option<Arc<dyn AnySlot>> {
        let outer = self.outer.as_ref()?;
        let ledger = state.ledger.as_ref();
        match ledger.is_some_and(|ledger| ledger.hidden.contains(key)) {
            true => None,
            false => outer.settled_slot(key),
        }
    }

    fn settled_slot(&self, key: &Key) -> Option<Arc<dyn AnySlot>> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let pass = state.pass;
        match state.entry_mut(key) {
            Some(entry) => entry.is_settled().then(|| {
                entry.advice.read_in(pass);
                Arc::clone(&entry.slot)
            }),
            None => self.outer_slot(state, key),
        }
    }

    /// Adds a promise whose name is not in use.
    fn add(
        &self,
        mut state: MutexGuard<'_, State>,
        slot: Arc<dyn AnySlot>,
        reader: Reader,
        purpose: Purpose,
        vacancy: Vacancy,
    ) {
        let demand = match purpose {
            Purpose::Wait => Demand::Met,
            Purpose::Read | Purpose::Submit if !state.is_required_by(reader) => Demand::Deferred,
            Purpose::Read => Demand::Missed,
            Purpose::Submit => Demand::Submitted,
        };
        #[cfg(feature = "fragments")]
        if reader.fragment.is_some() && purpose != Purpose::Wait && !slot.is_settled() {
            state.note_wait(reader, slot.key());
        }
        let is_eager = self.settings.start == Start::Eager || state.is_settling;
        if is_eager || purpose == Purpose::Wait {
            let entry = state.insert(Arc::clone(&slot), demand, vacancy);
            entry.waiters = usize::from(purpose == Purpose::Wait);
            self.start(state, &slot);
        } else {
            state.insert(slot, demand, vacancy).is_queued = true;
        }
    }

    /// Starts a promise at once, if it has neither started nor settled.
    fn start(&self, mut state: MutexGuard<'_, State>, slot: &Arc<dyn AnySlot>) {
        if !self.is_driven || slot.has_started() || slot.is_settled() {
            return;
        }
        state.ledger().starting.push(Arc::clone(slot));
        let driver = state.driver.take();
        // A waker is user code, so it is woken after the lock is released.
        drop(state);
        driver.into_iter().for_each(Waker::wake);
    }

    /// Removes a waiter. A pending promise without waiters and other demand is dropped.
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
                Some(entry) if std::ptr::addr_eq(Arc::as_ptr(&entry.slot), Arc::as_ptr(slot)) => {
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
            // Another waiter has to take over polling the work.
            slot.waiters().wake();
        }
    }
}

impl<T: Send + Sync + 'static> Found<'_, T> {
    /// Returns the promise, or submits it if there was none with this name.
    pub(in crate::promise) fn or_submit<F>(
        self,
        make: impl FnOnce() -> F,
    ) -> Result<Arc<Slot<T>>, SubmitError>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        match self {
            Self::Promise(slot) => Ok(slot),
            Self::Nothing(reservation) => reservation.submit(Box::pin(make())),
        }
    }

    /// Like [`or_submit`](Self::or_submit), for work that reads the request body.
    pub(in crate::promise) fn or_submit_body<F>(
        self,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<Arc<Slot<T>>, SubmitError>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        match self {
            Self::Promise(slot) => Ok(slot),
            Self::Nothing(reservation) => reservation.submit_body(make),
        }
    }
}

impl Reservation<'_> {
    // A work that is not added is user code. As an argument it is dropped after the guard, that is without the lock.
    fn submit<T: Send + Sync + 'static>(self, work: Work<T>) -> Result<Arc<Slot<T>>, SubmitError> {
        let registry = self.registry;
        let mut guard = lock(&registry.state);
        let state = &mut *guard;
        if !self.is_valid(state)? {
            drop(guard);
            return match registry.find(self.reader, self.key, self.purpose)? {
                Found::Promise(slot) => Ok(slot),
                Found::Nothing(reservation) => reservation.submit(work),
            };
        }
        let key = self.key.clone();
        let slot = match state.phase {
            Phase::TimedOut => Arc::new(Slot::settled(key, Err(Failure::TimedOut))),
            _ => Arc::new(Slot::new(key, work)),
        };
        registry.add(guard, slot.clone(), self.reader, self.purpose, self.vacancy);
        Ok(slot)
    }

    /// Adds a promise. One that has settled already, in an earlier run of the operation, causes no further pass.
    // As an argument, a promise that is not added is dropped after the guard, that is without the lock.
    #[cfg(feature = "operations")]
    pub(in crate::promise) fn add<T: Send + Sync + 'static>(
        self,
        slot: Arc<Slot<T>>,
    ) -> Result<Arc<Slot<T>>, SubmitError> {
        let registry = self.registry;
        let mut guard = lock(&registry.state);
        let state = &mut *guard;
        if !self.is_valid(state)? {
            drop(guard);
            return match registry.find(self.reader, self.key, self.purpose)? {
                Found::Promise(slot) => Ok(slot),
                Found::Nothing(reservation) => reservation.add(slot),
            };
        }
        if slot.is_settled() {
            let added = state.insert(slot.clone(), Demand::Met, self.vacancy);
            added.meet(self.reader.pass);
            return Ok(slot);
        }
        let added = match state.phase {
            Phase::TimedOut => {
                let timed_out = Err(Failure::TimedOut);
                Arc::new(Slot::settled(self.key.clone(), timed_out))
            }
            _ => slot.clone(),
        };
        registry.add(
            guard,
            added.clone(),
            self.reader,
            self.purpose,
            self.vacancy,
        );
        Ok(added)
    }

    fn submit_body<T, F>(
        self,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<Arc<Slot<T>>, SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let registry = self.registry;
        let body = {
            let mut guard = lock(&registry.state);
            let state = &mut *guard;
            if !self.is_valid(state)? {
                drop(guard);
                let found = registry.find(self.reader, self.key, self.purpose)?;
                return found.or_submit_body(make);
            }
            match state.phase {
                // The promise has timed out and will not run, so it does not take the body.
                Phase::TimedOut => RequestBodyState::Here(None),
                _ => mem::replace(&mut state.body, RequestBodyState::Taken),
            }
        };
        let key = || self.key.clone();
        let body = match body {
            RequestBodyState::Here(None) => RequestBody::default(),
            RequestBodyState::Taken => return Err(SubmitError::BodyTaken { key: key() }),
            RequestBodyState::Here(Some(body)) => match Arc::clone(&body).detach() {
                Some(body) => body,
                None => {
                    let mut state = lock(&registry.state);
                    // If the request has ended meanwhile, the registry must not keep the body.
                    if !state.has_ended() {
                        state.body = RequestBodyState::Here(Some(body));
                    }
                    return Err(SubmitError::BodyRead { key: key() });
                }
            },
        };
        // `make` is user code, so no lock is held here.
        let work = Box::pin(make(body));
        self.submit(work)
    }

    /// Whether the list of promises is that of the look-up. Fails if no promise may be added.
    #[inline]
    fn is_valid(&self, state: &mut State) -> Result<bool, SubmitError> {
        let key = || self.key.clone();
        if !state.is_current(self.reader.pass) {
            return Err(SubmitError::Ended { key: key() });
        }
        let places = state.places();
        if places != self.vacancy.places {
            return Ok(false);
        }
        let limit = self.registry.settings.max_promises;
        if places < limit {
            return Ok(true);
        }
        state.ledger().is_overfull = true;
        Err(SubmitError::TooManyPromises { key: key(), limit })
    }
}

impl Entry {
    /// Records a look-up that found this promise.
    #[inline]
    fn record(&mut self, purpose: Purpose, pass: usize, this_pass: usize, is_required: bool) {
        match purpose {
            Purpose::Wait => self.waiters += 1,
            Purpose::Read if self.slot.is_settled() => self.meet(pass),
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
    }

    /// Records that the value was read.
    fn meet(&mut self, pass: usize) {
        self.advice.read_in(pass);
        if self.demand == Demand::Submitted {
            self.demand = Demand::Met;
        }
    }
}

impl Purpose {
    /// Checks that the found promise serves this purpose of a caller that wants values of this type.
    #[inline]
    fn check(self, wanted: Type, slot: &dyn AnySlot) -> Result<(), SubmitError> {
        if self == Self::Submit && slot.is_settled() {
            let key = slot.key().clone();
            return Err(SubmitError::AlreadyResolved { key });
        }
        wanted.check(slot)
    }
}
