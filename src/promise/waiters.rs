use super::observe;
use crate::panic;
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Poll, Waker};

/// The waiters for the outcome of a promise.
///
/// Wakers are user code. They are cloned, woken and dropped without the lock.
pub(super) struct Waiters<O> {
    state: Mutex<State<O>>,
}

struct State<O> {
    /// `None` until the promise has settled.
    outcome: Option<O>,
    /// `None` until there is a waiter, and after the promise has settled.
    waiting: Option<Box<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    /// The number of the last waiter, counted from one.
    last: u64,
}

impl<O> Default for Waiters<O> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                outcome: None,
                waiting: None,
            }),
        }
    }
}

impl<O: Clone> Waiters<O> {
    /// Returns the outcome, or registers a waker under `number`, or under a new number.
    pub(super) fn poll(&self, number: &mut Option<u64>, waker: &Waker) -> Poll<O> {
        let waker = waker.clone();
        let former = {
            let mut state = self.state.lock();
            if let Some(outcome) = &state.outcome {
                return Poll::Ready(outcome.clone());
            }
            let waiting = state.waiting.get_or_insert_default();
            let number = *number.get_or_insert_with(|| {
                waiting.last += 1;
                waiting.last
            });
            waiting.wakers.insert(number, waker)
        };
        drop(former);
        Poll::Pending
    }

    pub(super) fn unregister(&self, number: Option<u64>) {
        if let Some(number) = number {
            let former = {
                let mut state = self.state.lock();
                let waiting = state.waiting.as_mut();
                waiting.and_then(|waiting| waiting.wakers.remove(&number))
            };
            drop(former);
        }
    }

    /// Reports the outcome. The promise settles once, so there is only one call.
    pub(super) fn finish(&self, outcome: O) {
        let waiting = {
            let mut state = self.state.lock();
            state.outcome = Some(outcome);
            state.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wakers.into_values().for_each(wake);
        }
    }

    /// Wakes all current waiters although the promise has not settled.
    pub(super) fn wake(&self) {
        let wakers = match &mut self.state.lock().waiting {
            Some(waiting) => std::mem::take(&mut waiting.wakers),
            None => return,
        };
        wakers.into_values().for_each(wake);
    }
}

/// Wakes a task. A panic of its waker must not keep other tasks asleep.
pub(super) fn wake(waker: Waker) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        observe::waker_panicked(&panic::message(&*panic));
    }
}
