//! A page that waits for the result of a task in another process. The program serves requests with `ROLE=web`, runs
//! tasks with `ROLE=worker`, and does both without `ROLE`. The processes share a SQLite file.
//!
//! Start it with `cargo run -p example-tasks`, or, in two terminals,
//! `ROLE=web cargo run -p example-tasks` and `ROLE=worker cargo run -p example-tasks`.

use axum::extract::{Path, Request};
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Router, routing::get};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises::tasks::Principal;
use tower_promises::tasks::{Task, TaskContext, TaskFailure, TaskLayer, TaskQueueOptions, Tasks};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};
use tower_promises_sqlite::SqliteDatabase;

/// The arguments of the task.
#[derive(Serialize, Deserialize)]
struct Render {
    year: u32,
}

impl Task for Render {
    const NAME: &'static str = "render";
    type Output = String;

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let reader = context
            .principal()
            .ok_or("reading a report needs a principal")?;
        if self.year < 1970 && context.attempt() < 3 {
            // A conflict that disappears at the third attempt.
            return Err(TaskFailure::conflict("the archive is in use"));
        }
        let process = std::process::id();
        Ok(format!(
            "report {} for {reader}, by process {process}\n",
            self.year
        ))
    }
}

async fn report(
    Path(year): Path<u32>,
    promises: Promises,
    tasks: Tasks,
) -> Result<String, PromiseError> {
    promises.result_or_try_submit("report", || {
        let reports = tasks.queue("reports");
        reports
            .call(Render { year })
            .timeout(Duration::from_secs(30))
    })
}

#[derive(Clone)]
struct User(&'static str);

/// Stands for a real authentication.
async fn authenticate(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(User("ada"));
    next.run(request).await
}

fn principal(request: &Parts) -> Option<Principal> {
    let User(id) = request.extensions.get()?;
    Some(Principal::new(*id))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = std::env::var_os("DATABASE").unwrap_or_else(|| "tasks.db".into());
    let tasks = Tasks::builder(SqliteDatabase::open(file).await?.backend())
        .queue(
            TaskQueueOptions::new("reports")
                .task::<Render>()
                .concurrency(2),
        )
        .build();
    let role = std::env::var("ROLE").unwrap_or_default();

    if role == "worker" {
        let worker = tasks.work()?;
        println!("process {} works, Ctrl-C ends it", std::process::id());
        tokio::signal::ctrl_c().await?;
        // Another worker takes over tasks that do not end in time.
        worker.drain(Duration::from_secs(10)).await;
        return Ok(());
    }

    let worker = if role == "web" {
        None
    } else {
        Some(tasks.work()?)
    };
    let app = Router::new()
        .route("/reports/{year}", get(report))
        .layer(PromiseLayer::new())
        .layer(TaskLayer::new(tasks).principal(principal))
        .layer(middleware::from_fn(authenticate));

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  curl http://{address}/reports/2026");
    println!(
        "  curl http://{address}/reports/1950     # conflicts at first, so it takes a few seconds"
    );
    let end = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app)
        .with_graceful_shutdown(end)
        .await?;
    if let Some(worker) = worker {
        worker.drain(Duration::from_secs(10)).await;
    }
    Ok(())
}
