//! The performance budgets of the crate.

use std::fmt;

#[derive(Clone, Copy)]
pub(crate) enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

use Budget::{AtLeast, AtMost};

// The layer is compared with a stack of `AddExtension` and, outside of it, `tower::retry` with a policy that clones the
// request.

/// Allocations of a request without promises, in addition to those of the stack.
pub(crate) const ALLOCATIONS_BEYOND_STACK: f64 = 1.0;

/// Instructions of a request without promises, as a multiple of those of the stack.
pub(crate) const INSTRUCTIONS_OF_STACK: Budget = AtMost(1.10);

/// Allocations of one more promise, without the allocations for its name and in its future.
pub(crate) const ALLOCATIONS_OF_PROMISE: Budget = AtMost(2.0);

/// The time of promises in two passes, as a multiple of that of a hand-written service that clones the request, joins
/// the same boxed futures and is called twice.
pub(crate) const TIME_BY_HAND: Budget = AtMost(1.15);

/// The cost of one of 10,000 promises in a request, as a multiple of the cost of one of 100.
pub(crate) const PROMISE_OF_MANY: Budget = AtMost(1.5);

/// Bytes that replaying allocates, as a fraction of the body. The body itself is not copied.
pub(crate) const REPLAYED_BYTES: Budget = AtMost(0.01);

/// The speed of a body of 64 MiB that is replayed, as a multiple of reading it twice from memory.
pub(crate) const REPLAY_SPEED: Budget = AtLeast(0.95);

/// Frames that a client has sent when the handler gets the first byte of a body.
pub(crate) const FRAMES_BEFORE_FIRST_BYTE: Budget = AtMost(1.0);

/// Requests per second of an axum server, as a multiple of those without the layer.
pub(crate) const SERVER_WITHOUT_PROMISES: Budget = AtLeast(0.97);

/// Requests per second with two promises that are ready at once, in two passes.
pub(crate) const SERVER_WITH_PROMISES: Budget = AtLeast(0.90);

/// Bytes of a request in flight with a pending promise, in addition to those of the service and of one copy of the
/// request's head.
pub(crate) const BYTES_IN_FLIGHT: Budget = AtMost(2048.0);

impl Budget {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            AtMost(limit) => value <= limit,
            AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtMost(limit) => write!(f, "≤ {limit}"),
            AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}
