use super::Promises;
use std::cell::RefCell;

thread_local! {
    static CURRENT: RefCell<Option<Promises>> = const { RefCell::new(None) };
}

/// Puts back what was current before, also when a handler panics.
struct Scope {
    previous: Option<Promises>,
}

pub(super) fn get() -> Option<Promises> {
    CURRENT.with_borrow(Clone::clone)
}

pub(super) fn scope<R>(promises: Promises, f: impl FnOnce() -> R) -> R {
    let _scope = Scope {
        previous: CURRENT.replace(Some(promises)),
    };
    f()
}

impl Drop for Scope {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // A value is dropped once the cell is free again: its `Drop` may ask what is current.
        drop(CURRENT.replace(previous));
    }
}
