//! The part of a worker that keeps a schedule.
//!
//! Every worker of the queue keeps the schedule, without a leader. The plan in the store decides: a process writes the
//! decision about a due time, together with the task, before it submits the task. A process that dies in between leaves
//! the task in the plan, and the next process that reads the plan submits it. The id of the task is derived from the
//! name and the due time, and its record outlives its last possible start, so a late duplicate never runs.

use super::plan::{Due, Plan, Run, key};
use crate::caller::Caller;
use crate::meters::DueOutcome;
use crate::record::Letter;
use crate::schedule::Schedule;
use crate::submission::submit;
use crate::tasks::Core;
use crate::{TaskError, TaskId, Unique, observe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::select;
use tokio::time::{Instant, sleep};
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::clock::{milliseconds, now, time};
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::kit::drain::Drain;
use tower_promises_backend::{BackendError, Priority, Revision};

/// The longest sleep until the clock is read again, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

/// A difference between the clock and the passed time that does not mean that the clock was set, in milliseconds.
const CLOCK_DRIFT: u64 = 1000;

/// The longest time until the plan is read again.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// How long a plan is kept that no process writes. Plans of removed schedules disappear after this time.
const KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The age at which a plan is written again to renew its time to live, in milliseconds.
const RENEWED_AFTER: u64 = 24 * 60 * 60 * 1000;

/// Keeps a schedule until the worker is drained. May be dropped at any time.
pub(crate) async fn keep(core: Arc<Core>, schedule: Arc<Schedule>, drain: Arc<Drain>) {
    let mut keeper = Keeper {
        times: schedule.times(),
        core,
        schedule,
        decided: None,
    };
    select! {
        () = drain.draining() => {}
        () = keeper.run() => {}
    }
}

struct Keeper {
    core: Arc<Core>,
    schedule: Arc<Schedule>,
    times: String,
    /// The time until which this process knows the due times to be decided. `None` at the start.
    decided: Option<u64>,
}

impl Keeper {
    /// The present time, by the clock of schedules.
    fn now(&self) -> u64 {
        let since = (self.core.clock)().duration_since(SystemTime::UNIX_EPOCH);
        milliseconds(since.unwrap_or_default())
    }

    async fn run(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            match self.look().await {
                Ok(next) => {
                    backoff = Backoff::default();
                    self.wait(next).await;
                }
                Err(error) => {
                    let pause = backoff.pause();
                    let name = &self.schedule.name;
                    observe::schedule_failed(name, &error, pause);
                    self.core.meters.schedule_failed(name);
                    sleep(pause).await;
                }
            }
        }
    }

    /// Waits until a due time, or until the clock is set back.
    async fn wait(&self, due: Option<u64>) {
        let (start, began) = (Instant::now(), self.now());
        loop {
            let expected = began.saturating_add(milliseconds(start.elapsed()));
            if self.now().saturating_add(CLOCK_DRIFT) < expected {
                return;
            }
            let left = due.map_or(LONGEST_WAIT, |due| {
                Duration::from_millis(due.saturating_sub(self.now()))
            });
            if left.is_zero() || start.elapsed() >= LONGEST_WAIT {
                return;
            }
            sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    /// Decides all due times until now, and submits their tasks. Returns the next due time.
    async fn look(&mut self) -> Result<Option<u64>, TaskError> {
        loop {
            let name = &self.schedule.name;
            let found = self.core.records.backend.read_revision(&key(name)).await?;
            let (plan, revision): (Option<Plan>, _) = found.unzip();
            let mut plan = plan.unwrap_or_default();
            if let Some(letter) = plan.pending.take() {
                self.submit(&letter).await?;
                self.write(plan, revision).await?;
                continue;
            }
            let now = self.now();
            let mut has_changed = self.decided.is_none() && plan.begin(&self.times, now);
            let stored = plan.decided(&self.times);
            // The plan may be lost, or have no room for an earlier definition.
            let decided = stored.or(self.decided).unwrap_or(now);
            has_changed |= stored.is_none();
            let mut outcome = None;
            let (until, next) = match Plan::due(&self.schedule, decided, now) {
                Due::NotBefore(next) => (decided, Some(next)),
                Due::Again => {
                    observe::clock_was_wrong(name, time(decided));
                    (now, None)
                }
                Due::Skip(until) => {
                    observe::schedule_missed(name, time(until));
                    outcome = Some(DueOutcome::Missed);
                    (until, None)
                }
                Due::Run(due) => {
                    outcome = self.decide(&mut plan, due).await?;
                    (due, None)
                }
            };
            plan.decide(&self.times, until);
            let is_old = self.age(&plan) >= RENEWED_AFTER;
            let is_written = match next {
                Some(_) if !has_changed && !is_old => true,
                _ => self.write(plan, revision).await?,
            };
            if !is_written {
                continue;
            }
            self.decided = Some(until);
            if let Some(outcome) = outcome {
                self.core.meters.decided(name, outcome);
            }
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    /// Decides about the run of a due time, unless that was done.
    async fn decide(&self, plan: &mut Plan, due: u64) -> Result<Option<DueOutcome>, TaskError> {
        let name = &self.schedule.name;
        if plan.last.as_ref().is_some_and(|last| last.due == due) {
            return Ok(None);
        }
        if let Some(last) = plan.last.as_ref().filter(|_| !self.schedule.overlap) {
            let record = self.core.records.read(&last.id).await?;
            if record.is_some_and(|record| !record.state.is_terminal()) {
                observe::schedule_overlaps(name, time(due), &last.id);
                return Ok(Some(DueOutcome::Overlapping));
            }
        }
        Ok(Some(match self.letter(due) {
            Ok(letter) => {
                let id = letter.id.clone();
                plan.last = Some(Run { id, due });
                plan.pending = Some(letter);
                DueOutcome::Run
            }
            Err(error) => {
                observe::schedule_broken(name, time(due), &error);
                DueOutcome::Failed
            }
        }))
    }

    fn letter(&self, due: u64) -> Result<Letter, TaskError> {
        let schedule = &self.schedule;
        let draft = catch_unwind(AssertUnwindSafe(|| {
            (schedule.draft)(time(due), schedule.principal.as_ref())
        }));
        let draft = draft.unwrap_or_else(|_| {
            let panicked = "the function of the schedule panicked";
            let error: serde_json::Error = serde::ser::Error::custom(panicked);
            Err(TaskError::Serialize {
                task: schedule.task,
                error: Arc::new(error),
            })
        })?;
        let caller = Caller {
            principal: schedule.principal.clone(),
            trace: None,
        };
        let id = humantime::format_rfc3339_seconds(time(due));
        let id = TaskId::from(format!("schedule/{}/{id}", schedule.name));
        let core = &self.core;
        let mut letter = core.letter(id, &schedule.queue, draft, &caller)?;
        let latest = now().saturating_add(milliseconds(schedule.start_within));
        letter.expires = letter.expires.min(latest);
        letter.once = true;
        Ok(letter)
    }

    /// Submits a decided run. An error that another attempt does not help is logged.
    async fn submit(&self, letter: &Letter) -> Result<(), TaskError> {
        match submit(
            &*self.core,
            letter,
            Duration::ZERO,
            Priority::Normal,
            Unique::Same,
        )
        .await
        {
            // The run of this due time was submitted earlier, perhaps by another version of the program.
            Ok(()) | Err(TaskError::OtherArguments { .. }) => Ok(()),
            Err(
                error @ (TaskError::IdInUse { .. }
                | TaskError::Backend {
                    error: BackendError::InvalidName { .. } | BackendError::TooLarge { .. },
                }),
            ) => {
                let name = &self.schedule.name;
                observe::schedule_broken(name, time(letter.created), &error);
                self.core.meters.decided(name, DueOutcome::Failed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn age(&self, plan: &Plan) -> u64 {
        self.now().saturating_sub(plan.written)
    }

    /// Writes a plan. Returns `false` if another process has changed it meanwhile.
    async fn write(&self, mut plan: Plan, revision: Option<Revision>) -> Result<bool, TaskError> {
        plan.written = self.now();
        let (key, value) = (key(&self.schedule.name), encode(&plan)?);
        let backend = &self.core.records.backend;
        Ok(backend.set(&key, revision, value, KEPT).await?)
    }
}
