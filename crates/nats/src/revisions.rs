//! Until when values are there, as far as this process has seen them.

use super::clock::Clock;
use tower_promises_backend::Revision;
use tower_promises_backend::kit::sync::lock;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// How many revisions are remembered.
const MAX_REMEMBERED: usize = 1024;

/// What is nearer to its end is read again.
const MARGIN: Duration = Duration::from_secs(1);

/// The times to live of revisions that were read not long ago. They never change, so whoever compares and sets what it
/// has just read need not read it a second time: whether it is still the last revision, the server decides.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    /// When they began, and for how long they are there.
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
        // What is forgotten costs a round trip.
        if seen.len() >= MAX_REMEMBERED {
            seen.clear();
        }
        seen.insert(revision, (began, time_to_live));
    }

    /// Whether the time to live of a revision is certainly not over. It may have been replaced.
    pub(super) fn is_alive(&self, revision: Revision, clock: &Clock) -> bool {
        let seen = lock(&self.seen).get(&revision).copied();
        seen.is_some_and(|(began, time_to_live)| {
            time_to_live.is_none_or(|time| clock.left(began, time) > MARGIN)
        })
    }
}
