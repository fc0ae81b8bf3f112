//! What the queue and the store keep of a task.

use super::failure::Reported;
use super::fingerprint::fingerprint;
use super::scope::Caller;
use super::{Principal, TaskError, TaskId, TaskState, TraceContext};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What travels through the queue: all that a worker needs, also when the store has forgotten the task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) id: TaskId,
    /// Which submission it is: a dead letter that is sent again gets another one, and what is left of the one before
    /// means nothing.
    pub(super) submission: String,
    pub(super) service: String,
    pub(super) task: String,
    pub(super) arguments: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<Principal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<TraceContext>,
    // Milliseconds since the epoch.
    pub(super) created: u64,
    /// When it is not begun any more.
    pub(super) expires: u64,
}

impl Letter {
    pub(super) fn caller(&self) -> Caller {
        Caller {
            principal: self.principal.clone(),
            trace: self.trace.clone(),
        }
    }

    /// What the queue knows it by.
    pub(super) fn envelope_id(&self) -> String {
        format!("{}/{}", self.id, self.submission)
    }
}

/// The state of a task. Whoever changes it does so by compare-and-set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) service: String,
    pub(super) task: String,
    pub(super) principal: Option<Principal>,
    pub(super) state: TaskState,
    pub(super) submission: String,
    /// What its arguments are compared by when it is submitted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fingerprint: Option<String>,
    /// How often it was begun.
    pub(super) attempt: u32,
    /// Whether an attempt has ended with its worker. It may have been the task that has ended it, or one beside it.
    #[serde(default)]
    pub(super) is_suspect: bool,
    /// What the running attempt is known by. Only who has it may say how the attempt ends.
    pub(super) token: Option<String>,
    /// The tombstone: nobody wants it any more.
    pub(super) cancel: bool,
    pub(super) progress: Option<f64>,
    pub(super) message: Option<String>,
    // Milliseconds since the epoch.
    pub(super) created: u64,
    pub(super) started: Option<u64>,
    pub(super) finished: Option<u64>,
    /// When the store forgets it.
    pub(super) expires: u64,
    pub(super) output: Option<Box<RawValue>>,
    pub(super) failure: Option<Failure>,
    /// A dead letter, until it has been begun again.
    pub(super) letter: Option<Letter>,
    /// A dead letter that no worker could read, until it has been begun again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unread: Option<Unread>,
    /// Until when it may begin although its letter says that its time is over, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) extended: Option<u64>,
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

/// How a task, or its last attempt, has failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) error: Reported,
    pub(super) is_conflict: bool,
}

impl Record {
    pub(super) fn new(letter: &Letter) -> Self {
        Self {
            service: letter.service.clone(),
            task: letter.task.clone(),
            principal: letter.principal.clone(),
            state: TaskState::Queued,
            submission: letter.submission.clone(),
            fingerprint: Some(fingerprint(letter)),
            attempt: 0,
            is_suspect: false,
            token: None,
            cancel: false,
            progress: None,
            message: None,
            created: letter.created,
            started: None,
            finished: None,
            expires: letter.expires,
            output: None,
            failure: None,
            letter: None,
            unread: None,
            extended: None,
        }
    }

    /// That of a letter which no worker could read. What the letter says is not known: neither its type nor its principal.
    pub(super) fn of_unread(service: &str, submission: &str) -> Self {
        let now = now();
        Self {
            service: service.to_owned(),
            task: String::new(),
            principal: None,
            state: TaskState::Queued,
            submission: submission.to_owned(),
            fingerprint: None,
            attempt: 0,
            is_suspect: false,
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
            unread: None,
            extended: None,
        }
    }

    /// Whether it can be sent again.
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
        self.expires = now.saturating_add(milliseconds(time_to_live));
    }

    /// Lets it wait for its next attempt, unless nobody wants it any more.
    pub(super) fn queue_again(&mut self, time_to_live: Duration) {
        self.state = TaskState::Queued;
        self.token = None;
        if self.cancel {
            self.end(TaskState::Cancelled, time_to_live);
        }
    }

    /// For how long the store is to keep it.
    pub(super) fn time_to_live(&self) -> Duration {
        // At least a moment: no time at all might mean forever to a backend.
        Duration::from_millis(self.expires.saturating_sub(now()).max(1000))
    }

    /// The output, or why there is none. `None` while it has not ended.
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

pub(super) fn now() -> u64 {
    // A clock before 1970 is at the epoch.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(since.unwrap_or_default())
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn time(milliseconds: u64) -> SystemTime {
    let since = Duration::from_millis(milliseconds);
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}
