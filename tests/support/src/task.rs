//! Code that the tests of tasks share: a task whose function the test supplies, and its errors.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises::backend::Backend;
use tower_promises::tasks::{
    Task, TaskContext, TaskFailure, TaskQueueOptions, Tasks, TasksBuilder,
};

pub const SECOND: Duration = Duration::from_secs(1);

pub type Ran = Result<String, TaskFailure>;

type Function = dyn Fn(String, TaskContext) -> BoxFuture<'static, Ran> + Send + Sync;

/// The implementation of [`Act`].
#[derive(Clone)]
pub struct Script(Arc<Function>);

/// A task with an argument, which the test implements.
#[derive(Debug, Serialize, Deserialize)]
pub struct Act(pub String);

impl Task for Act {
    const NAME: &'static str = "act";
    type Output = String;

    async fn run(self, context: TaskContext) -> Ran {
        let script = context.state::<Script>()?.clone();
        (script.0)(self.0, context).await
    }
}

pub fn act(argument: impl Into<String>) -> Act {
    Act(argument.into())
}

/// Builds a process with the queue `main`. Its tasks run `script`.
pub fn builder<F>(
    backend: &Backend,
    script: impl Fn(String, TaskContext) -> F + Send + Sync + 'static,
) -> TasksBuilder
where
    F: Future<Output = Ran> + Send + 'static,
{
    Tasks::builder(backend.clone())
        .queue(TaskQueueOptions::new("main").task::<Act>())
        .state(Script(Arc::new(move |argument, context| {
            Box::pin(script(argument, context))
        })))
}

/// Creates a process with the queue `main`. Its tasks run `script`.
pub fn process<F>(
    backend: &Backend,
    script: impl Fn(String, TaskContext) -> F + Send + Sync + 'static,
) -> Tasks
where
    F: Future<Output = Ran> + Send + 'static,
{
    builder(backend, script).build()
}

/// Creates a process that only submits. A task that runs in it is a bug of the crate.
pub fn client(backend: &Backend) -> Tasks {
    process(backend, async |argument, _| {
        panic!("`{argument}` runs where it was submitted")
    })
}

/// An error of a task.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is broken")
    }
}

impl std::error::Error for Broken {}

/// An error with another error as its source.
#[derive(Debug)]
pub struct Around(pub Broken);

impl fmt::Display for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it does not work")
    }
}

impl std::error::Error for Around {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Returns the texts of an error and its sources.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(error.source(), |&error| error.source());
    let sources = sources.map(|error| format!(": {error}"));
    format!("{error}{}", sources.collect::<String>())
}
