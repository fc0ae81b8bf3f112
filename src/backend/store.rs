use super::BackendError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The port for small values that all processes share.
///
/// # What an adapter guarantees
///
/// 1. One truth: once a call has resolved, every later [`get`](Self::get) and
///    [`compare_and_set`](Self::compare_and_set), on any machine, sees what it did. Calls that change one
///    key at once act as if they came one after the other.
/// 2. The [`Revision`]s of a key rise with each change, also across deletion and expiry, so a revision never
///    means two values.
/// 3. A value whose time to live is over is absent for all calls. The time may be up to one second longer
///    than asked for, never shorter, also where the clock of a machine is set meanwhile: leases are made of it. An adapter
///    says where it cannot see that.
/// 4. Keys follow the rules of [`check_name`](super::check_name) and stay as they are, whatever the adapter
///    makes of them. A value may be empty. An adapter takes values of at least 64 KiB and says what its
///    limit is; a larger one is an error.
///
/// The suite `conformance::store` checks all of it.
pub trait Store: Send + Sync + 'static {
    /// The value of a key and its revision, or `None` where there is none.
    ///
    /// When another machine changes the key at the same time, it is what was there before or what is there
    /// after: never a mixture, and never a value with the revision of another.
    ///
    /// Cancel safety: it only reads.
    ///
    /// # Errors
    ///
    /// Where the key is not valid or the backend cannot be reached.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>>;

    /// Sets a value, whatever there was, and returns its revision. `None` for the time to live keeps the
    /// value until it is deleted; the time to live of the value before is forgotten.
    ///
    /// When two machines put at once, one value stays, that with the higher revision.
    ///
    /// Cancel safety: dropped before it resolves, the value may or may not have been set.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] and [`BackendError::TooLarge`] say that nothing was set; with any other
    /// error the value may or may not have been set.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>>;

    /// Sets a value if the key has still the expected revision, or, with `None`, if it is absent.
    ///
    /// When many machines call it at once with the same expectation, exactly one of them gets
    /// [`CompareAndSet::Set`], all others [`CompareAndSet::Conflict`]. It is the one method from which
    /// locks, claims and leases are made, so an adapter must leave the decision to its backend. A
    /// [`put`](Self::put) or [`delete`](Self::delete) of another machine at the same time comes before, and
    /// makes it a conflict, or after.
    ///
    /// Cancel safety: dropped before it resolves, the value may or may not have been set.
    ///
    /// # Errors
    ///
    /// Those of [`put`](Self::put). After an error that leaves open whether the value was set, read it.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>>;

    /// Deletes a value. Returns whether there was one.
    ///
    /// When two machines delete at once, one of them gets `true`. When another one puts at the same time, its
    /// value stays if its revision is higher than that of the deletion, and is deleted otherwise.
    ///
    /// Cancel safety: dropped before it resolves, the value may or may not have been deleted.
    ///
    /// # Errors
    ///
    /// Where the key is not valid or the backend cannot be reached.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Watches all keys that start with `prefix`; the empty prefix stands for all keys.
    ///
    /// When the future resolves, the watch is in force: the stream yields every change that any machine
    /// starts to make from then on, those of one key in the order of their revisions. Whoever sees a change
    /// and then gets the key sees that change or a later one.
    ///
    /// When two machines change a key at once, every watcher sees both changes in the same order. Two watchers,
    /// on one machine or on two, do not take changes from each other.
    ///
    /// The end of a time to live is not a change that is reported, nor is a call that changed nothing. The
    /// stream ends, or yields an error and then ends, when the connection is lost.
    ///
    /// Cancel safety: dropping the future or the stream ends the watch.
    ///
    /// # Errors
    ///
    /// Where the backend cannot be reached, or no key can start with the prefix.
    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>>;
}

/// What a watch sees.
pub type WatchStream = BoxStream<'static, Result<Change, BackendError>>;

/// A number that says how often a store has changed, or a key. It rises with each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The revision with this number, for adapters.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value in a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The revision that set it.
    pub revision: Revision,
}

/// What became of a [`Store::compare_and_set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says whether the value was set"]
pub enum CompareAndSet {
    /// The value was set.
    Set(Revision),
    /// The key had another revision than the expected one, so nothing has changed.
    Conflict,
}

/// What happens to a [watched](Store::watch) key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A value was set.
    Put {
        /// Its key.
        key: Arc<str>,
        /// The value and its revision.
        entry: Entry,
    },
    /// A value was deleted.
    Deleted {
        /// Its key.
        key: Arc<str>,
        /// The revision of the deletion.
        revision: Revision,
    },
    /// The watcher was too slow, and at least so many changes, of these keys or of others, have been lost.
    /// It reads what it wants to know.
    Lagged(u64),
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        (**self).get(key)
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        (**self).put(key, value, time_to_live)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        (**self).compare_and_set(key, expected, value, time_to_live)
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        (**self).delete(key)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        (**self).watch(prefix)
    }
}
