//! Claim of a task for an attempt, and changes of its record.

use super::turn::Turn;
use crate::TaskState;
use crate::failure::Reported;
use crate::meters::AttemptOutcome;
use crate::record::{Failure, Letter, Record};
use crate::records::Changed;
use crate::retry::RetryPolicy;
use crate::tasks::Core;
use std::sync::Mutex;
use std::time::Duration;
use tower_promises_backend::kit::clock::{milliseconds, now};
use tower_promises_backend::kit::documents::Update;
use tower_promises_backend::kit::metrics::Timed;
use tower_promises_backend::kit::progress::Report;
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{BackendError, Revision};

/// The pause before another delivery when the backend failed.
pub(super) const BACKEND_PAUSE: Duration = Duration::from_secs(1);

/// The pause before another delivery when this worker cannot read the task or does not know its type. The pause gives a
/// roll-out time to reach other workers.
pub(super) const OTHER_VERSION_PAUSE: Duration = Duration::from_secs(30);

/// An attempt at a task.
pub(super) struct Attempt<'a> {
    pub(super) core: &'a Core,
    pub(super) letter: &'a Letter,
    pub(super) number: u32,
    pub(super) token: String,
    /// The policy of the type, or the default if this worker does not know the type.
    pub(super) retry: RetryPolicy,
    /// From the claim on.
    pub(super) timed: Option<Timed<'a>>,
    /// The record as this attempt has last written it. Usually no other writer changes it meanwhile.
    pub(super) known: Mutex<Option<(Record, Revision)>>,
}

/// The result of claiming a delivered task.
pub(super) enum Begin {
    /// The attempt with this number starts. The first one starts after the task has waited.
    Attempt(u32, Option<Duration>),
    /// The task has ended, or the delivery belongs to an earlier submission.
    Nothing,
    /// A later submission has replaced this one, and may have failed to enqueue its letter with this delay.
    Replaced(Box<Letter>, Duration),
    /// A later submission has the task, and has got a slot or is about to.
    Admitted(Box<Letter>),
    /// The lifetime of the task is over.
    Expired,
    /// A cancel was requested.
    Cancelled,
    /// The task has just become a dead letter: all its attempts are used up, the last one without a recorded end.
    Dead,
    /// The task was a dead letter already.
    Buried,
}

impl Attempt<'_> {
    /// Claims the task for this attempt.
    ///
    /// Returns `None` if the attempt must run alone but does not. A suspect task may crash its worker, and an attempt
    /// that runs alone takes no other task down with it.
    pub(super) async fn begin(
        &self,
        limit: Duration,
        turn: &Turn<'_>,
    ) -> Result<Option<Begin>, BackendError> {
        match self.claim(limit, turn, true).await {
            Err(BackendError::TooLarge { .. }) => self.claim(limit, turn, false).await,
            begun => begun,
        }
    }

    async fn claim(
        &self,
        limit: Duration,
        turn: &Turn<'_>,
        has_room: bool,
    ) -> Result<Option<Begin>, BackendError> {
        let (core, letter) = (self.core, self.letter);
        let settings = &core.settings;
        let max_attempts = self.max_attempts();
        let is_alone = matches!(turn, Turn::Alone { .. });
        // Whether the task is a dead letter if its worker ends in the next attempt.
        let is_last = |record: &Record| {
            record.attempt + 1 >= max_attempts || record.crashes + 1 >= settings.max_attempts
        };
        let mut has_lost = false;
        let update = |found: Option<Record>| {
            has_lost = false;
            let mut record = match found {
                Some(record) if record.submission != letter.submission => {
                    let is_admitted = record.is_admitted;
                    return Update::Keep(Some(match record.kept() {
                        Some((letter, _)) if is_admitted => Begin::Admitted(Box::new(letter)),
                        Some((letter, delay)) => Begin::Replaced(Box::new(letter), delay),
                        None => Begin::Nothing,
                    }));
                }
                Some(record) if record.state == TaskState::Dead => {
                    return Update::Keep(Some(Begin::Buried));
                }
                Some(record) if record.state.is_terminal() => {
                    return Update::Keep(Some(Begin::Nothing));
                }
                Some(record) => record,
                // The record has expired in the store, but the task is still in the queue.
                None => Record::new(letter),
            };
            record.letter = None;
            record.due = None;
            record.unread = None;
            if record.state == TaskState::Running {
                // The previous attempt has not recorded its end, so it ended with its worker.
                record.lose_worker();
                has_lost = true;
            }
            let now = now();
            let expires = letter.expires.max(record.extended.unwrap_or(0));
            let begin = if expires <= now {
                record.failure = Some(Failure {
                    error: expired(),
                    is_conflict: false,
                });
                record.end(TaskState::Failed, settings.retention);
                Some(Begin::Expired)
            } else if record.cancel {
                record.end(TaskState::Cancelled, settings.retention);
                Some(Begin::Cancelled)
            } else if record.attempt >= max_attempts || record.crashes >= settings.max_attempts {
                self.kill(&mut record, has_room);
                Some(Begin::Dead)
            } else if record.is_suspect && !is_alone && is_last(&record) {
                record.queue_again(settings.retention);
                None
            } else {
                record.attempt += 1;
                record.state = TaskState::Running;
                record.token = Some(self.token.clone());
                let waited = record.started.is_none().then(|| letter.waited(now));
                record.started = Some(now);
                // The record must outlive the attempt.
                let longest = limit.saturating_add(settings.retention);
                record.expires = expires.max(now.saturating_add(milliseconds(longest)));
                record.progress = None;
                record.message = None;
                Some(Begin::Attempt(record.attempt, waited))
            };
            let time_to_live = record.time_to_live();
            Update::Set(record, time_to_live, begin)
        };
        let key = letter.id.record();
        let mut known = None;
        let begun = core.records.backend.change_known(&key, &mut known, update);
        let begun = begun.await?;
        *lock(&self.known) = known;
        if has_lost {
            core.meters.of(letter).lost();
        }
        Ok(begun)
    }

    /// Sets the outcome that the attempt counts with.
    pub(super) fn ends(&self, outcome: AttemptOutcome) {
        if let Some(timed) = &self.timed {
            timed.ends(outcome as usize);
        }
    }

    /// Returns the number of attempts that the task has.
    pub(super) fn max_attempts(&self) -> u32 {
        let own = self.letter.max_attempts;
        own.unwrap_or(self.core.settings.max_attempts)
    }

    /// Makes the task a dead letter. Without room for its arguments in the store (`has_room` is `false`) it cannot be
    /// sent again.
    pub(super) fn kill(&self, record: &mut Record, has_room: bool) {
        record.end(TaskState::Dead, self.core.settings.dead_letter_retention);
        record.letter = has_room.then(|| self.letter.clone());
    }

    /// Changes the record and its progress if it still belongs to this attempt.
    pub(super) async fn change(
        &self,
        report: &Report,
        mut change: impl FnMut(&mut Record),
    ) -> Result<Option<Record>, BackendError> {
        let mut known = lock(&self.known).take();
        let records = &self.core.records;
        let changed = records.change_known(&self.letter.id, &mut known, |record| {
            let is_mine = record.token.as_ref() == Some(&self.token);
            if is_mine {
                record.progress = report.percent;
                record.message.clone_from(&report.message);
                change(record);
            }
            is_mine
        });
        let changed = changed.await?;
        *lock(&self.known) = known;
        match changed {
            Changed::Yes(record) => Ok(Some(record)),
            Changed::No(_) | Changed::Gone => Ok(None),
        }
    }
}

pub(super) fn expired() -> Reported {
    Reported::new("it has waited longer than its lifetime")
}
