//! Tasks that run in another process, over a SQLite file.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use test_support::child::{ChildProcess, end_with_parent};
use test_support::eventually::{BOUND, soon, until};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::ReplayBody;
use tower_promises::{BoxError, PromiseLayer, Promises};
use tower_promises_sqlite::SqliteDatabase;
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskError, TaskFailure, TaskFilter, TaskId, TaskQueueOptions,
    TaskState, Tasks,
};

/// The environment variable with the path of the database, for the other process.
const DATABASE: &str = "TEST_TASK_DATABASE";

/// The environment variable for a process that writes orders and submits a task for each. With the value `hold` it
/// does not commit.
const ORDERS: &str = "TEST_TASK_ORDERS";

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

/// Starts a worker process.
fn start(path: &Path) -> ChildProcess {
    start_with(path, None)
}

fn start_with(path: &Path, orders: Option<&str>) -> ChildProcess {
    let orders = orders.map(|orders| (ORDERS, OsStr::new(orders)));
    let environment = [(DATABASE, path.as_os_str())].into_iter().chain(orders);
    ChildProcess::start("the_other_process", environment, "it works").0
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    let path = std::env::var_os(DATABASE).expect("other tests start this one with a database");
    end_with_parent();
    let tasks = tasks(Path::new(&path)).await;
    if let Ok(orders) = std::env::var(ORDERS) {
        return write_orders(&tasks, Path::new(&path), orders != "hold").await;
    }
    let _worker = tasks.work().unwrap();
    println!("it works");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_page_waits_for_a_task_in_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let tasks = tasks(&path).await;
    let process = start(&path);
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
    assert_eq!(body, format!("{} ada", process.id()));
}

#[tokio::test]
async fn a_task_of_another_process_is_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let tasks = tasks(&path).await;
    let _process = start(&path);
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
        let process = start(&path);
        let ended = tokio::task::spawn_blocking(move || process.wait());
        assert!(!soon(ended).await.unwrap().success());
    }
    assert_eq!(tasks.status(&id).await.unwrap().state(), TaskState::Running);
    let process = start(&path);
    let error = soon(tasks.output::<Errand>(&id)).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    assert_eq!(errands.dead_letters().await.unwrap()[0].id(), &id);
    // The worker continues with other tasks.
    let told = soon(errands.call(Errand::Tell)).await.unwrap();
    assert_eq!(told.0, process.id());
}

async fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path);
    SqlitePool::connect_with(options.busy_timeout(BOUND))
        .await
        .unwrap()
}

/// Writes orders, each in a transaction with its task, as fast as possible.
async fn write_orders(tasks: &Tasks, path: &Path, commits: bool) {
    let pool = pool(path).await;
    for number in 0.. {
        let name = format!("order {number} of {}", std::process::id());
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let insert = sqlx::query("INSERT INTO orders (name) VALUES (?)").bind(&name);
        insert.execute(&mut *transaction).await.unwrap();
        let submit = tasks.queue("errands").submit(Errand::Tell).with_id(name);
        submit.within(&mut *transaction).await.unwrap();
        if !commits {
            println!("it works");
            std::future::pending::<()>().await;
        }
        transaction.commit().await.unwrap();
        if number == 0 {
            println!("it works");
        }
    }
}

async fn orders(pool: &SqlitePool) -> Vec<String> {
    let orders = sqlx::query_scalar("SELECT name FROM orders ORDER BY name");
    orders.fetch_all(pool).await.unwrap()
}

/// Returns the ids of all tasks in alphabetical order.
async fn ids(tasks: &Tasks) -> Vec<String> {
    let (mut ids, mut filter) = (Vec::new(), TaskFilter::new().limit(1000));
    loop {
        let page = tasks.list(&filter).await.unwrap();
        ids.extend(page.tasks().iter().map(|task| task.id().to_string()));
        match page.next() {
            Some(next) => filter = filter.after(next),
            None => break,
        }
    }
    ids.sort();
    ids
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_orders_with_their_tasks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let tasks = tasks(&path).await;
    let pool = pool(&path).await;
    let create = sqlx::query("CREATE TABLE orders (name TEXT NOT NULL)");
    create.execute(&pool).await.unwrap();

    drop(start_with(&path, Some("hold")));
    assert_eq!(orders(&pool).await, Vec::<String>::new());
    assert_eq!(ids(&tasks).await, Vec::<String>::new());

    let mut written = 0;
    for _ in 0..5 {
        let process = start_with(&path, Some("commit"));
        until("orders are written", async || {
            orders(&pool).await.len() >= written + 20
        })
        .await;
        drop(process);
        let orders = orders(&pool).await;
        assert_eq!(ids(&tasks).await, orders);
        written = orders.len();
    }
    let _worker = tasks.work().unwrap();
    for order in orders(&pool).await {
        let id = TaskId::from(order);
        let output = soon(tasks.output::<Errand>(&id)).await.unwrap();
        assert_eq!(output.0, std::process::id());
    }
}
