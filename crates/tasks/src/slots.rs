//! The documents of a limit in the store, see [`admission`](super::admission).

use super::TaskId;
use super::fingerprint::digest;
use super::record::Letter;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises_backend::kit::clock::{milliseconds, now};
use tower_promises_backend::kit::progress::cut;

/// The interval at which the slots of a key in use are checked, in case the backend has lost an envelope.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The largest size of a name in a document, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// The prefix of the documents of keys in the store.
pub(super) const LIMITS: &str = "task/limit/";

/// The document of a key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Slots {
    /// The queue and the key, for people. The key in the store is a digest of both. Earlier versions stored neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    pub(super) at_once: u32,
    pub(super) holders: Vec<Holder>,
    /// By priority, the highest first.
    pub(super) lines: [Line; 3],
    /// The time of the last check, in milliseconds since the epoch.
    pub(super) checked: u64,
}

/// A submission with a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) id: TaskId,
    pub(super) submission: String,
    /// Its entry, which is there until the task is in the queue.
    pub(super) place: Place,
    /// Whether the task is certainly in the queue. Otherwise each process that reads the document sees to it.
    pub(super) is_enqueued: bool,
}

/// The numbers of the tasks that wait: from `first` up to `next`, with gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) first: u64,
    pub(super) next: u64,
}

/// The place of a parked task: its line and its number. A number below the first of its line is never used again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Place(pub(super) usize, pub(super) u64);

/// A task that waits for a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Parked {
    /// The task with its next submission, because the queue may still know the envelope of the present one.
    pub(super) letter: Letter,
    /// The submission that waits, and the number of its attempts so far.
    pub(super) replaces: String,
    pub(super) attempt: u32,
}

/// The keys in the store of one limit.
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn of(letter: &Letter) -> Option<Self> {
        let limit = letter.limit.as_ref()?;
        // The texts may be long and contain any character.
        Some(Self(digest(&[&letter.queue, limit.key()])))
    }

    /// The index of a turn. Some keys share one.
    pub(super) fn turn(&self) -> usize {
        let first = self.0.chars().next().and_then(|digit| digit.to_digit(16));
        first.unwrap_or(0) as usize
    }

    pub(super) fn slots(&self) -> String {
        format!("{LIMITS}{}", self.0)
    }

    pub(super) fn parked(&self, Place(line, number): Place) -> String {
        format!("task/parked/{}/{line}/{number}", self.0)
    }
}

impl Slots {
    pub(super) fn holds(&self, submission: &str) -> bool {
        let mut holders = self.holders.iter();
        holders.any(|holder| holder.submission == submission)
    }

    /// Stores the names of the document, cut off if they are long.
    pub(super) fn name(&mut self, letter: &Letter, key: &str) {
        let short = |text: &str| {
            let mut text = text.to_owned();
            cut(&mut text, MAX_NAME_BYTES);
            Some(text)
        };
        self.queue = short(&letter.queue);
        self.key = short(key);
    }

    /// Returns how many tasks wait at most. Some of their numbers may be gaps.
    #[cfg(feature = "page")]
    pub(super) fn waiting(&self) -> u64 {
        let lines = self.lines.iter();
        lines
            .map(|line| line.next.saturating_sub(line.first))
            .fold(0, u64::saturating_add)
    }

    pub(super) fn has_room(&self) -> bool {
        self.holders.len() < self.at_once as usize
    }

    /// Whether there is nothing to do before a slot is released.
    pub(super) fn is_settled(&self) -> bool {
        let mut holders = self.holders.iter();
        !self.has_room() && !self.is_unchecked() && holders.all(|holder| holder.is_enqueued)
    }

    pub(super) fn is_unchecked(&self) -> bool {
        let since = now().saturating_sub(self.checked);
        !self.holders.is_empty() && since > milliseconds(CHECK_INTERVAL)
    }
}
