//! One attempt of a worker at a task.

use super::context::{Report, Shared, StopOnDrop};
use super::core::{Core, Service};
use super::definition::{Ended, RunError};
use super::failure::Reported;
use super::hub::{News, Subscription};
use super::record::{Failure, Letter, Record, milliseconds, now};
use super::records::{Changed, Update};
use super::request::panicked;
use super::scope::{Scope, Scoped};
use super::worker::Phase;
use super::{TaskContext, TaskState, Tasks, observe};
use crate::backend::{BackendError, Delivery, Outcome};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

/// The pause before a task is delivered again that could not be begun because the store has failed.
const BACKEND_PAUSE: Duration = Duration::from_secs(1);

/// The pause before another worker may get a task whose type this one does not know: long enough for a roll-out to go
/// on.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(30);

/// How often the end of an attempt is tried to be stored, with pauses that double from the first one. After that the
/// task is tried again.
const END_ATTEMPTS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What the attempts at the tasks of a service have in common.
pub(super) struct Attempts {
    pub(super) tasks: Tasks,
    pub(super) service: Service,
    pub(super) name: Arc<str>,
    pub(super) phase: watch::Receiver<Phase>,
}

/// A task that this worker has begun.
struct Attempt<'a> {
    core: &'a Core,
    letter: &'a Letter,
    number: u32,
    token: String,
}

/// What is to be done with a task that was delivered.
enum Begin {
    /// This attempt.
    Attempt(u32),
    /// It has ended or is somebody else's.
    Nothing,
    /// It has waited for too long.
    Expired,
    /// Somebody has cancelled it.
    Cancelled,
    /// Its attempts are used up, and each has ended with its worker.
    Dead,
    /// It was dead already.
    Buried,
}

/// Why an attempt is over.
enum End {
    Ended(Ended),
    TimedOut,
    /// Somebody wants it to be cancelled.
    Cancelled,
    /// Another worker has it, or it has ended elsewhere.
    Superseded,
    /// This worker shuts down.
    Shutdown,
}

impl Attempts {
    /// Attends to a task until it has ended, or is to be delivered again.
    pub(super) async fn attend(self: Arc<Self>, delivery: Delivery) -> Outcome {
        let letter: Letter = match serde_json::from_slice(&delivery.payload) {
            Ok(letter) => letter,
            Err(error) => {
                observe::bad_letter(&self.name, &error);
                return Outcome::GiveUp;
            }
        };
        let core = self.tasks.core();
        let mut attempt = Attempt {
            core,
            letter: &letter,
            number: 0,
            token: Uuid::new_v4().simple().to_string(),
        };
        // What is said from here on counts: the record is read afterwards.
        let Ok(news) = core.subscribe(&letter.id) else {
            return Outcome::Retry {
                after: BACKEND_PAUSE,
            };
        };
        let begun = match attempt.begin(self.service.timeout).await {
            Ok(begun) => begun,
            Err(error) => {
                observe::backend_failed(&letter.id, &error);
                return Outcome::Retry {
                    after: BACKEND_PAUSE,
                };
            }
        };
        match begun {
            Begin::Attempt(number) => attempt.number = number,
            Begin::Nothing => return Outcome::Done,
            Begin::Expired => {
                observe::ended(&letter, TaskState::Failed, Some(&expired()));
                core.announce(&letter.id, News::Ended).await;
                return Outcome::Done;
            }
            Begin::Cancelled => {
                observe::ended(&letter, TaskState::Cancelled, None);
                core.announce(&letter.id, News::Ended).await;
                return Outcome::Done;
            }
            Begin::Dead => {
                observe::ended(&letter, TaskState::Dead, Some(&crashed()));
                return attempt.bury().await;
            }
            // Who has ended it may not have come to list it.
            Begin::Buried => return attempt.bury().await,
        }
        observe::began(&letter, attempt.number);
        core.announce(&letter.id, News::Changed).await;
        self.run(&attempt, news).await
    }

