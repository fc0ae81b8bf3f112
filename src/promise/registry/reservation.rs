use super::super::error::{Failure, SubmitError};
use super::super::outcome::{Kind, Outcome, Type, Work};
use super::super::{Key, Start};
use super::entries::Vacancy;
use super::look_up::{Missing, Present, Purpose};
use super::{Demand, Phase, Reader, Registry, RequestBodyState, State};
use crate::body::RequestBody;
use crate::sync::MutexGuard;
use futures_util::FutureExt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

/// The result of a look-up of a `T`.
pub(in crate::promise) enum Found<'a, T> {
    Promise(Present),
    /// There is no promise with this name.
    Nothing(Reservation<'a>, PhantomData<fn() -> T>),
}

/// The right to submit a promise whose name a look-up has not found.
///
/// A reservation does not block other callers, and dropping it has no effect. If another promise was added after the
/// look-up, a submission repeats the look-up first.
pub(in crate::promise) struct Reservation<'a> {
    registry: &'a Registry,
    pub(super) reader: Reader,
    key: &'a Key,
    kind: Kind,
    purpose: Purpose,
    vacancy: Vacancy,
    /// The timeout of promises will not apply.
    #[cfg(feature = "operations")]
    pub(super) limits_itself: bool,
}

impl Registry {
    /// Looks up the promise with this name, and records the purpose of the look-up.
    ///
    /// Each [`Awaiting`](super::Awaiting) requires one call of [`leave`](Self::leave).
    #[inline]
    pub(in crate::promise) fn find<'a, T: Send + Sync + 'static>(
        &'a self,
        reader: Reader,
        key: &'a Key,
        purpose: Purpose,
    ) -> Result<Found<'a, T>, Box<SubmitError>> {
        let kind = Type::of::<T>;
        match self.look_up(reader, key, kind, purpose) {
            Ok(present) => Ok(Found::Promise(present)),
            Err(Missing::Nothing(vacancy)) => {
                let reservation = Reservation {
                    registry: self,
                    reader,
                    key,
                    kind,
                    purpose,
                    vacancy,
                    #[cfg(feature = "operations")]
                    limits_itself: false,
                };
                Ok(Found::Nothing(reservation, PhantomData))
            }
            Err(Missing::Refused(error)) => Err(error),
        }
    }
}

impl<T: Send + Sync + 'static> Found<'_, T> {
    /// Returns the promise, or submits it if there was none with this name.
    pub(in crate::promise) fn or_submit<F>(
        self,
        make: impl FnOnce() -> F,
    ) -> Result<Present, Box<SubmitError>>
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
    ) -> Result<Present, Box<SubmitError>>
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

impl<'a> Reservation<'a> {
    // Work that is not added is user code. As an argument it is dropped after the guard, that is without the lock.
    pub(super) fn submit(mut self, work: Work) -> Result<Present, Box<SubmitError>> {
        let mut guard = match self.lock() {
            Ok(guard) => guard,
            Err(submitted) => return submitted,
        };
        let state = &mut *guard;
        if state.phase == Phase::TimedOut {
            return Ok(self.add_timed_out(guard));
        }
        let demand = self.purpose.demand(state.is_required_by(self.reader));
        let place = self.insert(state, Some(work), demand);
        #[cfg(feature = "fragments")]
        if self.reader.fragment.is_some() && self.purpose != Purpose::Wait {
            state.note_wait(self.reader, place);
        }
        let is_eager = self.registry.settings.start == Start::Eager;
        if is_eager || state.is_settling || self.purpose == Purpose::Wait {
            return Ok(self.start(guard, place));
        }
        Ok(Present::Pending)
    }

    fn submit_body(
        mut self,
        work: impl FnOnce(RequestBody) -> Work,
    ) -> Result<Present, Box<SubmitError>> {
        let body = match self.lock() {
            // The promise has timed out and will not run, so it does not take the body.
            Ok(state) if state.phase == Phase::TimedOut => RequestBodyState::Here(None),
            Ok(mut state) => mem::replace(&mut state.body, RequestBodyState::Taken),
            Err(submitted) => return submitted,
        };
        let key = || self.key.clone();
        let body = match body {
            RequestBodyState::Here(None) => RequestBody::default(),
            RequestBodyState::Taken => return Err(Box::new(SubmitError::BodyTaken { key: key() })),
            RequestBodyState::Here(Some(body)) => match Arc::clone(&body).detach() {
                Some(body) => body,
                None => {
                    let mut state = self.registry.state.lock();
                    // If the request has ended meanwhile, the registry must not keep the body.
                    if !state.has_ended() {
                        state.body = RequestBodyState::Here(Some(body));
                    }
                    return Err(Box::new(SubmitError::BodyRead { key: key() }));
                }
            },
        };
        // `work` is user code, so no lock is held here.
        let work = work(body);
        self.submit(work)
    }

