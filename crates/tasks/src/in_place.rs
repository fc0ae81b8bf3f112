//! Tasks that run in place, in the code that submits them.

use super::caller::Caller;
use super::context::StopOnDrop;
use super::failure::Reported;
use super::progress::{OnReport, follow_here};
use super::record::{Failure, Letter, Record};
use super::run::perform;
use super::tasks::{Core, Run, RunError, Shared};
use super::{TaskContext, TaskError, TaskState, Tasks, metrics, observe};
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio::select;
use tokio::sync::watch;

/// Runs a task in place: as part of the task that submits it, or as a task of its own.
pub(super) async fn here(
    tasks: &Tasks,
    run: Run,
    letter: &Letter,
    caller: Caller,
    outer: Option<TaskContext>,
    on_report: Option<&OnReport>,
) -> Result<Box<RawValue>, TaskError> {
    let stop = outer.map(|outer| outer.shared.stop.clone());
    // A nested task shares the stop signal of the outer task.
    let guard = stop.is_none();
    let stop = stop.unwrap_or_default();
    let guard = guard.then(|| StopOnDrop::new(stop.clone()));
    let context = TaskContext::of(Shared {
        tasks: tasks.clone(),
        id: letter.id.clone(),
        queue: letter.queue.as_str().into(),
        task: letter.task.as_str().into(),
        attempt: 1,
        caller,
        ended: None,
        report: watch::Sender::default(),
        stop,
    });
    let work = perform(run, letter, &context);
    let ended = select! {
        biased;
        ended = work => ended,
        never = follow_here(&context.shared.report, on_report) => match never {},
    };
    if let Some(guard) = guard {
        guard.completed();
    }
    metrics::ran_in_place(ended.is_ok());
    ended.map_err(|error| {
        let (error, is_conflict): (Arc<dyn std::error::Error + Send + Sync>, bool) = match error {
            RunError::Failed(failure) => {
                let failure = tasks.core.classify(failure);
                let is_transient = failure.is_transient();
                (failure.into_error(), is_transient)
            }
            RunError::Unreadable(error) => (Arc::new(error), false),
            RunError::Panicked(message) => (Arc::new(Reported::panicked(&message)), false),
        };
        TaskError::Failed {
            id: letter.id.clone(),
            task: letter.task.as_str().into(),
            error,
            is_conflict,
        }
    })
}

/// Stores the outcome of a submitted task that ran in place, so that its status can be read.
pub(super) async fn keep(core: &Core, letter: &Letter, ended: &Result<Box<RawValue>, TaskError>) {
    let mut record = Record::new(letter);
    record.attempt = 1;
    record.started = Some(letter.created);
    let state = match ended {
        Ok(output) => {
            record.output = Some(output.clone());
            TaskState::Succeeded
        }
        Err(error) => {
            record.failure = Some(Failure {
                error: Reported::of(std::error::Error::source(error).unwrap_or(error)),
                is_conflict: error.is_conflict(),
            });
            TaskState::Failed
        }
    };
    record.end(state, core.settings.retention);
    if let Err(error) = core.records.create(&letter.id, &record).await {
        observe::backend_failed(&letter.id, &error);
    }
}
