use super::super::error::{Failure, PromiseError, SubmitError};
use super::super::outcome::{Kind, Outcome, Progress, Type, Waiters, Work};
use super::super::{Key, Start};
use super::entries::Vacancy;
use super::{Demand, Entry, Phase, Registry, RequestBodyState, Started, State};
use crate::body::RequestBody;
use crate::sync::lock;
use futures_util::FutureExt;
use std::marker::PhantomData;
use std::mem;
use std::ptr::fn_addr_eq;
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

/// The result of a look-up of a `T`.
pub(in crate::promise) enum Found<'a, T> {
    Promise(Present),
    /// There is no promise with this name.
    Nothing(Reservation<'a>, PhantomData<fn() -> T>),
}

/// A promise that there is.
pub(in crate::promise) enum Present {
    Settled(Outcome),
    Pending,
    /// A pending promise that was looked up for [`Purpose::Wait`].
    Awaited(Awaiting),
}

/// The reason why there is no promise.
enum Missing {
    /// There is none with this name.
    Nothing(Vacancy),
    Refused(Box<SubmitError>),
}

/// The right to await a pending promise. It counts as one of the promise's waiters.
pub(in crate::promise) struct Awaiting {
    pub(in crate::promise) place: usize,
    pub(in crate::promise) waiters: Arc<Waiters>,
}

/// The right to submit a promise whose name a look-up has not found.
///
/// A reservation does not block other callers, and dropping it has no effect. If another promise was added after the
/// look-up, a submission repeats the look-up first.
pub(in crate::promise) struct Reservation<'a> {
    registry: &'a Registry,
    pass: usize,
    key: &'a Key,
    kind: Kind,
    purpose: Purpose,
    vacancy: Vacancy,
}

impl Registry {
    /// Looks up the promise with this name, and records the purpose of the look-up.
    ///
    /// Each [`Awaiting`] requires one call of [`leave`](Self::leave).
    #[inline]
    pub(in crate::promise) fn find<'a, T: Send + Sync + 'static>(
        &'a self,
        pass: usize,
        key: &'a Key,
        purpose: Purpose,
    ) -> Result<Found<'a, T>, SubmitError> {
        let kind = Type::of::<T>;
        match self.look_up(pass, key, kind, purpose) {
            Ok(present) => Ok(Found::Promise(present)),
            Err(Missing::Nothing(vacancy)) => {
                let reservation = Reservation {
                    registry: self,
                    pass,
                    key,
                    kind,
                    purpose,
                    vacancy,
                };
                Ok(Found::Nothing(reservation, PhantomData))
            }
            Err(Missing::Refused(error)) => Err(*error),
        }
    }

    fn look_up(
        &self,
        pass: usize,
        key: &Key,
        kind: Kind,
        purpose: Purpose,
    ) -> Result<Present, Missing> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if purpose == Purpose::Submit && !state.is_current(pass) {
            return Err(SubmitError::Ended { key: key.clone() }.into());
        }
        let this_pass = state.pass;
        let vacancy = match state.look_up(key) {
            Ok(place) => {
                if let Some(entry) = state.at(place) {
                    purpose.check(key, kind, entry.kind, entry.is_settled())?;
                    let present = entry.record(purpose, place, pass, this_pass);
                    let has_started = entry.started == Started::Yes;
                    if let (Present::Awaited(_), false) = (&present, has_started) {
                        self.start(guard, place);
                    }
                    return Ok(present);
                }
                Vacancy::default()
            }
            Err(vacancy) => vacancy,
        };
        if state.has_ended() {
            return Err(SubmitError::Ended { key: key.clone() }.into());
        }
        if self.outer.is_none() {
            return Err(Missing::Nothing(vacancy));
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
        let mut guard = lock(&self.state);
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
    fn start(&self, mut state: MutexGuard<'_, State>, place: usize) {
        if !self.is_driven {
            return;
        }
        if let Some(entry) = state.at(place) {
            entry.started = Started::Yes;
        }
        state.ledger().more().starting.push(place);
        let driver = state.driver.take();
        // A waker is user code, so it is woken after the lock is released.
        drop(state);
        driver.into_iter().for_each(Waker::wake);
    }

    /// Removes a waiter. A pending promise without waiters and other demand is dropped.
    pub(in crate::promise) fn leave(
        &self,
        awaiting: &Awaiting,
        waiter: Option<u64>,
        has_read: bool,
    ) {
        let Awaiting { place, waiters } = awaiting;
        waiters.unregister(waiter);
        // The entry is user code. It is dropped with this variable, after the lock is released.
        let mut _entry = None;
        let aftermath = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let pass = state.pass;
            let is_unwanted = state.at(*place).is_some_and(|entry| {
                entry.waiters -= 1;
                if has_read {
                    entry.meet(pass);
                }
                !entry.is_settled() && entry.waiters == 0 && entry.demand == Demand::Met
            });
            match is_unwanted {
                true => {
                    let aftermath = state.cancel(*place);
                    _entry = state.remove(*place);
                    aftermath
                }
                false => None,
            }
        };
        if let Some(aftermath) = aftermath {
            aftermath.finish();
        }
        if !self.is_driven {
            // Another waiter has to take over polling the work.
            waiters.wake();
        }
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

impl<T: Send + Sync + 'static> Found<'_, T> {
    /// Returns the promise, or submits it if there was none with this name.
    pub(in crate::promise) fn or_submit<F>(
        self,
        make: impl FnOnce() -> F,
    ) -> Result<Present, SubmitError>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        match self {
            Self::Promise(present) => Ok(present),
            Self::Nothing(reservation, _) => reservation.submit(Box::pin(make().map(Outcome::new))),
        }
    }

    /// Like [`or_submit`](Self::or_submit), for work that reads the request body.
    pub(in crate::promise) fn or_submit_body<F>(
        self,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<Present, SubmitError>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        match self {
            Self::Promise(present) => Ok(present),
            Self::Nothing(reservation, _) => {
                let work = |body| Box::pin(make(body).map(Outcome::new)) as Work;
                reservation.submit_body(work)
            }
        }
    }
}

