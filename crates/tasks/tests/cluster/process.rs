//! The other processes of the tests. They run this program again, as a worker or as an instance of a web service.

#![allow(unreachable_pub)]

use axum::extract::Query;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::future::pending;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use test_support::child::{ChildProcess, end_with_parent};
use test_support::nats::SECOND;
use tokio::time::sleep;
use tower_promises_backend::Backend;
use tower_promises_nats::NatsBackend;
use tower_promises_nats::async_nats::ConnectOptions;
use tower_promises_operations::Escalate;
use tower_promises_operations::{OperationLayer, Progress};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_signals::Signals;
use tower_promises_tasks::{
    Principal, Schedule, Task, TaskContext, TaskError, TaskFailure, TaskLimit, TaskQueueOptions,
    Tasks, TasksBuilder,
};

/// Short, to keep the tests short. Long enough for a busy machine to renew the lease.
pub const LEASE: Duration = Duration::from_secs(4);

const ROLE: &str = "TEST_ROLE";
const SERVER: &str = "TEST_SERVER";
const JOURNAL: &str = "TEST_JOURNAL";

/// Another process. It is killed on drop.
pub struct Process {
    child: ChildProcess,
    /// The URL of an instance.
    pub url: String,
}

impl Process {
    /// Starts the test `the_other_process` of this program.
    pub fn start(role: &str, server: &str, journal: &Journal) -> Self {
        let environment = [
            (ROLE, OsStr::new(role)),
            (SERVER, OsStr::new(server)),
            (JOURNAL, journal.path.as_os_str()),
        ];
        let (child, address) =
            ChildProcess::start("the_other_process", environment, "listening on ");
        let url = format!("http://{address}");
        Self { child, url }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as `kill -9` does.
    pub fn kill(self) {
        self.child.kill();
    }

    /// Returns the exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.ended()
    }
}

/// A file to which all processes of a test append their actions.
#[derive(Clone)]
pub struct Journal {
    path: PathBuf,
}

/// A line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    pub what: String,
    pub task: String,
    pub attempt: u32,
    pub process: u32,
}

impl Journal {
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
        }
    }

    /// Writes a line at once, so that lines of several processes do not mix.
    pub fn write(&self, what: &str, task: &str, attempt: u32) {
        let mut line = serde_json::to_string(&Line {
            what: what.into(),
            task: task.into(),
            attempt,
            process: std::process::id(),
        })
        .unwrap();
        line.push('\n');
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }

    pub fn read(&self, what: &str) -> Vec<Line> {
        let mut lines = self.read_all();
        lines.retain(|line| line.what == what);
        lines
    }

    pub fn read_all(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// Returns a guard that writes a line when it is dropped.
    fn on_drop(&self, task: &str) -> impl Drop + use<> {
        struct Guard(Journal, String);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.write("dropped", &self.1, 0);
            }
        }
        Guard(self.clone(), task.into())
    }
}

/// A task of the workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Squares the number. A worker with the role `victim` gets stuck at every fiftieth number.
    Square(u64),
    /// Runs beside no other task of this tenant. A worker with the role `victim` gets stuck.
    Tenant(u64),
    /// Writes a line every tenth of a second, this many times.
    Tick(u32),
    /// In the first attempt, blocks the whole worker for this many milliseconds.
    Block(u64),
    /// Aborts the process.
    Abort,
    /// Writes a line at the start, and does not end.
    Endless,
}

/// The number, and the attempt that returned it.
pub type Output = (u64, u32);

impl Task for Job {
    const NAME: &'static str = "job";
    type Output = Output;

    fn limit(&self, _: Option<&Principal>) -> Option<TaskLimit> {
        let Self::Tenant(tenant) = self else {
            return None;
        };
        Some(TaskLimit::new(format!("tenant {tenant}"), 1))
    }

