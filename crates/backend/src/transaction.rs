use super::{BackendError, CompareAndSet, Enqueued, Entry, Envelope, Revision};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::any::{Any, type_name};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A backend that can write in a transaction of the application: the fourth port, which an adapter for an SQL database
/// implements. A message broker has no such transactions.
///
/// The application keeps its own tables in the same database, and its own pool of connections. What it writes to the
/// backend in one of its transactions exists if and only if that transaction commits. So an order and the task that
/// confirms it are stored together or not at all, without a table of messages that another process has to copy.
///
/// # Guarantees of an adapter
///
/// 1. Atomicity: everything that was written between [`join`](Self::join) and [`finish`](JoinedTransaction::finish)
///    takes effect with the commit of the transaction. After a rollback, also to a savepoint before `join`, after a lost
///    connection, and after a crash of the process, nothing of it has ever been there.
/// 2. Isolation: until the commit, no other connection sees a value, takes an envelope or gets a message. The
///    transaction itself sees what it has written.
/// 3. From the commit on, an envelope is delivered, a value is read, and a message is published as if they had been
///    written at the time of the commit by the other ports. Delays and times to live may begin earlier, at the time of
///    the call. Workers and listeners of the same process may learn of them by polling only.
/// 4. The transaction stays the application's. The adapter neither commits it nor rolls it back, and a call that fails
///    or is dropped leaves it as it was before `join`, so that it can be continued unless the database itself has ended
///    it.
/// 5. A connection of another type, to another database, or without a transaction is refused. Nothing has changed then.
///
/// `conformance::transactions` (feature `conformance`) checks all guarantees.
pub trait Transactional: Send + Sync + 'static {
    /// Joins the transaction that a connection of the application is in, with a savepoint.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the transaction is as it was before.
    ///
    /// # Errors
    ///
    /// [`BackendError::Refused`] for a connection that cannot be used, with the reason and what to do. Any other error
    /// means that the database has failed.
    fn join<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> BoxFuture<'c, Result<Box<dyn JoinedTransaction + 'c>, BackendError>>;
}

/// A transaction of the application that a backend has [joined](Transactional::join).
///
/// Dropping it undoes what was written through it, and nothing else of the transaction.
///
/// # Errors
///
/// The calls have the errors of the other ports. [`BackendError::Conflict`] means that the database cannot serve this
/// transaction because of another one: the application must roll its transaction back, and may repeat it. After any
/// error, a transaction must not be [finished](Self::finish).
pub trait JoinedTransaction: Send {
    /// Returns the value of a key and its revision, including what the transaction itself has written. See
    /// [`Store::get`](super::Store::get).
    fn get<'a>(&'a mut self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>>;

    /// Sets a value if the key still has the expected revision, or, with `None`, if the key is absent. See
    /// [`Store::compare_and_set`](super::Store::compare_and_set).
    ///
    /// If another transaction has written the key and has not ended yet, the call waits for its end or fails with
    /// [`BackendError::Conflict`].
    fn compare_and_set<'a>(
        &'a mut self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>>;

    /// Adds an envelope. See [`Queue::enqueue`](super::Queue::enqueue).
    fn enqueue(&mut self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>>;

    /// Publishes a message with the commit. See [`Bus::publish`](super::Bus::publish).
    fn publish<'a>(
        &'a mut self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Keeps what was written, as a part of the transaction. The transaction itself continues.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, what was written may or may not be a part of the transaction.
    fn finish<'a>(self: Box<Self>) -> BoxFuture<'a, Result<(), BackendError>>
    where
        Self: 'a;
}

/// A connection of the application, of a type that only the adapter knows: `sqlx::SqliteConnection`, for example. So the
/// packages that use a backend need not know the client of a database.
pub struct ApplicationConnection<'c> {
    connection: &'c mut (dyn Any + Send),
    type_name: &'static str,
}

impl<'c> ApplicationConnection<'c> {
    /// Wraps a connection, or a transaction that borrows nothing.
    #[must_use]
    pub fn new<C: Any + Send>(connection: &'c mut C) -> Self {
        Self {
            connection,
            type_name: type_name::<C>(),
        }
    }

    /// Whether the connection has the type `C`.
    #[must_use]
    pub fn is<C: Any>(&self) -> bool {
        self.connection.is::<C>()
    }

    /// Returns the connection if it has the type `C`.
    #[must_use]
    pub fn downcast<C: Any>(self) -> Option<&'c mut C> {
        self.connection.downcast_mut()
    }

    /// Returns the name of the type, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }
}

impl fmt::Debug for ApplicationConnection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApplicationConnection")
            .field(&self.type_name)
            .finish()
    }
}

impl<T: Transactional + ?Sized> Transactional for Arc<T> {
    fn join<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> BoxFuture<'c, Result<Box<dyn JoinedTransaction + 'c>, BackendError>> {
        (**self).join(connection)
    }
}
