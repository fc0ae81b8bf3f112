use super::super::Key;
use super::super::error::Failure;
use super::super::observe;
use super::{Demand, Entry, Phase, Registry, Undo};
use crate::sync::lock;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Cancelling, clearing and publishing.
impl Registry {
    pub(in crate::promise) fn cancel(&self, key: &Key) -> bool {
        let slot = match lock(&self.state).entry(key) {
            Some(entry) => Arc::clone(&entry.slot),
            None => return false,
        };
        // `fail` drops user code, so no lock is held here.
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
        // The outer promise may have been removed meanwhile. Then its value, which is user code, is dropped with `outer`,
        // after the lock is released.
        let outer;
        let entry = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            match state.entry(key) {
                Some(entry) if condition(entry) => state.remove(key),
                Some(_) => return false,
                None if state.has_ended() => return false,
                None => {
                    outer = self.outer_slot(state, key);
                    if outer.is_some() {
                        state.ledger().hidden.push(key.clone());
                    }
                    return outer.is_some();
                }
            }
        };
        // `fail` drops user code, so no lock is held here.
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

    pub(in crate::promise) fn on_discard(&self, pass: usize, undo: Undo) {
        let mut state = lock(&self.state);
        if state.is_running(pass) {
            state.ledger().undo.push(undo);
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
