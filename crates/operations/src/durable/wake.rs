//! The envelopes that begin the runs of durable operations.

use crate::instance::Instance;
use crate::memory::Durable;
use crate::record::{Key, Record, digest};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises_backend::kit::clock::milliseconds;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::{BackendError, Envelope};

/// How much later an envelope comes that is enqueued before the change which it announces. The change is one call of the
/// store, so the envelope comes after the change, if there is one.
const PRECAUTION: Duration = Duration::from_secs(30);

/// The content of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wake {
    pub(super) key: String,
    /// An envelope of another turn begins no run, see [`Durable::turn`].
    pub(super) turn: u64,
    pub(super) reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reason {
    /// The first run, or a run that the application has requested.
    Begin,
    /// A due time.
    Due,
    /// A promise with this name was settled from outside.
    Settled(String),
}

/// Returns an envelope. A second envelope with the same reason for the same turn has no effect while the first is
/// queued.
pub(super) fn envelope(
    instance: &Instance,
    key: &Key,
    turn: u64,
    reason: Reason,
) -> Result<Envelope, BackendError> {
    make(instance, key, turn, reason, "now")
}

/// Returns an envelope for a change that is about to be stored, in case the process ends between the change and the
/// envelope that announces the change at once.
pub(super) fn precaution(
    instance: &Instance,
    key: &Key,
    turn: u64,
    reason: Reason,
) -> Result<Envelope, BackendError> {
    let envelope = make(instance, key, turn, reason, "later")?;
    Ok(envelope.delay(PRECAUTION))
}

/// Returns the envelope that ends the suspension of an operation at the next due time, at the latest at the end of its
/// lifetime.
pub(super) fn due(
    instance: &Instance,
    key: &Key,
    record: &Record,
    durable: &Durable,
    is_settled: impl Fn(&str) -> bool,
) -> Result<Envelope, BackendError> {
    let now = instance.settings.now();
    let end = end_of_lifetime(instance, record);
    let dues = durable.waiting.iter().map(|waiting| {
        if is_settled(&waiting.name) {
            now
        } else {
            waiting.until.unwrap_or(end)
        }
    });
    let due = dues.min().unwrap_or(now).min(end);
    let delay = Duration::from_millis(due.saturating_sub(now));
    Ok(envelope(instance, key, durable.turn, Reason::Due)?.delay(delay))
}

/// The end of the lifetime of an operation, in milliseconds since the epoch.
pub(super) fn end_of_lifetime(instance: &Instance, record: &Record) -> u64 {
    let lifetime = milliseconds(instance.settings.lifetime);
    let begun = record.durable.as_ref().map(|durable| durable.begun);
    begun.unwrap_or(record.created).saturating_add(lifetime)
}

fn make(
    instance: &Instance,
    key: &Key,
    turn: u64,
    reason: Reason,
    when: &str,
) -> Result<Envelope, BackendError> {
    let tag = match &reason {
        Reason::Begin => "begin".to_owned(),
        Reason::Due => "due".to_owned(),
        Reason::Settled(name) => digest(&[name.as_bytes()]),
    };
    let id = format!("{}/{turn}/{tag}/{when}", key.as_str());
    let wake = Wake {
        key: key.as_str().to_owned(),
        turn,
        reason,
    };
    let queue = instance.settings.durable.queue.clone();
    Ok(Envelope::new(queue, id, encode(&wake)?))
}
