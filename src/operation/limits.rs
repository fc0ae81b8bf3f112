//! What one process takes on.

use super::record::Key;
use crate::sync::lock;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Counts requests and stored bytes of this process.
#[derive(Debug)]
pub(super) struct Limits {
    max_running: usize,
    max_running_per_principal: usize,
    max_stored_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    by_principal: HashMap<Arc<str>, usize>,
    stored_bytes: usize,
    stored: HashMap<Key, Kept>,
    /// When the store will have forgotten them, soonest first. The number tells those of the same instant apart.
    expiring: BTreeMap<(Instant, u64), Key>,
    counted: u64,
}

/// What is stored of one operation.
#[derive(Debug)]
struct Kept {
    bytes: usize,
    /// Its place among those that expire.
    end: Option<(Instant, u64)>,
}

/// Why a request is not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its principal has too many others. 429.
    Principal,
    /// The process has too many, or has stored too much. 503.
    Total,
}

/// One of the requests that are counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Arc<Limits>,
    principal: Option<Arc<str>>,
}

impl Limits {
    pub(super) fn new(
        max_running: usize,
        max_running_per_principal: usize,
        max_stored_bytes: usize,
    ) -> Self {
        Self {
            max_running,
            max_running_per_principal,
            max_stored_bytes,
            state: Mutex::default(),
        }
    }

    pub(super) fn admit(self: &Arc<Self>, principal: Option<&str>) -> Result<Admission, Refusal> {
        let mut state = lock(&self.state);
        state.forget_expired();
        let principal = principal.map(Arc::<str>::from);
        if let Some(principal) = &principal {
            let running = state.by_principal.get(principal).copied();
            if running.unwrap_or_default() >= self.max_running_per_principal {
                return Err(Refusal::Principal);
            }
        }
        if state.running >= self.max_running || state.stored_bytes >= self.max_stored_bytes {
            return Err(Refusal::Total);
        }
        state.running += 1;
        if let Some(principal) = &principal {
            *state.by_principal.entry(principal.clone()).or_default() += 1;
        }
        Ok(Admission {
            limits: self.clone(),
            principal,
        })
    }

    /// Takes room for a result that the store keeps for this long. Returns whether there was any.
    pub(super) fn store(&self, key: &Key, bytes: usize, time_to_live: Duration) -> bool {
        let mut state = lock(&self.state);
        state.forget_expired();
        if bytes > self.max_stored_bytes.saturating_sub(state.stored_bytes) {
            return false;
        }
        state.count(key, bytes, time_to_live);
        true
    }

    /// Counts what is stored in any case.
    pub(super) fn count(&self, key: &Key, bytes: usize, time_to_live: Duration) {
        let mut state = lock(&self.state);
        state.forget_expired();
        state.count(key, bytes, time_to_live);
    }

    /// Gives the room of a result back.
    pub(super) fn forget(&self, key: &Key) {
        lock(&self.state).forget(key);
    }
}

impl State {
    fn count(&mut self, key: &Key, bytes: usize, time_to_live: Duration) {
        self.forget(key);
        self.stored_bytes += bytes;
        self.counted += 1;
        let end = Instant::now().checked_add(time_to_live);
        let end = end.map(|end| (end, self.counted));
        if let Some(end) = end {
            self.expiring.insert(end, key.clone());
        }
        self.stored.insert(key.clone(), Kept { bytes, end });
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
        if let Some(kept) = self.stored.remove(key) {
            self.stored_bytes -= kept.bytes;
            if let Some(end) = kept.end {
                self.expiring.remove(&end);
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = lock(&self.limits.state);
        state.running -= 1;
        if let Some(principal) = &self.principal {
            let last = state.by_principal.get_mut(principal).is_none_or(|running| {
                *running -= 1;
                *running == 0
            });
            if last {
                state.by_principal.remove(principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;
    use crate::operation::record::Key;
    use std::sync::Arc;
    use std::time::Duration;

    /// The public interface shows what is counted, but not what the counting costs.
    #[tokio::test(start_paused = true)]
    async fn what_is_removed_or_has_expired_takes_no_memory() {
        let limits = Arc::new(Limits::new(1, 1, 100));
        let hour = Duration::from_secs(3600);
        for number in 0..100 {
            let key = Key::of(&number.to_string());
            limits.count(&key, 1, hour);
            limits.count(&key, 2, hour);
            if number % 2 == 0 {
                limits.forget(&key);
            }
        }
        let sizes = || {
            let state = crate::sync::lock(&limits.state);
            (state.stored.len(), state.expiring.len(), state.stored_bytes)
        };
        assert_eq!(sizes(), (50, 50, 100));
        assert!(limits.admit(None).is_err());
        tokio::time::advance(hour).await;
        assert!(limits.admit(None).is_ok());
        assert_eq!(sizes(), (0, 0, 0));
    }
}
