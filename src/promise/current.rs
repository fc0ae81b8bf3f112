use super::Promises;
use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<Option<Promises>> = const { Cell::new(None) };
}

/// Puts back what was current before, also when a handler panics.
#[must_use]
pub(super) struct Scope {
    previous: Option<Promises>,
}

pub(super) fn get() -> Option<Promises> {
    let current = CURRENT.take();
    let promises = current.clone();
    CURRENT.set(current);
    promises
}

pub(super) fn enter(promises: Promises) -> Scope {
    Scope {
        previous: CURRENT.replace(Some(promises)),
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // A value is dropped once the cell is free again: its `Drop` may ask what is current.
        drop(CURRENT.replace(self.previous.take()));
    }
}
