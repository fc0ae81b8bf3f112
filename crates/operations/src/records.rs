//! The records of operations in the store.

use super::absence::Absences;
use super::metrics;
use super::observe;
use super::progress::Report;
use super::record::{Failure, Key, OperationStatus, Record, Requester, random};
use super::settings::Settings;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::backoff::retry;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::documents::{self, Update, encode};
use tower_promises_backend::{Backend, BackendError, Envelope, Revision};

/// The largest number of listed operations of a principal.
pub(super) const MAX_LISTED: usize = 256;

/// The largest number of stored ids in a list. A refused request removes its id again. The difference to [`MAX_LISTED`]
/// is the number of such requests that can run at the same time without pushing out a listed operation.
const MAX_KEPT: usize = 2 * MAX_LISTED;

/// The queue with an envelope for each operation whose end the application is told of.
pub(super) const END_QUEUE: &str = "operation/end";

/// The store, with a timeout on each call.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) backend: TimedBackend,
    /// How long a record is kept after its end.
    retention: Duration,
    lease: Duration,
    /// The longest time between the acceptance of an operation and its end in the store.
    longest: Duration,
    /// The time between two checks whether an operation has ended, if the application is told of ends.
    recheck: Option<Duration>,
    /// Expired leases of other processes.
    absences: Arc<Absences>,
}

pub(super) type Changed = documents::Changed<Record>;

/// The record of an expired operation.
#[derive(Serialize, Deserialize)]
pub(super) struct Tombstone {
    pub(super) principal: Option<String>,
}

impl Records {
    pub(super) fn new(backend: Backend, settings: &Settings) -> Self {
        Self {
            backend: TimedBackend::new(backend, settings.backend_timeout),
            retention: settings.retention,
            lease: settings.lease,
            longest: settings.longest(),
            recheck: settings.on_end.is_some().then(|| recheck(settings.lease)),
            absences: Arc::default(),
        }
    }

    /// Takes the lease of an operation, or renews it.
    pub(super) async fn renew_lease(&self, key: &Key) -> Result<(), BackendError> {
        let key = key.lease();
        self.backend.put(&key, Bytes::new(), self.lease).await
    }

    /// Creates and stores an operation, for all instances. `claim` is the name of its idempotency key in the store.
    pub(super) async fn create(
        &self,
        requester: Requester,
        report: Report,
        claim: Option<String>,
    ) -> Result<(Key, Record), BackendError> {
        let (id, token) = (random()?, random()?);
        let mut record = Record::new(id, token, requester, self.longest);
        record.report(&report);
        record.in_flight = claim.is_some();
        record.claim = claim;
        let key = Key::of(&record.id);
        self.watch_end(&key, &mut record).await?;
        self.bury(&key, &record).await?;
        // The lease is stored first, because a record without a lease is lost.
        self.renew_lease(&key).await?;
        let (name, time_to_live) = (key.record(), record.time_to_live());
        if !self.backend.create(&name, &record, time_to_live).await? {
            // 128 random bits do not come twice.
            return Err(BackendError::unavailable("the id is taken"));
        }
        if let Some(principal) = &record.principal {
            if let Err(error) = self.list_add(principal, &record.id).await {
                observe::backend_failed(&key, &error);
            }
        }
        Ok((key, record))
    }

    /// Adds the envelope that survives this process and tells the application of the end, if it is to be told. The caller
    /// stores the record afterwards, so that no end remains untold. The envelope of an operation that does not exist is
    /// without effect.
    pub(super) async fn watch_end(
        &self,
        key: &Key,
        record: &mut Record,
    ) -> Result<(), BackendError> {
        let Some(recheck) = self.recheck else {
            return Ok(());
        };
        record.untold = true;
        // A durable operation may end more than once.
        let turn = record.durable.as_ref().map_or(1, |durable| durable.turn);
        let id = format!("{}/{turn}", key.as_str());
        let payload = Bytes::copy_from_slice(key.as_str().as_bytes());
        let envelope = Envelope::new(END_QUEUE, id, payload).delay(recheck);
        self.backend.enqueue(envelope).await
    }

    /// Removes all records of an operation that has no result and whose id no client has.
    pub(super) async fn discard(&self, record: &Record) {
        let key = Key::of(&record.id);
        for name in [key.record(), key.tombstone(), key.lease()] {
            if let Err(error) = self.backend.delete(&name).await {
                observe::backend_failed(&key, &error);
            }
        }
        if let Some(principal) = &record.principal {
            if let Err(error) = self.list_remove(principal, &record.id).await {
                observe::backend_failed(&key, &error);
            }
        }
    }

    /// Stores a tombstone, so that the owner gets 410 after the record has expired.
    pub(super) async fn bury(&self, key: &Key, record: &Record) -> Result<(), BackendError> {
        let tombstone = Tombstone {
            principal: record.principal.clone(),
        };
        let time_to_live = record.time_to_live().saturating_add(self.retention);
        let (key, value) = (key.tombstone(), encode(&tombstone)?);
        self.backend.put(&key, value, time_to_live).await
    }

