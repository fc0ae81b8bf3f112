//! Limits on the requests and results of a process.

use super::metrics;
use super::record::Key;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower_promises_backend::kit::sync::lock;

/// Counts requests and stored bytes of this process.
#[derive(Debug)]
pub(super) struct Limits {
    total: Share,
    per_principal: Share,
    state: Mutex<State>,
}

/// The usage or the limit of a principal or of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Running requests.
    pub(super) running: usize,
    /// Requests whose body has not arrived yet.
    pub(super) receiving: usize,
    pub(super) stored_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    total: Share,
    /// The usage of each principal that has any.
    by_principal: HashMap<Arc<str>, Share>,
    stored: HashMap<Key, StoredBytes>,
    /// The expiry times of stored operations, soonest first. The number distinguishes equal times.
    expiring: BTreeMap<(Instant, u64), Key>,
    counted: u64,
}

/// The stored bytes of an operation.
#[derive(Debug)]
struct StoredBytes {
    principal: Option<Arc<str>>,
    /// The bytes that count for the principal.
    bytes: usize,
    /// The bytes that count in total: no more than the share of the principal has room for, so that a principal with more
    /// refuses its own requests only.
    in_total: usize,
    /// Its key in `State::expiring`.
    end: Option<(Instant, u64)>,
}

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The principal has too many running requests. 429.
    Principal,
    /// The principal sends too many request bodies. 429.
    PrincipalReceiving,
    /// Too many bytes of the principal's results are stored. 429.
    PrincipalStored,
    /// The principal has too many durable operations. 429.
    PrincipalOpen,
    /// There are too many durable operations. 503.
    TotalOpen,
    /// The process runs too many requests, or has stored too many bytes. 503.
    Total,
    /// The process receives too many request bodies. 503.
    TotalReceiving,
}

/// A request whose body has not arrived yet. Counted until dropped.
#[derive(Debug)]
pub(super) struct Receiving {
    limits: Arc<Limits>,
    principal: Option<Arc<str>>,
}

/// A running request. Counted until dropped.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Arc<Limits>,
    principal: Option<Arc<str>>,
    _counted: metrics::Counted,
}

impl Limits {
    pub(super) fn new(total: Share, per_principal: Share) -> Self {
        Self {
            total,
            per_principal,
            state: Mutex::default(),
        }
    }

    /// Begins to receive a request. Refuses the request if it could not be [admitted](Self::admit) now, so that no body
    /// is received in vain.
    pub(super) fn receive(self: &Arc<Self>, principal: Option<&str>) -> Result<Receiving, Refusal> {
        let mut state = lock(&self.state);
        state.forget_expired();
        let principal = principal.map(Arc::<str>::from);
        self.check_running(&state, principal.as_ref())?;
        if let Some(principal) = &principal {
            if state.share(principal).receiving >= self.per_principal.receiving {
                return Err(Refusal::PrincipalReceiving);
            }
        }
        if state.total.receiving >= self.total.receiving {
            return Err(Refusal::TotalReceiving);
        }
        state.change(principal.as_ref(), |share| share.receiving += 1);
        Ok(Receiving {
            limits: self.clone(),
            principal,
        })
    }

    /// Admits a request if the limits on running requests allow it. The stored bytes have a check of their own:
    /// [`check_room`](Admission::check_room).
    pub(super) fn admit(self: &Arc<Self>, principal: Option<&str>) -> Result<Admission, Refusal> {
        let mut state = lock(&self.state);
        state.forget_expired();
        let principal = principal.map(Arc::<str>::from);
        self.check_running(&state, principal.as_ref())?;
        state.change(principal.as_ref(), |share| share.running += 1);
        // The recorder is code of the application.
        drop(state);
        Ok(Admission {
            limits: self.clone(),
            principal,
            _counted: metrics::request(),
        })
    }

    /// Counts a request that was admitted by another process or by an earlier one.
    pub(super) fn enter(self: &Arc<Self>, principal: Option<&str>) -> Admission {
        let principal = principal.map(Arc::<str>::from);
        lock(&self.state).change(principal.as_ref(), |share| share.running += 1);
        Admission {
            limits: self.clone(),
            principal,
            _counted: metrics::request(),
        }
    }

