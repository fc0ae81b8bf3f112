//! An instance of the layer: the state that the clones of a layer, its services and its handles share.

use super::changes::{CONSUMED, Changes, ENDED, REMOVED};
use super::claim;
use super::inner_call::to_its_end;
use super::limits::Limits;
use super::metrics;
use super::mount::Mount;
use super::observe;
use super::open;
use super::record::{Failure, Key, OperationStatus, RECORD_BYTES, Record};
use super::records::{Changed, Records, Tombstone, recheck};
use super::settings::Settings;
use super::turns::Turns;
use super::types::Types;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tower_promises_backend::kit::drain::{Drain, Running};
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::kit::topics::Listening;
use tower_promises_backend::{Backend, BackendError, BoxError};

/// How long a cancelling request waits until the work has been dropped. Work is only dropped later if it blocks its
/// thread.
pub(super) const DROP_PATIENCE: Duration = Duration::from_secs(1);

/// The shared state of a layer. A process usually has one instance.
pub(super) struct Instance {
    pub(super) settings: Settings,
    pub(super) records: Records,
    pub(super) changes: Changes,
    pub(super) limits: Arc<Limits>,
    pub(super) mount: Mount,
    /// The operations that this process runs. The channel of an operation closes when its work has been dropped.
    running: Mutex<HashMap<Key, watch::Receiver<()>>>,
    pub(super) drain: Arc<Drain>,
    /// The operations that clients of this process are cancelling, and how many do.
    cancelling: Mutex<HashMap<Key, usize>>,
    listening: Listening,
    /// The worker that tells ends. The first request starts it.
    pub(super) telling: Listening,
    pub(super) turns: Turns,
    /// Whether this process takes up runs, or the log has said that it does not.
    pub(super) is_known_to_work: AtomicBool,
    pub(super) types: Types,
}

/// The outcome of a look-up for one principal.
pub(super) enum Found {
    Record(Box<Record>),
    /// The operation has expired.
    Gone,
    /// There is no such operation, or it belongs to another principal.
    Unknown,
}

/// Marks an operation as running in this process, until dropped.
pub(super) struct Registration {
    pub(super) instance: Arc<Instance>,
    pub(super) key: Key,
    _running: Running,
    _counted: metrics::Counted,
    /// Closes when this is dropped.
    _dropped: watch::Sender<()>,
}

/// Marks an operation as being cancelled, until dropped.
struct Cancelling {
    instance: Arc<Instance>,
    key: Key,
}

impl Cancelling {
    fn begin(instance: Arc<Instance>, key: Key) -> Self {
        *lock(&instance.cancelling).entry(key.clone()).or_default() += 1;
        Self { instance, key }
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        let mut cancelling = lock(&self.instance.cancelling);
        let is_last = cancelling.get_mut(&self.key).is_none_or(|number| {
            *number -= 1;
            *number == 0
        });
        if is_last {
            cancelling.remove(&self.key);
        }
    }
}

impl Instance {
    pub(super) fn new(backend: Backend, settings: Settings) -> Arc<Self> {
        let (total, per_principal) = settings.shares();
        let limits = Limits::new(total, per_principal);
        Arc::new(Self {
            records: Records::new(backend, &settings),
            settings,
            changes: Changes::default(),
            limits: Arc::new(limits),
            mount: Mount::default(),
            running: Mutex::default(),
            drain: Arc::default(),
            cancelling: Mutex::default(),
            listening: Listening::default(),
            telling: Listening::default(),
            turns: Turns::default(),
            is_known_to_work: AtomicBool::new(false),
            types: Types::default(),
        })
    }

    /// Starts to listen to the bus, unless the listener runs already. Needs a runtime.
    pub(super) fn listen(&self) {
        let (changes, backend, limits) = (&self.changes, &self.records.backend, &self.limits);
        let listen = || changes.clone().listen(backend.clone(), limits.clone());
        let _ = self.listening.start(listen);
    }

