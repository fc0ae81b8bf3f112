//! Serde values in the store, changed with compare-and-set.

use super::deadline::TimedBackend;
use super::transaction::TimedTransaction;
use crate::kit::json;
use crate::{BackendError, Entry, Revision};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The maximum number of attempts of a change. Another writer succeeds in each lost attempt, so only a broken store
/// comes near this number.
const ATTEMPTS: usize = 1000;

/// The decision of a change.
#[derive(Debug)]
pub enum Update<V, T> {
    /// Writes nothing.
    Keep(T),
    /// Writes a value with this time to live.
    Set(V, Duration, T),
}

/// The result of a change that applies to some values only.
#[derive(Debug)]
pub enum Changed<V> {
    /// The value was changed.
    Yes(V),
    /// The change did not apply to this value.
    No(V),
    /// There is no value.
    Gone,
}

impl<V> Changed<V> {
    pub fn value(self) -> Option<V> {
        match self {
            Self::Yes(value) | Self::No(value) => Some(value),
            Self::Gone => None,
        }
    }
}

/// A place for documents: the store, or a transaction of the application.
pub trait Documents: Send {
    fn entry(
        &mut self,
        key: &str,
    ) -> impl Future<Output = Result<Option<Entry>, BackendError>> + Send;

    /// Sets a value if the key has the expected revision, or no value for `None`. Returns the new revision if the value
    /// was set.
    fn replace(
        &mut self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> impl Future<Output = Result<Option<Revision>, BackendError>> + Send;
}

impl Documents for &TimedBackend {
    async fn entry(&mut self, key: &str) -> Result<Option<Entry>, BackendError> {
        self.get(key).await
    }

    async fn replace(
        &mut self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<Option<Revision>, BackendError> {
        self.compare_and_set(key, expected, value, time_to_live)
            .await
    }
}

impl Documents for TimedTransaction<'_> {
    async fn entry(&mut self, key: &str) -> Result<Option<Entry>, BackendError> {
        self.get(key).await
    }

    async fn replace(
        &mut self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<Option<Revision>, BackendError> {
        self.compare_and_set(key, expected, value, time_to_live)
            .await
    }
}

/// Reads a value and its revision.
pub async fn read<V: DeserializeOwned>(
    documents: &mut impl Documents,
    key: &str,
) -> Result<Option<(V, Revision)>, BackendError> {
    let Some(entry) = documents.entry(key).await? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&entry.value).map_err(BackendError::unreadable)?;
    Ok(Some((value, entry.revision)))
}

/// Writes a value if there is none. Returns whether it was written.
pub async fn create(
    documents: &mut impl Documents,
    key: &str,
    value: &impl Serialize,
    time_to_live: Duration,
) -> Result<bool, BackendError> {
    let value = encode(value)?;
    let created = documents.replace(key, None, value, time_to_live);
    Ok(created.await?.is_some())
}

/// Reads a value and replaces it. Starts over if another writer was faster.
pub async fn change<V, T>(
    documents: &mut impl Documents,
    key: &str,
    change: impl FnMut(Option<V>) -> Update<V, T>,
) -> Result<T, BackendError>
where
    V: Serialize + DeserializeOwned,
{
    change_known(documents, key, &mut None, change).await
}

/// Like [`change`], but begins with a value that is known instead of reading it. Afterwards, the value that was written is
/// known. `change` may see a value that is out of date. It is then called again: nothing is written, and nothing is kept,
/// because of such a value.
pub async fn change_known<V, T>(
    documents: &mut impl Documents,
    key: &str,
    known: &mut Option<(V, Revision)>,
    mut change: impl FnMut(Option<V>) -> Update<V, T>,
) -> Result<T, BackendError>
where
    V: Serialize + DeserializeOwned,
{
    for _ in 0..ATTEMPTS {
        // Not known any more if this future fails or is dropped.
        let known_before = known.take();
        let is_read = known_before.is_none();
        let found = match known_before {
            None => read(documents, key).await?,
            known => known,
        };
        let (found, expected) = found.unzip();
        match change(found) {
            Update::Keep(result) if is_read => return Ok(result),
            Update::Keep(_) => {}
            Update::Set(value, time_to_live, result) => {
                let encoded = encode(&value)?;
                let replaced = documents.replace(key, expected, encoded, time_to_live);
                if let Some(revision) = replaced.await? {
                    *known = Some((value, revision));
                    return Ok(result);
                }
            }
        }
    }
    Err(BackendError::unavailable(format!(
        "`{key}` changes too fast"
    )))
}

impl TimedBackend {
    pub async fn read<V: DeserializeOwned>(&self, key: &str) -> Result<Option<V>, BackendError> {
        Ok(self.read_revision(key).await?.map(|(value, _)| value))
    }

