//! A task that is being submitted or called.

use super::caller::Caller;
use super::cancel::CancelOnDrop;
use super::in_place::{here, keep};
use super::news::News;
use super::progress::OnReport;
use super::record::{Letter, Record};
use super::records::Changed;
use super::run::run;
use super::task::read_arguments;
use super::tasks::{Core, Provided, Run};
use super::{Task, TaskContext, TaskError, TaskId, Tasks, Unique, observe, scope};
use serde::ser::Error as _;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tokio::time::timeout;
use tower_promises_backend::kit::clock::{milliseconds, now};
use tower_promises_backend::kit::json;
use tower_promises_backend::{BackendError, Priority};
use uuid::Uuid;

pub(super) struct Submission {
    tasks: Tasks,
    run: Run,
    /// The error of building the letter, returned by `submit` and `call`.
    letter: Result<Letter, TaskError>,
    id: TaskId,
    caller: Caller,
    place: Place,
    /// Whether the id was given explicitly, so that other callers may use it too.
    pub(super) is_shared: bool,
    pub(super) delay: Duration,
    pub(super) priority: Priority,
    pub(super) unique: Unique,
    /// Callback for the progress of the task. Only calls have one.
    pub(super) on_report: Option<OnReport>,
}

/// The place where a task runs.
enum Place {
    Worker,
    /// In the task that submits it, or, if the queue was not added, in the calling code.
    Here(Option<TaskContext>),
}

impl Submission {
    pub(super) fn new<T: Task>(tasks: &Tasks, queue: &Arc<str>, task: &T) -> Self {
        let core = &tasks.core;
        let outer = scope::current().task.clone();
        let provided = core.queues.get(queue);
        let place = if provided.is_none() || outer.is_some() {
            Place::Here(outer)
        } else {
            Place::Worker
        };
        let caller = tasks.caller();
        let id = TaskId::random();
        let serialize = |error| TaskError::Serialize {
            task: T::NAME,
            error: Arc::new(error),
        };
        let arguments = json::to_raw_value(task).map_err(serialize);
        let limit = core.settings.max_task_bytes;
        let letter = arguments.and_then(|arguments| {
            let size = arguments.get().len();
            let is_known = |provided: &Provided| provided.types.contains_key(T::NAME);
            if size > limit {
                return Err(TaskError::TooLarge {
                    task: T::NAME,
                    size,
                    limit,
                });
            }
            if !provided.is_none_or(is_known) {
                return Err(TaskError::NotRegistered {
                    queue: queue.clone(),
                    task: T::NAME,
                });
            }
            check_readable::<T>(&arguments).map_err(serialize)?;
            let created = now();
            Ok(Letter {
                id: id.clone(),
                submission: Uuid::new_v4().simple().to_string(),
                queue: (**queue).to_owned(),
                task: T::NAME.to_owned(),
                arguments,
                principal: caller.principal.clone(),
                trace: caller.trace.clone(),
                max_attempts: T::retry_policy().attempts(),
                limit: task.limit(caller.principal.as_ref()),
                line: None,
                created,
                expires: created.saturating_add(milliseconds(core.settings.lifetime)),
            })
        });
        if provided.is_none() {
            observe::unknown_queue(queue, T::NAME);
        }
        Self {
            tasks: tasks.clone(),
            run: run::<T>,
            letter,
            id,
            caller,
            place,
            is_shared: false,
            delay: Duration::ZERO,
            priority: Priority::Normal,
            unique: Unique::default(),
            on_report: None,
        }
    }

    pub(super) fn id(&self) -> &TaskId {
        &self.id
    }

    pub(super) fn set_id(&mut self, id: TaskId) {
        if let Ok(letter) = &mut self.letter {
            letter.id = id.clone();
        }
        self.id = id;
        self.is_shared = true;
    }

    /// Submits the task.
    pub(super) async fn submit(self) -> Result<TaskId, TaskError> {
        let letter = self.letter?.prioritised(self.priority);
        Core::runtime()?;
        match self.place {
            Place::Worker => {
                submit(&self.tasks, &letter, self.delay, self.priority, self.unique).await?;
            }
            Place::Here(outer) => {
                let ended = here(&self.tasks, self.run, &letter, self.caller, outer, None).await;
                keep(&self.tasks.core, &letter, &ended).await;
                ended?;
            }
        }
        Ok(self.id)
    }

