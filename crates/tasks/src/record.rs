//! The forms of a task in the queue and in the store.

use super::caller::Caller;
use super::ended::EndedTask;
use super::failure::Reported;
use super::fingerprint::fingerprint;
use super::{Principal, TaskError, TaskId, TaskLimit, TaskState, TraceContext};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::Priority;
use tower_promises_backend::kit::clock::{milliseconds, now};

const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// A task in the queue. It contains everything that a worker needs, even if the record has expired in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) id: TaskId,
    /// Identifies the submission. A dead letter that is sent again gets a new one, and deliveries of the earlier
    /// submission are ignored.
    pub(super) submission: String,
    #[serde(rename = "service")]
    pub(super) queue: String,
    pub(super) task: String,
    pub(super) arguments: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<Principal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<TraceContext>,
    /// The number of attempts. `None` means the setting of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<TaskLimit>,
    /// The index of the priority, `None` for the normal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<usize>,
    // Milliseconds since the epoch.
    pub(super) created: u64,
    /// When the task may start, if that is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<u64>,
    /// After this time, no attempt starts.
    pub(super) expires: u64,
    /// Whether the id is kept until no attempt can start any more, so that a late duplicate of the task never runs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) once: bool,
    /// The task that is called when this task has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) on_end: Option<OnEnd>,
    /// The task whose end has caused this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<EndedTask>,
    /// Whether the letter is no task, but causes its worker to give the free slots of the limit to tasks that wait.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_reminder: bool,
}

/// A task that is called when another one has ended, for the same principal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OnEnd {
    #[serde(rename = "service")]
    pub(super) queue: String,
    pub(super) task: String,
    pub(super) arguments: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<TaskLimit>,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Letter {
    pub(super) fn caller(&self) -> Caller {
        Caller {
            principal: self.principal.clone(),
            trace: self.trace.clone(),
        }
    }

    /// Keeps the priority for later envelopes of the task.
    pub(super) fn prioritised(self, priority: Priority) -> Self {
        let line = PRIORITIES.iter().position(|line| *line == priority);
        let line = line.filter(|_| priority != Priority::Normal);
        Self { line, ..self }
    }

    /// Notes the minimum time before the task starts.
    pub(super) fn delayed(self, delay: Duration) -> Self {
        let is_delayed = !delay.is_zero();
        let due = is_delayed.then(|| now().saturating_add(milliseconds(delay)));
        Self { due, ..self }
    }

    /// Returns how long the task has waited until a time, by the clocks of two machines.
    pub(super) fn waited(&self, until: u64) -> Duration {
        let since = self.due.unwrap_or(self.created);
        Duration::from_millis(until.saturating_sub(since))
    }

    /// Returns the index of the priority, 0 for the highest.
    pub(super) fn line(&self) -> usize {
        self.line.map_or(1, |line| line.min(PRIORITIES.len() - 1))
    }

    pub(super) fn priority(&self) -> Priority {
        PRIORITIES[self.line()]
    }

    /// Creates a letter whose worker gives the free slots of the limit of this one to tasks that wait.
    pub(super) fn reminder(&self) -> Self {
        Self {
            arguments: RawValue::NULL.to_owned(),
            on_end: None,
            is_reminder: true,
            ..self.clone()
        }
    }

    /// Returns the id of the envelope in the queue.
    pub(super) fn envelope_id(&self) -> String {
        // One reminder for each submission, however often it is repeated.
        let kind = if self.is_reminder { "~limit" } else { "" };
        format!("{}/{}{kind}", self.id, self.submission)
    }
}

/// The state of a task. All changes use compare-and-set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(rename = "service")]
    pub(super) queue: String,
    pub(super) task: String,
    pub(super) principal: Option<Principal>,
    pub(super) state: TaskState,
    pub(super) submission: String,
    /// Whether the submission is that of a parked task whose turn has come. Its envelope is the concern of
    /// [`admission`](super::admission) only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_admitted: bool,
    /// Digest for comparison with later submissions of the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fingerprint: Option<String>,
    /// The number of attempts so far.
    pub(super) attempt: u32,
    /// Whether an attempt has ended with its worker, because of this task or of another one beside it.
    #[serde(default)]
    pub(super) is_suspect: bool,
    /// The number of attempts that have ended with their worker.
    #[serde(default)]
    pub(super) crashes: u32,
    /// Identifies the running attempt. Only the attempt with this token can record its end.
    pub(super) token: Option<String>,
    /// A cancel was requested. A record that only exists for a cancel is a tombstone.
    pub(super) cancel: bool,
    pub(super) progress: Option<f64>,
    pub(super) message: Option<String>,
    // Milliseconds since the epoch.
    pub(super) created: u64,
    pub(super) started: Option<u64>,
    pub(super) finished: Option<u64>,
    /// The time at which the store deletes the record.
    pub(super) expires: u64,
    pub(super) output: Option<Box<RawValue>>,
    pub(super) failure: Option<Failure>,
    /// The task in its queued form, until its next attempt starts: of a dead letter, and of a task that is
    /// [unique](super::Unique), which a later submission keeps or replaces.
    pub(super) letter: Option<Letter>,
    /// The time before which a kept letter must not run, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<u64>,
    /// The bytes of a dead letter that no worker could read, until its next attempt starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unread: Option<Unread>,
    /// The time until which an attempt may start although the letter has expired, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) extended: Option<u64>,
    /// The time until which the record is kept at least, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kept: Option<u64>,
}

