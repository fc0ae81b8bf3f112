use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::task::Waker;

/// Who waits for something that happens once.
///
/// The wakers are other people's code: they are cloned under the lock, but run and dropped outside.
#[derive(Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It has happened.
    is_over: bool,
    /// `None` until there is one, because most promises are awaited by nobody.
    waiting: Option<Box<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    /// How many have waited.
    last: u64,
}

impl Waiters {
    /// Wakes the waiter of this number, or of a new one, when it happens. `false` if it has.
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

    /// It has happened, which must be visible to those who wake.
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

    /// Wakes all who wait now, though it has not happened.
    pub(super) fn wake(&self) {
        let wakers = match &mut self.state.lock().waiting {
            Some(waiting) => std::mem::take(&mut waiting.wakers),
            None => return,
        };
        wakers.into_values().for_each(Waker::wake);
    }
}
