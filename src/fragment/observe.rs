//! Observation of fragments. Without the features that observe, all of it compiles to nothing.

use super::shell::Fault;
use crate::log;
#[cfg(feature = "metrics")]
use crate::metrics;
use crate::promise::Key;
use crate::promise::excerpt::{Names, excerpt};
use crate::promise::fragment_error::FragmentError;
use crate::promise::registry::FragmentNumber;
use http::HeaderName;
use std::error::Error;
use tokio::time::Instant;

/// How a fragment ended that was pending when its response was published.
#[derive(Clone, Copy, Debug)]
pub(super) enum FragmentOutcome {
    /// The fragment was rendered.
    Rendered,
    /// The fragment could not be rendered.
    Failed,
    /// The fragment was rendered after its time was over.
    TimedOut,
    /// The client went away, the response body failed, or the page has no place for the fragment.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "counted only"))]
    Abandoned,
}

/// The observation of a page whose fragments follow.
pub(super) struct ObservedPage {
    /// When the request began.
    #[cfg_attr(
        not(any(feature = "metrics", feature = "tracing")),
        expect(dead_code, reason = "no feature observes")
    )]
    start: Instant,
}

impl ObservedPage {
    /// The response of a request that began at `start` is published.
    pub(super) fn new(start: Instant) -> Self {
        #[cfg(feature = "metrics")]
        metrics::shell_published(start.elapsed());
        Self { start }
    }

    /// Renders a fragment in a span.
    pub(super) fn render<R>(&self, name: &Key, render: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        let _span = tracing::debug_span!(
            target: crate::log::TARGET,
            "fragment",
            name = &*excerpt(name),
            since_request_ms = milliseconds(self.start),
        )
        .entered();
        #[cfg(not(feature = "tracing"))]
        let _ = name;
        render()
    }

    /// A fragment has ended.
    pub(super) fn ended(&self, name: &Key, outcome: FragmentOutcome) {
        #[cfg(feature = "metrics")]
        metrics::fragment_ended(outcome as usize, self.start.elapsed());
        log::debug!(
            fragment = &*excerpt(name),
            outcome = ?outcome,
            "a fragment was rendered"
        );
    }

    /// The last fragment was rendered.
    pub(super) fn complete(&self) {
        #[cfg(feature = "metrics")]
        metrics::page_completed(self.start.elapsed());
    }

    /// The page has no place for this number of pending fragments, which were dropped.
    pub(super) fn left_out(&self, count: usize) {
        #[cfg(feature = "metrics")]
        for _ in 0..count {
            metrics::fragment_ended(FragmentOutcome::Abandoned as usize, self.start.elapsed());
        }
        #[cfg(not(feature = "metrics"))]
        let _ = count;
    }

    /// The page ends although these fragments are pending.
    pub(super) fn abandoned(&self, pending: &[(FragmentNumber, Key)]) {
        #[cfg(feature = "metrics")]
        for _ in pending {
            metrics::fragment_ended(FragmentOutcome::Abandoned as usize, self.start.elapsed());
        }
        let fragments = &names(pending);
        log::debug!(
            fragments = ?Names(fragments),
            "dropped the pending fragments of a page that the client does not read to its end"
        );
    }
}

pub(super) fn failed(error: &FragmentError) {
    let fragment = &*excerpt(error.name());
    match error {
        FragmentError::Panicked { message, .. } => {
            log::error!(fragment, panic = &**message, "a fragment panicked");
        }
        FragmentError::TooManyRenders { limit, .. } => {
            log::error!(
                fragment,
                limit,
                "a fragment requested another promise each time that it was rendered: derive names from the \
                 request and from results, never from the time, a counter or a random number"
            );
        }
        FragmentError::Failed { .. } => {
            log::error!(fragment, error = error.source(), "a fragment failed");
        }
    }
}

pub(super) fn on_error_panicked() {
    log::error!("a function given to `on_error` panicked");
}

pub(super) fn timed_out(pending: &[(FragmentNumber, Key)]) {
    let fragments = &names(pending);
    log::warning!(
        fragments = ?Names(fragments),
        "fragments were still pending when the time for the page was over: limit their promises with \
         `promise_timeout`, or raise `timeout`"
    );
}

/// A fragment cannot replace its fallback.
pub(super) fn misplaced(name: &Key, fault: Fault) {
    let fragment = &*excerpt(name);
    match fault {
        Fault::Missing => log::warning!(
            fragment,
            "a pending fragment is not in its page, so its fallback is never replaced: a template must neither \
             escape nor leave out a fragment, and nothing may encode the page inside of `FragmentLayer`"
        ),
        Fault::Misplaced => log::error!(
            fragment,
            "a pending fragment cannot be in a tag, a comment or an element that contains only text, so its \
             fallback is never replaced: read its promises outside of a fragment, or make the element a fragment"
        ),
        Fault::Repeated => log::warning!(
            fragment,
            "a pending fragment is in its page more than once, so only its first fallback is replaced: create a \
             fragment for each place"
        ),
    }
}

/// The response has a header that cannot be true for a page whose fragments follow.
pub(super) fn contradicting_header(name: &HeaderName) {
    log::warning!(
        header = name.as_str(),
        "removed a header that contradicts the fragments of a page: do not set it for a page with fragments"
    );
}

fn names(fragments: &[(FragmentNumber, Key)]) -> Vec<Key> {
    fragments.iter().map(|(_, name)| name.clone()).collect()
}

/// The time since `start` in milliseconds, rounded to the microsecond for readability.
#[cfg(feature = "tracing")]
fn milliseconds(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
