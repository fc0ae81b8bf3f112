//! A list of entries that only grows, inside of a document in the store.
//!
//! # Why this is not a port
//!
//! The memory of a durable operation needs: appends by one owner at a time, where an owner that was replaced can append
//! nothing more; all entries in one call; a bound; removal; expiry with the operation. Compare-and-set on one document
//! provides the first two in every [`Store`](crate::Store): the document names its owner, each append replaces the
//! document at a known revision, and a new owner writes its name the same way. From that write on, the revision that
//! the former owner knows is gone. A document for each entry would need a transaction over two keys to check the
//! owner, and NATS has none. So no adapter has to learn anything new, and `conformance::journal` needs only a store.
//!
//! # Cost
//!
//! A document with all entries would be written again with each of them: 1,000 entries of 1 kB would be half a gigabyte.
//! So the document has the latest entries only. When these exceed 8 KiB, they move to a *part*: a value of its own, which
//! is stored before the document that refers to it and never changes. An append writes 8 KiB at most beyond its own
//! size, and 1,000 entries of 1 kB are about 5 MB of writes. A read is one call for the document, and one for each part.
//!
//! # Safety
//!
//! The name of a part is unique for each attempt to store it. So a write that arrives late, because its owner was
//! suspended or its answer was lost, changes no part that a document refers to. A part to which no document refers
//! expires.

use super::deadline::TimedBackend;
use super::documents::encode;
use super::pieces::Pieces;
use crate::BackendError;
use futures_util::future::try_join_all;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The largest size of the entries in the document itself.
const LATEST_BYTES: usize = 8 * 1024;

/// The number of parts that are read at the same time.
const PARALLEL_READS: usize = 16;

/// The part of a journal that is in its document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal<E> {
    /// The earlier entries, oldest first.
    parts: Vec<Part>,
    latest: Vec<E>,
    latest_bytes: usize,
    /// The number of all entries.
    number: usize,
    /// The size of all entries.
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Part {
    name: String,
    pieces: Pieces,
}

impl Part {
    async fn read<E: DeserializeOwned>(
        &self,
        backend: &TimedBackend,
        prefix: &str,
    ) -> Result<Vec<E>, BackendError> {
        let prefix = format!("{prefix}/{}", self.name);
        let value = backend.get_pieces(&prefix, self.pieces).await?;
        let value = value.ok_or_else(|| BackendError::unavailable("a part is missing"))?;
        serde_json::from_slice(&value).map_err(BackendError::unreadable)
    }
}

impl<E> Default for Journal<E> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            latest: Vec::new(),
            latest_bytes: 0,
            number: 0,
            bytes: 0,
        }
    }
}

impl<E> Journal<E> {
    pub fn len(&self) -> usize {
        self.number
    }

    pub fn is_empty(&self) -> bool {
        self.number == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry of this size. The caller then stores the document.
    pub fn push(&mut self, entry: E, bytes: usize) {
        self.latest.push(entry);
        self.latest_bytes += bytes;
        self.number += 1;
        self.bytes += bytes;
    }

    /// Returns the entries after the first `known`, if they are in the document itself.
    pub fn after(&self, known: usize) -> Option<&[E]> {
        let missing = self.number.checked_sub(known)?;
        let first = self.latest.len().checked_sub(missing)?;
        Some(&self.latest[first..])
    }

    /// Deletes the parts.
    pub async fn delete(&self, backend: &TimedBackend, prefix: &str) -> Result<(), BackendError> {
        for part in &self.parts {
            let prefix = format!("{prefix}/{}", part.name);
            backend.delete_pieces(&prefix, part.pieces).await?;
        }
        Ok(())
    }
}

impl<E: Serialize + DeserializeOwned> Journal<E> {
    /// Moves the entries of the document to a part if they are too large. Called after [`push`](Self::push) and before
    /// the document is stored. `unique` is never used again. The part must live at least as long as the document.
    pub async fn move_out(
        &mut self,
        backend: &TimedBackend,
        prefix: &str,
        unique: impl Into<String>,
        time_to_live: Duration,
    ) -> Result<(), BackendError> {
        if self.latest_bytes <= LATEST_BYTES {
            return Ok(());
        }
        let name = unique.into();
        let value = encode(&self.latest)?;
        let prefix = format!("{prefix}/{name}");
        let pieces = backend.put_pieces(&prefix, value, time_to_live).await?;
        self.parts.push(Part { name, pieces });
        self.latest.clear();
        self.latest_bytes = 0;
        Ok(())
    }

    /// Returns all entries, oldest first.
    pub async fn read(&self, backend: &TimedBackend, prefix: &str) -> Result<Vec<E>, BackendError>
    where
        E: Clone,
    {
        let mut entries = Vec::with_capacity(self.number);
        for parts in self.parts.chunks(PARALLEL_READS) {
            let parts = parts.iter().map(|part| part.read::<E>(backend, prefix));
            for part in try_join_all(parts).await? {
                entries.extend(part);
            }
        }
        entries.extend_from_slice(&self.latest);
        Ok(entries)
    }
}
