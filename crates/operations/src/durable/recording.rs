use crate::memory::{Entry, Fact, Settlement};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::json;

/// What a durable operation remembers, to replay its handler in a unit test.
///
/// [`Operations::recording`](crate::Operations::recording) returns it. `PromiseResults::recorded` of `tower-promises`
/// makes promises of it. In JSON it can be kept in a file beside the test.
///
/// ```
/// use tower_promises_operations::durable::{Recording, Settlement};
///
/// # fn main() -> Result<(), tower_promises_backend::BoxError> {
/// let recording = Recording::new()
///     .with("charge", Settlement::value(&"receipt 6")?)
///     .with("approval", Settlement::TimedOut);
/// let names: Vec<_> = recording.names().collect();
/// assert_eq!(names, ["charge", "approval"]);
/// assert_eq!(recording.value::<String>("charge")?, "receipt 6");
/// assert_eq!(recording.settlement("approval"), Some(&Settlement::TimedOut));
/// # Ok(())
/// # }
/// ```
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

    /// Returns the names of the promises that have settled, in the order in which their outcomes were remembered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.settled().map(|(name, _)| name)
    }

    /// Returns the outcome of a promise. `None` if it has not settled.
    #[must_use]
    pub fn settlement(&self, name: &str) -> Option<&Settlement> {
        let mut settled = self.settled().filter(|(settled, _)| *settled == name);
        settled.next().map(|(_, settlement)| settlement)
    }

    /// Returns the value of a promise.
    ///
    /// # Errors
    ///
    /// If the promise has not settled or has timed out, or if its value does not fit the type. If the promise has failed,
    /// the error is its [`RememberedError`](super::RememberedError).
    pub fn value<T: DeserializeOwned>(&self, name: &str) -> Result<T, BoxError> {
        match self.settlement(name) {
            Some(Settlement::Value(value)) => value.read(),
            Some(Settlement::Failed(error)) => Err(error.clone().into()),
            Some(Settlement::TimedOut) => Err(format!("the promise `{name}` has timed out").into()),
            None => Err(format!("the promise `{name}` has not settled").into()),
        }
    }

    /// The outcomes that count: the first of each name.
    fn settled(&self) -> impl Iterator<Item = (&str, &Settlement)> {
        let mut seen = HashSet::new();
        let settled = self.entries.iter().filter_map(|entry| match &entry.fact {
            Fact::Settled(settlement) => Some((&*entry.name, settlement)),
            Fact::Until(_) | Fact::Outside(_) => None,
        });
        settled.filter(move |(name, _)| seen.insert(*name))
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