    /// Reads a value and its revision, for [`set`](Self::set).
    pub async fn read_revision<V: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(V, Revision)>, BackendError> {
        read(&mut &*self, key).await
    }

    /// Writes a value if there is none. Returns whether it was written.
    pub async fn create(
        &self,
        key: &str,
        value: &impl Serialize,
        time_to_live: Duration,
    ) -> Result<bool, BackendError> {
        create(&mut &*self, key, value, time_to_live).await
    }

    /// Reads a value and replaces it. Starts over if another writer was faster.
    pub async fn change<V, T>(
        &self,
        key: &str,
        update: impl FnMut(Option<V>) -> Update<V, T>,
    ) -> Result<T, BackendError>
    where
        V: Serialize + DeserializeOwned,
    {
        change(&mut &*self, key, update).await
    }

    /// Like [`change`](Self::change), but begins with a value that is known, see [`change_known`].
    pub async fn change_known<V, T>(
        &self,
        key: &str,
        known: &mut Option<(V, Revision)>,
        update: impl FnMut(Option<V>) -> Update<V, T>,
    ) -> Result<T, BackendError>
    where
        V: Serialize + DeserializeOwned,
    {
        change_known(&mut &*self, key, known, update).await
    }
}

/// Returns the stored form of a value.
pub fn encode(value: &impl Serialize) -> Result<Bytes, BackendError> {
    let value = json::to_vec(value).map_err(BackendError::unavailable)?;
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;
    use futures_util::FutureExt;

    const LONG: Duration = Duration::from_secs(60);

    fn add(found: Option<u32>) -> Update<u32, u32> {
        let sum = found.unwrap_or_default() + 1;
        Update::Set(sum, LONG, sum)
    }

    #[tokio::test]
    async fn a_document_is_created_once_changed_and_deleted() {
        let backend = TimedBackend::new(Backend::memory(), LONG);
        assert_eq!(backend.read::<u32>("key").await.ok(), Some(None));
        assert_eq!(backend.create("key", &1, LONG).await.ok(), Some(true));
        assert_eq!(backend.create("key", &5, LONG).await.ok(), Some(false));
        assert_eq!(backend.change("key", add).await.ok(), Some(2));
        assert_eq!(backend.read("key").await.ok(), Some(Some(2)));
        let unreadable = backend.read::<String>("key").await;
        assert!(matches!(unreadable, Err(BackendError::Unreadable { .. })));
        assert_eq!(backend.delete("key").await.ok(), Some(true));
        assert_eq!(backend.change("key", add).await.ok(), Some(1));
    }

    #[tokio::test]
    async fn a_change_of_a_known_value_reads_only_if_that_is_out_of_date() {
        let backend = TimedBackend::new(Backend::memory(), LONG);
        let mut known = None;
        let mut seen = Vec::new();
        for is_changed_elsewhere in [false, false, true, false] {
            if is_changed_elsewhere {
                assert!(backend.change("key", add).await.is_ok());
            }
            let add = |found| {
                seen.push(found);
                add(found)
            };
            assert!(backend.change_known("key", &mut known, add).await.is_ok());
        }
        assert_eq!(seen, [None, Some(1), Some(2), Some(3), Some(4)]);

        // What is kept is decided by what the store has.
        assert!(backend.delete("key").await.is_ok());
        let keep = |found: Option<u32>| Update::<u32, _>::Keep(found);
        let kept = backend.change_known("key", &mut known, keep).await;
        assert_eq!(kept.ok(), Some(None));
    }

    #[tokio::test]
    async fn a_change_starts_over_if_another_writer_is_faster_and_gives_up_at_last() {
        let backend = TimedBackend::new(Backend::memory(), LONG);
        let mut faster = 0;
        let change = |found: Option<u32>| {
            if faster < 2 {
                faster += 1;
                let other = backend.change("key", add).now_or_never();
                assert!(matches!(other, Some(Ok(_))));
            }
            add(found)
        };
        assert_eq!(backend.change("key", change).await.ok(), Some(3));
        let never = |found: Option<u32>| {
            let other = backend.change("key", add).now_or_never();
            assert!(matches!(other, Some(Ok(_))));
            add(found)
        };
        let given_up = backend.change("key", never).await;
        assert!(matches!(given_up, Err(BackendError::Unavailable { .. })));
    }
}