    /// Locks the state for adding the promise. Otherwise returns the result of the submission: an error, or a promise
    /// that was added after the look-up.
    #[inline(always)]
    pub(super) fn lock(
        &mut self,
    ) -> Result<MutexGuard<'a, State>, Result<Present, Box<SubmitError>>> {
        let state = self.registry.state.lock();
        match self.is_valid(&state) {
            true => Ok(state),
            false => self.lock_again(state),
        }
    }

    /// Whether the promise may be added, and the list of promises is that of the look-up.
    #[inline(always)]
    fn is_valid(&self, state: &State) -> bool {
        let places = state.places();
        state.is_current(self.reader.pass)
            && places == self.vacancy.places
            && places < self.registry.settings.max_promises
    }

    #[cold]
    fn lock_again(
        &mut self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, Result<Present, Box<SubmitError>>> {
        while !self.is_valid(&state) {
            let key = || self.key.clone();
            if !state.is_current(self.reader.pass) {
                return Err(Err(Box::new(SubmitError::Ended { key: key() })));
            }
            if state.places() == self.vacancy.places {
                state.ledger().is_overfull = true;
                let limit = self.registry.settings.max_promises;
                let error = SubmitError::TooManyPromises { key: key(), limit };
                return Err(Err(Box::new(error)));
            }
            drop(state);
            if let Some(submitted) = self.repeat().transpose() {
                return Err(submitted);
            }
            state = self.registry.state.lock();
        }
        Ok(state)
    }

    /// Repeats the look-up, because the list of promises has changed. Returns the promise if there is one now.
    fn repeat(&mut self) -> Result<Option<Present>, Box<SubmitError>> {
        let registry = self.registry;
        match registry.look_up(self.reader, self.key, self.kind, self.purpose) {
            Ok(present) => Ok(Some(present)),
            Err(Missing::Nothing(vacancy)) => {
                self.vacancy = vacancy;
                Ok(None)
            }
            Err(Missing::Refused(error)) => Err(error),
        }
    }

    #[cold]
    fn add_timed_out(&self, mut guard: MutexGuard<'_, State>) -> Present {
        let demand = self.purpose.demand(guard.is_required_by(self.reader));
        let place = self.insert(&mut guard, None, demand);
        guard.settle_new(place, Outcome::failed(Failure::TimedOut));
        self.record(&mut guard, place)
    }

    #[cold]
    fn start(&self, mut guard: MutexGuard<'_, State>, place: usize) -> Present {
        let present = self.record(&mut guard, place);
        self.registry.start(guard, place);
        present
    }

    /// Records the look-up at the promise that was added.
    fn record(&self, state: &mut State, place: usize) -> Present {
        let this_pass = state.pass;
        let is_required = state.is_required_by(self.reader);
        let Some(entry) = state.at(place) else {
            unreachable!("the promise was just added");
        };
        entry.record(
            self.purpose,
            place,
            self.reader.pass,
            this_pass,
            is_required,
        )
    }

    /// Adds a promise with the reserved name, and returns its place. A promise without work is settled next.
    #[inline(always)]
    pub(super) fn insert(&self, state: &mut State, work: Option<Work>, demand: Demand) -> usize {
        let place = state.insert(self.key, self.kind, work, demand, self.vacancy);
        #[cfg(feature = "operations")]
        if self.limits_itself {
            if let Some(entry) = state.at(place) {
                entry.limits_itself = true;
            }
        }
        place
    }
}

impl Purpose {
    /// Whether a promise that is submitted for this purpose requires another pass.
    fn demand(self, is_required: bool) -> Demand {
        match self {
            Self::Wait => Demand::Met,
            Self::Read | Self::Submit if !is_required => Demand::Deferred,
            Self::Read => Demand::Missed,
            Self::Submit => Demand::Submitted,
        }
    }
}