    async fn run(&self, attempt: &Attempt<'_>, news: Subscription) -> Outcome {
        let letter = attempt.letter;
        let Some(run) = self.service.registry.get(&*letter.task) else {
            let unknown = format!("this worker does not know tasks `{}`", letter.task);
            let failure = Failure {
                error: Reported::new(unknown),
                is_conflict: true,
            };
            return attempt
                .again(failure, UNKNOWN_PAUSE, &Report::default())
                .await;
        };
        let stop = Arc::default();
        let guard = StopOnDrop::new(Arc::clone(&stop));
        let context = TaskContext::of(Shared {
            tasks: self.tasks.clone(),
            id: letter.id.clone(),
            service: self.name.clone(),
            task: letter.task.as_str().into(),
            attempt: attempt.number,
            caller: letter.caller(),
            report: watch::Sender::default(),
            stop,
        });
        let scope = Scope {
            caller: letter.caller(),
            task: Some(context.clone()),
        };
        let work = run(letter.arguments.clone(), context.clone());
        let work = Scoped::new(Arc::new(scope), work);
        let work = observe::in_span(letter, attempt.number, work).boxed();
        let end = self.wait(attempt, &context, news, work).await;
        if let End::Ended(_) = end {
            guard.completed();
        } else {
            drop(guard);
        }
        let report = context.shared().report.borrow().clone();
        attempt.end(end, &report, self.service.timeout).await
    }

    /// Waits for the end, and meanwhile keeps the store up to date. The work has been dropped when it returns.
    async fn wait(
        &self,
        attempt: &Attempt<'_>,
        context: &TaskContext,
        news: Subscription,
        work: BoxFuture<'_, Ended>,
    ) -> End {
        // Too long to be added is forever.
        let deadline = Instant::now().checked_add(self.service.timeout);
        let too_late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let mut phase = self.phase.clone();
        select! {
            biased;
            ended = work => End::Ended(ended),
            () = Phase::given_up(&mut phase) => End::Shutdown,
            () = too_late => End::TimedOut,
            end = attempt.watch(news) => end,
            never = attempt.report(&context.shared().report) => match never {},
        }
    }
}

