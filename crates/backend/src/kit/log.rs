//! Macros for log events, with the syntax of the `tracing` macros.
//!
//! All events of the family have the target `tower_promises`, so that filters do not depend on packages and modules.

#[doc(hidden)]
pub use tracing;

/// The target of events and spans.
pub const TARGET: &str = "tower_promises";

#[doc(hidden)]
#[macro_export]
macro_rules! __event {
    ($level:ident, $($tokens:tt)*) => {
        $crate::kit::log::tracing::$level!(target: $crate::kit::log::TARGET, $($tokens)*)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($tokens:tt)*) => { $crate::__event!(error, $($tokens)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __warning {
    ($($tokens:tt)*) => { $crate::__event!(warn, $($tokens)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($tokens:tt)*) => { $crate::__event!(info, $($tokens)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($tokens:tt)*) => { $crate::__event!(debug, $($tokens)*) };
}

pub use {
    __debug as debug, __error as error, __event as event, __info as info, __warning as warning,
};
