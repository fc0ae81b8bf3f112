//! Numbers of tasks, which all views of a process share for some seconds.
//!
//! The store has no index by state, so tasks are counted by reading their records. The number of records that a count
//! reads is bounded, and so is its time.

use crate::task_id::RECORDS;
use crate::tasks::Core;
use crate::{TaskError, TaskId, TaskState, TaskStatus, Tasks};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower_promises_backend::kit::clock::now;

/// The number of records that are read at once.
const CHUNK: usize = 500;

/// The time after which a count ends.
const LONGEST: Duration = Duration::from_secs(2);

/// The largest number of queues that are counted. The names are those of stored tasks.
const MAX_QUEUES: usize = 200;

/// The number of running tasks that the overview shows.
const RUNNING: usize = 8;

const MINUTE: u64 = 60 * 1000;

/// The latest snapshot.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<Option<(Instant, Arc<Snapshot>)>>);

/// Numbers of tasks at some time.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) taken: SystemTime,
    pub(super) queues: BTreeMap<String, Numbers>,
    /// Some of the running tasks.
    pub(super) running: Vec<TaskStatus>,
    /// The number of records that were read.
    pub(super) counted: usize,
    /// Whether all records were read.
    pub(super) is_complete: bool,
}

/// The numbers of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) queued: usize,
    pub(super) running: usize,
    pub(super) succeeded: usize,
    pub(super) failed: usize,
    pub(super) cancelled: usize,
    pub(super) dead_letters: usize,
    /// Whether `dead_letters` is the length of the list of dead letters. Otherwise this process does not have the queue,
    /// and tasks with that state are counted, including discarded ones.
    is_listed: bool,
    /// Tasks that have ended within the last minute, and within the last hour.
    pub(super) last_minute: usize,
    pub(super) last_hour: usize,
}

/// The part of a record that is counted.
#[derive(Deserialize)]
struct Counted<'a> {
    #[serde(borrow)]
    service: Cow<'a, str>,
    state: TaskState,
    finished: Option<u64>,
}

impl Snapshots {
    /// Returns the latest snapshot, or takes one if that is too old. Requests that come meanwhile wait for it.
    pub(super) async fn latest(
        &self,
        tasks: &Tasks,
        max_counted: usize,
        interval: Duration,
    ) -> Result<Arc<Snapshot>, TaskError> {
        let mut latest = self.0.lock().await;
        if let Some((taken, snapshot)) = &*latest {
            if taken.elapsed() < interval {
                return Ok(snapshot.clone());
            }
        }
        let snapshot = Arc::new(Snapshot::take(&tasks.core, max_counted).await?);
        *latest = Some((Instant::now(), snapshot.clone()));
        Ok(snapshot)
    }

    /// Forgets the snapshot, because a task has changed.
    pub(super) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

impl Snapshot {
    async fn take(core: &Core, max_counted: usize) -> Result<Self, TaskError> {
        let mut snapshot = Self {
            taken: SystemTime::now(),
            queues: BTreeMap::new(),
            running: Vec::new(),
            counted: 0,
            is_complete: true,
        };
        for queue in core.queues.keys() {
            let dead_letters = core.listed_dead_letters(queue).await?.len();
            let numbers = snapshot.queues.entry((**queue).to_owned()).or_default();
            numbers.dead_letters = dead_letters;
            numbers.is_listed = true;
        }
        let (start, now) = (Instant::now(), now());
        let mut after = None;
        loop {
            let left = max_counted.saturating_sub(snapshot.counted);
            if left == 0 || start.elapsed() > LONGEST {
                snapshot.is_complete = false;
                return Ok(snapshot);
            }
            let backend = &core.records.backend;
            let page = backend.list(RECORDS, after.as_deref(), left.min(CHUNK));
            let page = page.await?;
            for listed in page.entries {
                snapshot.counted += 1;
                let id = listed.key.strip_prefix(RECORDS).unwrap_or_default();
                snapshot.count(id, &listed.entry.value, now);
            }
            after = page.next;
            if after.is_none() {
                return Ok(snapshot);
            }
        }
    }

    /// Counts a record. A record of another version that cannot be read is left out.
    fn count(&mut self, id: &str, record: &[u8], now: u64) {
        let Ok(counted) = serde_json::from_slice::<Counted<'_>>(record) else {
            self.is_complete = false;
            return;
        };
        if !self.queues.contains_key(&*counted.service) && self.queues.len() >= MAX_QUEUES {
            self.is_complete = false;
            return;
        }
        let numbers = self.queues.entry(counted.service.into_owned()).or_default();
        match counted.state {
            TaskState::Queued => numbers.queued += 1,
            TaskState::Running => numbers.running += 1,
            TaskState::Succeeded => numbers.succeeded += 1,
            TaskState::Failed => numbers.failed += 1,
            TaskState::Cancelled => numbers.cancelled += 1,
            TaskState::Dead if numbers.is_listed => {}
            TaskState::Dead => numbers.dead_letters += 1,
        }
        let since = counted
            .finished
            .map(|finished| now.saturating_sub(finished));
        if counted.state.is_terminal() {
            numbers.last_minute += usize::from(since.is_some_and(|since| since < MINUTE));
            numbers.last_hour += usize::from(since.is_some_and(|since| since < 60 * MINUTE));
        }
        if counted.state == TaskState::Running && self.running.len() < RUNNING {
            if let Ok(record) = serde_json::from_slice(record) {
                self.running.push(TaskStatus::new(TaskId::new(id), record));
            }
        }
    }

    /// Returns the sum of a number of all queues.
    pub(super) fn sum(&self, number: impl Fn(&Numbers) -> usize) -> usize {
        self.queues.values().map(number).sum()
    }
}
