use super::SignalError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::any::type_name;
use std::borrow::Cow;
use std::sync::Arc;
use tower_promises_backend::kit::json;

/// The prefix of topics on the bus.
const TOPIC: &str = "signal/";
/// The prefix of latches in the store.
const LATCH: &str = "signal-latch/";
/// The prefix of claims in the store. A claim decides which process delivers a value that is for one waiter.
const CLAIM: &str = "signal-claim/";

pub(super) fn topic(path: &str) -> String {
    format!("{TOPIC}{path}")
}

/// Returns the name of the signal of a topic, or `None` if the topic does not belong to signals.
pub(super) fn path(topic: &str) -> Option<&str> {
    topic.strip_prefix(TOPIC)
}

pub(super) fn latch_key(path: &str) -> String {
    format!("{LATCH}{path}")
}

pub(super) fn claim_key(claim: &str) -> String {
    format!("{CLAIM}{claim}")
}

/// A message on the bus.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Message<'a> {
    /// The instance that sent the message. That instance ignores it, because it has delivered to its own waiters.
    #[serde(borrow)]
    pub(super) from: Cow<'a, str>,
    /// Set if only one waiter gets the value: the first process that sets this claim delivers it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: &'a RawValue,
}

impl<'a> Message<'a> {
    /// Parses a message.
    pub(super) fn decode(payload: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(payload)
    }

    /// Returns the value. It shares the memory of `payload`, which the message was parsed from.
    pub(super) fn value(&self, payload: &Bytes) -> Bytes {
        payload.slice_ref(self.value.get().as_bytes())
    }

    /// Serialises a message. `value` is JSON.
    pub(super) fn encode(
        from: &str,
        claim: Option<&str>,
        value: &Bytes,
    ) -> serde_json::Result<Bytes> {
        let message = Message {
            from: from.into(),
            claim: claim.map(Cow::from),
            value: serde_json::from_slice(value)?,
        };
        serde_json::to_vec(&message).map(Bytes::from)
    }
}

pub(super) fn serialize<T>(name: &Arc<str>, value: &T, limit: usize) -> Result<Bytes, SignalError>
where
    T: Serialize + ?Sized,
{
    let value = json::to_vec(value).map_err(|error| SignalError::Serialize {
        name: name.clone(),
        type_name: type_name::<T>(),
        error: Arc::new(error),
    })?;
    if value.len() > limit {
        return Err(SignalError::TooLarge {
            name: name.clone(),
            size: value.len(),
            limit,
        });
    }
    Ok(value.into())
}
