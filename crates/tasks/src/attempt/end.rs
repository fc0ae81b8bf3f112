//! End of an attempt.

use super::claim::{Attempt, BACKEND_PAUSE, OTHER_VERSION_PAUSE};
use crate::failure::Reported;
use crate::meters::AttemptOutcome;
use crate::news::News;
use crate::record::{Failure, Record};
use crate::tasks::{Ran, RunError};
use crate::{TaskState, observe};
use serde_json::value::RawValue;
use std::time::Duration;
use tower_promises_backend::kit::backoff;
use tower_promises_backend::kit::progress::Report;
use tower_promises_backend::{BackendError, Outcome};

/// The reason why an attempt is over.
pub(super) enum End {
    Ended(Ran),
    TimedOut,
    /// A cancel was requested.
    Cancelled,
    /// Another attempt has replaced this one, or the task has ended.
    Superseded,
    /// The worker shuts down.
    Shutdown,
}

impl Attempt<'_> {
    /// Changes the record, with a bounded number of retries while the store fails.
    async fn settle(
        &self,
        report: &Report,
        change: impl Fn(&mut Record),
    ) -> Result<Option<Record>, BackendError> {
        let call = || self.change(report, &change);
        let failed = |error: &BackendError| observe::backend_failed(&self.letter.id, error);
        backoff::retry(call, failed).await
    }

    /// Records the outcome of the attempt. The first recorded end is the end of the task.
    pub(super) async fn end(&self, end: End, report: &Report, limit: Duration) -> Outcome {
        let failed = |error| Failure {
            error,
            is_conflict: false,
        };
        let retried = || self.retry.pause_after_error(self.number);
        let (failure, pause) = match end {
            End::Ended(Ok(output)) => return self.succeed(output, report).await,
            End::Ended(Err(RunError::Failed(failure))) => {
                let failure = self.core.classify(failure);
                let pause = self.retry.pause_after(&failure, self.number);
                let failure = Failure {
                    error: Reported::of(failure.error()),
                    is_conflict: failure.is_transient(),
                };
                (failure, pause)
            }
            End::Ended(Err(RunError::Unreadable(error))) => {
                let task = &self.letter.task;
                let text = format!("this worker cannot read the arguments of task `{task}`");
                let failure = Failure {
                    error: Reported::because(text, &error),
                    is_conflict: true,
                };
                return self.again(failure, OTHER_VERSION_PAUSE, report).await;
            }
            End::Ended(Err(RunError::Panicked(message))) => {
                (failed(Reported::panicked(&message)), retried())
            }
            End::TimedOut => {
                let text = format!("the task took more than {limit:?}");
                (failed(Reported::new(text)), retried())
            }
            End::Cancelled => return self.finish(TaskState::Cancelled, None, report).await,
            End::Superseded => return self.superseded().await,
            End::Shutdown => {
                observe::given_back(self.letter);
                // The task did not end the attempt, so the attempt does not count. If the store fails here, it counts.
                let uncount = |record: &mut Record| {
                    record.attempt = record.attempt.saturating_sub(1);
                };
                let returned = AttemptOutcome::Returned;
                return self
                    .queue_again(returned, uncount, Duration::ZERO, report)
                    .await;
            }
        };
        match pause {
            Some(pause) => self.again(failure, pause, report).await,
            None => self.finish(TaskState::Failed, Some(failure), report).await,
        }
    }

    async fn succeed(&self, output: Box<RawValue>, report: &Report) -> Outcome {
        let (size, limit) = (output.get().len(), self.core.settings.max_output_bytes);
        let too_large = |size, limit| Failure {
            error: Reported::new(format!(
                "the output has {size} bytes, more than the {limit} that are allowed"
            )),
            is_conflict: false,
        };
        if size > limit {
            let failure = Some(too_large(size, limit));
            return self.finish(TaskState::Failed, failure, report).await;
        }
        let ended = self.settle(report, |record| {
            record.output = Some(output.clone());
            record.failure = None;
            record.end(TaskState::Succeeded, self.core.settings.retention);
        });
        match ended.await {
            Err(BackendError::TooLarge { size, limit, .. }) => {
                let failure = Some(too_large(size, limit));
                self.finish(TaskState::Failed, failure, report).await
            }
            ended => self.ended(TaskState::Succeeded, None, ended).await,
        }
    }

    async fn finish(&self, state: TaskState, failure: Option<Failure>, report: &Report) -> Outcome {
        let ended = self.settle(report, |record| {
            record.failure.clone_from(&failure);
            record.end(state, self.core.settings.retention);
        });
        let ended = ended.await;
        self.ended(state, failure.as_ref(), ended).await
    }

    /// Queues the task for another attempt after a pause, or makes it a dead letter if this was the last attempt.
    pub(super) async fn again(
        &self,
        failure: Failure,
        pause: Duration,
        report: &Report,
    ) -> Outcome {
        if self.number < self.max_attempts() {
            observe::conflicted(self.letter, &failure.error, pause);
            let failed = |record: &mut Record| record.failure = Some(failure.clone());
            let retried = AttemptOutcome::Retried;
            return self.queue_again(retried, failed, pause, report).await;
        }
        let kill = |has_room| {
            let failure = &failure;
            self.settle(report, move |record| {
                record.failure = Some(failure.clone());
                self.kill(record, has_room);
            })
        };
        let mut dead = kill(true).await;
        if let Err(BackendError::TooLarge { .. }) = dead {
            dead = kill(false).await;
        }
        match dead {
            Ok(Some(_)) => {
                self.count(TaskState::Dead);
                observe::ended(self.letter, TaskState::Dead, Some(&failure.error));
                self.bury().await
            }
            dead => self.ended(TaskState::Dead, Some(&failure), dead).await,
        }
    }

    /// Queues the task again with a pause before its next delivery. A cancel that was requested meanwhile takes effect
    /// at once, without waiting for the delivery.
    async fn queue_again(
        &self,
        outcome: AttemptOutcome,
        change: impl Fn(&mut Record),
        pause: Duration,
        report: &Report,
    ) -> Outcome {
        let queued = self.settle(report, |record| {
            change(record);
            record.queue_again(self.core.settings.retention);
        });
        match queued.await {
            Ok(Some(record)) if record.state == TaskState::Cancelled => {
                self.ended(TaskState::Cancelled, None, Ok(Some(record)))
                    .await
            }
            Ok(Some(_)) => {
                self.ends(outcome);
                self.core.announce(&self.letter.id, News::Changed).await;
                self.lend_slot(pause).await;
                Outcome::Retry { after: pause }
            }
            // The next delivery reads the record and continues from there.
            Ok(None) | Err(_) => Outcome::Retry { after: pause },
        }
    }

    /// Lets other tasks have the slot during a pause. A task that is delivered again at once keeps it.
    async fn lend_slot(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        if let Err(error) = self.core.release(self.letter).await {
            observe::backend_failed(&self.letter.id, &error);
        }
    }

    async fn ended(
        &self,
        state: TaskState,
        failure: Option<&Failure>,
        ended: Result<Option<Record>, BackendError>,
    ) -> Outcome {
        match ended {
            Ok(Some(_)) => {
                self.count(state);
                let error = failure.map(|failure| &failure.error);
                let error = error.map(|error| error as &(dyn std::error::Error + 'static));
                observe::ended(self.letter, state, error);
                self.core.announce(&self.letter.id, News::Ended).await;
                Outcome::Done
            }
            Ok(None) => self.superseded().await,
            // The attempt has been counted, so the number of retries is bounded.
            Err(_) => Outcome::Retry {
                after: BACKEND_PAUSE,
            },
        }
    }

    /// Counts the end of the task by this attempt.
    fn count(&self, state: TaskState) {
        let (meters, letter) = (&self.core.meters, self.letter);
        meters.ended(&letter.queue, &letter.task, state);
        self.ends(AttemptOutcome::of(state));
    }

    /// Handles a record that no longer belongs to this attempt: another attempt has replaced it, or an earlier call of
    /// this attempt recorded the end although the store reported an error. The next delivery reads the record and
    /// continues from there.
    async fn superseded(&self) -> Outcome {
        observe::superseded(self.letter);
        self.core.announce(&self.letter.id, News::Ended).await;
        Outcome::Retry {
            after: BACKEND_PAUSE,
        }
    }

    /// Adds the task to the list of dead letters and announces its end.
    pub(super) async fn bury(&self) -> Outcome {
        match self.core.list(&self.letter.queue, &self.letter.id).await {
            Ok(()) => {
                self.core.announce(&self.letter.id, News::Ended).await;
                Outcome::Done
            }
            Err(error) => {
                observe::backend_failed(&self.letter.id, &error);
                Outcome::Retry {
                    after: BACKEND_PAUSE,
                }
            }
        }
    }
}
