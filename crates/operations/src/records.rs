//! The records of operations in the store.

use super::absence::Absences;
use super::record::{Failure, Key, Record};
use super::status::Status;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::deadline;
use tower_promises_backend::kit::json;
use tower_promises_backend::{Backend, BackendError, CompareAndSet, Entry, Revision};

/// The largest number of listed operations of a principal.
pub(super) const MAX_LISTED: usize = 256;

/// The largest number of stored ids in a list. A refused request removes its id again. The difference to [`MAX_LISTED`]
/// is the number of such requests that can run at the same time without pushing out a listed operation.
const MAX_KEPT: usize = 2 * MAX_LISTED;

/// The store, with a timeout on each call.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) backend: Backend,
    pub(super) timeout: Duration,
    /// How long a record is stored after the end of its operation.
    pub(super) retention: Duration,
    pub(super) lease: Duration,
    /// Expired leases of other processes.
    pub(super) absences: Arc<Absences>,
}

/// The outcome of a change.
#[derive(Debug)]
pub(super) enum Changed {
    /// The change was stored.
    Yes(Record),
    /// The change did not apply to this record.
    No(Record),
    /// There is no such operation.
    Gone,
}

impl Changed {
    pub(super) fn record(self) -> Option<Record> {
        match self {
            Self::Yes(record) | Self::No(record) => Some(record),
            Self::Gone => None,
        }
    }
}

/// The record of an expired operation.
#[derive(Serialize, Deserialize)]
pub(super) struct Tombstone {
    pub(super) principal: Option<String>,
}

