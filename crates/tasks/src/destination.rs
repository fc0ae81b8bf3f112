//! The place to which a submission is written: the backend, or a transaction of the application.

use super::TaskId;
use super::news::News;
use super::record::{Letter, Record};
use super::records::{Changed, change_of};
use super::tasks::Core;
use std::time::Duration;
use tower_promises_backend::kit::documents;
use tower_promises_backend::kit::transaction::TimedTransaction;
use tower_promises_backend::{BackendError, Priority};

pub(super) trait Destination: Send {
    /// Returns the state of this process.
    fn core(&self) -> &Core;

    /// Creates the record of a task. Returns `false` if there is one already.
    fn create(
        &mut self,
        id: &TaskId,
        record: &Record,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Changes a record if `change` returns `true`.
    fn change(
        &mut self,
        id: &TaskId,
        change: impl FnMut(&mut Record) -> bool + Send,
    ) -> impl Future<Output = Result<Changed, BackendError>> + Send;

    /// Sends a letter on its way.
    fn send(
        &mut self,
        letter: &Letter,
        delay: Duration,
        priority: Priority,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Enqueues the tasks that have a slot of a limit, now or by a worker.
    fn fill_limit(
        &mut self,
        letter: &Letter,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Deletes a record whose task was refused.
    fn delete(&mut self, id: &TaskId) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Tells other processes of a change.
    fn announce(
        &mut self,
        id: &TaskId,
        news: News,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
}

impl Destination for &Core {
    fn core(&self) -> &Core {
        self
    }

    async fn create(&mut self, id: &TaskId, record: &Record) -> Result<bool, BackendError> {
        self.records.create(id, record).await
    }

    async fn change(
        &mut self,
        id: &TaskId,
        change: impl FnMut(&mut Record) -> bool + Send,
    ) -> Result<Changed, BackendError> {
        self.records.change(id, change).await
    }

    async fn send(
        &mut self,
        letter: &Letter,
        delay: Duration,
        priority: Priority,
    ) -> Result<(), BackendError> {
        Core::send(self, letter, delay, priority).await
    }

    async fn fill_limit(&mut self, letter: &Letter) -> Result<(), BackendError> {
        Core::fill_limit(self, letter).await
    }

    async fn delete(&mut self, id: &TaskId) -> Result<(), BackendError> {
        self.records.delete(id).await
    }

    async fn announce(&mut self, id: &TaskId, news: News) -> Result<(), BackendError> {
        Core::announce(self, id, news).await;
        Ok(())
    }
}

/// A transaction of the application. It is dropped after any error, which undoes the submission.
pub(super) struct Within<'c> {
    pub(super) core: &'c Core,
    pub(super) transaction: TimedTransaction<'c>,
}

impl Destination for &mut Within<'_> {
    fn core(&self) -> &Core {
        self.core
    }

    async fn create(&mut self, id: &TaskId, record: &Record) -> Result<bool, BackendError> {
        let time_to_live = record.time_to_live();
        documents::create(&mut self.transaction, &id.record(), record, time_to_live).await
    }

    async fn change(
        &mut self,
        id: &TaskId,
        change: impl FnMut(&mut Record) -> bool + Send,
    ) -> Result<Changed, BackendError> {
        documents::change(&mut self.transaction, &id.record(), change_of(change)).await
    }

    /// Enqueues a task also if it has a limit. The first worker that gets it after the commit lets it wait for a slot.
    /// Otherwise the transaction would hold the document of its key, for which workers would have to wait.
    async fn send(
        &mut self,
        letter: &Letter,
        delay: Duration,
        priority: Priority,
    ) -> Result<(), BackendError> {
        let envelope = self.core.envelope(letter)?.delay(delay).priority(priority);
        self.transaction.enqueue(envelope).await
    }

    /// Leaves it to a worker, for the same reason.
    async fn fill_limit(&mut self, letter: &Letter) -> Result<(), BackendError> {
        let reminder = letter.reminder();
        let envelope = self.core.envelope(&reminder)?.priority(letter.priority());
        self.transaction.enqueue(envelope).await
    }

    async fn delete(&mut self, _: &TaskId) -> Result<(), BackendError> {
        Ok(())
    }

    async fn announce(&mut self, id: &TaskId, news: News) -> Result<(), BackendError> {
        let payload = news.as_bytes().into();
        self.transaction.publish(&id.topic(), payload).await
    }
}
