//! Measures what waiting tasks cost: `cargo bench -p benches --bench tasks`.
//!
//! Each figure is measured with [`FEW`] and with [`MANY`] waiting tasks. A figure that does not grow is the same in both
//! rows of a backend.
//!
//! - *submit*: sequential submissions to the queue of the waiting tasks.
//! - *tasks/s*: concurrent calls in another queue of the same backend, with 16 at once.
//! - *limited submit*, *limited/s*: the same for tasks of one key, of which 8 run at once and all others wait.
//! - *page*: the first page of 50 waiting tasks.
//! - *failed*: all pages of failed tasks, of which there are none. The time grows with the stored tasks.
//! - *overview*: the first view of `TasksPage`, which counts at most 10,000 tasks, for at most two seconds.
//!
//! `-- SQLite` measures one backend only. NATS and PostgreSQL need their servers and are left out if those are not
//! installed. The environment variable `TASKS` sets another number than [`MANY`].
#![allow(clippy::unwrap_used, missing_docs)]

use axum::body::Body;
use axum::http::Request;
use benches::{has_nats, head, median, per_second, row, warn_of_debug_build};
use futures_util::StreamExt;
use futures_util::stream;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tower::ServiceExt;
use tower_promises::backend::Backend;
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises::tasks::{
    Principal, Task, TaskContext, TaskFailure, TaskFilter, TaskLimit, TaskQueueOptions, TaskState,
    Tasks, TasksPage,
};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_sqlite::SqliteDatabase;

const FEW: usize = 100;
const MANY: usize = 100_000;

/// The number of calls at once.
const AT_ONCE: usize = 16;

/// The number of measurements of each kind.
const ROUNDS: usize = 400;

const COLUMNS: [&str; 8] = [
    "backend, waiting",
    "submit p50, ms",
    "tasks/s",
    "limited submit p50, ms",
    "limited/s",
    "page p50, ms",
    "failed, ms",
    "overview p50, ms",
];

#[derive(Serialize, Deserialize)]
struct Plain;

impl Task for Plain {
    const NAME: &'static str = "plain";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Limited;

impl Task for Limited {
    const NAME: &'static str = "limited";
    type Output = ();