    /// Submits the task and waits for its output.
    pub(super) async fn call(
        self,
        limit: Option<Duration>,
        is_detached: bool,
    ) -> Result<Box<RawValue>, TaskError> {
        let letter = self.letter?.prioritised(self.priority);
        let runtime = Core::runtime()?;
        let core = self.tasks.core.clone();
        let id = self.id.clone();
        let stop = || CancelOnDrop::new(core.clone(), id.clone(), Record::new(&letter), runtime);
        let on_report = self.on_report.as_ref();
        let output = async {
            match self.place {
                Place::Here(outer) => {
                    here(
                        &self.tasks,
                        self.run,
                        &letter,
                        self.caller,
                        outer,
                        on_report,
                    )
                    .await
                }
                Place::Worker => {
                    let cancel = (!is_detached && !self.is_shared).then(stop);
                    let submitted =
                        submit(&self.tasks, &letter, self.delay, self.priority, self.unique);
                    if let Err(error) = submitted.await {
                        // A refused task needs no cancel, which would only add load.
                        if let (Some(cancel), true) = (cancel, was_refused(&error)) {
                            cancel.completed();
                        }
                        return Err(error);
                    }
                    let output = select! {
                        biased;
                        output = core.output(&id) => output,
                        never = core.follow(&id, on_report) => match never {},
                    };
                    // A task without an output has ended, too.
                    if let Some(cancel) = cancel {
                        cancel.completed();
                    }
                    output
                }
            }
        };
        match limit {
            None => output.await,
            Some(after) => timeout(after, output).await.unwrap_or_else(|_| {
                Err(TaskError::TimedOut {
                    id: id.clone(),
                    after,
                })
            }),
        }
    }
}

/// Checks that the type can read its own JSON. Otherwise no worker could.
fn check_readable<T: Task>(arguments: &RawValue) -> serde_json::Result<()> {
    let unreadable = |error| format!("it cannot be read again: {error}");
    let read: serde_json::Result<T> = read_arguments(arguments);
    read.map(drop)
        .map_err(|error| serde_json::Error::custom(unreadable(error)))
}

/// Stores the record, then enqueues the task, so that a worker always finds the record.
async fn submit(
    tasks: &Tasks,
    letter: &Letter,
    delay: Duration,
    priority: Priority,
    unique: Unique,
) -> Result<(), TaskError> {
    let core = &tasks.core;
    let id = &letter.id;
    let record = match unique {
        Unique::Same => Record::new(letter),
        Unique::KeepFirst | Unique::Replace => Record::keeping(letter, delay),
    };
    if core.records.create(id, &record).await? {
        let sent = core.send(letter, delay, priority).await;
        if let Err(error) = sent {
            // Otherwise the task may be in the queue, and a repeated submission finds the record.
            if has_changed_nothing(&error) {
                if let Err(error) = core.records.delete(id).await {
                    observe::backend_failed(id, &error);
                }
            }
            return Err(error.into());
        }
        return Ok(());
    }
    let is_same = |found: &Record| {
        found.queue == letter.queue
            && found.task == letter.task
            && found.principal == letter.principal
    };
    let changed = core.records.change(id, |found| {
        let is_replaced = unique == Unique::Replace && is_same(found) && found.is_new();
        if is_replaced {
            found.clone_from(&record);
        }
        is_replaced
    });
    let found = match changed.await? {
        Changed::Yes(_) => {
            core.announce(id, News::Changed).await;
            return Ok(core.send(letter, delay, priority).await?);
        }
        Changed::No(found) => found,
        Changed::Gone => return Err(TaskError::NotFound { id: id.clone() }),
    };
    if !is_same(&found) {
        return Err(TaskError::IdInUse { id: id.clone() });
    }
    // Earlier versions of this crate stored no fingerprint.
    let has_other_arguments =
        found.fingerprint.is_some() && found.fingerprint != record.fingerprint;
    if has_other_arguments && unique != Unique::KeepFirst {
        return Err(TaskError::OtherArguments { id: id.clone() });
    }
    if found.is_new() {
        // The first submission may have failed to enqueue the task. If it was enqueued, the queue ignores the
        // duplicate.
        let again = Letter {
            submission: found.submission.clone(),
            ..letter.clone()
        };
        let (letter, delay) = found.kept().unwrap_or((again, delay));
        core.send(&letter, delay, priority).await?;
    }
    Ok(())
}

fn was_refused(error: &TaskError) -> bool {
    matches!(error, TaskError::Backend { error } if has_changed_nothing(error))
}

fn has_changed_nothing(error: &BackendError) -> bool {
    matches!(
        error,
        BackendError::InvalidName { .. }
            | BackendError::TooLarge { .. }
            | BackendError::Unsupported { .. }
            | BackendError::Full
    )
}
