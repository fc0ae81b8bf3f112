use crate::kit::clock;
use crate::kit::limits::{
    DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity, check_size, page_limit,
};
use crate::kit::sync::lock;
use crate::observe;
use crate::{
    BackendError, Change, CompareAndSet, Entry, Listed, Page, Revision, Store, WatchStream,
    check_name, check_prefix,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::collections::{BTreeMap, Bound};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// The approximate overhead of an entry, beyond its key and value.
const ENTRY_BYTES: usize = 256;

/// How much longer than its time to live the cache keeps a value. The store checks expiry by tokio's clock, which tests
/// can pause. The cache frees memory by a clock of its own, and must not be early.
const GRACE: Duration = Duration::from_secs(30);

/// A [`Store`] within one process.
///
/// The store is bounded: when its entries exceed [`max_bytes`](MemoryStoreBuilder::max_bytes), the least recently used
/// ones are dropped. The log has a warning for each; watchers are not notified. Choose a sufficient bound, because a
/// dropped entry may be a claim or a lease.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    settings: MemoryStoreBuilder,
    entries: Cache<Arc<str>, Stored>,
    /// The keys of the entries in order, with their revisions. Not locked during calls of the cache, which may call back.
    keys: Arc<Keys>,
    /// The revision of the last change. Locked during a change and until watchers are notified: changes are atomic, and
    /// watchers see them in order and after they took effect.
    last: Mutex<u64>,
    changes: broadcast::Sender<Change>,
}

type Keys = Mutex<BTreeMap<Arc<str>, Revision>>;

/// Removes a key, unless its value has been replaced.
fn forget(keys: &Keys, key: &str, revision: Revision) {
    let mut keys = lock(keys);
    if keys.get(key) == Some(&revision) {
        keys.remove(key);
    }
}

#[derive(Clone)]
struct Stored {
    entry: Entry,
    time_to_live: Option<Duration>,
    /// By tokio's clock. `None` means never.
    expires: Option<Instant>,
}

/// Builds a [`MemoryStore`] with settings other than the defaults.
#[derive(Clone, Copy, Debug)]
#[must_use = "`build` creates the store"]
pub struct MemoryStoreBuilder {
    max_bytes: usize,
    max_value_bytes: usize,
    watch_capacity: usize,
}

impl MemoryStoreBuilder {
    /// Sets the maximum size of all entries together, in bytes, by default 64 MiB: keys, values and 256 bytes for each
    /// entry. Beyond the limit, the least recently used entries are dropped.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the maximum size of a value, in bytes, by default 256 KiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// Sets the number of changes that are buffered for a watcher that falls behind, by default 256. With the default
    /// sizes, the buffer takes at most 64 MiB in addition to [`max_bytes`](Self::max_bytes), and almost nothing while
    /// all watchers keep up. The number is clamped to 1 to 1,000,000, and may be rounded up.
    pub fn watch_capacity(mut self, changes: usize) -> Self {
        self.watch_capacity = capacity(changes);
        self
    }

    /// Creates the store.
    #[must_use]
    pub fn build(self) -> MemoryStore {
        MemoryStore {
            shared: Arc::new(Shared::new(self)),
        }
    }
}

impl MemoryStore {
    /// Creates a store with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder for other settings.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            max_bytes: 64 * 1024 * 1024,
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            watch_capacity: DEFAULT_WATCH_CAPACITY,
        }
    }

    fn check(&self, key: &str, value: &Bytes) -> Result<(), BackendError> {
        check_name(key)?;
        let settings = &self.shared.settings;
        // An entry larger than the whole store would be dropped at once.
        let room = settings.max_bytes;
        let room = room.saturating_sub(key.len() + ENTRY_BYTES);
        let limit = settings.max_value_bytes.min(room);
        check_size(value.len(), limit)
    }
}