impl Reservation<'_> {
    // Work that is not added is user code. As an argument it is dropped after the guard, that is without the lock.
    fn submit(self, work: Work) -> Result<Present, SubmitError> {
        let mut state = lock(&self.registry.state);
        if !self.is_valid(&mut state)? {
            drop(state);
            return match self.repeat() {
                Ok(present) => Ok(present),
                Err(Missing::Nothing(vacancy)) => Self { vacancy, ..self }.submit(work),
                Err(Missing::Refused(error)) => Err(*error),
            };
        }
        self.add(work, state)
    }

    fn submit_body(self, work: impl FnOnce(RequestBody) -> Work) -> Result<Present, SubmitError> {
        let body = {
            let mut guard = lock(&self.registry.state);
            let state = &mut *guard;
            if !self.is_valid(state)? {
                drop(guard);
                return match self.repeat() {
                    Ok(present) => Ok(present),
                    Err(Missing::Nothing(vacancy)) => Self { vacancy, ..self }.submit_body(work),
                    Err(Missing::Refused(error)) => Err(*error),
                };
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
                    let mut state = lock(&self.registry.state);
                    // If the request has ended meanwhile, the registry must not keep the body.
                    if !state.has_ended() {
                        state.body = RequestBodyState::Here(Some(body));
                    }
                    return Err(SubmitError::BodyRead { key: key() });
                }
            },
        };
        // `work` is user code, so no lock is held here.
        let work = work(body);
        self.submit(work)
    }

    /// Repeats the look-up, because the list of promises has changed.
    fn repeat(&self) -> Result<Present, Missing> {
        let registry = self.registry;
        registry.look_up(self.pass, self.key, self.kind, self.purpose)
    }

    /// Whether the list of promises is that of the look-up. Fails if no promise may be added.
    #[inline]
    fn is_valid(&self, state: &mut State) -> Result<bool, SubmitError> {
        let key = || self.key.clone();
        if !state.is_current(self.pass) {
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

    // The guard is the last argument, so that it is dropped before work that is not added.
    fn add(self, work: Work, mut guard: MutexGuard<'_, State>) -> Result<Present, SubmitError> {
        let Self {
            registry, purpose, ..
        } = self;
        let state = &mut *guard;
        let has_timed_out = state.phase == Phase::TimedOut;
        let progress = match has_timed_out {
            true => Progress::settled(Outcome::failed(Failure::TimedOut)),
            false => Progress::new(work),
        };
        let is_eager = registry.settings.start == Start::Eager || state.is_settling;
        let is_at_once = is_eager || purpose == Purpose::Wait;
        let started = match is_at_once {
            true => Started::No,
            false => Started::Queued,
        };
        let demand = purpose.demand();
        let place = state.insert(
            self.key.clone(),
            self.kind,
            progress,
            started,
            demand,
            self.vacancy,
        );
        if !is_at_once && !has_timed_out {
            return Ok(Present::Pending);
        }
        let this_pass = state.pass;
        let Some(entry) = state.at(place) else {
            unreachable!("the promise was added above");
        };
        let present = entry.record(purpose, place, self.pass, this_pass);
        if !has_timed_out {
            registry.start(guard, place);
        }
        Ok(present)
    }
}

impl Entry {
    /// Records a look-up that found this promise at this place.
    #[inline(always)]
    fn record(&mut self, purpose: Purpose, place: usize, pass: usize, this_pass: usize) -> Present {
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
            Purpose::Submit if self.demand == Demand::Met => self.demand = Demand::Submitted,
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
    fn meet(&mut self, pass: usize) {
        self.advice.read_in(pass);
        if self.demand == Demand::Submitted {
            self.demand = Demand::Met;
        }
    }
}

impl Purpose {
    /// Whether a promise that is submitted for this purpose requires another pass.
    fn demand(self) -> Demand {
        match self {
            Self::Read => Demand::Missed,
            Self::Submit => Demand::Submitted,
            Self::Wait => Demand::Met,
        }
    }

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
