use crate::memory::{Entry, Fact, Settlement};
use serde::{Deserialize, Serialize};
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::json;

/// What a durable operation remembers, to replay its handler in a unit test.
///
/// [`Operations::recording`](crate::Operations::recording) returns it. `PromiseResults::recorded` of `tower-promises`
/// makes promises of it. In JSON it can be kept in a file beside the test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recording {
    entries: Vec<Entry>,
}

/// The difference between a recording and the run of a handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// The names that the handler has requested and the recording does not have, in alphabetical order.
    pub new: Vec<String>,
    /// The names that the recording has and the handler has not requested, in alphabetical order.
    pub unread: Vec<String>,
    /// The values whose type has changed, in the order in which they were requested.
    pub changed: Vec<ChangedType>,
}

/// A remembered value that was requested with another type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedType {
    /// The name of the promise.
    pub name: String,
    /// The type of the value when it was remembered. `None` for a value from outside.
    pub remembered: Option<String>,
    /// The requested type.
    pub requested: &'static str,
    /// Whether the value fits the requested type.
    pub fits: bool,
}

impl Recording {
    /// Creates a recording without promises.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a promise that has settled.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, settlement: Settlement) -> Self {
        self.entries.push(Entry {
            name: name.into(),
            fact: Fact::Settled(settlement),
        });
        self
    }

    /// Returns the recording in JSON.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "names, numbers and JSON are JSON"
    )]
    pub fn to_json(&self) -> String {
        json::to_string(self).expect("names, numbers and JSON are JSON")
    }

    /// Reads a recording from JSON.
    ///
    /// # Errors
    ///
    /// If the text is no recording.
    pub fn from_json(text: &str) -> Result<Self, BoxError> {
        Ok(serde_json::from_str(text)?)
    }

    pub(super) fn of(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}
