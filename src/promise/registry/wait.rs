use super::super::Key;
use super::super::error::{Failure, PromiseError};
use super::super::slot::{AnySlot, Slot, Type, Work};
use super::state::{downcast, is_same};
use super::{Demand, Phase, Registry, Vacancy};
use crate::sync::lock;
use std::sync::Arc;

/// Awaiting.
impl Registry {
    /// Takes part in awaiting the promise of this name, which `make` makes where there is none.
    ///
    /// Each success is to be followed by one call of [`leave`](Self::leave).
    pub(in crate::promise) fn join<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: &Key,
        make: impl FnOnce() -> Work<T>,
    ) -> Result<Arc<Slot<T>>, PromiseError> {
        if let Some(slot) = self.join_present(pass, key, Type::of::<T>(), None)? {
            return Ok(downcast(slot));
        }
        // `make` is user code, so the lock was released, and another thread may be faster.
        let made: Arc<dyn AnySlot> = Arc::new(Slot::new(key.clone(), make()));
        let joined = self.join_present(pass, key, Type::of::<T>(), Some(&made))?;
        Ok(downcast(joined.unwrap_or(made)))
    }

    fn join_present(
        &self,
        pass: usize,
        key: &Key,
        wanted: Type,
        absent: Option<&Arc<dyn AnySlot>>,
    ) -> Result<Option<Arc<dyn AnySlot>>, PromiseError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let slot = if let Some(entry) = state.entry_mut(key) {
            wanted.check(&*entry.slot)?;
            entry.waiters += 1;
            Arc::clone(&entry.slot)
        } else if let Some(slot) = self.outer_slot(state, key) {
            return wanted.check(&*slot).map(|()| Some(slot));
        } else if !state.is_current(pass) {
            return Err(PromiseError::Ended { key: key.clone() });
        } else if state.phase == Phase::TimedOut {
            return Err(Failure::TimedOut.of(key.clone()));
        } else {
            self.make_room(state, key)
                .map_err(|error| PromiseError::Rejected { error })?;
            let Some(slot) = absent else {
                return Ok(None);
            };
            let entry = state.insert(Arc::clone(slot), Demand::Met, Vacancy::default());
            entry.waiters = 1;
            Arc::clone(slot)
        };
        let mut driver = None;
        if self.is_driven && !slot.is_settled() {
            state.ledger().starting.push(Arc::clone(&slot));
            driver = state.driver.take();
        }
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Some(slot))
    }

    /// Ends what [`join`](Self::join) began. A promise that nobody wants any more is dropped.
    pub(in crate::promise) fn leave<T: Send + Sync + 'static>(
        &self,
        slot: &Arc<Slot<T>>,
        waiter: Option<u64>,
        has_read: bool,
    ) {
        slot.waiters().unregister(waiter);
        let unwanted = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let key = slot.key();
            let pass = state.pass;
            match state.entry_mut(key) {
                Some(entry) if is_same(&entry.slot, slot) => {
                    entry.waiters -= 1;
                    if has_read {
                        entry.meet(pass);
                    }
                    if entry.is_settled() || entry.waiters > 0 || entry.demand != Demand::Met {
                        None
                    } else {
                        state.remove(key)
                    }
                }
                _ => None,
            }
        };
        if let Some(entry) = unwanted {
            entry.slot.fail(Failure::Cancelled);
        }
        if !self.is_driven {
            // Another waiter has to poll the work now.
            slot.waiters().wake();
        }
    }
}
