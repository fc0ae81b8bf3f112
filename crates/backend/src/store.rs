use super::BackendError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The port for small values that all processes share.
///
/// # Guarantees of an adapter
///
/// 1. Consistency: once a call has resolved, every later [`get`](Self::get) and
///    [`compare_and_set`](Self::compare_and_set), on any machine, observes its effect. Concurrent changes of a key take
///    effect one after the other.
/// 2. The [`Revision`]s of a key increase with each change, also across deletion and expiry, so a revision never refers
///    to two values.
/// 3. A value is absent for all calls once its time to live is over. The time may be up to one second longer than
///    requested, never shorter. Because leases depend on it, this also holds if the clock of a machine is set
///    meanwhile; an adapter documents where it cannot detect that.
/// 4. Keys follow the rules of [`check_name`](super::check_name), and stay unchanged, however the adapter encodes them.
///    A value may be empty. An adapter accepts values of at least 64 KiB and documents its limit; a larger value is an
///    error.
///
/// The suite `conformance::store` checks all guarantees.
pub trait Store: Send + Sync + 'static {
    /// Returns the value of a key and its revision, or `None` if there is no value.
    ///
    /// If another machine changes the key at the same time, the result is the entry before or after the change: never a
    /// mixture, and never a value with the revision of another.
    ///
    /// # Cancel safety
    ///
    /// The call only reads.
    ///
    /// # Errors
    ///
    /// Fails if the key is invalid or the backend cannot be reached.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>>;

    /// Sets a value unconditionally and returns its revision. Without a time to live, the value stays until it is
    /// deleted, even if the previous value had a time to live.
    ///
    /// If two machines put at once, the value with the higher revision stays.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the value may or may not have been set.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] and [`BackendError::TooLarge`]: the value was not set. After any other error, it
    /// may or may not have been set.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>>;

    /// Sets a value if the key still has the expected revision, or, with `None`, if the key is absent.
    ///
    /// If many machines call this method at once with the same expected revision, exactly one of them gets
    /// [`CompareAndSet::Set`], and all others get [`CompareAndSet::Conflict`]. Locks, claims and leases rely on this
    /// method, so an adapter must leave the decision to its backend. A concurrent [`put`](Self::put) or
    /// [`delete`](Self::delete) of another machine takes effect either before this call, which then conflicts, or after
    /// it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the value may or may not have been set.
    ///
    /// # Errors
    ///
    /// The errors of [`put`](Self::put). After an error that leaves the outcome open, read the value.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>>;

    /// Deletes a value. Returns whether there was one.
    ///
    /// If two machines delete at once, one of them gets `true`. If another machine puts a value at the same time, that
    /// value stays if its revision is higher than that of the deletion, and is deleted otherwise.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the value may or may not have been deleted.
    ///
    /// # Errors
    ///
    /// Fails if the key is invalid or the backend cannot be reached.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Lists the entries whose keys start with `prefix`, in pages. The empty prefix matches all keys.
    ///
    /// Without `after`, the page is the first. The next page follows the [`next`](Page::next) of a page, or the
    /// [position](Listed::position) of one of its entries, in any process. A page has at most `limit` entries, at least
    /// one is asked for, and at most 1000. It may have fewer entries, even none, although more follow.
    ///
    /// The order is that of the adapter. An entry that exists from the first page to the last is listed once if no
    /// machine changes it meanwhile, and at least once if one does. Any other entry may be listed or not. Each entry is
    /// one that [`get`](Self::get) could have returned during the call.
    ///
    /// The cost grows with the number of entries that are passed. Adapters document whether entries with other keys
    /// count.
    ///
    /// # Cancel safety
    ///
    /// The call only reads.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] if the prefix is invalid or `after` is not a position of this store.
    /// Any other error means that the backend cannot be reached.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>>;

    /// Watches all keys that start with `prefix`. The empty prefix matches all keys.
    ///
    /// When the future resolves, the watch is active: the stream yields every change that any machine starts
    /// afterwards, and the changes of one key in the order of their revisions. A `get` after a change returns that
    /// change or a later one.
    ///
    /// If two machines change a key at once, every watcher sees both changes in the same order. Each watcher receives
    /// all changes, on the same machine and on different ones.
    ///
    /// Neither expiry nor a call without effect is reported as a change. If the connection is lost, the stream ends,
    /// possibly after an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the stream ends the watch.
    ///
    /// # Errors
    ///
    /// Fails if the backend cannot be reached or the prefix is invalid.
    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>>;
}

/// The changes of a watch.
pub type WatchStream = BoxStream<'static, Result<Change, BackendError>>;

/// The revision of a value: a number that increases with each change of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Creates a revision, for adapters.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
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
#[non_exhaustive]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The revision of the change that set the value.
    pub revision: Revision,
}

impl Entry {
    /// Creates an entry, for adapters.
    #[must_use]
    pub const fn new(value: Bytes, revision: Revision) -> Self {
        Self { value, revision }
    }
}

/// A page of a [list](Store::list).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The entries.
    pub entries: Vec<Listed>,
    /// The position after this page, `None` if it is the last. It may be behind the last entry.
    pub next: Option<Arc<str>>,
}

impl Page {
    /// Creates a page, for adapters.
    #[must_use]
    pub const fn new(entries: Vec<Listed>, next: Option<Arc<str>>) -> Self {
        Self { entries, next }
    }
}

/// An entry of a [list](Store::list).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The key.
    pub key: Arc<str>,
    /// The value and its revision.
    pub entry: Entry,
    /// The position in the list, in a format of the adapter, without control characters.
    pub position: Arc<str>,
}

impl Listed {
    /// Creates an entry, for adapters.
    #[must_use]
    pub const fn new(key: Arc<str>, entry: Entry, position: Arc<str>) -> Self {
        Self {
            key,
            entry,
            position,
        }
    }
}

/// The result of [`Store::compare_and_set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says whether the value was set"]
pub enum CompareAndSet {
    /// The value was set.
    Set(Revision),
    /// The key did not have the expected revision. Nothing has changed.
    Conflict,
}

/// A change of a [watched](Store::watch) key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A value was set.
    Put {
        /// The key.
        key: Arc<str>,
        /// The value and its revision.
        entry: Entry,
    },
    /// A value was deleted.
    Deleted {
        /// The key.
        key: Arc<str>,
        /// The revision of the deletion.
        revision: Revision,
    },
    /// The watcher was too slow, and lost at least this many changes, of watched keys or of others. The watcher must
    /// read the current values.
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

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        (**self).list(prefix, after, limit)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        (**self).watch(prefix)
    }
}
