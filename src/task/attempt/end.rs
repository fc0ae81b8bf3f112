//! How an attempt ends.

use super::{Attempt, BACKEND_PAUSE, End, OTHER_VERSION_PAUSE};
use crate::backend::{BackendError, Outcome};
use crate::task::context::Report;
use crate::task::definition::RunError;
use crate::task::failure::Reported;
use crate::task::hub::News;
use crate::task::record::{Failure, Record, milliseconds};
use crate::task::request::panicked;
use crate::task::{TaskState, observe};
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// How often the end of an attempt is tried to be stored, with pauses that double from the first one. After that the
/// task is tried again.
const END_ATTEMPTS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl Attempt<'_> {
    /// Changes the record, and tries to until the store answers, within reason.
    async fn settle(
        &self,
        report: &Report,
        mut change: impl FnMut(&mut Record),
    ) -> Result<Option<Record>, BackendError> {
        let mut pause = FIRST_PAUSE;
        let mut tried = 1;
        loop {
            let changed = self.change(|record| {
                record.progress = report.progress;
                record.message.clone_from(&report.message);
                change(record);
            });
            match changed.await {
                Err(error) => {
                    observe::backend_failed(&self.letter.id, &error);
                    let can_help = !matches!(error, BackendError::TooLarge { .. });
                    if tried == END_ATTEMPTS || !can_help {
                        return Err(error);
                    }
                }
                changed => return changed,
            }
            sleep(pause).await;
            pause *= 2;
            tried += 1;
        }
    }

    /// Stores how the attempt has ended. The first to store an end has ended the task.
    pub(super) async fn end(&self, end: End, report: &Report, limit: Duration) -> Outcome {
        let failed = |error| Failure {
            error,
            is_conflict: false,
        };
        let failure = match end {
            End::Ended(Ok(output)) => return self.succeed(output, report).await,
            End::Ended(Err(RunError::Failed(failure))) => {
                let failure = self.core.classify(failure);
                Failure {
                    error: Reported::of(failure.error()),
                    is_conflict: failure.is_conflict(),
                }
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
            End::Ended(Err(RunError::Panicked(message))) => failed(panicked(&message)),
            End::TimedOut => failed(Reported::new(format!("the task took more than {limit:?}"))),
            End::Cancelled => return self.finish(TaskState::Cancelled, None, report).await,
            End::Superseded => return self.superseded().await,
            End::Shutdown => {
                observe::given_back(self.letter);
                // It was not the task that ended the attempt. If the store does not take it, it counts all the same.
                let uncount = |record: &mut Record| {
                    record.attempt = record.attempt.saturating_sub(1);
                };
                return self.queue_again(uncount, Duration::ZERO, report).await;
            }
        };
        if failure.is_conflict {
            return self.again(failure, pause_after(self.number), report).await;
        }
        self.finish(TaskState::Failed, Some(failure), report).await
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
            record.end(TaskState::Succeeded, self.core.settings.result_time_to_live);
        });
        match ended.await {
            Err(BackendError::TooLarge { size, limit }) => {
                let failure = Some(too_large(size, limit));
                self.finish(TaskState::Failed, failure, report).await
            }
            ended => self.ended(TaskState::Succeeded, None, ended).await,
        }
    }

    async fn finish(&self, state: TaskState, failure: Option<Failure>, report: &Report) -> Outcome {
        let ended = self.settle(report, |record| {
            record.failure.clone_from(&failure);
            record.end(state, self.core.settings.result_time_to_live);
        });
        let ended = ended.await;
        self.ended(state, failure.as_ref(), ended).await
    }

    /// Lets the task be tried again after a pause, unless this was the last attempt.
    pub(super) async fn again(
        &self,
        failure: Failure,
        pause: Duration,
        report: &Report,
    ) -> Outcome {
        if self.number < self.core.settings.max_attempts {
            observe::conflicted(self.letter, &failure.error, pause);
            let failed = |record: &mut Record| record.failure = Some(failure.clone());
            return self.queue_again(failed, pause, report).await;
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
                observe::ended(self.letter, TaskState::Dead, Some(&failure.error));
                self.bury().await
            }
            dead => self.ended(TaskState::Dead, Some(&failure), dead).await,
        }
    }

    /// Lets the task be delivered again after a pause. Who has asked for its cancel meanwhile need not wait for that.
    async fn queue_again(
        &self,
        mut change: impl FnMut(&mut Record),
        pause: Duration,
        report: &Report,
    ) -> Outcome {
        let queued = self.settle(report, |record| {
            change(record);
            record.queue_again(self.core.settings.result_time_to_live);
        });
        match queued.await {
            Ok(Some(record)) if record.state == TaskState::Cancelled => {
                self.ended(TaskState::Cancelled, None, Ok(Some(record)))
                    .await
            }
            Ok(Some(_)) => {
                self.core.announce(&self.letter.id, News::Changed).await;
                Outcome::Retry { after: pause }
            }
            // Then the next delivery finds out what there is to do.
            Ok(None) | Err(_) => Outcome::Retry { after: pause },
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
                let error = failure.map(|failure| &failure.error);
                let error = error.map(|error| error as &(dyn std::error::Error + 'static));
                observe::ended(self.letter, state, error);
                self.core.announce(&self.letter.id, News::Ended).await;
                Outcome::Done
            }
            Ok(None) => self.superseded().await,
            // The attempt has counted, so this does not go on forever.
            Err(_) => Outcome::Retry {
                after: BACKEND_PAUSE,
            },
        }
    }

    /// The attempt is not that of the store any more, or has ended in an earlier call that seemed to fail. Either way
    /// another delivery, if this worker has a say in it, finds out what there is to do.
    async fn superseded(&self) -> Outcome {
        observe::superseded(self.letter);
        self.core.announce(&self.letter.id, News::Ended).await;
        Outcome::Retry {
            after: BACKEND_PAUSE,
        }
    }

    /// Lists a dead letter, and tells of it.
    pub(super) async fn bury(&self) -> Outcome {
        match self.core.list(&self.letter.service, &self.letter.id).await {
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

/// A random time within 2^n seconds, so that those who were in each other's way do not meet again.
fn pause_after(attempt: u32) -> Duration {
    let within = Duration::from_secs(1 << attempt.min(10));
    // The last 62 bits of such a UUID are random.
    let random = Uuid::new_v4().as_u64_pair().1 % milliseconds(within).max(1);
    Duration::from_millis(random)
}
