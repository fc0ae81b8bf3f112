//! The expiry times of revisions that this process has read.

use super::clock::Clock;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tower_promises_backend::Revision;
use tower_promises_backend::kit::sync::lock;

/// The largest number of revisions that are remembered.
const MAX_REMEMBERED: usize = 1024;

/// A revision that expires sooner is read again.
const MARGIN: Duration = Duration::from_secs(1);

/// The times to live of recently read revisions. They never change, so a compare-and-set of a value that was just read
/// needs no second read: the server decides whether the revision is still the last one.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    /// The start and the time to live of each revision.
    seen: Mutex<HashMap<Revision, (SystemTime, Option<Duration>)>>,
}

impl Revisions {
    pub(super) fn remember(
        &self,
        revision: Revision,
        began: SystemTime,
        time_to_live: Option<Duration>,
    ) {
        let mut seen = lock(&self.seen);
        // A forgotten revision costs a round trip.
        if seen.len() >= MAX_REMEMBERED {
            seen.clear();
        }
        seen.insert(revision, (began, time_to_live));
    }

    /// Whether the time to live of a revision has certainly not ended. The revision may have been replaced.
    pub(super) fn is_alive(&self, revision: Revision, clock: &Clock) -> bool {
        let seen = lock(&self.seen).get(&revision).copied();
        seen.is_some_and(|(began, time_to_live)| {
            time_to_live.is_none_or(|time| clock.left(began, time) > MARGIN)
        })
    }
}
