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

/// Allocations of a request whose body is read. Without a body the budget is those of the stack.
pub(crate) const ALLOCATIONS_WITH_BODY: Budget = AtMost(13.0);

/// Instructions of a request without promises, as a multiple of those of the stack.
pub(crate) const INSTRUCTIONS_OF_STACK: Budget = AtMost(1.05);

/// The same for a request whose body is read.
pub(crate) const INSTRUCTIONS_WITH_BODY: Budget = AtMost(1.10);

/// Allocations of one more promise, without the allocations for its name and in its future.
pub(crate) const ALLOCATIONS_OF_PROMISE: Budget = AtMost(2.0);

/// Instructions of 1, 10, 100 and 10,000 promises in two passes, as a multiple of those of a hand-written service that
/// clones the request, joins the same boxed futures and is called twice.
pub(crate) const INSTRUCTIONS_BY_HAND: [Budget; 4] =
    [AtMost(1.10), AtMost(1.10), AtMost(0.85), AtMost(0.96)];

/// The same as a multiple of those of a hand-written service that is safe for production.
pub(crate) const INSTRUCTIONS_OF_SAFE: Budget = AtMost(1.0);

/// Instructions of a request without promises with features that observe it, if none is used, as a multiple of those
/// without the features.
pub(crate) const FEATURES_WITHOUT_PROMISES: Budget = AtMost(1.03);

/// The same with ten promises in two passes.
pub(crate) const FEATURES_WITH_PROMISES: Budget = AtMost(1.15);

/// Polls of a promise that uses up the cooperative budget in each, until its neighbours have settled. Each neighbour
/// takes one unit of the budget, and a poll has 128.
pub(crate) fn polls_of_greedy(promises: usize) -> Budget {
    AtMost(2.0 + (promises / 128) as f64)
}

/// The cost of one of 10,000 promises in a request, as a multiple of the cost of one of 100.
pub(crate) const PROMISE_OF_MANY: Budget = AtMost(1.5);

/// Bytes that replaying allocates, as a fraction of the body. The body itself is not copied.
pub(crate) const REPLAYED_BYTES: Budget = AtMost(0.01);

/// The speed of a body of 64 MiB that is replayed, as a multiple of reading it twice from memory.
pub(crate) const REPLAY_SPEED: Budget = AtLeast(0.95);

/// Frames that a client has sent when the handler gets the first byte of a body.
pub(crate) const FRAMES_BEFORE_FIRST_BYTE: Budget = AtMost(1.0);

/// Requests per second of an axum server with the layer, without those of the alternative in its place. Both are
/// multiples of the requests per second without either.
pub(crate) const SERVER: Budget = AtLeast(-0.02);

/// Bytes of a request in flight with a pending promise, in addition to those of the service and of one copy of the
/// request's head.
pub(crate) const BYTES_IN_FLIGHT: Budget = AtMost(1200.0);

/// Allocations of a fragment that follows its page, without those of its promise and of its HTML.
pub(crate) const ALLOCATIONS_OF_FRAGMENT: Budget = AtMost(3.0);

/// Milliseconds to the first byte of a page with fragments, beyond those of a page that is streamed by hand.
pub(crate) const FIRST_BYTE: Budget = AtMost(1.0);

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
