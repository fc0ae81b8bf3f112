use super::super::Key;
use super::super::slot::{AnySlot, Type};
use super::state::downcast;
use super::{Demand, Found, Registry, State, Verdict};
use crate::sync::lock;
use std::sync::Arc;

/// Reading.
impl Registry {
    /// What there is of the promise of this name.
    pub(in crate::promise) fn find<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: &Key,
    ) -> Found<T> {
        let wanted = Type::of::<T>();
        let slot = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let this_pass = state.pass;
            match state.look_up(key) {
                Ok(entry) => {
                    let found = entry.slot.value_type();
                    if !wanted.matches(found) {
                        return Found::OfAnotherType(found);
                    }
                    if !entry.is_settled() {
                        if pass == this_pass {
                            entry.demand = Demand::Missed;
                            entry.advice.missed();
                        }
                        return Found::Pending;
                    }
                    entry.meet(pass);
                    return Found::Settled(downcast(Arc::clone(&entry.slot)));
                }
                Err(vacancy) => {
                    if state.has_ended() {
                        return Found::Ended;
                    }
                    match self.outer_slot(state, key) {
                        Some(slot) => slot,
                        None => return Found::Nothing(vacancy),
                    }
                }
            }
        };
        let found = slot.value_type();
        match wanted.matches(found) {
            true => Found::Settled(downcast(slot)),
            false => Found::OfAnotherType(found),
        }
    }

    /// The settled promise of this name in the request that this one is a part of. One that is pending
    /// there may be waiting for this very request, so it is none of this request's business.
    #[inline]
    pub(super) fn outer_slot(&self, state: &State, key: &Key) -> Option<Arc<dyn AnySlot>> {
        let outer = self.outer.as_ref()?;
        let ledger = state.ledger.as_ref();
        if ledger.is_some_and(|ledger| ledger.hidden.contains(key)) {
            return None;
        }
        let mut guard = lock(&outer.state);
        let outer_state = &mut *guard;
        let pass = outer_state.pass;
        match outer_state.entry_mut(key) {
            Some(entry) => entry.is_settled().then(|| {
                entry.advice.read_in(pass);
                Arc::clone(&entry.slot)
            }),
            None => outer.outer_slot(outer_state, key),
        }
    }

    pub(in crate::promise) fn will_discard(&self) -> bool {
        !matches!(lock(&self.state).verdict(), Verdict::Publish)
    }

    /// All names, in the order in which they came.
    pub(in crate::promise) fn keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|_| true)
    }

    pub(in crate::promise) fn pending_keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|entry| entry.demand != Demand::Met)
    }

    pub(in crate::promise) fn pass(&self) -> usize {
        lock(&self.state).pass
    }
}
