//! Advice to developers, given as warnings. Without the feature `tracing` all of it compiles to nothing.

/// What a promise records for advice.
pub(in crate::promise) struct Advice {
    #[cfg(feature = "tracing")]
    pub(in crate::promise) memory: Memory,
}

#[cfg(feature = "tracing")]
pub(in crate::promise) struct Memory {
    /// The pass that submitted the promise.
    pub(in crate::promise) submitted: u32,
    /// The last pass that read the value. Zero if no pass has.
    pub(in crate::promise) read: u32,
    /// The promise was read before it had a value.
    pub(in crate::promise) was_missed: bool,
    /// The last such read was replaced by a placeholder.
    pub(in crate::promise) has_placeholder: bool,
}

#[cfg(feature = "tracing")]
impl Advice {
    pub(in crate::promise) fn new(pass: u32, is_missed: bool) -> Self {
        Self {
            memory: Memory {
                submitted: pass,
                read: 0,
                was_missed: is_missed,
                has_placeholder: false,
            },
        }
    }

    pub(in crate::promise) fn read_in(&mut self, pass: u32) {
        self.memory.read = pass;
    }

    pub(in crate::promise) fn missed(&mut self) {
        self.memory.was_missed = true;
        self.memory.has_placeholder = false;
    }
}

#[cfg(not(feature = "tracing"))]
impl Advice {
    pub(in crate::promise) fn new(_: u32, _: bool) -> Self {
        Self {}
    }

    pub(in crate::promise) fn read_in(&mut self, _: u32) {}

    pub(in crate::promise) fn missed(&mut self) {}
}

#[cfg(feature = "tracing")]
mod warnings {
    // The events have a target of their own, so that filters can silence advice alone.
    use crate::log;
    use crate::promise::Key;
    use crate::promise::excerpt::Names;

    /// Whether a subscriber may be interested in warnings. Without any subscriber, the feature `log` of `tracing` may
    /// forward them.
    pub(in crate::promise) fn advice_is_wanted() -> bool {
        tracing::level_enabled!(tracing::Level::WARN) || !tracing::dispatcher::has_been_set()
    }

    pub(in crate::promise) fn never_read(keys: &[Key]) {
        log::event!(
            target: "tower_promises::advice",
            warn,
            keys = ?Names(keys),
            "promises were submitted and their values never read, so that the request has waited for nothing: \
             read them with `result`, or do not submit them"
        );
    }

    pub(in crate::promise) fn keys_change(pass: u32, unread: &[Key], asked: &[Key]) {
        log::event!(
            target: "tower_promises::advice",
            warn,
            pass,
            unread = ?Names(unread),
            asked = ?Names(asked),
            "a pass has read none of the promises that the pass before it asked for, and asks for \
             others: if names differ in every pass, derive them from the request and from results, never \
             from the time, a counter or a random number"
        );
    }

    pub(in crate::promise) fn pending_swallowed(keys: &[Key]) {
        log::event!(
            target: "tower_promises::advice",
            warn,
            keys = ?Names(keys),
            "a success was published although promises were pending when they were read, so that the \
             client sees what the handler made of the error `Pending`: return the error, or use \
             `or_pending` if a placeholder will do"
        );
    }
}

#[cfg(feature = "tracing")]
pub(in crate::promise) use warnings::{
    advice_is_wanted, keys_change, never_read, pending_swallowed,
};
