use super::super::Key;
use super::super::error::PromiseError;
use super::super::observe::{self, Advice};
use super::super::slot::{AnySlot, Slot};
use super::{Demand, Entry, Phase, State, Undo, Verdict};
use std::any::{TypeId, type_name};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

impl State {
    /// Whether a handle of this pass may change anything. It may until the next pass begins.
    pub(super) fn is_current(&self, pass: usize) -> bool {
        pass == self.pass && !self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Published | Phase::Abandoned)
    }

    /// Whether this pass is under way.
    pub(super) fn is_running(&self, pass: usize) -> bool {
        self.is_current(pass) && !self.is_settling
    }

    pub(super) fn verdict(&self) -> Verdict {
        if self.publish || self.phase != Phase::Open {
            return Verdict::Publish;
        }
        if self.is_overfull {
            return Verdict::Overfull;
        }
        let mut entries = self.entries.values();
        match entries.any(|entry| entry.demand != Demand::Met) {
            true => Verdict::Repeat,
            false => Verdict::Publish,
        }
    }

    pub(super) fn insert(&mut self, slot: Arc<dyn AnySlot>, demand: Demand, waiters: usize) {
        let entry = Entry {
            number: self.count,
            slot,
            demand,
            waiters,
            advice: Advice::new(self.pass, demand == Demand::Missed),
        };
        self.count += 1;
        self.entries.insert(entry.slot.key().clone(), entry);
    }

    /// Takes everything that has not settled, to be failed outside the lock.
    pub(super) fn stop(&mut self) -> Vec<Arc<dyn AnySlot>> {
        self.queued.clear();
        let mut pending = mem::take(&mut self.starting);
        for entry in self.entries.values().filter(|entry| !entry.is_settled()) {
            pending.push(Arc::clone(&entry.slot));
        }
        pending
    }

    pub(super) fn keys(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Key> {
        let mut keys: Vec<_> = self
            .entries
            .values()
            .filter(|entry| condition(entry))
            .map(|entry| (entry.number, entry.slot.key()))
            .collect();
        keys.sort_unstable_by_key(|&(number, _)| number);
        keys.into_iter().map(|(_, key)| key.clone()).collect()
    }
}

impl Entry {
    pub(super) fn is_settled(&self) -> bool {
        self.slot.is_settled()
    }

    /// Its value has been read.
    pub(super) fn meet(&mut self, pass: usize) {
        self.advice.read_in(pass);
        if self.demand == Demand::Submitted {
            self.demand = Demand::Met;
        }
    }
}

/// The type that a reader expects.
#[derive(Clone, Copy)]
pub(super) struct Type {
    id: TypeId,
    pub(super) name: &'static str,
}

impl Type {
    pub(super) fn of<T: 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>(),
        }
    }

    pub(super) fn matches(self, slot: &dyn AnySlot) -> bool {
        self.id == slot.type_id()
    }

    pub(super) fn check(self, slot: &dyn AnySlot) -> Result<(), PromiseError> {
        match self.matches(slot) {
            true => Ok(()),
            false => Err(PromiseError::WrongType {
                key: slot.key().clone(),
                expected: self.name,
                found: slot.type_name(),
            }),
        }
    }
}

pub(super) fn downcast<T: Send + Sync + 'static>(slot: Arc<dyn AnySlot>) -> Arc<Slot<T>> {
    slot.into_any()
        .downcast()
        .unwrap_or_else(|_| unreachable!("the type was checked when the slot was looked up"))
}

pub(super) fn is_same<T: Send + Sync + 'static>(
    any: &Arc<dyn AnySlot>,
    slot: &Arc<Slot<T>>,
) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(any), Arc::as_ptr(slot))
}

/// Runs undo work, the last registered first. One that panics does not keep the others from running.
pub(super) fn run(undo: impl IntoIterator<Item = Undo, IntoIter: DoubleEndedIterator>) {
    for undo in undo.into_iter().rev() {
        if catch_unwind(AssertUnwindSafe(undo)).is_err() {
            observe::undo_panicked();
        }
    }
}