    /// Returns the current record. Declares the operation lost if no instance renews its lease any more.
    pub(super) async fn read_or_declare_lost(
        &self,
        key: &Key,
    ) -> Result<Option<Record>, BackendError> {
        let is_running_here = lock(&self.running).contains_key(key);
        self.records
            .read_or_declare_lost(key, is_running_here)
            .await
    }

    /// Looks up an operation for a principal, which is given as a digest.
    pub(super) async fn find(
        &self,
        key: &Key,
        principal: Option<&str>,
    ) -> Result<Found, BackendError> {
        let may_see = |owner: Option<&str>| owner.is_none() || owner == principal;
        if let Some(record) = self.read_or_declare_lost(key).await? {
            return Ok(if may_see(record.principal.as_deref()) {
                Found::Record(record.into())
            } else {
                Found::Unknown
            });
        }
        let tombstone = self.records.backend.read(&key.tombstone()).await?;
        let may_see = |tombstone: Tombstone| may_see(tombstone.principal.as_deref());
        Ok(if tombstone.is_some_and(may_see) {
            Found::Gone
        } else {
            Found::Unknown
        })
    }

    /// Cancels an operation, if `may` allows it and the operation has not ended. Waits a moment until its work, if it
    /// runs in this process, has been dropped. Continues when the future is dropped, so that the work learns of the
    /// state in the store.
    pub(super) async fn cancel(
        self: &Arc<Self>,
        key: &Key,
        may: impl Fn(&Record) -> bool + Send + Sync + 'static,
    ) -> Result<Changed, BackendError> {
        let cancelling = Cancelling::begin(self.clone(), key.clone());
        to_its_end(async move {
            let (instance, key) = (&cancelling.instance, &cancelling.key);
            let changed = instance.cancel_now(key, may).await;
            if let Some(record) = cancelled_durable(&changed) {
                let code = record.error.as_ref().map(|error| &*error.code);
                observe::ended(key, record.status, code);
                // No process may run the operation now, so none would remove it from its lists, and none would tell
                // before the envelope of the end is due.
                let (instance, key, lists) =
                    (instance.clone(), key.clone(), open::lists_of(record));
                tokio::spawn(async move {
                    open::close(&instance.records, &instance.settings, &key, &lists).await;
                    if let Err(error) = instance.tell_end(&key).await {
                        observe::on_end_failed(&key, &*error);
                    }
                });
            }
            changed
        })
        .await
    }

    async fn cancel_now(
        &self,
        key: &Key,
        may: impl Fn(&Record) -> bool,
    ) -> Result<Changed, BackendError> {
        let retention = self.settings.retention;
        let changed = self.records.change(key, |record| {
            if record.status.is_terminal() || !may(record) {
                return false;
            }
            let error = Failure::new("Canceled", "The operation was cancelled.");
            record.end(OperationStatus::Cancelled, Some(error), retention);
            true
        });
        let changed = changed.await?;
        if let Changed::Yes(record) = &changed {
            metrics::ended(record);
            let dropped = lock(&self.running).get(key).cloned();
            self.announce(key, ENDED).await;
            if let Some(mut dropped) = dropped {
                // Returns an error when the sender has been dropped.
                let _ = timeout(DROP_PATIENCE, dropped.changed()).await;
            }
        }
        Ok(changed)
    }

    /// Whether a request cancels the operation and has not been answered yet.
    pub(super) fn is_being_cancelled(&self, key: &Key) -> bool {
        lock(&self.cancelling).contains_key(key)
    }

    /// Removes an operation that has ended. Returns whether this call has removed it. Continues when the future is
    /// dropped, so that no record is left behind.
    pub(super) async fn remove(
        self: &Arc<Self>,
        key: &Key,
        record: &Record,
    ) -> Result<bool, BackendError> {
        let (instance, key, record) = (self.clone(), key.clone(), record.clone());
        to_its_end(async move { instance.remove_now(&key, &record).await }).await
    }

