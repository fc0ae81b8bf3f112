use super::claim::{Attempt, BACKEND_PAUSE, Begin, OTHER_VERSION_PAUSE, expired};
use super::end::End;
use super::turn::{Turn, Turns};
use crate::context::StopOnDrop;
use crate::dead_letters::AGAIN;
use crate::failure::Reported;
use crate::news::News;
use crate::record::{Failure, Letter, crashed};
use crate::run::perform;
use crate::tasks::{Provided, Ran, Shared};
use crate::{TaskContext, TaskId, TaskState, Tasks, observe};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::error::Error;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tower_promises_backend::kit::clock::now;
use tower_promises_backend::kit::drain::Drain;
use tower_promises_backend::kit::progress::Report;
use tower_promises_backend::kit::topics::Subscription;
use tower_promises_backend::{BackendError, Delivery, Outcome};
use uuid::Uuid;

/// The state that all attempts at the tasks of one queue in one worker share.
pub(crate) struct Attempts {
    pub(crate) tasks: Tasks,
    pub(crate) provided: Provided,
    pub(crate) name: Arc<str>,
    pub(crate) drain: Arc<Drain>,
    /// The number of attempts that a drain has given up.
    given_up: Arc<AtomicUsize>,
    turns: Turns,
}

impl Attempts {
    pub(crate) fn new(
        tasks: &Tasks,
        name: Arc<str>,
        provided: Provided,
        drain: Arc<Drain>,
        given_up: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            tasks: tasks.unbound(),
            provided,
            name,
            turns: Turns::new(drain.clone(), tasks.core.clone()),
            drain,
            given_up,
        }
    }

    /// Handles one delivery, up to the end of the task or until the task must be delivered again.
    pub(crate) async fn attend(self: Arc<Self>, delivery: Delivery) -> Outcome {
        let letter: Letter = match serde_json::from_slice(&delivery.payload) {
            Ok(letter) => letter,
            Err(error) => return self.unreadable(&delivery, &error).await,
        };
        match self.attend_letter(&letter).await {
            // The envelope is settled only when the task that this one calls at its end is in the queue.
            Outcome::Done => self.call_on_end(&letter).await,
            again => again,
        }
    }

    async fn call_on_end(&self, letter: &Letter) -> Outcome {
        match self.tasks.core.call_on_end(letter).await {
            Ok(()) => Outcome::Done,
            Err(error) => {
                observe::on_end_failed(letter, &error);
                Outcome::Retry {
                    after: BACKEND_PAUSE,
                }
            }
        }
    }

    async fn attend_letter(&self, letter: &Letter) -> Outcome {
        let core = &self.tasks.core;
        let failed = |error| done_or_again(letter, Err(error));
        if letter.is_reminder {
            if letter.expires <= now() {
                return Outcome::Done;
            }
            return done_or_again(letter, core.fill_limit(letter).await);
        }
        match core.has_slot(letter).await {
            Ok(true) => {}
            Ok(false) => return Outcome::Done,
            Err(error) => return failed(error),
        }
        let outcome = self.attempt(letter).await;
        if outcome != Outcome::Done {
            return outcome;
        }
        // Before the envelope is settled, so that another delivery repeats what fails here.
        match core.release(letter).await {
            Ok(()) => outcome,
            Err(error) => failed(error),
        }
    }

    /// Makes an attempt at a task that may run.
    async fn attempt(&self, letter: &Letter) -> Outcome {
        let core = &self.tasks.core;
        let known = self.provided.types.get(&*letter.task);
        let mut attempt = Attempt {
            core,
            letter,
            number: 0,
            token: Uuid::new_v4().simple().to_string(),
            retry: known.map(|known| known.retry).unwrap_or_default(),
            timed: None,
            known: Mutex::default(),
        };
        let ended = |state, error: Option<&(dyn Error + 'static)>| {
            observe::ended(letter, state, error);
            core.meters.ended(&letter.queue, &letter.task, state);
        };
        // Subscribes before the record is read, so that no change is missed.
        let news = |news| core.subscribe(&letter.id, news);
        let (Ok(mut ends), Ok(cancels)) = (news(News::Ended), news(News::Cancel)) else {
            return Outcome::Retry {
                after: BACKEND_PAUSE,
            };
        };
        let (begun, _turn) = match self.begin(&attempt, &mut ends).await {
            Ok(begun) => begun,
            Err(again) => return again,
        };
        match begun {
            Begin::Attempt(number, waited) => {
                attempt.number = number;
                let meters = core.meters.of(letter);
                if let Some(waited) = waited {
                    meters.started(waited);
                }
                attempt.timed = Some(meters.attempt());
            }
            Begin::Nothing => return Outcome::Done,
            Begin::Replaced(letter, delay) => {
                let sent = core.send(&letter, delay, letter.priority()).await;
                return done_or_again(&letter, sent);
            }
            Begin::Admitted(letter) => {
                return done_or_again(&letter, core.fill_limit(&letter).await);
            }
            Begin::Expired => {
                ended(TaskState::Failed, Some(&expired()));
                core.announce(&letter.id, News::Ended).await;
                return Outcome::Done;
            }
            Begin::Cancelled => {
                ended(TaskState::Cancelled, None);
                core.announce(&letter.id, News::Ended).await;
                return Outcome::Done;
            }
            Begin::Dead => {
                ended(TaskState::Dead, Some(&crashed()));
                return attempt.bury().await;
            }
            // The worker that recorded the end may have stopped before it updated the list.
            Begin::Buried => return attempt.bury().await,
        }
        observe::began(letter, attempt.number);
        self.run(&attempt, cancels).await
    }

    /// Leaves an envelope that this version cannot read to other workers, for the lifetime of a task. Then it becomes a
    /// dead letter with its bytes.
    async fn unreadable(&self, delivery: &Delivery, error: &serde_json::Error) -> Outcome {
        observe::bad_letter(&self.name, &delivery.id, error);
        let core = &self.tasks.core;
        if OTHER_VERSION_PAUSE.saturating_mul(delivery.number) <= core.settings.lifetime {
            return Outcome::Retry {
                after: OTHER_VERSION_PAUSE,
            };
        }
        let failure = Failure {
            error: Reported::because("this worker cannot read the task".to_owned(), error),
            is_conflict: true,
        };
        // The id of the envelope: see `Letter::envelope_id`.
        let (id, submission) = delivery.id.rsplit_once('/').unwrap_or((&delivery.id, ""));
        let submission = submission.split(AGAIN).next().unwrap_or(submission);
        let id = TaskId::from(id);
        let buried = core.bury_unread(&self.name, &id, submission, delivery, &failure);
        match buried.await {
            Ok(true) => {
                core.announce(&id, News::Ended).await;
                Outcome::Done
            }
            // The task has ended, or was sent again in another letter.
            Ok(false) => Outcome::Done,
            Err(error) => {
                observe::backend_failed(&id, &error);
                let after = match error {
                    BackendError::Unreadable { .. } => OTHER_VERSION_PAUSE,
                    _ => BACKEND_PAUSE,
                };
                Outcome::Retry { after }
            }
        }
    }

    /// Waits until the task may run and claims it. The error is the outcome of the delivery if the task cannot start
    /// now.
    async fn begin(
        &self,
        attempt: &Attempt<'_>,
        ends: &mut Subscription,
    ) -> Result<(Begin, Turn<'_>), Outcome> {
        let id = &attempt.letter.id;
        let limit = self.provided.timeout;
        let failed = |error| {
            observe::backend_failed(id, &error);
            let after = match error {
                BackendError::Unreadable { .. } => OTHER_VERSION_PAUSE,
                _ => BACKEND_PAUSE,
            };
            Outcome::Retry { after }
        };
        let mut turn = self.turns.shared().await?;
        loop {
            if let Some(begun) = attempt.begin(limit, &turn).await.map_err(failed)? {
                return Ok((begun, turn));
            }
            // Released first: an attempt that waits to run alone would otherwise wait for itself.
            drop(turn);
            observe::waits_to_be_alone(attempt.letter);
            attempt.core.announce(id, News::Changed).await;
            turn = select! {
                turn = self.turns.alone() => turn?,
                // Usually a cancel. The next delivery reads the record.
                () = ends.notified() => return Err(Outcome::Retry { after: Duration::ZERO }),
            };
        }
    }

    async fn run(&self, attempt: &Attempt<'_>, cancels: Subscription) -> Outcome {
        let letter = attempt.letter;
        let Some(task) = self.provided.types.get(&*letter.task) else {
            let unknown = format!("this worker does not know tasks `{}`", letter.task);
            let failure = Failure {
                error: Reported::new(unknown),
                is_conflict: true,
            };
            return attempt
                .again(failure, OTHER_VERSION_PAUSE, &Report::default())
                .await;
        };
        let stop = Arc::default();
        let guard = StopOnDrop::new(Arc::clone(&stop));
        let context = TaskContext::of(Shared {
            tasks: self.tasks.clone(),
            id: letter.id.clone(),
            queue: self.name.clone(),
            task: letter.task.as_str().into(),
            attempt: attempt.number,
            caller: letter.caller(),
            ended: letter.ended.clone(),
            report: watch::Sender::default(),
            stop,
        });
        let work = perform(task.run, letter, &context).boxed();
        let end = self.wait(attempt, &context, cancels, work).await;
        if let End::Ended(_) = end {
            guard.completed();
        } else {
            drop(guard);
        }
        if let Some(timed) = &attempt.timed {
            timed.stop();
        }
        let report = context.shared.report.borrow().clone();
        attempt.end(end, &report, self.provided.timeout).await
    }

    /// Waits for the end of the attempt and keeps the record up to date. The work is dropped before this function
    /// returns.
    async fn wait(
        &self,
        attempt: &Attempt<'_>,
        context: &TaskContext,
        cancels: Subscription,
        work: BoxFuture<'_, Ran>,
    ) -> End {
        // A deadline beyond the range of `Instant` means no timeout.
        let deadline = Instant::now().checked_add(self.provided.timeout);
        let too_late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        select! {
            biased;
            ended = work => End::Ended(ended),
            () = self.drain.given_up() => {
                self.given_up.fetch_add(1, Ordering::Relaxed);
                End::Shutdown
            }
            () = too_late => End::TimedOut,
            end = attempt.watch(cancels) => end,
            never = attempt.report(&context.shared.report) => match never {},
        }
    }
}

/// The outcome of an envelope that only causes a call of the backend.
fn done_or_again(letter: &Letter, called: Result<(), BackendError>) -> Outcome {
    let Err(error) = called else {
        return Outcome::Done;
    };
    observe::backend_failed(&letter.id, &error);
    Outcome::Retry {
        after: BACKEND_PAUSE,
    }
}
