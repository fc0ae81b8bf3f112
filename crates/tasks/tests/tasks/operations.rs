//! Requests that wait for tasks, as operations: progress and cancellation are connected.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use std::time::Duration;
use test_support::operation::{App, SECOND, progress};
use test_support::task::{Act, act, builder};
use test_support::{Counter, until};
use tokio::time::sleep;
use tower_promises::{PromiseLayer, Promises};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{Backend, BackendError, BoxFuture, Bus, BusStream};
use tower_promises_operations::Escalate;
use tower_promises_operations::{OperationLayer, Progress};
use tower_promises_tasks::{TaskContext, TaskQueueOptions, Tasks};

/// Sets its progress to 50 percent, and ends a minute later.
async fn halfway(context: TaskContext) -> String {
    context.set_progress(50);
    context.set_message("halfway");
    sleep(SECOND * 60).await;
    "done".into()
}

/// A page that waits for a task, and its operations.
fn app(backend: &Backend, tasks: &Tasks) -> App {
    let page = async |promises: Promises, progress: Progress, tasks: Extension<Tasks>| {
        promises.result_or_try_submit("task", || {
            tasks.queue("main").call(act("x")).report_to(progress)
        })
    };
    let layer = OperationLayer::new(backend.clone())
        .wait(SECOND)
        .escalate(|_| Escalate::Always);
    App {
        operations: layer.operations(),
        router: axum::Router::new()
            .route("/", get(page))
            .layer(PromiseLayer::new())
            .layer(Extension(tasks.clone()))
            .layer(layer),
    }
}

/// Polls the operation until the task has set its progress. Returns the status document.
async fn told(app: &App, path: &str) -> serde_json::Value {
    loop {
        let document = app.document(path).await;
        if !document["progress"].is_null() {
            return document;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_progress_of_a_promised_task_becomes_the_progress_of_the_operation() {
    let backend = Backend::memory();
    let worker = builder(&backend, async |_, context| Ok(halfway(context).await)).build();
    let _worker = worker.work().unwrap();
    let app = app(&backend, &test_support::task::client(&backend));
    let path = app.start("GET /", &[]).await;
    let document = told(&app, &path).await;
    assert_eq!(document["progress"], 50.0);
    assert_eq!(document["message"], "halfway");
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
    assert_eq!(app.get(&format!("{path}/result")).await.body, "done");
}

/// A bus that loses all messages.
struct Deaf(MemoryBus);

impl Bus for Deaf {
    fn publish<'a>(&'a self, _: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async { Ok(()) })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        self.0.listen()
    }
}

#[tokio::test(start_paused = true)]
async fn the_progress_of_a_promised_task_needs_no_bus() {
    let bus = Deaf(MemoryBus::new());
    let backend = Backend::new(MemoryStore::new(), bus, MemoryQueue::new());
    let worker = builder(&backend, async |_, context| {
        // The waiting call has read the record by then.
        sleep(SECOND * 2).await;
        Ok(halfway(context).await)
    });
    let worker = worker.build();
    let _worker = worker.work().unwrap();
    let app = app(&backend, &test_support::task::client(&backend));
    let path = app.start("GET /", &[]).await;
    let start = tokio::time::Instant::now();
    let document = told(&app, &path).await;
    assert_eq!(document["message"], "halfway");
    assert!(start.elapsed() <= SECOND * 10, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn cancelling_the_operation_cancels_the_task() {
    let backend = Backend::memory();
    let dropped = Counter::default();
    let count = dropped.clone();
    let worker = builder(&backend, move |_, context| {
        let guard = count.on_drop();
        async move {
            let output = halfway(context).await;
            drop(guard);
            Ok(output)
        }
    });
    let worker = worker.build();
    let _worker = worker.work().unwrap();
    let app = app(&backend, &test_support::task::client(&backend));
    let path = app.start("GET /", &[]).await;
    told(&app, &path).await;
    assert_eq!(dropped.get(), 0);
    let answer = app.ask(&format!("DELETE {path}"), &[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    let start = tokio::time::Instant::now();
    until("the worker drops the task", || dropped.get() == 1).await;
    assert!(start.elapsed() < SECOND * 5, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_in_place_reports_too() {
    let tasks = builder(&Backend::memory(), async |_, context| {
        Ok(halfway(context).await)
    })
    .build();
    let app = App::new(
        OperationLayer::memory().wait(SECOND),
        move |request: Request| {
            let unknown = tasks.queue("unknown");
            let call = unknown.call(act("x")).report_to(progress(&request));
            async move { call.await.map_err(|_| StatusCode::BAD_GATEWAY) }
        },
    );
    let path = app.start("POST /", &[]).await;
    let document = told(&app, &path).await;
    assert_eq!(document["progress"], 50.0);
    assert_eq!(document["message"], "halfway");
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_task_without_progress_leaves_the_progress_unchanged() {
    let backend = Backend::memory();
    let tasks = Tasks::builder(backend.clone()).queue(TaskQueueOptions::new("main").task::<Act>());
    let tasks = tasks.build();
    let worker = builder(&backend, async |_, _| {
        sleep(SECOND * 20).await;
        Ok("done".into())
    });
    let worker = worker.build();
    let _worker = worker.work().unwrap();
    let app = app(&backend, &tasks);
    let path = app.start("GET /", &[]).await;
    assert!(app.ended(&path).await["progress"].is_null());
}
