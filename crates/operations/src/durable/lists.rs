//! Lists of durable operations in the store: the open ones of each principal, and those that are lost.

use crate::instance::Instance;
use crate::record::Key;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::milliseconds;
use tower_promises_backend::kit::documents::Update;

/// The number of lost operations that are listed.
pub(crate) const MAX_LOST: usize = 256;

/// The number of operations that a request of a principal with too many looks at, to find some that have ended.
const LOOKED_AT: usize = 16;

/// An operation of a principal that has not ended, as far as is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    key: String,
    /// In milliseconds since the epoch.
    expires: u64,
}

/// Adds an operation to the open ones of its principal, unless there are too many. Returns whether it was added.
pub(super) async fn open(
    instance: &Instance,
    principal: &str,
    key: &Key,
) -> Result<bool, BackendError> {
    if enter(instance, principal, key).await? {
        return Ok(true);
    }
    // An operation that was cancelled while it was suspended is still in the list, and so is one whose process ended at
    // the wrong moment.
    let backend = &instance.records.backend;
    let found: Option<Vec<Open>> = backend.read(&name(principal)).await?;
    for open in found.iter().flatten().take(LOOKED_AT) {
        let key = Key::parse(&open.key);
        let record = instance.records.read(&key).await?;
        if record.is_none_or(|(record, _)| record.status.is_terminal()) {
            close(instance, principal, &key).await?;
        }
    }
    enter(instance, principal, key).await
}

async fn enter(instance: &Instance, principal: &str, key: &Key) -> Result<bool, BackendError> {
    let limit = instance.settings.durable.max_open_per_principal;
    let (now, longest) = (instance.settings.now(), instance.settings.longest());
    let enter = |found: Option<Vec<Open>>| {
        let mut open = found.unwrap_or_default();
        open.retain(|open| open.expires > now && open.key != key.as_str());
        if open.len() >= limit {
            return Update::Keep(false);
        }
        open.push(Open {
            key: key.as_str().to_owned(),
            expires: now.saturating_add(milliseconds(longest)),
        });
        Update::Set(open, longest, true)
    };
    instance
        .records
        .backend
        .change(&name(principal), enter)
        .await
}

/// Removes an operation that has ended.
pub(super) async fn close(
    instance: &Instance,
    principal: &str,
    key: &Key,
) -> Result<(), BackendError> {
    let longest = instance.settings.longest();
    let close = |found: Option<Vec<Open>>| {
        let mut open = found.unwrap_or_default();
        let before = open.len();
        open.retain(|open| open.key != key.as_str());
        if open.len() == before {
            return Update::Keep(());
        }
        Update::Set(open, longest, ())
    };
    instance
        .records
        .backend
        .change(&name(principal), close)
        .await
}

/// Lists an operation that is about to be lost. The oldest ones are left out.
pub(super) async fn add_lost(instance: &Instance, id: &str) -> Result<(), BackendError> {
    let retention: Duration = instance.settings.retention;
    let add = |found: Option<Vec<String>>| {
        let mut lost = found.unwrap_or_default();
        lost.retain(|lost| lost != id);
        lost.push(id.to_owned());
        let surplus = lost.len().saturating_sub(MAX_LOST);
        lost.drain(..surplus);
        Update::Set(lost, retention, ())
    };
    instance
        .records
        .backend
        .change(&lost_name(instance), add)
        .await
}

/// Returns the ids of operations that may be lost, oldest first.
pub(crate) async fn lost(instance: &Instance) -> Result<Vec<String>, BackendError> {
    let found = instance.records.backend.read(&lost_name(instance)).await?;
    Ok(found.unwrap_or_default())
}

fn name(principal: &str) -> String {
    format!("operation/open/{principal}")
}

fn lost_name(instance: &Instance) -> String {
    format!("operation/lost/{}", instance.settings.durable.queue)
}
