use super::scope;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// How many bytes of `tracestate` travel along. More is dropped, as the standard allows.
const MAX_STATE_BYTES: usize = 512;

/// The place of a request in a distributed trace, as the standard *W3C Trace Context* writes it.
///
/// It travels with a task, is [current](Self::current) in its `run`, and stands as `traceparent` in the span of the
/// task (feature `tracing`). The crate makes no trace ids of its own and exports nothing: a tracing library takes the
/// two texts as the parent of its span, where `TasksBuilder::make_span_with` makes that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    parent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl TraceContext {
    /// The context with this `traceparent`, or `None` where that is none:
    /// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
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

    /// Adds what vendors have to say, `tracestate`. More than 512 bytes, or other than visible ASCII, is dropped.
    #[must_use]
    pub fn with_state(mut self, state: &str) -> Self {
        let is_valid = state.len() <= MAX_STATE_BYTES
            && state
                .bytes()
                .all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        self.state = (is_valid && !state.is_empty()).then(|| state.to_owned());
        self
    }

    /// The context of a request, from its headers `traceparent` and `tracestate`.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let context = Self::new(headers.get("traceparent")?.to_str().ok()?)?;
        let states = headers.get_all("tracestate").iter();
        let states: Vec<&str> = states.filter_map(|state| state.to_str().ok()).collect();
        Some(context.with_state(&states.join(",")))
    }

    /// The trace that this code is a part of: that of the request, or of the request that has submitted the task.
    /// `None` in what is given to `tokio::spawn` or to another thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        scope::current().caller.trace.clone()
    }

    /// The value of `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The value of `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}
