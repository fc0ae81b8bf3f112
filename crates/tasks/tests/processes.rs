//! Tasks that run in another process, over a SQLite file.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use test_support::eventually::{line_after, soon};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::ReplayBody;
use tower_promises::{BoxError, PromiseLayer, Promises};
use tower_promises_sqlite::SqliteDatabase;
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, TaskState, Tasks,
};

/// The environment variable with the path of the database, for the other process.
const DATABASE: &str = "TEST_TASK_DATABASE";

#[derive(Serialize, Deserialize)]
enum Errand {
    /// Returns the process id and the principal.
    Tell,
    /// Ends the process that runs the task.
    Crash,
    /// Never ends.
    Wait,
}

impl Task for Errand {
    const NAME: &'static str = "errand";
    type Output = (u32, Option<Principal>);

    async fn run(self, context: TaskContext) -> Result<Self::Output, TaskFailure> {
        match self {
            Self::Tell => Ok((std::process::id(), context.principal().cloned())),
            Self::Crash => std::process::abort(),
            Self::Wait => {
                context.set_message("waits");
                std::future::pending().await
            }
        }
    }
}

async fn tasks(path: &Path) -> Tasks {
    let database = SqliteDatabase::open(path).await.unwrap();
    Tasks::builder(database.backend())
        .queue(TaskQueueOptions::new("errands").task::<Errand>())
        .lease(Duration::from_millis(500))
        .build()
}

/// A worker process. It is killed on drop.
struct Process(Child);

impl Process {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--ignored", "--nocapture"])
            .env(DATABASE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let process = Self(child);
        line_after("it works", output);
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    let path = std::env::var_os(DATABASE).expect("other tests start this one with a database");
    // Ends when the process that started it ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let tasks = tasks(Path::new(&path)).await;
    let _worker = tasks.work().unwrap();
    println!("it works");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_page_waits_for_a_task_in_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let tasks = tasks(&path).await;
    let process = Process::start(&path);
    let service = PromiseLayer::new().layer(service_fn({
        let tasks = tasks.clone();
        move |request: Request<ReplayBody<Full<Bytes>>>| {
            let promises = request.extensions().get::<Promises>().unwrap().clone();
            let errands = tasks.queue("errands");
            async move {
                let told = promises.result_or_try_submit("told", || errands.call(Errand::Tell))?;
                let (process, principal): (u32, Option<Principal>) = told;
                let told = format!("{process} {}", principal.unwrap());
                Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(told)))
            }
        }
    }));
    let request = Request::new(Full::<Bytes>::default());
    let response = Principal::new("ada").scope(service.oneshot(request));
    let response = soon(response).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("{} ada", process.0.id()));
}

#[tokio::test]
async fn a_task_of_another_process_is_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let tasks = tasks(&path).await;
    let _process = Process::start(&path);
    let id = tasks.queue("errands").submit(Errand::Wait).await.unwrap();
    let mut watch = tasks.watch(&id).unwrap();
    while soon(watch.changed()).await.unwrap().message() != Some("waits") {}
    assert!(tasks.cancel(&id).await.unwrap());
    let error = soon(tasks.output::<Errand>(&id)).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
}

#[tokio::test]
async fn a_task_that_kills_its_workers_ends_as_a_dead_letter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let tasks = tasks(&path).await;
    let errands = tasks.queue("errands");
    let id = errands.submit(Errand::Crash).await.unwrap();
    for _ in 0..3 {
        let mut process = Process::start(&path);
        // Waiting would close the standard input, which would end the process.
        let stdin = process.0.stdin.take();
        let ended = tokio::task::spawn_blocking(move || process.0.wait().unwrap());
        assert!(!soon(ended).await.unwrap().success());
        drop(stdin);
    }
    assert_eq!(tasks.status(&id).await.unwrap().state(), TaskState::Running);
    let process = Process::start(&path);
    let error = soon(tasks.output::<Errand>(&id)).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    assert_eq!(errands.dead_letters().await.unwrap()[0].id(), &id);
    // The worker continues with other tasks.
    let told = soon(errands.call(Errand::Tell)).await.unwrap();
    assert_eq!(told.0, process.0.id());
}