    /// Refuses a request with a result if no more bytes may be stored.
    pub(super) fn check_room(&self, principal: Option<&str>) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        state.forget_expired();
        if let Some(principal) = principal {
            if state.share(principal).stored_bytes >= self.per_principal.stored_bytes {
                return Err(Refusal::PrincipalStored);
            }
        }
        if state.total.stored_bytes >= self.total.stored_bytes {
            return Err(Refusal::Total);
        }
        Ok(())
    }

    fn check_running(&self, state: &State, principal: Option<&Arc<str>>) -> Result<(), Refusal> {
        if let Some(principal) = principal {
            if state.share(principal).running >= self.per_principal.running {
                return Err(Refusal::Principal);
            }
        }
        if state.total.running >= self.total.running {
            return Err(Refusal::Total);
        }
        Ok(())
    }

    /// Reduces the counted bytes of an operation.
    pub(super) fn shrink(&self, key: &Key, bytes: usize) {
        lock(&self.state).shrink(key, bytes);
    }

    /// Releases the counted bytes of an operation.
    pub(super) fn forget(&self, key: &Key) {
        lock(&self.state).forget(key);
    }
}

impl Receiving {
    /// Refuses a request with a result if no more bytes may be stored.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        self.limits.check_room(self.principal.as_deref())
    }
}

impl Admission {
    /// Refuses a request with a result if no more bytes may be stored.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        self.limits.check_room(self.principal.as_deref())
    }

    /// Counts the result of this request, which is stored for `time_to_live`. Returns `false`, and counts nothing, if
    /// there is no room.
    pub(super) fn store(&self, key: &Key, bytes: usize, time_to_live: Duration) -> bool {
        let limits = &self.limits;
        let mut state = lock(&limits.state);
        state.forget_expired();
        let has_room = |limit: Share, share: Share| {
            bytes <= limit.stored_bytes.saturating_sub(share.stored_bytes)
        };
        let share = self
            .principal
            .as_ref()
            .map(|principal| state.share(principal));
        if !has_room(limits.total, state.total)
            || share.is_some_and(|share| !has_room(limits.per_principal, share))
        {
            return false;
        }
        let share = self.limits.per_principal;
        state.count(key, self.principal.clone(), bytes, share, time_to_live);
        true
    }

    /// Counts stored bytes of this request without a check.
    pub(super) fn count(&self, key: &Key, bytes: usize, time_to_live: Duration) {
        let mut state = lock(&self.limits.state);
        state.forget_expired();
        let share = self.limits.per_principal;
        state.count(key, self.principal.clone(), bytes, share, time_to_live);
    }
}

impl State {
    fn share(&self, principal: &str) -> Share {
        let share = self.by_principal.get(principal).copied();
        share.unwrap_or_default()
    }

    /// Changes the usage in total and that of the principal.
    fn change(&mut self, principal: Option<&Arc<str>>, change: impl Fn(&mut Share)) {
        change(&mut self.total);
        self.change_share(principal, change);
    }

    fn change_share(&mut self, principal: Option<&Arc<str>>, change: impl Fn(&mut Share)) {
        if let Some(principal) = principal {
            let mut share = self.share(principal);
            change(&mut share);
            if share == Share::default() {
                self.by_principal.remove(principal);
            } else {
                self.by_principal.insert(principal.clone(), share);
            }
        }
    }

    fn count(
        &mut self,
        key: &Key,
        principal: Option<Arc<str>>,
        bytes: usize,
        limit: Share,
        time_to_live: Duration,
    ) {
        self.forget(key);
        let in_total = match &principal {
            Some(principal) => {
                let stored = self.share(principal).stored_bytes;
                bytes.min(limit.stored_bytes.saturating_sub(stored))
            }
            None => bytes,
        };
        self.total.stored_bytes += in_total;
        self.change_share(principal.as_ref(), |share| share.stored_bytes += bytes);
        self.counted += 1;
        let end = Instant::now().checked_add(time_to_live);
        let end = end.map(|end| (end, self.counted));
        if let Some(end) = end {
            self.expiring.insert(end, key.clone());
        }
        let entry = StoredBytes {
            principal,
            bytes,
            in_total,
            end,
        };
        self.stored.insert(key.clone(), entry);
    }

