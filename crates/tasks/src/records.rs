//! Access to the records of tasks in the store.

use super::TaskId;
use super::record::Record;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tower_promises_backend::kit::deadline;
use tower_promises_backend::kit::json;
use tower_promises_backend::{Backend, BackendError, CompareAndSet, Entry, Revision};

/// The maximum number of compare-and-set attempts of an update.
const ATTEMPTS: usize = 100;

/// The store, with a timeout for each call.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) backend: Backend,
    pub(super) timeout: Duration,
}

/// The result of a change.
#[derive(Debug)]
pub(super) enum Changed {
    /// The record was changed.
    Yes(Record),
    /// The change did not apply to this record.
    No(Record),
    /// There is no record.
    Gone,
}

impl Records {
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        deadline::in_time(self.timeout, answer).await
    }

    async fn set(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<CompareAndSet, BackendError> {
        let store = self.backend.store();
        self.in_time(store.compare_and_set(key, expected, value, Some(time_to_live)))
            .await
    }

    pub(super) async fn find(&self, id: &TaskId) -> Result<Option<Record>, BackendError> {
        let entry = self.entry(&id.record()).await?;
        entry.map(|entry| decode(&entry.value)).transpose()
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>, BackendError> {
        self.in_time(self.backend.store().get(key)).await
    }

    /// Creates the record of a task. Returns `false` if there is one already.
    pub(super) async fn create(&self, id: &TaskId, record: &Record) -> Result<bool, BackendError> {
        let (key, value) = (id.record(), encode(record)?);
        let set = self.set(&key, None, value, record.time_to_live()).await?;
        Ok(matches!(set, CompareAndSet::Set(_)))
    }

    pub(super) async fn delete(&self, id: &TaskId) -> Result<(), BackendError> {
        let key = id.record();
        let deleted = self.in_time(self.backend.store().delete(&key));
        deleted.await.map(drop)
    }

    /// Changes a record if `change` returns `true`.
    pub(super) async fn change(
        &self,
        id: &TaskId,
        mut change: impl FnMut(&mut Record) -> bool,
    ) -> Result<Changed, BackendError> {
        let update = |found: Option<Record>| {
            let Some(mut record) = found else {
                return Update::Keep(Changed::Gone);
            };
            if change(&mut record) {
                let time_to_live = record.time_to_live();
                Update::Set(record.clone(), time_to_live, Changed::Yes(record))
            } else {
                Update::Keep(Changed::No(record))
            }
        };
        self.update(&id.record(), update).await
    }

    /// Reads a value and replaces it with compare-and-set. Starts over if another writer was faster.
    pub(super) async fn update<V, T>(
        &self,
        key: &str,
        mut update: impl FnMut(Option<V>) -> Update<V, T>,
    ) -> Result<T, BackendError>
    where
        V: Serialize + DeserializeOwned,
    {
        for _ in 0..ATTEMPTS {
            let found = self.entry(key).await?;
            let expected = found.as_ref().map(|entry| entry.revision);
            let found = found.map(|entry| decode(&entry.value)).transpose()?;
            match update(found) {
                Update::Keep(result) => return Ok(result),
                Update::Set(value, time_to_live, result) => {
                    let set = self.set(key, expected, encode(&value)?, time_to_live);
                    if let CompareAndSet::Set(_) = set.await? {
                        return Ok(result);
                    }
                }
            }
        }
        Err(BackendError::unavailable(format!(
            "`{key}` changes too fast"
        )))
    }
}

/// The decision of an update.
pub(super) enum Update<V, T> {
    Keep(T),
    Set(V, Duration, T),
}

pub(super) fn encode(value: &impl Serialize) -> Result<Bytes, BackendError> {
    let value = json::to_vec(value).map_err(BackendError::unavailable)?;
    Ok(value.into())
}

pub(super) fn decode<V: DeserializeOwned>(value: &[u8]) -> Result<V, BackendError> {
    serde_json::from_slice(value).map_err(BackendError::unreadable)
}
