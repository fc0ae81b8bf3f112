//! Operations in the store.

use super::absence::Absences;
use super::record::{Failure, Key, Record};
use super::status::Status;
use tower_promises_backend::{Backend, BackendError, CompareAndSet, Entry, Revision, deadline};
use tower_promises_backend::kit::json;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How many of a principal's operations are listed.
pub(super) const MAX_LISTED: usize = 256;

/// How many of them are kept. Requests that are refused leave the list again. The difference is how many of them can be in
/// it at the same time without pushing out one that is listed.
const MAX_KEPT: usize = 2 * MAX_LISTED;

/// The store as operations use it: each answer has its time and no more.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) backend: Backend,
    pub(super) timeout: Duration,
    /// How long a record is kept after its end.
    pub(super) retention: Duration,
    pub(super) lease: Duration,
    /// Leases of other processes that were absent.
    pub(super) absences: Arc<Absences>,
}

/// What became of a change.
#[derive(Debug)]
pub(super) enum Changed {
    /// It took effect.
    Yes(Record),
    /// It did not apply to what was found.
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

/// What is left of an operation whose time is over.
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

    /// Makes an operation known to all instances.
    pub(super) async fn create(&self, key: &Key, record: &Record) -> Result<(), BackendError> {
        self.bury(key, record).await?;
        // The lease first: a record without one is lost.
        self.renew_lease(key).await?;
        let (name, value) = (key.record(), encode(record)?);
        let set = self.set(&name, None, value, record.time_to_live());
        match set.await? {
            CompareAndSet::Set(_) => Ok(()),
            // 128 random bits do not come twice.
            CompareAndSet::Conflict => Err(BackendError::unavailable("the id is taken")),
        }
    }

    /// Sees to it that the owner is told, once the record is gone, that it was there.
    async fn bury(&self, key: &Key, record: &Record) -> Result<(), BackendError> {
        let tombstone = Tombstone {
            principal: record.principal.clone(),
        };
        let time_to_live = record.time_to_live().saturating_add(self.retention);
        self.put(&key.tombstone(), encode(&tombstone)?, time_to_live)
            .await
    }

    /// The record as the store has it, unless the operation is forgotten.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<(Record, Revision)>, BackendError> {
        let Some(entry) = self.get(&key.record()).await? else {
            return Ok(None);
        };
        let record: Record = decode(&entry.value)?;
        Ok((!record.forgotten).then_some((record, entry.revision)))
    }

    /// The record, which is ended as lost if no instance renews its lease any more.
    ///
    /// One look at the lease is not enough: the clock of the store may be wrong for a moment, after that of the machine was
    /// set, and a living owner renews the lease whether or not it is there. So it has to stay absent for as long as it lasts.
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
        // Its end may have come between the two questions, so this asks again.
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

    /// Changes a record until that succeeds, or until `change` says that there is nothing to change.
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
                    // Somebody has ended and removed it meanwhile, and what that leaves is to be unknown.
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
                // Before its end is seen, or who removes it then would find it buried afterwards. Where this fails,
                // the one from the beginning stays, which lasts longer.
                let _ = self.bury(key, &record).await;
                has_buried = true;
            }
            let set = self.set(&name, Some(revision), value, record.time_to_live());
            // A conflict says that somebody else has made progress, so this ends.
            if let CompareAndSet::Conflict = set.await? {
                continue;
            }
            return Ok(Changed::Yes(record));
        }
    }

    /// Adds an operation to those of its principal, and forgets the oldest of too many.
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

    /// Takes an operation out of those of its principal.
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

    /// The ids of a principal's operations, oldest first. Some of them may be gone.
    pub(super) async fn list(&self, principal: &str) -> Result<Vec<String>, BackendError> {
        let entry = self.get(&list_key(principal)).await?;
        entry.map_or_else(|| Ok(Vec::new()), |entry| decode(&entry.value))
    }

    /// Changes the list until that succeeds, or until `change` says that there is nothing to change.
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
