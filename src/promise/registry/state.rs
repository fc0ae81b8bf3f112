use super::super::Key;
use super::super::observe::{self, Advice};
use super::super::slot::{AnySlot, Slot};
use super::entries::Vacancy;
use super::{Demand, Entry, Ledger, Phase, State, Undo, Verdict};
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

    /// Whether this pass is running.
    pub(super) fn is_running(&self, pass: usize) -> bool {
        self.is_current(pass) && !self.is_settling
    }

    pub(super) fn verdict(&self) -> Verdict {
        if self.publish || self.phase != Phase::Open {
            return Verdict::Publish;
        }
        let Some(ledger) = &self.ledger else {
            return Verdict::Publish;
        };
        if ledger.is_overfull {
            return Verdict::Overfull;
        }
        let mut entries = ledger.entries.iter();
        match entries.any(|entry| entry.demand != Demand::Met) {
            true => Verdict::Repeat,
            false => Verdict::Publish,
        }
    }

    pub(super) fn ledger(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_default()
    }

    pub(super) fn entry(&self, key: &Key) -> Option<&Entry> {
        self.ledger.as_ref()?.entries.get(key)
    }

    pub(super) fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.look_up(key).ok()
    }

    /// Finds the promise with this name, or returns the vacancy for it.
    pub(super) fn look_up(&mut self, key: &Key) -> Result<&mut Entry, Vacancy> {
        match &mut self.ledger {
            Some(ledger) => ledger.entries.get_mut(key),
            None => Err(Vacancy::default()),
        }
    }

    /// Whether no promise was added since the look-up that returned this vacancy.
    pub(super) fn is_unchanged_since(&self, vacancy: Vacancy) -> bool {
        let ledger = self.ledger.as_ref();
        vacancy.is_of(ledger.map(|ledger| &ledger.entries))
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        self.ledger.as_mut()?.entries.remove(key)
    }

    /// Whether a promise has yet to start.
    pub(super) fn is_starting(&self) -> bool {
        let ledger = self.ledger.as_ref();
        ledger.is_some_and(|ledger| !ledger.starting.is_empty())
    }

    /// Adds a promise with a name that is not in use.
    pub(super) fn insert(
        &mut self,
        slot: Arc<dyn AnySlot>,
        demand: Demand,
        vacancy: Vacancy,
    ) -> &mut Entry {
        let pass = self.pass;
        let ledger = self.ledger();
        ledger.count += 1;
        let entry = Entry {
            slot,
            is_queued: false,
            demand,
            waiters: 0,
            advice: Advice::new(pass, demand == Demand::Missed),
        };
        ledger.entries.insert(entry, vacancy)
    }

    /// Takes all pending promises. The caller fails them after releasing the lock.
    pub(super) fn stop(&mut self) -> Vec<Arc<dyn AnySlot>> {
        let Some(ledger) = &mut self.ledger else {
            return Vec::new();
        };
        let mut pending = mem::take(&mut ledger.starting);
        for entry in ledger.entries.iter().filter(|entry| !entry.is_settled()) {
            pending.push(Arc::clone(&entry.slot));
        }
        pending
    }

    pub(super) fn keys(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Key> {
        let entries = self.ledger.iter().flat_map(|ledger| ledger.entries.iter());
        let entries = entries.filter(|entry| condition(entry));
        entries.map(|entry| entry.key().clone()).collect()
    }
}

impl Entry {
    pub(super) fn key(&self) -> &Key {
        self.slot.key()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.slot.is_settled()
    }

    /// Records that the value was read.
    pub(super) fn meet(&mut self, pass: usize) {
        self.advice.read_in(pass);
        if self.demand == Demand::Submitted {
            self.demand = Demand::Met;
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

/// Runs undo functions, the last registered first. A panic in one does not prevent the others from running.
pub(super) fn run(undo: impl IntoIterator<Item = Undo, IntoIter: DoubleEndedIterator>) {
    for undo in undo.into_iter().rev() {
        if catch_unwind(AssertUnwindSafe(undo)).is_err() {
            observe::undo_panicked();
        }
    }
}