    /// Returns the stored record, unless the operation is forgotten.
    pub(super) async fn read(&self, key: &Key) -> Result<Option<(Record, Revision)>, BackendError> {
        let found: Option<(Record, _)> = self.backend.read_revision(&key.record()).await?;
        Ok(found.filter(|(record, _)| !record.forgotten))
    }

    /// Returns the record. Declares the operation lost if no instance renews its lease any more.
    ///
    /// One look-up of the lease is not enough: the clock of the store may be wrong for a moment after the clock of the
    /// machine was set, and a living owner renews the lease even if it is absent. So the lease must stay absent for its
    /// whole duration.
    pub(super) async fn read_or_declare_lost(
        &self,
        key: &Key,
        is_running_here: bool,
    ) -> Result<Option<Record>, BackendError> {
        let Some((record, _)) = self.read(key).await? else {
            self.absences.forget(key);
            return Ok(None);
        };
        // A durable operation has no lease: it continues in another process.
        let is_safe = record.status.is_terminal() || record.durable.is_some();
        if is_safe || is_running_here || self.backend.get(&key.lease()).await?.is_some() {
            self.absences.forget(key);
            return Ok(Some(record));
        }
        if !self.absences.note(key, self.lease) {
            return Ok(Some(record));
        }
        self.declare_lost(key).await
    }

    /// Ends an operation that no instance runs any more, and returns its record.
    async fn declare_lost(&self, key: &Key) -> Result<Option<Record>, BackendError> {
        // The end may have been stored since the record was read, so the change checks the status again.
        let changed = self.change(key, |record| {
            if record.status.is_terminal() {
                return false;
            }
            let lost = "The server that worked on the request is gone.";
            let lost = Failure::new("Lost", lost);
            record.end(OperationStatus::Failed, Some(lost), self.retention);
            true
        });
        let changed = changed.await?;
        if let Changed::Yes(record) = &changed {
            metrics::ended(record);
        }
        let record = changed.value();
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
            let Some((mut record, revision)) = self.read(key).await? else {
                if has_buried {
                    // Another request has removed the operation meanwhile. A removed operation is unknown, not expired.
                    self.backend.delete(&key.tombstone()).await?;
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
            let time_to_live = record.time_to_live();
            let set = self.backend.set(&name, Some(revision), value, time_to_live);
            // After a conflict another change is stored, so the loop ends.
            if set.await? {
                return Ok(Changed::Yes(record));
            }
        }
    }

    /// Adds an operation to the list of its principal, and drops the oldest ids beyond [`MAX_KEPT`].
    pub(super) async fn list_add(&self, principal: &str, id: &str) -> Result<(), BackendError> {
        self.list_change(principal, |ids| {
            ids.push(id.to_owned());
            let surplus = ids.len().saturating_sub(MAX_KEPT);
            ids.drain(..surplus);
            true
        })
        .await
    }

    /// Removes an operation from the list of its principal.
    async fn list_remove(&self, principal: &str, id: &str) -> Result<(), BackendError> {
        self.list_change(principal, |ids| {
            let before = ids.len();
            ids.retain(|listed| listed != id);
            ids.len() < before
        })
        .await
    }

    /// Returns the ids of a principal's operations, oldest first. The operations may no longer exist.
    pub(super) async fn list(&self, principal: &str) -> Result<Vec<String>, BackendError> {
        let ids = self.backend.read(&list_key(principal)).await?;
        Ok(ids.unwrap_or_default())
    }

    /// Changes the list, unless `change` returns `false`.
    async fn list_change(
        &self,
        principal: &str,
        mut change: impl FnMut(&mut Vec<String>) -> bool,
    ) -> Result<(), BackendError> {
        let update = |found: Option<Vec<String>>| {
            let mut ids = found.unwrap_or_default();
            match change(&mut ids) {
                true => Update::Set(ids, self.longest, ()),
                false => Update::Keep(()),
            }
        };
        self.backend.change(&list_key(principal), update).await
    }
}

/// Returns the time between two checks whether an operation has ended. The process that runs an operation tells its end
/// at once. The checks are for processes that have died.
pub(super) fn recheck(lease: Duration) -> Duration {
    Duration::from_secs(15).max(lease.saturating_mul(2))
}

fn list_key(principal: &str) -> String {
    format!("operation/principal/{principal}")
}

/// Retries a backend call for an operation, a limited number of times.
pub(super) async fn repeat<T, F>(key: &Key, call: impl FnMut() -> F) -> Result<T, BackendError>
where
    F: Future<Output = Result<T, BackendError>>,
{
    retry(call, |error| observe::backend_failed(key, error)).await
}
