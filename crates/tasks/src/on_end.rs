//! The call of a task on the end of another one.
//!
//! The call travels in the envelope of its task. A worker settles the envelope only when the end is recorded and the
//! call is in its queue. A worker that dies in between leaves the envelope to the next worker, which finds the end
//! recorded and makes the call. The id of the call is derived from the submission, so a repeated call is ignored while
//! its record exists.

use super::ended::EndedTask;
use super::record::{Letter, OnEnd};
use super::submission::submit;
use super::tasks::Core;
use super::{TaskError, TaskId, TaskState, Unique, observe};
use serde_json::value::RawValue;
use std::time::Duration;
use tower_promises_backend::Priority;
use tower_promises_backend::kit::clock::now;

impl Core {
    /// Makes the call of a task whose end is recorded.
    pub(super) async fn call_on_end(&self, letter: &Letter) -> Result<(), TaskError> {
        if letter.on_end.is_none() {
            return Ok(());
        }
        match self.records.read(&letter.id).await? {
            Some(record)
                if record.submission == letter.submission && record.state.is_terminal() =>
            {
                let finished = record.finished.unwrap_or_else(now);
                self.call(letter, record.state, finished).await
            }
            // The task was sent again, and ends later.
            _ => Ok(()),
        }
    }

    /// Makes the call of a task that has run in place. It has no envelope, so an error is logged only.
    pub(super) async fn call_after(
        &self,
        letter: &Letter,
        ended: &Result<Box<RawValue>, TaskError>,
    ) {
        let state = match ended {
            Ok(_) => TaskState::Succeeded,
            Err(_) => TaskState::Failed,
        };
        if let Err(error) = self.call(letter, state, now()).await {
            observe::on_end_failed(letter, &error);
        }
    }

    async fn call(
        &self,
        letter: &Letter,
        state: TaskState,
        finished: u64,
    ) -> Result<(), TaskError> {
        let Some(OnEnd {
            queue,
            task,
            arguments,
            max_attempts,
            limit,
        }) = letter.on_end.clone()
        else {
            return Ok(());
        };
        let id = TaskId::from(format!("end/{}", letter.submission));
        let call = Letter {
            submission: letter.submission.clone(),
            max_attempts,
            limit,
            ended: Some(EndedTask {
                id: letter.id.clone(),
                queue: letter.queue.clone(),
                task: letter.task.clone(),
                state,
                finished,
            }),
            ..self.letter_of(id, &queue, &task, arguments, &letter.caller())
        };
        submit(self, &call, Duration::ZERO, Priority::Normal, Unique::Same).await
    }
}