    async fn run(self, context: TaskContext) -> Result<Output, TaskFailure> {
        let journal: &Journal = context.state()?;
        let (id, attempt) = (context.id().as_str(), context.attempt());
        journal.write("begin", id, attempt);
        let number = match self {
            Self::Square(number) => {
                if number % 50 == 49 && std::env::var(ROLE)? == "victim" {
                    journal.write("stuck", id, attempt);
                    pending::<()>().await;
                }
                sleep(Duration::from_millis(5)).await;
                number * number
            }
            Self::Tenant(tenant) => {
                if std::env::var(ROLE)? == "victim" {
                    journal.write("stuck", id, attempt);
                    pending::<()>().await;
                }
                sleep(Duration::from_millis(5)).await;
                tenant
            }
            Self::Tick(times) => {
                for _ in 0..times {
                    journal.write("tick", id, attempt);
                    sleep(SECOND / 10).await;
                }
                0
            }
            Self::Block(milliseconds) => {
                if attempt == 1 {
                    std::thread::sleep(Duration::from_millis(milliseconds));
                }
                u64::from(std::process::id())
            }
            Self::Abort => std::process::abort(),
            Self::Endless => {
                let guard = journal.on_drop("task");
                context.set_progress(50);
                pending::<()>().await;
                drop(guard);
                0
            }
        };
        journal.write("end", id, attempt);
        Ok((number, attempt))
    }
}

/// Creates a handle with the queues of all processes.
pub fn tasks(backend: Backend, journal: &Journal) -> Tasks {
    builder(backend, journal).build()
}

/// The queues of all processes: `many` runs several tasks at a time, `single` runs one.
fn builder(backend: Backend, journal: &Journal) -> TasksBuilder {
    let queue = |name: &str, concurrency| {
        let queue = TaskQueueOptions::new(name).task::<Job>();
        queue.concurrency(concurrency)
    };
    Tasks::builder(backend)
        .queue(queue("many", 8))
        .queue(queue("single", 1))
        .state(journal.clone())
        .lease(LEASE)
        .poll_interval(LEASE / 4)
        .progress_interval(SECOND / 10)
}

/// A schedule that is due each second.
fn each_second() -> Schedule {
    let schedule = Schedule::new("second", "many", "* * * * * *", |_| Job::Tick(0));
    schedule.unwrap().overlap(true)
}

pub async fn backend(server: &str) -> Backend {
    if server.starts_with("postgres://") {
        return PostgresDatabase::connect(server).await.unwrap().backend();
    }
    let options = ConnectOptions::new()
        .max_reconnects(None)
        .reconnect_delay_callback(|_| SECOND / 20);
    let client = options.connect(server).await.unwrap();
    NatsBackend::open(client).await.unwrap().backend()
}

/// The main function of a process that [`Process::start`] has started.
pub fn run() {
    let role = std::env::var(ROLE).unwrap();
    let server = std::env::var(SERVER).unwrap();
    let journal = Journal::at(std::env::var(JOURNAL).unwrap());
    end_with_parent();
    // The runtime has a single thread, so that a task that blocks it also blocks the renewal of leases.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = backend(&server).await;
        match &*role {
            "web" => serve(backend, &journal).await,
            role => {
                let mut builder = builder(backend, &journal);
                if role == "scheduler" {
                    builder = builder.schedule(each_second());
                }
                let _worker = builder.build().work().unwrap();
                println!("listening on nothing");
                pending::<()>().await;
            }
        }
    });
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

async fn serve(backend: Backend, journal: &Journal) {
    let operations = OperationLayer::new(backend.clone())
        .wait(Duration::ZERO)
        .lease(LEASE)
        .escalate(|request| match request.uri.path() {
            "/endless" | "/task" => Escalate::Always,
            _ => Escalate::Never,
        });
    let endless = async |Extension(journal): Extension<Journal>| {
        let guard = journal.on_drop("operation");
        journal.write("begin", "operation", 1);
        pending::<()>().await;
        drop(guard);
    };
    let task = async |Extension(tasks): Extension<Tasks>, progress: Progress| {
        let called = tasks.queue("many").call(Job::Endless).report_to(progress);
        called.await.map_err(|error: TaskError| error.to_string())?;
        Ok::<_, String>(())
    };
    let wait = async |Extension(signals): Extension<Signals>, Query(Name { name }): Query<Name>| {
        let value = signals.wait::<String>(&name).timeout(SECOND * 120).await;
        value.map_err(|error| error.to_string())
    };
    let app = Router::new()
        .route("/endless", post(endless))
        .route("/task", post(task))
        .route("/wait", get(wait))
        .layer(Extension(tasks(backend.clone(), journal)))
        .layer(Extension(Signals::new(backend)))
        .layer(Extension(journal.clone()))
        .layer(operations);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}
