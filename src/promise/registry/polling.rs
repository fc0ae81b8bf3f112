use super::super::error::Failure;
use super::super::outcome::{Outcome, Taken, Waiters, Work};
use super::super::waiters::wake;
use super::super::{Key, observe};
use super::members::{Members, Round};
use super::{Demand, Entry, Registry, State};
use crate::panic;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What is left to do when a promise has settled. All of it involves user code, so it has to [finish](Self::finish)
/// without the lock.
#[must_use]
pub(in crate::promise) struct Aftermath {
    key: Key,
    outcome: Outcome,
    /// The promise had settled before, so its outcome has been reported.
    is_late: bool,
    waiters: Option<Arc<Waiters>>,
    /// Wakes the response future, which has to notice that a running promise has ended.
    driver: Option<Waker>,
    /// Unfinished work.
    work: Option<Work>,
    /// The outcome of work whose promise had settled before.
    _ignored: Option<Outcome>,
}

/// Code that polls promises, each by its number in their group.
pub(in crate::promise) trait Poller {
    /// Polls the work of a promise.
    fn poll(&mut self, number: usize, work: &mut Work, cx: &mut Context<'_>) -> Poll<Outcome>;

    /// Whether [`settle`](Self::settle) needs a call although there is no aftermath.
    fn is_observing(&self) -> bool;

    /// Finishes a promise that has settled.
    fn settle(&mut self, number: usize, aftermath: Option<Box<Aftermath>>);
}

/// Polling and failing promises by their places. A promise that was removed counts as cancelled.
impl Registry {
    /// Polls each promise once, and removes those that have settled from their group.
    pub(in crate::promise) fn poll(
        &self,
        members: &mut Members,
        poller: &mut impl Poller,
        cx: &mut Context<'_>,
    ) {
        let mut round = members.round();
        let mut polled = None;
        // One guard against panics for all promises costs less than one for each.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
            self.poll_rest(&mut round, &mut polled, members, poller, cx);
        })) {
            let Some(number) = polled.take() else {
                resume_unwind(panic);
            };
            members.remove(number);
            let place = members.place(number);
            let outcome = Outcome::panicked(&*panic);
            let aftermath = self.state.lock().settle_fully(place, outcome);
            poller.settle(number, Some(aftermath));
        }
    }

    /// Polls the promises that this round has not polled. A panic of a promise, whose number is in `polled`, ends it
    /// early.
    fn poll_rest(
        &self,
        round: &mut Round,
        polled: &mut Option<usize>,
        members: &mut Members,
        poller: &mut impl Poller,
        cx: &mut Context<'_>,
    ) {
        let mut state = self.state.lock();
        for number in round {
            let place = members.place(number);
            let aftermath = match state.take(place) {
                Taken::Work(mut work) => {
                    // The work is user code, so it is polled and dropped without the lock.
                    drop(state);
                    *polled = Some(number);
                    match poller.poll(number, &mut work, cx) {
                        Poll::Ready(outcome) => {
                            drop(work);
                            *polled = None;
                            state = self.state.lock();
                            state.settle(place, outcome)
                        }
                        Poll::Pending => {
                            *polled = None;
                            state = self.state.lock();
                            let late = state.put_back(place, work);
                            if late.is_none() {
                                continue;
                            }
                            late
                        }
                    }
                }
                Taken::Busy => continue,
                Taken::Settled(_) => Some(Box::new(state.late(place))),
            };
            members.remove(number);
            if aftermath.is_some() || poller.is_observing() {
                drop(state);
                poller.settle(number, aftermath);
                state = self.state.lock();
            }
        }
    }

    /// Settles a running promise with an error, if it has not settled.
    pub(in crate::promise) fn fail(&self, place: usize, failure: Failure) -> Aftermath {
        let mut state = self.state.lock();
        let entry = state.at(place);
        let settled = entry.map(|entry| entry.settle(Outcome::failed(failure)));
        match settled {
            Some(Ok(aftermath)) => aftermath,
            _ => state.late(place),
        }
    }
}

