use std::any::Any;

/// What somebody who has panicked has said. `None` if that was no text.
pub(crate) fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
}
