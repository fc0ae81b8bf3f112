//! The stored state of a durable operation.
//!
//! The state is a part of the record, so that one compare-and-set decides about the run, its memory and the status
//! together. A run that was replaced knows an old revision, so it can store nothing more.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::iter::successors;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::journal::Journal;
use tower_promises_backend::kit::json;
use tower_promises_backend::kit::pieces::Pieces;

/// The largest size of a remembered error.
const MAX_MESSAGE_BYTES: usize = 4096;

/// The state of a durable operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Durable {
    /// The number of the envelopes that may begin a run. It increases when a run ends in order.
    pub(super) turn: u64,
    /// The id of the envelope whose run owns the operation. `None` while the operation waits for its first run, and
    /// while it is suspended.
    pub(super) holder: Option<String>,
    /// Distinguishes the run that owns the operation from all others.
    pub(super) fence: String,
    /// When the lifetime of the operation began, in milliseconds since the epoch.
    pub(super) begun: u64,
    /// The number of runs so far.
    pub(super) runs: u32,
    /// The number of runs that were replaced since something was last remembered.
    pub(super) recoveries: u32,
    /// The run has returned its envelope in order, so the next run is no recovery.
    pub(super) given_back: bool,
    /// The promises that a suspended operation waits for.
    pub(super) waiting: Vec<Waiting>,
    /// The name of the list of all operations that have not ended which has this one. `None` without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<String>,
    /// Clients cannot cancel the operation any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) refuses_cancel: bool,
    /// The key from which tokens and idempotency keys are derived.
    pub(super) secret: String,
    pub(super) request: Pieces,
    pub(super) journal: Journal<Entry>,
}

impl Durable {
    pub(super) fn is_suspended(&self) -> bool {
        self.holder.is_none() && self.runs > 0
    }
}

/// A promise that a durable operation waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) name: String,
    pub(super) kind: WaitKind,
    /// The due time or the deadline, in milliseconds since the epoch.
    pub(super) until: Option<u64>,
    /// Clients may see the name.
    #[serde(default)]
    pub(super) is_shown: bool,
}

impl Waiting {
    pub(super) fn shown_name(&self) -> Option<&str> {
        self.is_shown.then_some(&*self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WaitKind {
    Sleep,
    Outside,
}

/// A remembered fact about a named promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) fact: Fact,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fact {
    /// The due time of a sleep, or the deadline of an outside promise, in milliseconds since the epoch.
    Until(u64),
    /// The promise can be settled from outside. Its value has this type.
    Outside(Option<String>),
    /// The promise has settled.
    Settled(Settlement),
}

/// The outcome of a promise that is remembered.
///
/// Panics, cancelled promises and rejections are not remembered, because another run may have another outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Settlement {
    /// The promise has a value.
    Value(RememberedValue),
    /// The promise has failed.
    Failed(RememberedError),
    /// The promise has timed out.
    TimedOut,
}

/// The remembered value of a promise, in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RememberedValue {
    /// The name of the type, if the process that stored the value knew the type.
    #[serde(rename = "of", default, skip_serializing_if = "Option::is_none")]
    type_name: Option<String>,
    pub(super) json: Json,
}

impl RememberedValue {
    /// Serialises a value, and remembers the name of its type.
    ///
    /// # Errors
    ///
    /// If the value cannot be represented in JSON, or would change: NaN and the infinities.
    pub fn new<T: Serialize>(value: &T) -> Result<Self, BoxError> {
        Ok(Self {
            type_name: Some(type_name::<T>().to_owned()),
            json: Json::of(value)?,
        })
    }

    /// Deserialises the value.
    ///
    /// # Errors
    ///
    /// If the value does not fit the type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        self.json.read()
    }

    /// Returns the value as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.json.as_str()
    }

    /// Returns the name of the type, in the form of [`std::any::type_name`]. `None` for a value from outside.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.type_name.as_deref()
    }
}

/// The remembered error of a promise: the error itself has ended with its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedError {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    message: String,
}

impl RememberedError {
    /// Creates the error of a promise that is settled from outside.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: Some(code.into()),
            message: message.into(),
        }
    }

    /// Returns the code of an error that was reported from outside.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// Writes the text of the error and of its sources.
impl fmt::Display for RememberedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for RememberedError {}

impl Settlement {
    /// Creates the outcome of a promise that has failed with this error. The text of the error and of its sources is
    /// remembered, up to 4 KiB.
    #[must_use]
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        let mut message = error.to_string();
        let sources = successors(error.source(), |error| (*error).source());
        for source in sources {
            message.push_str(": ");
            message.push_str(&source.to_string());
        }
        let end = (0..=message.len().min(MAX_MESSAGE_BYTES))
            .rev()
            .find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
        Self::Failed(RememberedError {
            code: None,
            message,
        })
    }
}

/// Text in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Json(Box<RawValue>);

impl Json {
    fn of<T: Serialize>(value: &T) -> Result<Self, BoxError> {
        Ok(json::to_raw_value(value).map(Self)?)
    }

    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        Ok(serde_json::from_str(self.as_str())?)
    }

    fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Entry {
    /// The approximate size in the store.
    pub(super) fn bytes(&self) -> usize {
        let fact = match &self.fact {
            Fact::Until(_) => 16,
            Fact::Outside(of) => of.as_ref().map_or(0, String::len),
            Fact::Settled(settlement) => settlement.bytes(),
        };
        self.name.len() + fact + 32
    }
}

impl Settlement {
    /// Creates the outcome of a promise that has this value, without the name of its type: it may be read as any type
    /// that it fits.
    ///
    /// # Errors
    ///
    /// If the value cannot be represented in JSON, or would change: NaN and the infinities.
    pub fn value<T: Serialize>(value: &T) -> Result<Self, BoxError> {
        Json::of(value).map(Self::untyped)
    }

    pub(super) fn untyped(json: Json) -> Self {
        Self::Value(RememberedValue {
            type_name: None,
            json,
        })
    }

    /// The outcome of a sleep whose due time has come.
    pub(super) fn slept() -> Self {
        Self::untyped(Json(RawValue::NULL.to_owned()))
    }

    /// Whether two outcomes are the same for a reader.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(value), Self::Value(other)) => {
                let (json, other) = (&value.json, &other.json);
                let value = |json: &Json| json.read::<serde_json::Value>().ok();
                json == other || value(json) == value(other)
            }
            _ => self == other,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Value(value) => {
                value.type_name.as_ref().map_or(0, String::len) + value.as_json().len()
            }
            Self::Failed(error) => error.code.as_ref().map_or(0, String::len) + error.message.len(),
            Self::TimedOut => 0,
        }
    }
}
