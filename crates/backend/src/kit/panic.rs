//! Panic payloads.

use std::any::Any;

/// The panic message, if the payload is a string.
pub fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
}
