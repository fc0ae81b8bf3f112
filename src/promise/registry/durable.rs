use super::super::error::SubmitError;
use super::super::outcome::{Outcome, Work};
use super::look_up::Present;
use super::members::Members;
use super::reservation::Reservation;
use super::{Demand, Registry};
use std::time::Duration;
use tower_promises_operations::durable::DurableRun;

/// Access for durable operations.
impl Registry {
    pub(in crate::promise) fn set_run(&mut self, run: Option<DurableRun>) {
        self.run = run;
    }

    pub(in crate::promise) fn run(&self) -> Option<&DurableRun> {
        self.run.as_ref()
    }

    pub(in crate::promise) fn promise_timeout(&self) -> Option<Duration> {
        self.settings.promise_timeout
    }

    /// Reports that no handler runs, and how many promises do. The outer request decides for the requests that its
    /// handler sends.
    pub(in crate::promise) fn rest(&self, running: usize) {
        if let Some(run) = self.run.as_ref().filter(|_| self.outer.is_none()) {
            run.rest(running);
        }
    }

    /// Reports that a pass begins.
    pub(in crate::promise) fn work(&self) {
        if let Some(run) = self.run.as_ref().filter(|_| self.outer.is_none()) {
            run.work();
        }
    }

    /// Moves the promises to which the timeout of promises does not apply out of their group.
    pub(in crate::promise) fn split_off_limiting_themselves(
        &self,
        members: &mut Members,
    ) -> Members {
        let mut split = Members::default();
        let mut state = self.state.lock();
        for number in members.numbers() {
            let place = members.place(number);
            if state.at(place).is_some_and(|entry| entry.limits_itself) {
                members.remove(number);
                split.add(place);
            }
        }
        split
    }
}

impl Reservation<'_> {
    /// Submits a promise that has a limit of its own instead of the timeout of promises.
    pub(in crate::promise) fn submit_limiting_itself(
        mut self,
        work: Work,
    ) -> Result<Present, Box<SubmitError>> {
        self.limits_itself = true;
        self.submit(work)
    }

    /// Adds a promise that has settled already, in an earlier run of the operation. It causes no further pass.
    // As an argument, an outcome that is not added is dropped after the guard, that is without the lock.
    pub(in crate::promise) fn add_settled(
        mut self,
        outcome: Outcome,
    ) -> Result<Present, Box<SubmitError>> {
        let mut state = match self.lock() {
            Ok(state) => state,
            Err(submitted) => return submitted,
        };
        let place = self.insert(&mut state, None, Demand::Met);
        state.settle_new(place, outcome.clone());
        if let Some(entry) = state.at(place) {
            entry.meet(self.reader.pass);
        }
        Ok(Present::Settled(outcome))
    }
}
