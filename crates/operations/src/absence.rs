//! Leases that this process has found expired.

use super::record::Key;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tower_promises_backend::kit::sync::lock;

/// The largest number of recorded leases. Beyond it, the lease that was looked up longest ago is dropped, and counts as
/// absent only from its next look-up on.
const MOST: usize = 4096;

/// The times since which leases are absent, by the monotonic clock of this process. The clock of a store may be wrong
/// for a moment, and then living leases are absent. Their owners renew them, so a lease is expired only if it stays
/// absent.
#[derive(Debug, Default)]
pub(super) struct Absences {
    leases: Mutex<HashMap<Key, Absence>>,
}

#[derive(Debug)]
struct Absence {
    since: Instant,
    looked: Instant,
}

impl Absences {
    /// Records that a lease is absent. Returns whether it was also absent at a look-up at least `time` ago, and never
    /// seen present since.
    pub(super) fn note(&self, key: &Key, time: Duration) -> bool {
        let now = Instant::now();
        let mut leases = lock(&self.leases);
        if leases.len() >= MOST && !leases.contains_key(key) {
            let oldest = leases.iter().min_by_key(|(_, absence)| absence.looked);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|oldest| leases.remove(&oldest));
        }
        match leases.entry(key.clone()) {
            Entry::Occupied(mut absence) => {
                let absence = absence.get_mut();
                absence.looked = now;
                now.saturating_duration_since(absence.since) >= time
            }
            Entry::Vacant(absence) => {
                absence.insert(Absence {
                    since: now,
                    looked: now,
                });
                time.is_zero()
            }
        }
    }

    /// Removes a lease that is present, or no longer needed.
    pub(super) fn forget(&self, key: &Key) {
        lock(&self.leases).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_over_when_it_stays_absent() {
        let (absences, key) = (Absences::default(), Key::of("id"));
        assert!(!absences.note(&key, LEASE));
        tokio::time::advance(LEASE / 2).await;
        assert!(!absences.note(&key, LEASE));
        tokio::time::advance(LEASE / 2).await;
        assert!(absences.note(&key, LEASE));
        // The lease was renewed.
        absences.forget(&key);
        assert!(!absences.note(&key, LEASE));
    }

    #[tokio::test(start_paused = true)]
    async fn many_leases_are_not_all_remembered() {
        let (absences, first) = (Absences::default(), Key::of("first"));
        assert!(!absences.note(&first, LEASE));
        for number in 0..MOST {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!absences.note(&Key::of(&number.to_string()), LEASE));
        }
        assert_eq!(lock(&absences.leases).len(), MOST);
        tokio::time::advance(LEASE).await;
        assert!(!absences.note(&first, LEASE));
        let last = (MOST - 1).to_string();
        assert!(absences.note(&Key::of(&last), LEASE));
    }
}
