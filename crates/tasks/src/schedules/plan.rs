//! The plan of a schedule: what is decided about its due times, for all processes.

use crate::TaskId;
use crate::record::Letter;
use crate::schedule::{Missed, Schedule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A due time is missed if it is decided later than this, in milliseconds.
const TOLERANCE: u64 = 60 * 1000;

/// A decision that is further in the future than this comes from a clock that was wrong, in milliseconds. A smaller
/// distance may be the difference between two clocks, and is waited for.
const LARGEST_LEAD: u64 = 60 * 60 * 1000;

/// The largest number of definitions of one schedule whose progress is kept.
const MAX_DEFINITIONS: usize = 8;

/// The stored plan. It is changed with compare-and-set only, so that each due time is decided once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The times of the schedule as deployed last, see `Schedule::times`.
    times: String,
    /// By definition, the time until which all due times are decided. During a deployment, processes with the earlier
    /// definition and with the new one keep the schedule beside each other. All times are milliseconds since the epoch.
    decided: BTreeMap<String, u64>,
    /// The run that was decided last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Run>,
    /// The task of a decided run, until a process has seen it submitted. A process that finds it submits it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Letter>,
    /// The time of the last write.
    pub(super) written: u64,
}

/// A run of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) id: TaskId,
    pub(super) due: u64,
}

/// The state of a schedule at some time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// This due time runs.
    Run(u64),
    /// No due time until this one runs.
    Skip(u64),
    /// The plan is from a clock that was wrong, and starts again now.
    Again,
    /// Nothing is due until this time.
    NotBefore(Option<u64>),
}

impl Plan {
    /// Begins to keep a schedule in a process. A schedule that is new, or that was changed by a deployment, begins now:
    /// the due times of another definition are not missed ones of this definition. Returns whether the plan has
    /// changed.
    pub(super) fn begin(&mut self, times: &str, now: u64) -> bool {
        if self.times == times && self.decided.contains_key(times) {
            return false;
        }
        times.clone_into(&mut self.times);
        self.decide(times, now);
        true
    }

    /// Returns the time until which the due times of a definition are decided.
    pub(super) fn decided(&self, times: &str) -> Option<u64> {
        self.decided.get(times).copied()
    }

    /// Marks all due times of a definition until this time as decided.
    pub(super) fn decide(&mut self, times: &str, until: u64) {
        self.decided.insert(times.to_owned(), until);
        while self.decided.len() > MAX_DEFINITIONS {
            let others = self.decided.iter().filter(|(other, _)| **other != times);
            let oldest = others.min_by_key(|(_, until)| **until);
            let Some(oldest) = oldest.map(|(oldest, _)| oldest.clone()) else {
                break;
            };
            self.decided.remove(&oldest);
        }
    }

    /// Returns what is due if all due times until `decided` are decided.
    pub(super) fn due(schedule: &Schedule, decided: u64, now: u64) -> Due {
        if decided > now.saturating_add(LARGEST_LEAD) {
            return Due::Again;
        }
        let is_due = |due: &u64| *due <= now;
        let Some(first) = schedule.next(decided) else {
            return Due::NotBefore(None);
        };
        if !is_due(&first) {
            return Due::NotBefore(Some(first));
        }
        let tolerated = now.saturating_sub(TOLERANCE);
        if first > tolerated {
            return Due::Run(first);
        }
        // A due time on time stands for those that were missed.
        if let Some(on_time) = schedule.next(tolerated).filter(is_due) {
            return Due::Run(on_time);
        }
        let latest = schedule.latest(decided, now).unwrap_or(first);
        match schedule.missed {
            Missed::RunOnce => Due::Run(latest),
            Missed::Skip => Due::Skip(latest),
        }
    }
}

/// Returns the key of the plan in the store.
pub(super) fn key(name: &str) -> String {
    format!("task/schedule/{name}")
}