impl Shared {
    fn new(settings: MemoryStoreBuilder) -> Self {
        let keys = Arc::<Keys>::default();
        let known = keys.clone();
        let entries = Cache::builder()
            .max_capacity(u64::try_from(settings.max_bytes).unwrap_or(u64::MAX))
            // The cache's default policy may reject a new value in favour of existing ones.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &Arc<str>, stored: &Stored| {
                let bytes = key.len() + stored.entry.value.len() + ENTRY_BYTES;
                bytes.try_into().unwrap_or(u32::MAX)
            })
            .expire_after(FreeAfterTimeToLive)
            .eviction_listener(move |key, stored: Stored, cause| {
                if cause.was_evicted() {
                    forget(&known, &key, stored.entry.revision);
                }
                if cause == RemovalCause::Size {
                    observe::entry_dropped(&key);
                }
            })
            .build();
        Self {
            settings,
            entries,
            keys,
            last: Mutex::new(0),
            changes: broadcast::Sender::new(settings.watch_capacity),
        }
    }

    fn get(&self, key: &str) -> Option<Entry> {
        let stored = self.entries.get(key)?;
        let expired = stored.expires.is_some_and(|at| at <= Instant::now());
        (!expired).then_some(stored.entry)
    }

    /// Lists the entries in the order of their keys.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let mut entries = Vec::new();
        let mut from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.into()),
            _ => Bound::Included(prefix.into()),
        };
        while entries.len() < limit {
            let chunk: Vec<_> = {
                let keys = lock(&self.keys);
                let keys = keys.range::<Arc<str>, _>((from, Bound::Unbounded));
                let keys = keys.take_while(|(key, _)| key.starts_with(prefix));
                let room = limit - entries.len();
                keys.take(room)
                    .map(|(key, at)| (key.clone(), *at))
                    .collect()
            };
            let Some((last, _)) = chunk.last() else {
                return Page::new(entries, None);
            };
            from = Bound::Excluded(last.clone());
            for (key, revision) in chunk {
                match self.get(&key) {
                    Some(entry) => entries.push(Listed::new(key.clone(), entry, key)),
                    None => forget(&self.keys, &key, revision),
                }
            }
        }
        let next = entries.last().map(|listed| listed.position.clone());
        Page::new(entries, next)
    }

    /// Changes a key if `condition` holds for its current revision. Returns the revision of the change.
    fn change(
        &self,
        key: &str,
        value: Option<(Bytes, Option<Duration>)>,
        condition: impl FnOnce(Option<Revision>) -> bool,
    ) -> Option<Revision> {
        let mut last = lock(&self.last);
        if !condition(self.get(key).map(|entry| entry.revision)) {
            return None;
        }
        *last += 1;
        let (key, revision) = (Arc::<str>::from(key), Revision::new(*last));
        let change = if let Some((value, time_to_live)) = value {
            let entry = Entry { value, revision };
            let stored = Stored {
                entry: entry.clone(),
                time_to_live,
                // An end beyond the range of `Instant` means no expiry.
                expires: time_to_live.and_then(|time| Instant::now().checked_add(time)),
            };
            self.entries.insert(key.clone(), stored);
            lock(&self.keys).insert(key.clone(), revision);
            Change::Put { key, entry }
        } else {
            self.entries.invalidate(&key);
            lock(&self.keys).remove(&key);
            Change::Deleted { key, revision }
        };
        // Fails if there are no watchers.
        let _ = self.changes.send(change);
        Some(revision)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// Determines when the cache may free an entry.
struct FreeAfterTimeToLive;

impl FreeAfterTimeToLive {
    fn after(stored: &Stored) -> Option<Duration> {
        let time_to_live = stored.time_to_live.filter(|time| *time < clock::LONGEST)?;
        Some(time_to_live + GRACE)
    }
}

impl Expiry<Arc<str>, Stored> for FreeAfterTimeToLive {
    fn expire_after_create(
        &self,
        _: &Arc<str>,
        stored: &Stored,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Self::after(stored)
    }

    fn expire_after_update(
        &self,
        _: &Arc<str>,
        stored: &Stored,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Self::after(stored)
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async move {
            check_name(key)?;
            Ok(self.shared.get(key))
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(async move {
            self.check(key, &value)?;
            let revision = self
                .shared
                .change(key, Some((value, time_to_live)), |_| true);
            Ok(revision.expect("the condition holds"))
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            self.check(key, &value)?;
            let changed = self
                .shared
                .change(key, Some((value, time_to_live)), |found| found == expected);
            Ok(changed.map_or(CompareAndSet::Conflict, CompareAndSet::Set))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            check_name(key)?;
            let changed = self.shared.change(key, None, |found| found.is_some());
            Ok(changed.is_some())
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        Box::pin(async move {
            check_prefix(prefix)?;
            Ok(self.shared.list(prefix, after, page_limit(limit)))
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        Box::pin(async move {
            check_prefix(prefix)?;
            let watch = (self.shared.changes.subscribe(), Arc::<str>::from(prefix));
            let changes = stream::unfold(watch, async |(mut changes, prefix)| {
                loop {
                    let change = match changes.recv().await {
                        Ok(change) => change,
                        Err(RecvError::Lagged(missed)) => Change::Lagged(missed),
                        Err(RecvError::Closed) => return None,
                    };
                    let concerns = match &change {
                        Change::Put { key, .. } | Change::Deleted { key, .. } => {
                            key.starts_with(&*prefix)
                        }
                        Change::Lagged(_) => true,
                    };
                    if concerns {
                        return Some((Ok(change), (changes, prefix)));
                    }
                }
            });
            Ok(Box::pin(changes) as WatchStream)
        })
    }
}
