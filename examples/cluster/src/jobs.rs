//! The tasks of the cluster. Web instances submit them, workers run them.

use crate::partner::{self, Synchronise};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::sleep;
use tower_promises::BoxError;
use tower_promises::backend::Backend;
use tower_promises::tasks::{
    Principal, Schedule, Task, TaskContext, TaskFailure, TaskQueueOptions, Tasks, Webhook,
};

/// The name of the queue.
pub(crate) const QUEUE: &str = "reports";

/// The name of the queue of webhooks.
pub(crate) const WEBHOOKS: &str = "webhooks";

/// All processes add the same queues. Only workers run tasks.
pub(crate) fn tasks(backend: Backend, worker: Worker) -> Result<Tasks, BoxError> {
    let reports = TaskQueueOptions::new(QUEUE)
        .task::<Report>()
        .task::<Square>()
        .task::<Poison>()
        .task::<Synchronise>()
        .task::<Tally>()
        .concurrency(4);
    let webhooks = TaskQueueOptions::new(WEBHOOKS).task::<Webhook>();
    // Every ten seconds, so that there is something to see. All workers keep it, and each due time runs once.
    let tally = Schedule::new("tally", QUEUE, "*/10 * * * * *", |due| Tally { due })?
        .principal(Principal::new("system/tally"));
    Ok(Tasks::builder(backend.clone())
        .queue(reports)
        .queue(webhooks)
        .schedule(tally)
        .state(backend)
        .state(worker)
        .state(partner::sender()?)
        // Short, so that the effect of a crash is visible soon.
        .lease(Duration::from_secs(3))
        .progress_interval(Duration::from_millis(200))
        .build())
}

/// State of a worker that its tasks update.
#[derive(Clone, Default)]
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    running: Arc<Mutex<BTreeMap<String, usize>>>,
    ended: Arc<Mutex<u64>>,
}

/// Guard for a task that this worker runs. Counts the end of the task on drop.
pub(crate) struct Running {
    worker: Worker,
    task: String,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    fn begin(&self, context: &TaskContext) -> Running {
        let task = context.task().to_owned();
        *lock(&self.running).entry(task.clone()).or_default() += 1;
        Running {
            worker: self.clone(),
            task,
        }
    }

    /// Describes the current work, for the status page.
    pub(crate) fn doing(&self) -> String {
        let ended = *lock(&self.ended);
        let running = lock(&self.running);
        let running = running.iter().filter(|(_, number)| **number > 0);
        let running: Vec<_> = running
            .map(|(task, number)| format!("{number} {task}"))
            .collect();
        match &*running {
            [] => format!("idle, {ended} ended"),
            running => format!("runs {}, {ended} ended", running.join(" and ")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(number) = lock(&self.worker.running).get_mut(&self.task) {
            *number -= 1;
        }
        *lock(&self.worker.ended) += 1;
    }
}

/// A report that takes some seconds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seconds: u32,
}

impl Task for Report {
    const NAME: &'static str = "report";
    type Output = String;

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let worker: &Worker = context.state()?;
        let _running = worker.begin(&context);
        let steps = self.seconds * 10;
        for step in 0..steps {
            context.set_progress(100.0 * f64::from(step) / f64::from(steps));
            context.set_message(format!("{} adds up page {step}", worker.name));
            sleep(Duration::from_millis(100)).await;
        }
        let principal = context
            .principal()
            .map_or("nobody".into(), ToString::to_string);
        Ok(format!(
            "{steps} pages for {principal}, by {} in attempt {}\n",
            worker.name,
            context.attempt()
        ))
    }
}

/// One of many short tasks.
#[derive(Serialize, Deserialize)]
pub(crate) struct Square {
    pub(crate) number: u64,
}

impl Task for Square {
    const NAME: &'static str = "square";
    type Output = u64;

    async fn run(self, context: TaskContext) -> Result<u64, TaskFailure> {
        let _running = context.state::<Worker>()?.begin(&context);
        sleep(Duration::from_millis(20)).await;
        Ok(self
            .number
            .checked_mul(self.number)
            .ok_or("the number is too large")?)
    }
}

/// A task that crashes its worker, like a task that uses up all memory.
#[derive(Serialize, Deserialize)]
pub(crate) struct Poison;

impl Task for Poison {
    const NAME: &'static str = "poison";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        std::process::abort()
    }
}

/// A task of a schedule: says when it was due.
#[derive(Serialize, Deserialize)]
pub(crate) struct Tally {
    due: SystemTime,
}

impl Task for Tally {
    const NAME: &'static str = "tally";
    type Output = String;

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let worker: &Worker = context.state()?;
        let late = self.due.elapsed().unwrap_or_default().as_millis();
        Ok(format!("{}, {late} ms after it was due", worker.doing()))
    }
}
