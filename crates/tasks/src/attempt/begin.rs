//! Start of an attempt, and the updates of the task's record while the attempt runs.

use super::turn::Turn;
use super::{Attempt, Begin, End, crashed, expired};
use crate::hub::News;
use crate::record::{Failure, Record};
use crate::records::Changed;
use crate::{TaskState, observe};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::{milliseconds, now};
use tower_promises_backend::kit::documents::Update;
use tower_promises_backend::kit::progress::Report;
use tower_promises_backend::kit::topics::Subscription;

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
        let is_alone = matches!(turn, Turn::Alone { .. });
        let update = |found: Option<Record>| {
            let mut record = match found {
                Some(record) if record.submission != letter.submission => {
                    return Update::Keep(Some(Begin::Nothing));
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
            record.unread = None;
            if record.state == TaskState::Running {
                // The previous attempt has not recorded its end, so it ended with its worker.
                record.is_suspect = true;
                record.failure = Some(Failure {
                    error: crashed(),
                    is_conflict: false,
                });
            }
            let now = now();
            let expires = letter.expires.max(record.extended.unwrap_or(0));
            let begin = if expires <= now {
                record.failure = Some(Failure {
                    error: expired(),
                    is_conflict: false,
                });
                record.end(TaskState::Failed, settings.result_time_to_live);
                Some(Begin::Expired)
            } else if record.cancel {
                record.end(TaskState::Cancelled, settings.result_time_to_live);
                Some(Begin::Cancelled)
            } else if record.attempt >= settings.max_attempts {
                self.kill(&mut record, has_room);
                Some(Begin::Dead)
            } else if record.is_suspect && !is_alone && record.attempt + 1 >= settings.max_attempts
            {
                record.queue_again(settings.result_time_to_live);
                None
            } else {
                record.attempt += 1;
                record.state = TaskState::Running;
                record.token = Some(self.token.clone());
                record.started = Some(now);
                // The record must outlive the attempt.
                let longest = limit.saturating_add(settings.result_time_to_live);
                record.expires = expires.max(now.saturating_add(milliseconds(longest)));
                record.progress = None;
                record.message = None;
                Some(Begin::Attempt(record.attempt))
            };
            let time_to_live = record.time_to_live();
            Update::Set(record, time_to_live, begin)
        };
        let key = letter.id.record();
        core.records.backend.change(&key, update).await
    }

    /// Makes the task a dead letter. Without room for its arguments in the store (`has_room` is `false`) it cannot be
    /// sent again.
    pub(super) fn kill(&self, record: &mut Record, has_room: bool) {
        record.end(TaskState::Dead, self.core.settings.dead_letter_time_to_live);
        record.letter = has_room.then(|| self.letter.clone());
    }

    /// Resolves when the attempt must stop.
    pub(super) async fn watch(&self, mut cancels: Subscription) -> End {
        loop {
            // The timeout covers lost bus messages.
            let _ = timeout(self.core.settings.poll_interval, cancels.notified()).await;
            match self.core.records.find(&self.letter.id).await {
                Ok(Some(record)) if record.token.as_ref() != Some(&self.token) => {
                    return End::Superseded;
                }
                Ok(Some(record)) if record.cancel => return End::Cancelled,
                // A missing record does not stop the attempt: its outcome could not be recorded elsewhere either.
                Ok(Some(_) | None) => {}
                Err(error) => observe::backend_failed(&self.letter.id, &error),
            }
        }
    }

    /// Announces the start of the attempt and stores progress reports. Runs beside the task, which does not wait for
    /// it.
    pub(super) async fn report(&self, report: &watch::Sender<Report>) -> Infallible {
        self.core.announce(&self.letter.id, News::Changed).await;
        let mut reports = report.subscribe();
        // Reports from before the subscription count as well.
        reports.mark_changed();
        let mut stored = Report::default();
        loop {
            // Cannot fail: the sender outlives this loop.
            let _ = reports.changed().await;
            let report = reports.borrow_and_update().clone();
            if report == stored {
                continue;
            }
            match self.change(&report, |_| {}).await {
                Ok(Some(_)) => self.core.announce(&self.letter.id, News::Changed).await,
                Ok(None) => {}
                Err(error) => observe::backend_failed(&self.letter.id, &error),
            }
            stored = report;
            sleep(self.core.settings.progress_interval).await;
        }
    }

    /// Changes the record and its progress if it still belongs to this attempt.
    pub(super) async fn change(
        &self,
        report: &Report,
        mut change: impl FnMut(&mut Record),
    ) -> Result<Option<Record>, BackendError> {
        let changed = self.core.records.change(&self.letter.id, |record| {
            let is_mine = record.token.as_ref() == Some(&self.token);
            if is_mine {
                record.progress = report.percent;
                record.message.clone_from(&report.message);
                change(record);
            }
            is_mine
        });
        match changed.await? {
            Changed::Yes(record) => Ok(Some(record)),
            Changed::No(_) | Changed::Gone => Ok(None),
        }
    }
}
