//! A task that is being submitted or called.

use super::caller::Caller;
use super::cancel::CancelOnDrop;
use super::destination::{Destination, Within};
use super::draft::Draft;
use super::in_place::{here, keep};
use super::news::News;
use super::progress::OnReport;
use super::record::{Letter, OnEnd, Record};
use super::records::Changed;
use super::run::run;
use super::tasks::{Core, Run};
use super::{Task, TaskContext, TaskError, TaskId, Tasks, Unique, observe, scope};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tokio::time::timeout;
use tower_promises_backend::{ApplicationConnection, BackendError, Priority};

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
        let draft = Draft::new(task, caller.principal.as_ref());
        let letter = draft.and_then(|draft| core.letter(id.clone(), queue, draft, &caller));
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

    /// Sets the task that is called when this one has ended.
    pub(super) fn set_on_end<T: Task>(&mut self, queue: &Arc<str>, task: &T) {
        let Ok(letter) = &mut self.letter else {
            return;
        };
        let core = &self.tasks.core;
        let on_end = Draft::new(task, letter.principal.as_ref()).and_then(|draft| {
            if !core.queues.contains_key(queue) {
                return Err(TaskError::UnknownQueue {
                    queue: queue.clone(),
                });
            }
            // Both tasks are in one envelope.
            core.check(
                queue,
                draft.task,
                letter.arguments.get().len() + draft.size(),
            )?;
            Ok(OnEnd {
                queue: (**queue).to_owned(),
                task: draft.task.to_owned(),
                arguments: draft.arguments,
                max_attempts: draft.max_attempts,
                limit: draft.limit,
            })
        });
        match on_end {
            Ok(on_end) => letter.on_end = Some(on_end),
            Err(error) => self.letter = Err(error),
        }
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
        let letter = self.letter?.prioritised(self.priority).delayed(self.delay);
        Core::runtime()?;
        match self.place {
            Place::Worker => {
                submit(
                    &*self.tasks.core,
                    &letter,
                    self.delay,
                    self.priority,
                    self.unique,
                )
                .await?;
            }
            Place::Here(outer) => {
                warn_of_unknown_queue(&self.tasks.core, &letter);
                let ended = here(&self.tasks, self.run, &letter, self.caller, outer, None).await;
                keep(&self.tasks.core, &letter, &ended).await;
                self.tasks.core.call_after(&letter, &ended).await;
                ended?;
            }
        }
        Ok(self.id)
    }

    /// Submits the task in a transaction of the application, to a worker in any case.
    pub(super) async fn submit_within(
        self,
        connection: ApplicationConnection<'_>,
    ) -> Result<TaskId, TaskError> {
        let letter = self.letter?.prioritised(self.priority).delayed(self.delay);
        Core::runtime()?;
        let core = &*self.tasks.core;
        if !core.queues.contains_key(&*letter.queue) {
            return Err(TaskError::UnknownQueue {
                queue: letter.queue.into(),
            });
        }
        let mut within = Within {
            core,
            transaction: core.records.backend.join(connection).await?,
        };
        submit(&mut within, &letter, self.delay, self.priority, self.unique).await?;
        within.transaction.finish().await?;
        Ok(self.id)
    }

    /// Submits the task and waits for its output.
    pub(super) async fn call(
        self,
        limit: Option<Duration>,
        is_detached: bool,
    ) -> Result<Box<RawValue>, TaskError> {
        let letter = self.letter?.prioritised(self.priority).delayed(self.delay);
        let runtime = Core::runtime()?;
        let core = self.tasks.core.clone();
        let id = self.id.clone();
        let stop = || CancelOnDrop::new(core.clone(), id.clone(), Record::new(&letter), runtime);
        let on_report = self.on_report.as_ref();
        let output = async {
            match self.place {
                Place::Here(outer) => {
                    warn_of_unknown_queue(&core, &letter);
                    let ended = here(
                        &self.tasks,
                        self.run,
                        &letter,
                        self.caller,
                        outer,
                        on_report,
                    )
                    .await;
                    core.call_after(&letter, &ended).await;
                    ended
                }
                Place::Worker => {
                    // Before the submission, so that no end is missed. The task of a shared id may have ended already.
                    let ends = (!self.is_shared).then(|| core.subscribe(&id, News::Ended));
                    let ends = ends.transpose()?;
                    let cancel = (!is_detached && !self.is_shared).then(stop);
                    let submitted = submit(
                        &*self.tasks.core,
                        &letter,
                        self.delay,
                        self.priority,
                        self.unique,
                    );
                    if let Err(error) = submitted.await {
                        // A refused task needs no cancel, which would only add load.
                        if let (Some(cancel), true) = (cancel, was_refused(&error)) {
                            cancel.completed();
                        }
                        return Err(error);
                    }
                    let output = async {
                        match ends {
                            Some(ends) => core.output_of_new(&id, ends).await,
                            None => core.output(&id).await,
                        }
                    };
                    let output = select! {
                        biased;
                        output = output => output,
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

/// Stores the record, then enqueues the task, so that a worker always finds the record.
pub(super) async fn submit(
    mut destination: impl Destination,
    letter: &Letter,
    delay: Duration,
    priority: Priority,
    unique: Unique,
) -> Result<(), TaskError> {
    let id = &letter.id;
    let record = match unique {
        Unique::Same => Record::new(letter),
        Unique::KeepFirst | Unique::Replace => Record::keeping(letter, delay),
    };
    if destination.create(id, &record).await? {
        let sent = destination.send(letter, delay, priority).await;
        if let Err(error) = sent {
            // Otherwise the task may be in the queue, and a repeated submission finds the record.
            if has_changed_nothing(&error) {
                if let Err(error) = destination.delete(id).await {
                    observe::backend_failed(id, &error);
                }
            }
            return Err(error.into());
        }
        destination.core().meters.of(letter).submitted();
        return Ok(());
    }
    let is_same = |found: &Record| {
        found.queue == letter.queue
            && found.task == letter.task
            && found.principal == letter.principal
    };
    let changed = destination.change(id, |found| {
        let is_replaced = unique == Unique::Replace && is_same(found) && found.is_new();
        if is_replaced {
            found.clone_from(&record);
        }
        is_replaced
    });
    let found = match changed.await? {
        Changed::Yes(_) => {
            destination.announce(id, News::Changed).await?;
            return Ok(destination.send(letter, delay, priority).await?);
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
        let is_admitted = found.is_admitted;
        let (letter, delay) = found.kept().unwrap_or((again, delay));
        // A later version of the application may have removed the limit.
        if is_admitted && letter.limit.is_some() {
            destination.fill_limit(&letter).await?;
        } else {
            destination.send(&letter, delay, priority).await?;
        }
    }
    Ok(())
}

fn warn_of_unknown_queue(core: &Core, letter: &Letter) {
    if !core.queues.contains_key(&*letter.queue) {
        observe::unknown_queue(&letter.queue, &letter.task);
    }
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
            | BackendError::Refused { .. }
            | BackendError::Full
    )
}
