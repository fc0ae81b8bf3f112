use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::task::Waker;

/// The waiters for an event that happens once.
///
/// Wakers are user code. They are cloned under the lock, but woken and dropped outside.
#[derive(Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The event has happened.
    is_over: bool,
    /// `None` until there is a waiter, because most promises have none.
    waiting: Option<Box<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    /// The number of the last waiter, counted from one.
    last: u64,
}

impl Waiters {
    /// Registers a waker under `number`, or under a new number. `false` if the event has already happened.
    pub(super) fn register(&self, number: &mut Option<u64>, waker: &Waker) -> bool {
        let former = {
            let mut state = self.state.lock();
            if state.is_over {
                return false;
            }
            let waiting = state.waiting.get_or_insert_default();
            let number = *number.get_or_insert_with(|| {
                waiting.last += 1;
                waiting.last
            });
            waiting.wakers.insert(number, waker.clone())
        };
        drop(former);
        true
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

    /// Reports the event. The caller must make its result visible before, because the waiters wake at once.
    pub(super) fn finish(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.is_over = true;
            state.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wakers.into_values().for_each(Waker::wake);
        }
    }

    /// Wakes all current waiters although the event has not happened.
    pub(super) fn wake(&self) {
        let wakers = match &mut self.state.lock().waiting {
            Some(waiting) => std::mem::take(&mut waiting.wakers),
            None => return,
        };
        wakers.into_values().for_each(Waker::wake);
    }
}
