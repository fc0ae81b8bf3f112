//! The run of a task.

use super::record::Letter;
use super::scope::{Scope, Scoped};
use super::task::read_arguments;
use super::tasks::{Ran, Run, RunError};
use super::{Task, TaskContext, observe};
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tower_promises_backend::kit::{json, panic};
use tracing::Instrument;

/// Runs a task of the type `T`. It may panic.
pub(super) fn run<T: Task>(
    arguments: Box<RawValue>,
    context: TaskContext,
) -> BoxFuture<'static, Ran> {
    Box::pin(async move {
        let task: T = read_arguments(&arguments).map_err(RunError::Unreadable)?;
        let output = task.run(context).await.map_err(RunError::Failed)?;
        json::to_raw_value(&output).map_err(|error| RunError::Failed(error.into()))
    })
}

/// Runs a task in its scope and its span.
pub(super) async fn perform(run: Run, letter: &Letter, context: &TaskContext) -> Ran {
    let shared = &context.shared;
    let scope = Scope {
        caller: shared.caller.clone(),
        task: Some(context.clone()),
    };
    let work = run(letter.arguments.clone(), context.clone());
    let work = Scoped::new(Arc::new(scope), work);
    // The function of the application that creates the span may panic, too.
    catch(async {
        let span = match &shared.tasks.core.make_span {
            Some(make_span) => make_span(context),
            None => observe::span(letter, shared.attempt),
        };
        work.instrument(span).await
    })
    .await
}

/// Turns a panic of a task into an error, so that the worker survives.
async fn catch(work: impl Future<Output = Ran> + Send) -> Ran {
    let mut work = pin!(work);
    let polled = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll,
            // The future is not polled again after a panic.
            Err(panic) => {
                let text = panic::text(&*panic).unwrap_or_default();
                Poll::Ready(Err(RunError::Panicked(text.to_owned())))
            }
        }
    });
    polled.await
}
