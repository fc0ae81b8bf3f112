//! Jobs in child processes: crashes, limits, cancellation, and their use as promises and in tasks.
#![allow(clippy::unwrap_used)]

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use test_support::ask;
use test_support::eventually::{eventually, until};
use tower::{Service, ServiceExt};
use tower_promises::PromiseLayer;
use tower_promises_backend::Backend;
use tower_promises_process::{ProcessError, ProcessFuture, ProcessJob, ProcessPool};
use tower_promises_tasks::{Task, TaskContext, TaskFailure};
use tower_promises_tasks::{TaskQueueOptions, Tasks};

procspawn::enable_test_support!();

/// The behaviour of a child.
#[derive(Serialize, Deserialize)]
enum Act {
    Double(u64),
    ProcessId,
    Print(String),
    Repeat(String, usize),
    Panic,
    Abort,
    Exit,
    /// Writes its process id into the file, and computes forever.
    Forever(PathBuf),
}

impl ProcessJob for Act {
    type Output = String;

    fn run(self) -> String {
        match self {
            Self::Double(number) => (number * 2).to_string(),
            Self::ProcessId => std::process::id().to_string(),
            Self::Print(text) => {
                println!("{text}");
                eprintln!("{text}");
                "printed".to_owned()
            }
            Self::Repeat(text, times) => text.repeat(times),
            Self::Panic => panic!("the job is broken"),
            Self::Abort => std::process::abort(),
            Self::Exit => std::process::exit(0),
            Self::Forever(file) => {
                // The rename makes the content appear at once.
                let unfinished = file.with_extension("unfinished");
                std::fs::write(&unfinished, std::process::id().to_string()).unwrap();
                std::fs::rename(unfinished, file).unwrap();
                loop {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// A job with an output that cannot be serialised.
#[derive(Serialize, Deserialize)]
struct Odd;

#[derive(Deserialize)]
struct Unserialisable;

impl Serialize for Unserialisable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it does not serialise"))
    }
}

impl ProcessJob for Odd {
    type Output = Unserialisable;

    fn run(self) -> Unserialisable {
        Unserialisable
    }
}

/// A job that cannot be deserialised.
#[derive(Serialize, Deserialize)]
struct Lost {
    #[serde(skip_serializing)]
    field: u8,
}

impl ProcessJob for Lost {
    type Output = u8;

    fn run(self) -> u8 {
        self.field
    }
}

/// A pool for each test, because tests run concurrently.
fn pool() -> ProcessPool {
    ProcessPool::builder()
        .max_processes(2)
        .timeout(Duration::from_secs(60))
        .build()
}

fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// A job that runs forever once it has started.
struct Endless {
    directory: tempfile::TempDir,
}

impl Endless {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn job(&self) -> Act {
        Act::Forever(self.directory.path().join("pid"))
    }

    /// Polls the job until it has started. Returns its process id.
    async fn begun<T: std::fmt::Debug>(&self, job: &mut ProcessFuture<T>) -> u32 {
        let file = self.directory.path().join("pid");
        tokio::select! {
            process = written(&file) => process,
            result = job => panic!("the job has ended: {result:?}"),
        }
    }
}

/// Returns the process id that a job writes when it starts.
async fn written(file: &Path) -> u32 {
    let read = async || std::fs::read_to_string(file).ok()?.parse().ok();
    eventually("the beginning of the job", read).await
}

#[tokio::test]
async fn a_job_runs_in_another_process() {
    let pool = pool();
    let first = pool.run(Act::ProcessId).await.unwrap();
    let second = pool.run(Act::ProcessId).await.unwrap();
    let here = std::process::id().to_string();
    assert!(first != here && second != here && first != second);
    assert_eq!(pool.run(Act::Double(21)).await.unwrap(), "42");
    assert_eq!((pool.running(), pool.waiting()), (0, 0));
}

#[tokio::test]
async fn an_abort_ends_the_job_and_nothing_else() {
    let pool = pool();
    let error = pool.run(Act::Abort).await.unwrap_err();
    assert!(matches!(error, ProcessError::Died { .. }), "{error:?}");
    assert!(error.job().ends_with("Act"));
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
}

#[tokio::test]
async fn an_exit_is_no_result() {
    let pool = pool();
    let error = pool.run(Act::Exit).await.unwrap_err();
    assert!(matches!(error, ProcessError::Died { .. }), "{error:?}");
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
}

#[tokio::test]
async fn a_panic_is_an_error_with_its_text() {
    let pool = pool();
    let error = pool.run(Act::Panic).await.unwrap_err();
    assert!(matches!(error, ProcessError::Panicked { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("the job is broken at "), "{text}");
    assert!(text.contains("tests/jobs.rs:"), "{text}");
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_is_killed_ends_its_job() {
    let (pool, endless) = (pool(), Endless::new());
    let mut job = pool.run(endless.job());
    let process = endless.begun(&mut job).await;
    let killed = std::process::Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let error = job.await.unwrap_err();
    assert!(matches!(error, ProcessError::Died { .. }), "{error:?}");
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_job_that_takes_too_long_is_killed() {
    let endless = Endless::new();
    let after = Duration::from_secs(5);
    let pool = ProcessPool::builder()
        .max_processes(1)
        .timeout(after)
        .build();
    let mut job = pool.run(endless.job());
    let process = endless.begun(&mut job).await;
    let error = job.await.unwrap_err();
    assert!(
        matches!(error, ProcessError::TimedOut { after: time, .. } if time == after),
        "{error:?}"
    );
    until("the process ends", async || !is_alive(process)).await;
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dropping_the_future_kills_the_process() {
    let (pool, endless) = (pool(), Endless::new());
    let mut job = pool.run(endless.job());
    let process = endless.begun(&mut job).await;
    assert!(is_alive(process));
    assert_eq!(pool.running(), 1);
    drop(job);
    until("the process ends", async || !is_alive(process)).await;
    until("the place of the job is free", async || pool.running() == 0).await;
}

#[tokio::test]
async fn a_job_dropped_while_it_starts_frees_its_place() {
    let (pool, endless) = (pool(), Endless::new());
    for _ in 0..10 {
        // A job that runs forever, so that it is still running when it is polled, however slow this thread is.
        let mut job = pool.run(endless.job());
        let polled = futures_util::poll!(&mut job);
        assert!(polled.is_pending());
        drop(job);
    }
    until("all places are free", async || pool.running() == 0).await;
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
}

#[tokio::test]
async fn nothing_starts_before_the_future_is_polled() {
    let (pool, endless) = (pool(), Endless::new());
    let job = pool.run(endless.job());
    assert_eq!((pool.running(), pool.waiting()), (0, 0));
    drop(job);
    assert_eq!(pool.run(Act::Double(1)).await.unwrap(), "2");
    assert!(!endless.directory.path().join("pid").exists());
}

#[tokio::test]
async fn output_of_a_job_does_not_disturb_its_result() {
    let text = "no result\n".repeat(100);
    assert_eq!(pool().run(Act::Print(text)).await.unwrap(), "printed");
}

#[tokio::test]
async fn a_hundred_jobs_take_turns() {
    let pool = pool();
    let jobs = (0..100).map(|number| pool.run(Act::Double(number)));
    let results = join_all(jobs).await;
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap(), (number * 2).to_string());
    }
    assert_eq!((pool.running(), pool.waiting()), (0, 0));
}

#[tokio::test]
async fn too_many_jobs_are_refused() {
    let endless = Endless::new();
    let pool = ProcessPool::builder()
        .max_processes(1)
        .max_waiting(1)
        .build();
    let mut first = pool.run(endless.job());
    endless.begun(&mut first).await;
    let mut second = pool.run(Act::Double(2));
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!((pool.running(), pool.waiting()), (1, 1));
    let error = pool.run(Act::Double(3)).await.unwrap_err();
    assert!(
        matches!(error, ProcessError::Saturated { limit: 1, .. }),
        "{error:?}"
    );

    // Dropping a waiting job makes room.
    drop(second);
    assert_eq!(pool.waiting(), 0);
    let mut second = pool.run(Act::Double(2));
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await.unwrap(), "4");
}

#[tokio::test]
async fn large_values_travel_both_ways_within_the_limit() {
    let pool = ProcessPool::builder().max_bytes(9 << 20).build();
    let text = "0123456789abcdef".repeat(128 << 10);
    let output = pool.run(Act::Repeat(text.clone(), 4)).await.unwrap();
    assert!(output == text.repeat(4));

    for job in [Act::Repeat(text.clone(), 5), Act::Print(text.repeat(5))] {
        let error = pool.run(job).await.unwrap_err();
        assert!(
            matches!(error, ProcessError::TooLarge { size, limit, .. } if size > limit),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn an_output_that_does_not_serialise_is_an_error() {
    let error = pool().run(Odd).await.map(|_| ()).unwrap_err();
    let ProcessError::Serialize {
        type_name, error, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(type_name.ends_with("Unserialisable"));
    assert_eq!(error.to_string(), "it does not serialise");
}

#[tokio::test]
async fn a_job_that_cannot_be_read_again_is_an_error() {
    let error = pool().run(Lost { field: 1 }).await.unwrap_err();
    let ProcessError::Serialize {
        type_name, error, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(type_name.ends_with("Lost"));
    assert!(error.to_string().contains("missing field"), "{error}");
}

#[tokio::test]
async fn a_pool_is_a_service() {
    let mut service = pool();
    let ready = ServiceExt::<Act>::ready(&mut service).await.unwrap();
    assert_eq!(ready.call(Act::Double(4)).await.unwrap(), "8");
}

#[test]
fn without_a_runtime_there_is_an_error() {
    let result = futures_util::future::FutureExt::now_or_never(pool().run(Act::ProcessId));
    let error = result.unwrap().unwrap_err();
    assert!(matches!(error, ProcessError::NoRuntime { .. }), "{error:?}");
}

#[tokio::test]
async fn a_job_can_be_a_promise() {
    let pool = pool();
    let answer = ask(PromiseLayer::new(), |promises| {
        let double = promises.result_or_try_submit("double", || pool.run(Act::Double(4)));
        let crash = promises.result_or_submit("crash", || pool.run(Act::Abort));
        let crash = crash?.unwrap_err();
        Ok(format!("{}, {crash}", double?))
    })
    .await
    .unwrap();
    assert!(answer.body.starts_with("8, job "), "{}", answer.body);
    assert!(
        answer.body.ends_with("has ended without a result"),
        "{}",
        answer.body
    );
    assert_eq!(answer.passes, 2);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_job_of_a_disconnected_client_is_killed() {
    let (pool, endless) = (pool(), Endless::new());
    let file = endless.directory.path().join("pid");
    let process = {
        let request = ask(PromiseLayer::new(), |promises| {
            Ok(promises.result_or_try_submit("job", || pool.run(endless.job()))?)
        });
        tokio::select! {
            process = written(&file) => process,
            _ = request => panic!("the request has ended"),
        }
    };
    until("the process ends", async || !is_alive(process)).await;
}

#[derive(Serialize, Deserialize)]
struct Compute(u64);

impl Task for Compute {
    const NAME: &'static str = "compute";
    type Output = String;

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        Ok(context
            .state::<ProcessPool>()?
            .run(Act::Double(self.0))
            .await?)
    }
}

#[tokio::test]
async fn a_task_can_use_a_pool() {
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("main").task::<Compute>())
        .state(pool())
        .build();
    let _worker = tasks.work().unwrap();
    let output = tasks.queue("main").call(Compute(8)).await.unwrap();
    assert_eq!(output, "16");
}

#[test]
fn futures_and_errors_go_everywhere() {
    fn check<T: Send + 'static>() {}
    check::<ProcessFuture<String>>();
    static_assertions::assert_impl_all!(ProcessPool: Send, Sync, Clone);
    static_assertions::assert_impl_all!(ProcessError: Send, Sync, Clone);
    static_assertions::assert_impl_all!(ProcessFuture<String>: Future, Unpin);
}
