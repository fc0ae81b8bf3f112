use super::SignalError;
use crate::json;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::any::type_name;
use std::borrow::Cow;
use std::sync::Arc;

/// Where signals stand on the bus.
const TOPIC: &str = "signal/";
/// Where latches stand in the store.
const LATCH: &str = "signal-latch/";
/// Where it stands in the store who delivers a value that is for one waiter only.
const CLAIM: &str = "signal-claim/";

pub(super) fn topic(path: &str) -> String {
    format!("{TOPIC}{path}")
}

/// The name of the signal that a topic stands for, `None` if it is no signal's.
pub(super) fn path(topic: &str) -> Option<&str> {
    topic.strip_prefix(TOPIC)
}

pub(super) fn latch_key(path: &str) -> String {
    format!("{LATCH}{path}")
}

pub(super) fn claim_key(claim: &str) -> String {
    format!("{CLAIM}{claim}")
}

/// What travels over the bus.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Message<'a> {
    /// Who sent it, so that the sender, who has served its own waiters, can tell.
    #[serde(borrow)]
    pub(super) from: Cow<'a, str>,
    /// For one waiter only: whoever sets this claim first may deliver.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: &'a RawValue,
}

impl<'a> Message<'a> {
    /// Reads a message.
    pub(super) fn decode(payload: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(payload)
    }

    /// The value, sharing the memory of the payload that it was read from.
    pub(super) fn value(&self, payload: &Bytes) -> Bytes {
        payload.slice_ref(self.value.get().as_bytes())
    }

    /// `value` is JSON.
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
