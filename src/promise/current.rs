use super::Promises;
use std::cell::Cell;
use std::mem::ManuallyDrop;

type Current = ManuallyDrop<Option<Promises>>;

thread_local! {
    // `ManuallyDrop` avoids the registration of a thread-local destructor. There is nothing to drop when a thread
    // ends, because each scope restores the previous value.
    static CURRENT: Cell<Current> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// Restores the previous handle when it is dropped, also when a handler panics.
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
        // The former handle is dropped after the cell is set: its `Drop` may call `Promises::current`.
        drop(replace(self.previous.take()));
    }
}