    async fn remove_now(&self, key: &Key, record: &Record) -> Result<bool, BackendError> {
        // Nothing is told of an operation without a record.
        let told = self.tell_end(key).await;
        told.map_err(BackendError::unavailable)?;
        // The tombstone first: without the record it says that the operation has expired.
        self.records.backend.delete(&key.tombstone()).await?;
        let removed = self.records.backend.delete(&key.record()).await?;
        if removed {
            self.limits.forget(key);
            self.announce(key, REMOVED).await;
            // The operation is removed. A record that cannot be deleted now expires later.
            let log = |error| observe::backend_failed(key, &error);
            if let Some(stored) = record.result {
                let deleted = self.records.delete_result(key, stored).await;
                deleted.unwrap_or_else(log);
            }
            if let Some(durable) = &record.durable {
                let (backend, memory) = (&self.records.backend, key.memory());
                let deleted = durable.journal.delete(backend, &memory).await;
                deleted.unwrap_or_else(log);
                let deleted = backend.delete_pieces(&key.request(), durable.request).await;
                deleted.unwrap_or_else(log);
            }
            if let Some(claim) = &record.claim {
                let released = claim::release(&self.records.backend, claim, &record.id).await;
                released.unwrap_or_else(log);
            }
        }
        Ok(removed)
    }

    /// Tells the application of the end of an operation, unless that was done or the operation has not ended.
    pub(super) async fn tell_end(&self, key: &Key) -> Result<(), BoxError> {
        let Some(on_end) = &self.settings.on_end else {
            return Ok(());
        };
        let _turn = self.turns.wait(key).await;
        let Some((record, _)) = self.records.read(key).await? else {
            return Ok(());
        };
        if !record.untold || !record.status.is_terminal() {
            return Ok(());
        }
        timeout(recheck(self.settings.lease), on_end(record)).await??;
        // The document of the operation does not show this change, so its version stays.
        let told = |record: &mut Record| std::mem::take(&mut record.untold);
        self.records.change(key, told).await?;
        Ok(())
    }

    /// Removes a result that has been read.
    pub(super) fn consume(self: Arc<Self>, runtime: &Handle, key: Key) {
        runtime.spawn(async move {
            let changed = self.records.change(&key, |record| {
                // The status document and its version do not change.
                !std::mem::replace(&mut record.consumed, true)
            });
            let removed = match changed.await {
                Ok(Changed::Yes(Record {
                    result: Some(stored),
                    ..
                })) => {
                    self.limits.shrink(&key, RECORD_BYTES);
                    self.announce(&key, CONSUMED).await;
                    self.records.delete_result(&key, stored).await
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                observe::backend_failed(&key, &error);
            }
        });
    }

    /// Announces a change of an operation in all processes. A lost message only delays clients of other processes.
    pub(super) async fn announce(&self, key: &Key, message: &'static [u8]) {
        let topic = key.topic();
        self.changes.notify(&topic, message);
        let payload = Bytes::from_static(message);
        if let Err(error) = self.records.backend.publish(&topic, payload).await {
            observe::backend_failed(key, &error);
        }
    }

    /// Marks an operation as running in this process.
    pub(super) fn register(self: &Arc<Self>, key: &Key) -> Registration {
        let (sender, receiver) = watch::channel(());
        lock(&self.running).insert(key.clone(), receiver);
        Registration {
            instance: self.clone(),
            key: key.clone(),
            _running: self.drain.enter(),
            _counted: metrics::operation(),
            _dropped: sender,
        }
    }
}

/// Returns the record of a durable operation that is cancelled now.
fn cancelled_durable(changed: &Result<Changed, BackendError>) -> Option<&Record> {
    match changed {
        Ok(Changed::Yes(record)) if record.durable.is_some() => Some(record),
        _ => None,
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.instance.running).remove(&self.key);
    }
}
