use super::Promises;
use std::cell::Cell;
use std::mem::ManuallyDrop;

type Current = ManuallyDrop<Option<Promises>>;

thread_local! {
    // A scope leaves nothing behind, so there is nothing to be dropped with the thread, and nothing to be
    // registered for that.
    static CURRENT: Cell<Current> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// Puts back what was current before, also when a handler panics.
#[must_use]
pub(super) struct Scope {
    previous: Option<Promises>,
}

pub(super) fn get() -> Option<Promises> {
    let current = replace(None);
    let promises = current.clone();
    replace(current);
    promises
}

#[inline]
pub(super) fn enter(promises: Promises) -> Scope {
    Scope {
        previous: replace(Some(promises)),
    }
}

#[inline]
fn replace(promises: Option<Promises>) -> Option<Promises> {
    ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(promises)))
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        // A value is dropped once the cell is free again: its `Drop` may ask what is current.
        drop(replace(self.previous.take()));
    }
}