impl Attempt<'_> {
    /// Claims the task for this attempt.
    async fn begin(&self, limit: Duration) -> Result<Begin, BackendError> {
        let (core, letter) = (self.core, self.letter);
        let settings = &core.settings;
        let update = |found: Option<Record>| {
            let mut record = match found {
                Some(record) if record.submission != letter.submission => {
                    return Update::Keep(Begin::Nothing);
                }
                Some(record) if record.state == TaskState::Dead => {
                    return Update::Keep(Begin::Buried);
                }
                Some(record) if record.state.is_terminal() => return Update::Keep(Begin::Nothing),
                Some(record) => record,
                // The store has lost it, the queue has not.
                None => Record::new(letter),
            };
            record.letter = None;
            let now = now();
            let begin = if letter.expires <= now {
                record.failure = Some(Failure {
                    error: expired(),
                    is_conflict: false,
                });
                record.end(TaskState::Failed, settings.result_time_to_live);
                Begin::Expired
            } else if record.cancel {
                record.end(TaskState::Cancelled, settings.result_time_to_live);
                Begin::Cancelled
            } else if record.attempt >= settings.max_attempts {
                record.failure = Some(Failure {
                    error: crashed(),
                    is_conflict: false,
                });
                self.kill(&mut record);
                Begin::Dead
            } else {
                record.attempt += 1;
                record.state = TaskState::Running;
                record.token = Some(self.token.clone());
                record.started = Some(now);
                // It must not be forgotten while it runs.
                let longest = limit.saturating_add(settings.result_time_to_live);
                record.expires = letter
                    .expires
                    .max(now.saturating_add(milliseconds(longest)));
                record.progress = None;
                record.message = None;
                Begin::Attempt(record.attempt)
            };
            let time_to_live = record.time_to_live();
            Update::Set(record, time_to_live, begin)
        };
        core.records.update(&letter.id.record(), update).await
    }

    /// Makes the task a dead letter.
    fn kill(&self, record: &mut Record) {
        record.end(TaskState::Dead, self.core.settings.dead_letter_time_to_live);
        record.letter = Some(self.letter.clone());
    }

    /// Resolves when nobody wants this attempt any more.
    async fn watch(&self, mut news: Subscription) -> End {
        loop {
            // The poll is for what nobody has told.
            let _ = timeout(self.core.settings.poll_interval, news.cancelled()).await;
            match self.core.records.find(&self.letter.id).await {
                Ok(Some(record)) if record.token.as_ref() != Some(&self.token) => {
                    return End::Superseded;
                }
                Ok(Some(record)) if record.cancel => return End::Cancelled,
                // What the store has lost, the end cannot be told to either.
                Ok(Some(_) | None) => {}
                Err(error) => observe::backend_failed(&self.letter.id, &error),
            }
        }
    }

    /// Stores what the task says of itself.
    async fn report(&self, report: &watch::Sender<Report>) -> Infallible {
        let mut reports = report.subscribe();
        // What was said before this subscription counts, too.
        reports.mark_changed();
        let mut stored = Report::default();
        loop {
            // It cannot fail: the sender is there.
            let _ = reports.changed().await;
            let report = reports.borrow_and_update().clone();
            if report == stored {
                continue;
            }
            let changed = self.change(|record| {
                record.progress = report.progress;
                record.message.clone_from(&report.message);
            });
            match changed.await {
                Ok(Some(_)) => self.core.announce(&self.letter.id, News::Changed).await,
                Ok(None) => {}
                Err(error) => observe::backend_failed(&self.letter.id, &error),
            }
            stored = report;
            sleep(self.core.settings.progress_interval).await;
        }
    }

    /// Changes the record, if it is still that of this attempt.
    async fn change(
        &self,
        mut change: impl FnMut(&mut Record),
    ) -> Result<Option<Record>, BackendError> {
        let changed = self.core.records.change(&self.letter.id, |record| {
            let is_mine = record.token.as_ref() == Some(&self.token);
            if is_mine {
                change(record);
            }
            is_mine
        });
        match changed.await? {
            Changed::Yes(record) => Ok(Some(record)),
            Changed::No(_) | Changed::Gone => Ok(None),
        }
    }

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
    async fn end(&self, end: End, report: &Report, limit: Duration) -> Outcome {
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
            End::Ended(Err(RunError::Panicked(message))) => failed(panicked(&message)),
            End::TimedOut => failed(Reported::new(format!("the task took more than {limit:?}"))),
            End::Cancelled => return self.finish(TaskState::Cancelled, None, report).await,
            End::Superseded => {
                observe::superseded(self.letter);
                return Outcome::Done;
            }
            End::Shutdown => {
                let given_back = self.settle(report, |record| {
                    record.state = TaskState::Queued;
                    record.token = None;
                    // It was not the task that ended the attempt.
                    record.attempt = record.attempt.saturating_sub(1);
                });
                observe::given_back(self.letter);
                // If the store did not take it, it counts as an attempt.
                if let Ok(Some(_)) = given_back.await {
                    self.core.announce(&self.letter.id, News::Changed).await;
                }
                return Outcome::Retry {
                    after: Duration::ZERO,
                };
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
    async fn again(&self, failure: Failure, pause: Duration, report: &Report) -> Outcome {
        if self.number < self.core.settings.max_attempts {
            observe::conflicted(self.letter, &failure.error, pause);
            let queued = self.settle(report, |record| {
                record.state = TaskState::Queued;
                record.token = None;
                record.failure = Some(failure.clone());
                // Who asks now need not wait for the pause.
                if record.cancel {
                    record.end(TaskState::Cancelled, self.core.settings.result_time_to_live);
                }
            });
            return match queued.await {
                Ok(Some(record)) if record.state == TaskState::Cancelled => {
                    self.ended(TaskState::Cancelled, None, Ok(Some(record)))
                        .await
                }
                Ok(Some(_)) => {
                    self.core.announce(&self.letter.id, News::Changed).await;
                    Outcome::Retry { after: pause }
                }
                Ok(None) => self.ended(TaskState::Failed, None, Ok(None)).await,
                Err(_) => Outcome::Retry { after: pause },
            };
        }
        let dead = self.settle(report, |record| {
            record.failure = Some(failure.clone());
            self.kill(record);
        });
        match dead.await {
            Ok(Some(_)) => {
                observe::ended(self.letter, TaskState::Dead, Some(&failure.error));
                self.bury().await
            }
            dead => self.ended(TaskState::Dead, Some(&failure), dead).await,
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
            Ok(None) => {
                observe::superseded(self.letter);
                Outcome::Done
            }
            // The attempt has counted, so this does not go on forever.
            Err(_) => Outcome::Retry {
                after: BACKEND_PAUSE,
            },
        }
    }

    /// Lists a dead letter, and tells of it.
    async fn bury(&self) -> Outcome {
        match self.core.list(self.letter).await {
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

fn expired() -> Reported {
    Reported::new("it has waited longer than its lifetime")
}

fn crashed() -> Reported {
    Reported::new("the worker has ended, or lost touch, before the task did")
}

/// A random time within 2^n seconds, so that those who were in each other's way do not meet again.
fn pause_after(attempt: u32) -> Duration {
    let within = Duration::from_secs(1 << attempt.min(10));
    // The last 62 bits of such a UUID are random.
    let random = Uuid::new_v4().as_u64_pair().1 % milliseconds(within).max(1);
    Duration::from_millis(random)
}
