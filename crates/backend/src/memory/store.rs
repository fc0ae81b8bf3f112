use crate::kit::clock;
use crate::kit::limits::{DEFAULT_MAX_VALUE_BYTES, DEFAULT_WATCH_CAPACITY, capacity, check_size};
use crate::kit::sync::lock;
use crate::observe;
use crate::{
    BackendError, Change, CompareAndSet, Entry, Revision, Store, WatchStream, check_name,
    check_prefix,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// The default maximum size of all entries of a [`MemoryStore`] together: 64 MiB.
const DEFAULT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The approximate overhead of an entry, beyond its key and value.
const ENTRY_BYTES: usize = 256;

/// How much longer than its time to live the cache keeps a value. The store checks expiry by tokio's clock, which tests
/// can pause. The cache frees memory by a clock of its own, and must not be early.
const GRACE: Duration = Duration::from_secs(30);

/// A [`Store`] within one process.
///
/// The store is bounded: when its entries exceed [`max_bytes`](Self::max_bytes), the least recently used ones are
/// dropped. The log has a warning for each; watchers are not notified. Choose a sufficient bound, because a dropped
/// entry may be a claim or a lease.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    max_value_bytes: usize,
}

struct Shared {
    entries: Cache<Arc<str>, Stored>,
    /// The revision of the last change. Locked during a change and until watchers are notified: changes are atomic, and
    /// watchers see them in order and after they took effect.
    last: Mutex<u64>,
    changes: broadcast::Sender<Change>,
    watch_capacity: usize,
}

#[derive(Clone)]
struct Stored {
    entry: Entry,
    time_to_live: Option<Duration>,
    /// By tokio's clock. `None` means never.
    expires: Option<Instant>,
}

impl MemoryStore {
    /// Creates a store with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new(DEFAULT_MAX_BYTES, DEFAULT_WATCH_CAPACITY)),
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
        }
    }

    /// Sets the maximum size of all entries together, in bytes, by default 64 MiB: keys, values and 256 bytes for each
    /// entry. Beyond the limit, the least recently used entries are dropped.
    ///
    /// This method creates a new, empty store: call it before the store is cloned or used.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> Self {
        Self {
            shared: Arc::new(Shared::new(bytes, self.shared.watch_capacity)),
            ..self
        }
    }

    /// Sets the number of changes that are buffered for a watcher that falls behind, by default 256. With the default
    /// sizes, the buffer takes at most 64 MiB in addition to [`max_bytes`](Self::max_bytes), and almost nothing while
    /// all watchers keep up. The number is clamped to 1 to 1,000,000, and may be rounded up.
    ///
    /// This method creates a new, empty store: call it before the store is cloned or used.
    #[must_use]
    pub fn watch_capacity(self, changes: usize) -> Self {
        let max_bytes = self.shared.entries.policy().max_capacity();
        Self {
            shared: Arc::new(Shared::new(max_bytes.unwrap_or(DEFAULT_MAX_BYTES), changes)),
            ..self
        }
    }

    /// Sets the maximum size of a value, in bytes, by default 256 KiB.
    #[must_use]
    pub fn max_value_bytes(self, bytes: usize) -> Self {
        Self {
            max_value_bytes: bytes,
            ..self
        }
    }

    fn check(&self, key: &str, value: &Bytes) -> Result<(), BackendError> {
        check_name(key)?;
        // An entry larger than the whole store would be dropped at once.
        let room = self.shared.entries.policy().max_capacity();
        let room = room.map_or(usize::MAX, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        });
        let room = room.saturating_sub(key.len() + ENTRY_BYTES);
        let limit = self.max_value_bytes.min(room);
        check_size(value.len(), limit)
    }
}

impl Shared {
    fn new(max_bytes: u64, watch_capacity: usize) -> Self {
        let watch_capacity = capacity(watch_capacity);
        let entries = Cache::builder()
            .max_capacity(max_bytes)
            // The cache's default policy may reject a new value in favour of existing ones.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &Arc<str>, stored: &Stored| {
                let bytes = key.len() + stored.entry.value.len() + ENTRY_BYTES;
                bytes.try_into().unwrap_or(u32::MAX)
            })
            .expire_after(FreeAfterTimeToLive)
            .eviction_listener(|key, _, cause| {
                if cause == RemovalCause::Size {
                    observe::entry_dropped(&key);
                }
            })
            .build();
        Self {
            entries,
            last: Mutex::new(0),
            changes: broadcast::Sender::new(watch_capacity),
            watch_capacity,
        }
    }

    fn get(&self, key: &str) -> Option<Entry> {
        let stored = self.entries.get(key)?;
        let expired = stored.expires.is_some_and(|at| at <= Instant::now());
        (!expired).then_some(stored.entry)
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
            Change::Put { key, entry }
        } else {
            self.entries.invalidate(&key);
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
            .field("max_bytes", &self.shared.entries.policy().max_capacity())
            .field("max_value_bytes", &self.max_value_bytes)
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