    fn shrink(&mut self, key: &Key, bytes: usize) {
        let Some(entry) = self.stored.get_mut(key) else {
            return;
        };
        let surplus = entry.bytes.saturating_sub(bytes);
        entry.bytes -= surplus;
        let of_total = entry.in_total.saturating_sub(entry.bytes);
        entry.in_total -= of_total;
        let principal = entry.principal.clone();
        self.total.stored_bytes -= of_total;
        self.change_share(principal.as_ref(), |share| share.stored_bytes -= surplus);
    }

    fn forget_expired(&mut self) {
        let now = Instant::now();
        while let Some(((end, _), key)) = self.expiring.first_key_value() {
            if *end > now {
                break;
            }
            let key = key.clone();
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.stored.remove(key) {
            self.total.stored_bytes -= entry.in_total;
            self.change_share(entry.principal.as_ref(), |share| {
                share.stored_bytes -= entry.bytes;
            });
            if let Some(end) = entry.end {
                self.expiring.remove(&end);
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = lock(&self.limits.state);
        state.change(self.principal.as_ref(), |share| share.running -= 1);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut state = lock(&self.limits.state);
        state.change(self.principal.as_ref(), |share| share.receiving -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Share};
    use crate::record::Key;
    use std::sync::Arc;
    use std::time::Duration;

    /// The public interface shows what is counted, but not the memory used for counting.
    #[tokio::test(start_paused = true)]
    async fn what_is_removed_or_has_expired_takes_no_memory() {
        let share = |stored_bytes| Share {
            running: 1,
            receiving: 1,
            stored_bytes,
        };
        let limits = Arc::new(Limits::new(share(100), share(200)));
        let hour = Duration::from_secs(3600);
        for number in 0..100 {
            let key = Key::of(&number.to_string());
            let admission = limits.admit(Some("somebody")).expect("it has room");
            admission.count(&key, 3, hour);
            admission.count(&key, 2, hour);
            if number % 2 == 0 {
                limits.forget(&key);
            }
        }
        let sizes = || {
            let state = tower_promises_backend::kit::sync::lock(&limits.state);
            let lengths = (state.stored.len(), state.expiring.len());
            (lengths, state.by_principal.len(), state.total.stored_bytes)
        };
        assert_eq!(sizes(), ((50, 50), 1, 100));
        let has_room = || limits.admit(None).is_ok_and(|it| it.check_room().is_ok());
        assert!(!has_room());
        limits.shrink(&Key::of("1"), 1);
        assert_eq!(sizes(), ((50, 50), 1, 99));
        tokio::time::advance(hour).await;
        assert!(has_room());
        assert_eq!(sizes(), ((0, 0), 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_principal_stores_beyond_its_share_refuses_only_this_principal() {
        let share = |stored_bytes| Share {
            running: 10,
            receiving: 10,
            stored_bytes,
        };
        let limits = Arc::new(Limits::new(share(100), share(20)));
        let hour = Duration::from_secs(3600);
        let greedy = limits.admit(Some("greedy")).expect("it has room");
        let keys = ["1", "2", "3"].map(Key::of);
        for key in &keys {
            greedy.count(key, 50, hour);
        }
        assert!(limits.check_room(Some("greedy")).is_err());
        assert!(limits.check_room(Some("modest")).is_ok());
        let total = || {
            let state = tower_promises_backend::kit::sync::lock(&limits.state);
            state.total.stored_bytes
        };
        assert_eq!(total(), 20);
        limits.shrink(&keys[0], 5);
        assert_eq!(total(), 5);
        for key in &keys {
            limits.forget(key);
        }
        assert_eq!(total(), 0);
        assert!(limits.check_room(Some("greedy")).is_ok());
    }
}