/// The bytes of a letter that this version cannot read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Unread {
    Text(String),
    Bytes(Vec<u8>),
}

impl Unread {
    pub(super) fn new(payload: &Bytes) -> Self {
        match std::str::from_utf8(payload) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(payload.to_vec()),
        }
    }

    pub(super) fn payload(&self) -> Bytes {
        match self {
            Self::Text(text) => text.clone().into(),
            Self::Bytes(bytes) => bytes.clone().into(),
        }
    }
}

/// The error of a task or of its last attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) error: Reported,
    pub(super) is_conflict: bool,
}

impl Record {
    pub(super) fn new(letter: &Letter) -> Self {
        Self {
            task: letter.task.clone(),
            principal: letter.principal.clone(),
            fingerprint: Some(fingerprint(&letter.queue, &letter.task, &letter.arguments)),
            created: letter.created,
            expires: letter.expires,
            kept: letter.once.then_some(letter.expires),
            ..Self::of_unread(&letter.queue, &letter.submission)
        }
    }

    /// Creates a record that keeps the letter, for a task that starts after `delay`.
    pub(super) fn keeping(letter: &Letter, delay: Duration) -> Self {
        let is_delayed = !delay.is_zero();
        Self {
            letter: Some(letter.clone()),
            due: is_delayed.then(|| now().saturating_add(milliseconds(delay))),
            ..Self::new(letter)
        }
    }

    /// Whether the task waits for its first attempt.
    pub(super) fn is_new(&self) -> bool {
        self.state == TaskState::Queued && self.attempt == 0
    }

    /// Returns the kept letter of a task that waits, and its delay.
    pub(super) fn kept(self) -> Option<(Letter, Duration)> {
        let letter = self.letter.filter(|_| self.state == TaskState::Queued)?;
        let due = self.due.unwrap_or(0);
        let letter = Letter {
            submission: self.submission,
            ..letter
        };
        Some((letter, Duration::from_millis(due.saturating_sub(now()))))
    }

    /// Creates the record of a letter that no worker could read. The type and the principal are unknown.
    pub(super) fn of_unread(queue: &str, submission: &str) -> Self {
        let now = now();
        Self {
            queue: queue.to_owned(),
            task: String::new(),
            principal: None,
            state: TaskState::Queued,
            submission: submission.to_owned(),
            is_admitted: false,
            fingerprint: None,
            attempt: 0,
            is_suspect: false,
            crashes: 0,
            token: None,
            cancel: false,
            progress: None,
            message: None,
            created: now,
            started: None,
            finished: None,
            expires: now,
            output: None,
            failure: None,
            letter: None,
            due: None,
            unread: None,
            extended: None,
            kept: None,
        }
    }

    /// Whether the dead letter can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        self.letter.is_some() || self.unread.is_some()
    }

    pub(super) fn end(&mut self, state: TaskState, time_to_live: Duration) {
        let now = now();
        self.state = state;
        self.token = None;
        self.letter = None;
        self.unread = None;
        self.finished = Some(now);
        let expires = now.saturating_add(milliseconds(time_to_live));
        self.expires = expires.max(self.kept.unwrap_or(0));
    }

    /// Notes that the running attempt has ended with its worker.
    pub(super) fn lose_worker(&mut self) {
        self.is_suspect = true;
        self.crashes += 1;
        self.failure = Some(Failure {
            error: crashed(),
            is_conflict: false,
        });
    }

    /// Queues the task for its next attempt. If a cancel was requested, ends the task instead.
    pub(super) fn queue_again(&mut self, time_to_live: Duration) {
        self.state = TaskState::Queued;
        self.token = None;
        if self.cancel {
            self.end(TaskState::Cancelled, time_to_live);
        }
    }

    /// Returns the time to live of the record in the store.
    pub(super) fn time_to_live(&self) -> Duration {
        // At least one second, because some backends take zero for no limit.
        Duration::from_millis(self.expires.saturating_sub(now()).max(1000))
    }

    /// Returns the output, or the reason why there is none. `None` while the task has not ended.
    pub(super) fn outcome(self, id: &TaskId) -> Option<Result<Box<RawValue>, TaskError>> {
        let lost = || Failure {
            error: Reported::new("the error was not kept"),
            is_conflict: false,
        };
        let error = match self.state {
            TaskState::Queued | TaskState::Running => return None,
            TaskState::Succeeded => return Some(Ok(self.output.unwrap_or_default())),
            TaskState::Cancelled => TaskError::Cancelled { id: id.clone() },
            TaskState::Failed => {
                let failure = self.failure.unwrap_or_else(lost);
                TaskError::Failed {
                    id: id.clone(),
                    task: self.task.into(),
                    error: Arc::new(failure.error),
                    is_conflict: failure.is_conflict,
                }
            }
            TaskState::Dead => TaskError::Dead {
                id: id.clone(),
                task: self.task.into(),
                attempts: self.attempt,
                error: Arc::new(self.failure.unwrap_or_else(lost).error),
            },
        };
        Some(Err(error))
    }
}

pub(super) fn crashed() -> Reported {
    Reported::new("the worker has ended, or lost touch, before the task did")
}