impl State {
    #[inline]
    fn take(&mut self, place: usize) -> Taken {
        match self.at(place) {
            Some(entry) => entry.progress.take(),
            None => Taken::Settled(Outcome::failed(Failure::Cancelled)),
        }
    }

    /// Puts back work that is pending. Returns the aftermath if the promise has settled meanwhile.
    #[inline]
    fn put_back(&mut self, place: usize, work: Work) -> Option<Box<Aftermath>> {
        let work = match self.at(place) {
            Some(entry) => entry.progress.put_back(work).err()?,
            None => work,
        };
        Some(Box::new(Aftermath {
            work: Some(work),
            ..self.late(place)
        }))
    }

    /// Settles a promise whose work is done. `None` if the promise has a value that is not awaited, because then nothing
    /// is left to do.
    #[inline]
    fn settle(&mut self, place: usize, outcome: Outcome) -> Option<Box<Aftermath>> {
        match self.at(place) {
            Some(entry) if outcome.failure().is_none() => {
                let outcome = entry.progress.settle_alone(outcome).err()?;
                Some(self.settle_fully(place, outcome))
            }
            _ => Some(self.settle_fully(place, outcome)),
        }
    }

    /// Settles a promise that was added without work.
    pub(super) fn settle_new(&mut self, place: usize, outcome: Outcome) {
        let entry = self.at(place);
        let settled = entry.map(|entry| entry.progress.settle_alone(outcome));
        debug_assert!(settled.is_some_and(|it| it.is_ok()));
    }

    #[cold]
    fn settle_fully(&mut self, place: usize, outcome: Outcome) -> Box<Aftermath> {
        let ignored = match self.at(place).map(|entry| entry.settle(outcome.clone())) {
            Some(Ok(aftermath)) => return Box::new(aftermath),
            Some(Err(_)) | None => outcome,
        };
        Box::new(Aftermath {
            _ignored: Some(ignored),
            ..self.late(place)
        })
    }

    /// The aftermath of a poll of a promise that has settled during the poll.
    #[cold]
    fn late(&mut self, place: usize) -> Aftermath {
        let (key, outcome) = match self.at(place) {
            Some(entry) => (entry.key.clone(), entry.progress.outcome().cloned()),
            None => (Key::from_static("a removed promise"), None),
        };
        Aftermath {
            key,
            outcome: outcome.unwrap_or_else(|| Outcome::failed(Failure::Cancelled)),
            is_late: true,
            waiters: None,
            driver: None,
            work: None,
            _ignored: None,
        }
    }

    /// Cancels the promise at this place. `None` if it has already settled.
    pub(super) fn cancel(&mut self, place: usize) -> Option<Aftermath> {
        let entry = self.at(place)?;
        let mut aftermath = entry.settle(Outcome::failed(Failure::Cancelled)).ok()?;
        entry.demand = Demand::Met;
        if entry.has_started {
            self.ledger().has_gap = true;
            aftermath.driver = self.driver.take();
        }
        Some(aftermath)
    }
}

impl Entry {
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.progress.outcome().is_some()
    }

    /// Settles the promise. Returns the outcome if the promise has already settled.
    pub(super) fn settle(&mut self, outcome: Outcome) -> Result<Aftermath, Outcome> {
        let remains = self.progress.settle(outcome.clone())?;
        Ok(Aftermath {
            key: self.key.clone(),
            outcome,
            is_late: false,
            waiters: remains.waiters,
            driver: None,
            work: remains.work,
            _ignored: None,
        })
    }
}

impl Aftermath {
    /// The error of the promise. `None` if it has a value.
    pub(in crate::promise) fn failure(&self) -> Option<&Failure> {
        self.outcome.failure()
    }

    pub(in crate::promise) fn finish(self) {
        if let (Some(failure), false) = (self.outcome.failure(), self.is_late) {
            observe::promise_failed(&failure.clone().of(self.key.clone()));
        }
        if let Some(waiters) = self.waiters {
            waiters.finish(self.outcome);
        }
        self.driver.into_iter().for_each(wake);
        // A panic in the `Drop` of the work must not prevent other promises from settling.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(self.work))) {
            observe::drop_panicked(&self.key, &panic::message(&*panic));
        }
    }
}
