//! Policies for retries: which failures, how often, and after which pauses.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::soon;
use test_support::task::{Broken, SECOND, chain};
use tokio::time::Instant;
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    RetryPolicy, Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, TaskState, Tasks,
};

/// The start of each attempt.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<Vec<Instant>>>);

impl Starts {
    fn pauses(&self) -> Vec<Duration> {
        let starts = self.0.lock().unwrap();
        starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn fail(kind: &str) -> Result<(), TaskFailure> {
    match kind {
        "conflict" => Err(TaskFailure::conflict(Broken)),
        "retry" => Err(TaskFailure::retry(Broken)),
        "retry_after" => Err(TaskFailure::retry_after(Broken, SECOND * 100)),
        "permanent" => Err(TaskFailure::permanent(Broken)),
        "panic" => panic!("out of order"),
        _ => Err(Broken.into()),
    }
}

async fn attempt(kind: &str, context: TaskContext) -> Result<(), TaskFailure> {
    let starts = context.state::<Starts>()?;
    starts.0.lock().unwrap().push(Instant::now());
    if kind == "timeout" {
        std::future::pending::<()>().await;
    }
    fail(kind)
}

/// A task with the default policy.
#[derive(Serialize, Deserialize)]
struct Plain(String);

impl Task for Plain {
    const NAME: &'static str = "plain";
    type Output = ();

    async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
        attempt(&self.0, context).await
    }
}

/// A task with five attempts, after all errors.
#[derive(Serialize, Deserialize)]
struct Patient(String);

impl Task for Patient {
    const NAME: &'static str = "patient";
    type Output = ();

    fn retry_policy() -> RetryPolicy {
        let policy = RetryPolicy::new().retry_errors(true).max_attempts(5);
        policy.backoff(SECOND * 10, SECOND * 30).jitter(0.0)
    }

    async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
        attempt(&self.0, context).await
    }
}

/// Runs a task to its end. Returns its error and the pauses between its attempts.
async fn run<T: Task>(task: T) -> (TaskError, Vec<Duration>) {
    let starts = Starts::default();
    let queue = TaskQueueOptions::new("main")
        .task::<Plain>()
        .task::<Patient>();
    let tasks = Tasks::builder(Backend::memory())
        .queue(queue.timeout(SECOND * 60))
        .state(starts.clone())
        .build();
    let _worker = tasks.work().unwrap();
    let id = tasks.queue("main").submit(task).await.unwrap();
    let Err(error) = soon(tasks.output::<T>(&id)).await else {
        panic!("the task has no output");
    };
    let state = tasks.status(&id).await.unwrap().state();
    let is_dead = matches!(error, TaskError::Dead { .. });
    assert_eq!(state == TaskState::Dead, is_dead);
    (error, starts.pauses())
}

fn seconds(pauses: &[Duration]) -> Vec<u64> {
    pauses.iter().map(Duration::as_secs).collect()
}

#[tokio::test(start_paused = true)]
async fn by_default_three_attempts_after_conflicts_and_one_after_any_other_error() {
    for kind in ["conflict", "retry"] {
        let (error, pauses) = run(Plain(kind.into())).await;
        assert!(
            matches!(error, TaskError::Dead { attempts: 3, .. }),
            "{error:?}"
        );
        // Random within 2^n seconds, and up to a second later.
        assert!(
            pauses[0] <= SECOND * 3 && pauses[1] <= SECOND * 5,
            "{pauses:?}"
        );
    }
    for kind in ["error", "permanent", "panic", "timeout"] {
        let (error, pauses) = run(Plain(kind.into())).await;
        assert!(matches!(error, TaskError::Failed { .. }), "{error:?}");
        assert_eq!(pauses.len(), 0, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_sets_the_errors_the_attempts_and_the_pauses() {
    for kind in ["conflict", "retry", "error", "panic"] {
        let (error, pauses) = run(Patient(kind.into())).await;
        assert!(
            matches!(error, TaskError::Dead { attempts: 5, .. }),
            "{error:?}"
        );
        assert_eq!(seconds(&pauses), [10, 20, 30, 30], "{kind}");
    }
    let (error, pauses) = run(Patient("timeout".into())).await;
    assert!(
        chain(&error).ends_with("the task took more than 60s"),
        "{error:?}"
    );
    assert_eq!(seconds(&pauses), [70, 80, 90, 90]);
    let (error, pauses) = run(Patient("permanent".into())).await;
    assert!(matches!(error, TaskError::Failed { .. }), "{error:?}");
    assert_eq!(pauses.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_can_set_the_next_pause() {
    for (pauses, attempts) in [
        (run(Plain("retry_after".into())).await.1, 3),
        (run(Patient("retry_after".into())).await.1, 5),
    ] {
        assert_eq!(seconds(&pauses), vec![100; attempts - 1]);
    }
}
