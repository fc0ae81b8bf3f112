use super::super::Key;
use super::super::observe;
use super::{Aftermath, Awaiting, Demand, Entry, Phase, Registry, Undo};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Cancelling, clearing and publishing.
impl Registry {
    pub(in crate::promise) fn cancel(&self, key: &Key) -> bool {
        let aftermath = {
            let mut state = self.state.lock();
            let Ok((place, _)) = state.look_up(key) else {
                return false;
            };
            state.cancel(place)
        };
        aftermath.map(Aftermath::finish).is_some()
    }

    pub(in crate::promise) fn clear(&self, key: &Key) -> bool {
        self.remove(key, Entry::is_settled)
    }

    pub(in crate::promise) fn reset(&self, key: &Key) -> bool {
        self.remove(key, |_| true)
    }

    fn remove(&self, key: &Key, condition: impl Fn(&Entry) -> bool) -> bool {
        // Values are user code. They are dropped with these variables, after the lock is released.
        let (_entry, _outer);
        let aftermath = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let found = state.look_up(key);
            match found.map(|(place, entry)| (place, condition(entry))) {
                Ok((place, true)) => {
                    let aftermath = state.cancel(place);
                    _entry = state.remove(place);
                    aftermath
                }
                Ok((_, false)) => return false,
                Err(_) if state.has_ended() => return false,
                Err(_) => {
                    _outer = self.outer_outcome(state, key);
                    let is_found = _outer.is_some();
                    if is_found {
                        state.ledger().more().hidden.push(key.clone());
                    }
                    return is_found;
                }
            }
        };
        if let Some(aftermath) = aftermath {
            aftermath.finish();
        }
        true
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
            let mut guard = self.state.lock();
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

    pub(in crate::promise) fn publish(&self, pass: u32) {
        let mut state = self.state.lock();
        if state.is_running(pass) {
            state.publish = true;
        }
    }

    pub(in crate::promise) fn on_discard(&self, pass: u32, undo: Undo) {
        let mut state = self.state.lock();
        if state.is_running(pass) {
            state.ledger().more().undo.push(undo);
            return;
        }
        let was_published = state.phase == Phase::Published;
        #[cfg(feature = "fragments")]
        let was_published = was_published || state.is_streaming;
        let was_published = was_published && pass == state.pass;
        drop(state);
        if !was_published {
            run([undo]);
        }
    }
}

/// Runs undo functions, the last registered first. A panic in one does not prevent the others from running.
pub(super) fn run(undo: impl IntoIterator<Item = Undo, IntoIter: DoubleEndedIterator>) {
    for undo in undo.into_iter().rev() {
        if catch_unwind(AssertUnwindSafe(undo)).is_err() {
            observe::undo_panicked();
        }
    }
}
