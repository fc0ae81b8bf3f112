//! Observation of the layer. Without the features that observe, all of it compiles to nothing.

mod advice;
mod events;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
mod group;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
mod observation;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
mod outcome;
#[cfg(feature = "server-timing")]
mod passes;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
mod request;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(not(any(feature = "metrics", feature = "server-timing", feature = "tracing")))]
mod unobserved;

pub(super) use advice::Advice;
#[cfg(feature = "tracing")]
pub(super) use advice::{advice_is_wanted, keys_change, never_read, pending_swallowed};
#[cfg(feature = "blocking")]
pub(super) use events::in_present_span;
pub(super) use events::{
    drop_panicked, error_discarded, promise_failed, rejected, response_discarded, undo_panicked,
    waker_panicked,
};
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub(super) use group::ObservedGroup;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub(super) use request::ObservedRequest;
#[cfg(not(any(feature = "metrics", feature = "server-timing", feature = "tracing")))]
pub(super) use unobserved::{ObservedGroup, ObservedRequest};

#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub use outcome::PromiseOutcome;
#[cfg(feature = "server-timing")]
pub(crate) use passes::TimingsWanted;
#[cfg(feature = "server-timing")]
pub use passes::{PassTiming, Passes, PromiseTiming};

/// How a pass ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum PassOutcome {
    /// Its response was published.
    Published,
    /// Its error was published.
    Failed,
    /// Its outcome was discarded.
    Discarded,
    /// The request was rejected.
    Rejected,
    /// The response future was dropped.
    #[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
    Abandoned,
}

#[cfg(feature = "tracing")]
impl PassOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
        }
    }
}
