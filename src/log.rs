//! Macros for log events, with the syntax of the `tracing` macros. Without the feature `tracing` they evaluate nothing.
//!
//! All events have the crate as their target, so that filters do not depend on its modules.

/// The target of spans.
#[cfg(feature = "tracing")]
pub(crate) const TARGET: &str = "tower_promises";

#[cfg(feature = "tracing")]
macro_rules! event {
    (target: $target:literal, $level:ident, $($tokens:tt)*) => {
        tracing::$level!(target: $target, $($tokens)*)
    };
    ($level:ident, $($tokens:tt)*) => {
        tracing::$level!(target: "tower_promises", $($tokens)*)
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    (target: $target:literal, $level:ident, $($tokens:tt)*) => {
        $crate::log::unused!($($tokens)*)
    };
    ($level:ident, $($tokens:tt)*) => {
        $crate::log::unused!($($tokens)*)
    };
}

/// Uses the values of an event without evaluating them, to avoid compiler warnings.
#[cfg(not(feature = "tracing"))]
macro_rules! unused {
    ($message:literal) => {{
        if false {
            let _ = format_args!($message);
        }
    }};
    ($name:ident = % $value:expr, $($rest:tt)*) => {
        $crate::log::unused!($name = $value, $($rest)*)
    };
    ($name:ident = ? $value:expr, $($rest:tt)*) => {
        $crate::log::unused!($name = $value, $($rest)*)
    };
    ($name:ident = $value:expr, $($rest:tt)*) => {{
        if false {
            let _ = &$value;
        }
        $crate::log::unused!($($rest)*);
    }};
    (% $name:ident, $($rest:tt)*) => {
        $crate::log::unused!($name = $name, $($rest)*)
    };
    (? $name:ident, $($rest:tt)*) => {
        $crate::log::unused!($name = $name, $($rest)*)
    };
    ($name:ident, $($rest:tt)*) => {
        $crate::log::unused!($name = $name, $($rest)*)
    };
}

macro_rules! error {
    ($($tokens:tt)*) => { $crate::log::event!(error, $($tokens)*) };
}

macro_rules! warning {
    ($($tokens:tt)*) => { $crate::log::event!(warn, $($tokens)*) };
}

macro_rules! debug {
    ($($tokens:tt)*) => { $crate::log::event!(debug, $($tokens)*) };
}

#[cfg(not(feature = "tracing"))]
pub(crate) use unused;
pub(crate) use {debug, error, event, warning};
