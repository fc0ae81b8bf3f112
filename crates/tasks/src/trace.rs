use super::scope;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// The maximum size of `tracestate`, in bytes. Longer values are dropped, as the standard allows.
const MAX_STATE_BYTES: usize = 512;

/// The position of a request in a distributed trace, in the format of *W3C Trace Context*.
///
/// A trace context travels with a task and is [current](Self::current) in its `run` function. The span of the task has
/// it as the field `traceparent`. This crate creates no trace ids and exports nothing: a tracing library can use the
/// two values as the parent of its span, in `TasksBuilder::make_span_with`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    parent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl TraceContext {
    /// Parses a `traceparent`, such as `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. Returns `None` if it
    /// is invalid.
    #[must_use]
    pub fn new(parent: &str) -> Option<Self> {
        let is_hexadecimal = |text: &str| {
            let mut digits = text.bytes();
            digits.all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        };
        let parts: Vec<&str> = parent.split('-').take(5).collect();
        let [version, trace, span, flags] = parts[..] else {
            return None;
        };
        let has_form = [(version, 2), (trace, 32), (span, 16), (flags, 2)]
            .iter()
            .all(|(part, length)| part.len() == *length && is_hexadecimal(part));
        let is_zero = |text: &str| text.bytes().all(|digit| digit == b'0');
        if !has_form || version == "ff" || is_zero(trace) || is_zero(span) {
            return None;
        }
        Some(Self {
            parent: parent.to_owned(),
            state: None,
        })
    }

    /// Sets the `tracestate`, which carries data of tracing vendors. A value of more than 512 bytes, or with characters
    /// other than printable ASCII and tabs, is dropped.
    #[must_use]
    pub fn with_state(mut self, state: &str) -> Self {
        let is_valid = state.len() <= MAX_STATE_BYTES
            && state
                .bytes()
                .all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        self.state = (is_valid && !state.is_empty()).then(|| state.to_owned());
        self
    }

    /// Reads the context of a request from its headers `traceparent` and `tracestate`.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let context = Self::new(headers.get("traceparent")?.to_str().ok()?)?;
        let states = headers.get_all("tracestate").iter();
        let states: Vec<&str> = states.filter_map(|state| state.to_str().ok()).collect();
        Some(context.with_state(&states.join(",")))
    }

    /// Returns the trace context of the running code: that of the request, or of the request that submitted the task.
    /// `None` in code that runs in `tokio::spawn` or in another thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        scope::current().caller.trace.clone()
    }

    /// Returns the value of `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Returns the value of `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}
