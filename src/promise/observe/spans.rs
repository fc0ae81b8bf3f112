use super::PassOutcome;
use crate::log::TARGET;
use crate::promise::Key;
use crate::promise::excerpt::excerpt;
use std::time::Duration;
use tracing::field::Empty;
use tracing::{Span, debug_span};

/// The spans of a request with at least one promise that started.
pub(super) struct Spans {
    request: Span,
    pass: Span,
}

impl Spans {
    /// Opens the span of the request, as a child of the current span, and the span of its pass.
    pub(super) fn open(pass: usize) -> Self {
        let request = debug_span!(
            target: TARGET,
            "promises",
            passes = Empty,
            promises = Empty,
            outcome = Empty,
            duration_ms = Empty
        );
        let mut spans = Self {
            request,
            pass: Span::none(),
        };
        spans.begin_pass(pass);
        spans
    }

    pub(super) fn begin_pass(&mut self, pass: usize) {
        self.pass = debug_span!(
            target: TARGET,
            parent: &self.request,
            "pass",
            pass = number(pass),
            outcome = Empty,
            duration_ms = Empty
        );
    }

    pub(super) fn pass(&self) -> &Span {
        &self.pass
    }

    pub(super) fn promise(&self, key: &Key, pass: usize) -> Span {
        debug_span!(
            target: TARGET,
            parent: &self.pass,
            "promise",
            key = &*excerpt(key),
            pass = number(pass),
            outcome = Empty,
            duration_ms = Empty
        )
    }

    pub(super) fn end_pass(&self, outcome: PassOutcome, duration: Duration) {
        record(&self.pass, outcome.as_str(), duration);
    }

    pub(super) fn close(
        &self,
        passes: usize,
        promises: usize,
        outcome: PassOutcome,
        duration: Duration,
    ) {
        self.request.record("passes", number(passes));
        self.request.record("promises", number(promises));
        record(&self.request, outcome.as_str(), duration);
    }
}

/// Records the outcome and the duration of a finished span.
pub(super) fn record(span: &Span, outcome: &'static str, duration: Duration) {
    span.record("outcome", outcome);
    // In milliseconds, as is common for such fields, rounded to the microsecond for readability.
    let milliseconds = (duration.as_secs_f64() * 1e6).round() / 1e3;
    span.record("duration_ms", milliseconds);
}

/// Converts to a signed number, because OpenTelemetry has no unsigned numbers and would make text of them.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