    fn limit(&self, _: Option<&tower_promises::tasks::Principal>) -> Option<TaskLimit> {
        Some(TaskLimit::new("tenant", 8))
    }

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

fn tasks(backend: Backend) -> Tasks {
    let queue = |name: &str| TaskQueueOptions::new(name.to_owned()).concurrency(AT_ONCE);
    Tasks::builder(backend)
        .queue(queue("waiting").task::<Plain>())
        .queue(queue("other").task::<Plain>())
        .queue(queue("limited").task::<Limited>())
        .build()
}

/// Submits tasks concurrently.
async fn submit<T: Task>(tasks: &Tasks, queue: &str, count: usize, task: impl Fn() -> T) {
    let queue = tasks.queue(queue.to_owned());
    let submit = |_| {
        let submit = queue.submit(task());
        async { drop(submit.await.unwrap()) }
    };
    stream::iter(0..count).for_each_concurrent(64, submit).await;
}

async fn measure(name: &str, backend: Backend) {
    let names: Vec<_> = std::env::args().skip(1).collect();
    let mut names = names.iter().filter(|name| !name.starts_with('-'));
    if names.next().is_some_and(|only| only != name) {
        return;
    }
    let tasks = tasks(backend);
    let mut waiting = 0;
    let many = std::env::var("TASKS").map_or(MANY, |many| many.parse().unwrap());
    for wanted in [FEW, many] {
        let more = wanted - waiting;
        eprintln!("{name}: submitting {more} tasks twice …");
        submit(&tasks, "waiting", more, || Plain).await;
        submit(&tasks, "limited", more, || Limited).await;
        waiting = wanted;

        let queue = tasks.queue("waiting");
        let submits = median(ROUNDS, || async {
            queue.submit(Plain).await.unwrap();
        });
        let submits = submits.await;
        let queue = tasks.queue("limited");
        let limited = median(ROUNDS, || async {
            queue.submit(Limited).await.unwrap();
        });
        let limited = limited.await;

        let worker = tasks.queue("other").work().unwrap();
        let queue = tasks.queue("other");
        let start = Instant::now();
        let call = |_| async { queue.call(Plain).await.unwrap() };
        let calls = stream::iter(0..ROUNDS).for_each_concurrent(AT_ONCE, call);
        calls.await;
        let others = per_second(ROUNDS, start.elapsed());
        worker.drain(Duration::from_secs(10)).await;

        let start = Instant::now();
        let filter = TaskFilter::new()
            .queue("limited")
            .state(TaskState::Succeeded);
        let worker = tasks.queue("limited").work().unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        worker.drain(Duration::from_secs(10)).await;
        let elapsed = start.elapsed();
        let ran = all(&tasks, filter).await;
        let admitted = per_second(ran, elapsed);
        submit(&tasks, "limited", ran, || Limited).await;

        let page = TaskFilter::new().queue("waiting").state(TaskState::Queued);
        let pages = median(50, || async {
            assert_eq!(tasks.list(&page).await.unwrap().tasks().len(), 50);
        });
        let pages = pages.await;
        let failed = TaskFilter::new().state(TaskState::Failed);
        let start = Instant::now();
        assert_eq!(all(&tasks, failed).await, 0);
        let failed = start.elapsed().as_secs_f64() * 1e3;
        let page = TasksPage::new(tasks.clone(), |_| Some(Principal::new("root")))
            .count_interval(Duration::ZERO);
        let overviews = median(5, || async {
            let request = Request::new(Body::empty());
            let response = page.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            drop(response.into_body().collect().await.unwrap());
        });
        let overviews = overviews.await;
        let cells = [
            format!("{name}, {wanted}"),
            format!("{submits:.3}"),
            format!("{others:.0}"),
            format!("{limited:.3}"),
            format!("{admitted:.0}"),
            format!("{pages:.2}"),
            format!("{failed:.0}"),
            format!("{overviews:.0}"),
        ];
        row(&cells, COLUMNS.len());
    }
}

/// Returns the number of tasks on all pages.
async fn all(tasks: &Tasks, filter: TaskFilter) -> usize {
    let (mut count, mut filter) = (0, filter.limit(1000));
    loop {
        let page = tasks.list(&filter).await.unwrap();
        count += page.tasks().len();
        let Some(next) = page.next() else {
            return count;
        };
        filter = filter.after(next);
    }
}

#[tokio::main]
async fn main() {
    // On a worker thread of the runtime, like requests.
    tokio::spawn(compare()).await.unwrap();
}

async fn compare() {
    head(&COLUMNS);
    let room = 4 * 1024 * 1024 * 1024;
    let memory = Backend::new(
        MemoryStore::builder().max_bytes(room).build(),
        MemoryBus::new(),
        MemoryQueue::builder()
            .max_envelopes(1_000_000)
            .max_bytes(1 << 32)
            .build(),
    );
    measure("memory", memory).await;

    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteDatabase::builder(directory.path().join("bench.db"));
    let sqlite = sqlite.max_envelopes(1_000_000).open().await;
    measure("SQLite", sqlite.unwrap().backend()).await;

    if test_support::postgres::is_installed() {
        let server = test_support::postgres::Server::with(&[]).await;
        let database = PostgresDatabase::builder().max_envelopes(1_000_000);
        let database = database.connect(&server.url()).await.unwrap();
        measure("PostgreSQL", database.backend()).await;
    } else {
        row(&["PostgreSQL is not installed".to_owned()], COLUMNS.len());
    }

    if has_nats() {
        let server = test_support::nats::Server::start().await;
        let nats = server.builder().await.max_envelopes(1_000_000).open().await;
        measure("NATS", nats.unwrap().backend()).await;
    } else {
        row(&["NATS is not installed".to_owned()], COLUMNS.len());
    }
    warn_of_debug_build();
}