impl Records {
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        deadline::in_time(self.timeout, answer).await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, BackendError> {
        self.in_time(self.backend.store().get(key)).await
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<(), BackendError> {
        let put = self.backend.store().put(key, value, Some(time_to_live));
        self.in_time(put).await.map(drop)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<bool, BackendError> {
        self.in_time(self.backend.store().delete(key)).await
    }

    pub(super) async fn set(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<CompareAndSet, BackendError> {
        let store = self.backend.store();
        let set = store.compare_and_set(key, expected, value, Some(time_to_live));
        self.in_time(set).await
    }

    /// Takes the lease of an operation, or renews it.
    pub(super) async fn renew_lease(&self, key: &Key) -> Result<(), BackendError> {
        self.put(&key.lease(), Bytes::new(), self.lease).await
    }

    /// Stores a new operation, for all instances.
    pub(super) async fn create(&self, key: &Key, record: &Record) -> Result<(), BackendError> {
        self.bury(key, record).await?;
        // The lease is stored first, because a record without a lease is lost.
        self.renew_lease(key).await?;
        let (name, value) = (key.record(), encode(record)?);
        let set = self.set(&name, None, value, record.time_to_live());
        match set.await? {
            CompareAndSet::Set(_) => Ok(()),
            // 128 random bits do not repeat.
            CompareAndSet::Conflict => Err(BackendError::unavailable("the id is taken")),
        }
    }

    /// Stores a tombstone, so that the owner gets 410 after the record has expired.
    async fn bury(&self, key: &Key, record: &Record) -> Result<(), BackendError> {
        let tombstone = Tombstone {
            principal: record.principal.clone(),
        };
        let time_to_live = record.time_to_live().saturating_add(self.retention);
        self.put(&key.tombstone(), encode(&tombstone)?, time_to_live)
            .await
    }

    /// Returns the stored record, unless the operation is forgotten.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<(Record, Revision)>, BackendError> {
        let Some(entry) = self.get(&key.record()).await? else {
            return Ok(None);
        };
        let record: Record = decode(&entry.value)?;
        Ok((!record.forgotten).then_some((record, entry.revision)))
    }

    /// Returns the record. Ends the operation as lost if no instance renews its lease any more.
    ///
    /// One look-up of the lease is not enough: the clock of the store may be wrong for a moment after the clock of the
    /// machine was set, and a living owner renews the lease even if it is absent. So the lease must stay absent for its
    /// whole duration.
    pub(super) async fn load(
        &self,
        key: &Key,
        is_running_here: bool,
    ) -> Result<Option<Record>, BackendError> {
        let Some((record, _)) = self.find(key).await? else {
            self.absences.forget(key);
            return Ok(None);
        };
        if record.status.is_terminal() || is_running_here || self.get(&key.lease()).await?.is_some()
        {
            self.absences.forget(key);
            return Ok(Some(record));
        }
        if !self.absences.note(key, self.lease) {
            return Ok(Some(record));
        }
        // The end may have been stored between the two reads, so the change checks the status again.
        let changed = self.change(key, |record| {
            if record.status.is_terminal() {
                return false;
            }
            let lost = "The server that worked on the request is gone.";
            let lost = Failure::new("Lost", lost);
            record.end(Status::Failed, Some(lost), self.retention);
            true
        });
        let record = changed.await?.record();
        self.absences.forget(key);
        Ok(record)
    }

    /// Changes a record and retries after conflicts, until the change is stored or `change` returns `false`.
    pub(super) async fn change(
        &self,
        key: &Key,
        mut change: impl FnMut(&mut Record) -> bool,
    ) -> Result<Changed, BackendError> {
        let name = key.record();
        let mut has_buried = false;
        loop {
            let Some((mut record, revision)) = self.find(key).await? else {
                if has_buried {
                    // Another process has ended and removed the operation meanwhile. A removed operation must be
                    // unknown, so it must not have a tombstone.
                    self.delete(&key.tombstone()).await?;
                }
                return Ok(Changed::Gone);
            };
            let had_ended = record.status.is_terminal();
            if !change(&mut record) {
                return Ok(Changed::No(record));
            }
            let value = encode(&record)?;
            if !had_ended && record.status.is_terminal() {
                // The tombstone is renewed before the end is visible, because a client that sees the end may remove the
                // operation, and its tombstone with it. If the renewal fails, the tombstone from the creation stays,
                // which lasts longer.
                let _ = self.bury(key, &record).await;
                has_buried = true;
            }
            let set = self.set(&name, Some(revision), value, record.time_to_live());
            // A conflict means that another process has made progress, so the loop ends.
            if let CompareAndSet::Conflict = set.await? {
                continue;
            }
            return Ok(Changed::Yes(record));
        }
    }

    /// Adds an operation to the list of its principal, and drops the oldest ids beyond [`MAX_KEPT`].
    pub(super) async fn list_add(
        &self,
        principal: &str,
        id: &str,
        time_to_live: Duration,
    ) -> Result<(), BackendError> {
        self.list_change(principal, time_to_live, |ids| {
            ids.push(id.to_owned());
            let surplus = ids.len().saturating_sub(MAX_KEPT);
            ids.drain(..surplus);
            true
        })
        .await
    }

    /// Removes an operation from the list of its principal.
    pub(super) async fn list_remove(
        &self,
        principal: &str,
        id: &str,
        time_to_live: Duration,
    ) -> Result<(), BackendError> {
        self.list_change(principal, time_to_live, |ids| {
            let before = ids.len();
            ids.retain(|listed| listed != id);
            ids.len() < before
        })
        .await
    }

    /// Returns the ids of a principal's operations, oldest first. The operations may no longer exist.
    pub(super) async fn list(&self, principal: &str) -> Result<Vec<String>, BackendError> {
        let entry = self.get(&list_key(principal)).await?;
        entry.map_or_else(|| Ok(Vec::new()), |entry| decode(&entry.value))
    }

    /// Changes the list and retries after conflicts, until the change is stored or `change` returns `false`.
    async fn list_change(
        &self,
        principal: &str,
        time_to_live: Duration,
        mut change: impl FnMut(&mut Vec<String>) -> bool,
    ) -> Result<(), BackendError> {
        let key = list_key(principal);
        loop {
            let entry = self.get(&key).await?;
            let revision = entry.as_ref().map(|entry| entry.revision);
            let ids = entry.map(|entry| decode(&entry.value)).transpose()?;
            let mut ids: Vec<String> = ids.unwrap_or_default();
            if !change(&mut ids) {
                return Ok(());
            }
            let set = self.set(&key, revision, encode(&ids)?, time_to_live);
            if let CompareAndSet::Set(_) = set.await? {
                return Ok(());
            }
        }
    }
}

fn list_key(principal: &str) -> String {
    format!("operation/principal/{principal}")
}

pub(super) fn encode(value: &impl Serialize) -> Result<Bytes, BackendError> {
    let value = json::to_vec(value).map_err(BackendError::unavailable)?;
    Ok(value.into())
}

pub(super) fn decode<T: DeserializeOwned>(value: &Bytes) -> Result<T, BackendError> {
    serde_json::from_slice(value).map_err(BackendError::unreadable)
}
