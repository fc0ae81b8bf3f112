//! The record of an operation that a run owns.

use super::recollection::Recollection;
use crate::instance::Instance;
use crate::memory::{Durable, Entry};
use crate::record::{Key, Record};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{BackendError, Revision};

/// The latest known record. Locked during a change, so that the changes of a run follow each other.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) record: Record,
    pub(super) revision: Revision,
    /// Whether the store has this record, as far as is known.
    pub(super) is_current: bool,
}

/// The run does not own the operation any more, or the operation has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replaced;

/// What is needed to change a held record.
pub(super) struct Owner<'a> {
    pub(super) instance: &'a Instance,
    pub(super) key: &'a Key,
    pub(super) fence: &'a str,
    pub(super) memory: &'a Mutex<Recollection>,
    /// The number of parts that this run has tried to store.
    pub(super) parts: &'a AtomicU64,
}

impl Owner<'_> {
    /// Changes the record, unless `change` returns `None` and changes nothing. After an error the change may or may not be
    /// stored, and the next call finds out.
    pub(super) async fn change<T>(
        &self,
        held: &mut Held,
        mut change: impl FnMut(&mut Record, &mut Durable) -> Option<T>,
    ) -> Result<Result<Option<T>, Replaced>, BackendError> {
        loop {
            if !held.is_current && !self.read(held).await? {
                return Ok(Err(Replaced));
            }
            let record = &mut held.record;
            let Some(mut durable) = record.durable.take() else {
                return Ok(Err(Replaced));
            };
            let changed = change(record, &mut durable);
            let of_parts = record.time_to_live_of_parts();
            let durable = record.durable.insert(durable);
            let Some(result) = changed else {
                return Ok(Ok(None));
            };
            // The record is changed in place. If it is not stored, it is read again.
            held.is_current = false;
            let backend = &self.instance.records.backend;
            let part = self.parts.fetch_add(1, Ordering::Relaxed);
            let part = format!("{}-{part}", self.fence);
            let (memory, journal) = (self.key.memory(), &mut durable.journal);
            journal.move_out(backend, &memory, part, of_parts).await?;
            let (name, value) = (self.key.record(), encode(record)?);
            let time_to_live = record.time_to_live();
            let set = backend.compare_and_set(&name, Some(held.revision), value, time_to_live);
            if let Some(revision) = set.await? {
                held.revision = revision;
                held.is_current = true;
                return Ok(Ok(Some(result)));
            }
        }
    }

    /// Reads the record again, and learns what other processes have stored. Returns whether the run still owns it.
    pub(super) async fn read(&self, held: &mut Held) -> Result<bool, BackendError> {
        let Some((record, revision)) = self.instance.records.read(self.key).await? else {
            return Ok(false);
        };
        let is_owner = record
            .durable
            .as_ref()
            .is_some_and(|durable| durable.fence == self.fence);
        if record.status.is_terminal() || !is_owner {
            held.record = record;
            return Ok(false);
        }
        self.learn(&record).await?;
        *held = Held {
            record,
            revision,
            is_current: true,
        };
        Ok(true)
    }

    async fn learn(&self, record: &Record) -> Result<(), BackendError> {
        let Some(durable) = &record.durable else {
            return Ok(());
        };
        let journal = &durable.journal;
        let known = lock(self.memory).known;
        if journal.len() == known {
            return Ok(());
        }
        let read;
        let new: &[Entry] = match journal.after(known) {
            Some(new) => new,
            None => {
                let backend = &self.instance.records.backend;
                read = journal.read(backend, &self.key.memory()).await?;
                &read
            }
        };
        let mut memory = lock(self.memory);
        (memory.known, memory.bytes) = (journal.len(), journal.bytes());
        memory.learn(new);
        Ok(())
    }
}
