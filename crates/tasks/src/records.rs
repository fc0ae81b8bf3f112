//! Access to the records of tasks in the store.

use super::TaskId;
use super::record::Record;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::documents::{self, Update};
use tower_promises_backend::{BackendError, Revision};

/// The records of tasks.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) backend: TimedBackend,
}

pub(super) type Changed = documents::Changed<Record>;

impl Records {
    pub(super) async fn read(&self, id: &TaskId) -> Result<Option<Record>, BackendError> {
        self.backend.read(&id.record()).await
    }

    /// Creates the record of a task. Returns `false` if there is one already.
    pub(super) async fn create(&self, id: &TaskId, record: &Record) -> Result<bool, BackendError> {
        let time_to_live = record.time_to_live();
        self.backend
            .create(&id.record(), record, time_to_live)
            .await
    }

    pub(super) async fn delete(&self, id: &TaskId) -> Result<(), BackendError> {
        self.backend.delete(&id.record()).await.map(drop)
    }

    /// Changes a record if `change` returns `true`.
    pub(super) async fn change(
        &self,
        id: &TaskId,
        change: impl FnMut(&mut Record) -> bool,
    ) -> Result<Changed, BackendError> {
        self.change_known(id, &mut None, change).await
    }

    /// Like [`change`](Self::change), but begins with a record that is known instead of reading it.
    pub(super) async fn change_known(
        &self,
        id: &TaskId,
        known: &mut Option<(Record, Revision)>,
        change: impl FnMut(&mut Record) -> bool,
    ) -> Result<Changed, BackendError> {
        self.backend
            .change_known(&id.record(), known, change_of(change))
            .await
    }
}

/// Returns the update of a record that `change` changes if it returns `true`.
pub(super) fn change_of(
    mut change: impl FnMut(&mut Record) -> bool,
) -> impl FnMut(Option<Record>) -> Update<Record, Changed> {
    move |found| {
        let Some(mut record) = found else {
            return Update::Keep(Changed::Gone);
        };
        if change(&mut record) {
            let time_to_live = record.time_to_live();
            Update::Set(record.clone(), time_to_live, Changed::Yes(record))
        } else {
            Update::Keep(Changed::No(record))
        }
    }
}
