//! The rules of tasks on each backend, between two processes: one that submits and one that works, or two that work.

use futures_util::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::Notes;
use test_support::eventually::{soon, until};
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    Principal, RetryPolicy, Schedule, Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions,
    TaskState, Tasks, TasksBuilder, Unique,
};

mod opened {
    use std::any::Any;
    use test_support::nats;
    use test_support::postgres::shared;
    use tower_promises_backend::Backend;
    use tower_promises_postgres::PostgresDatabase;
    use tower_promises_sqlite::SqliteDatabase;

    /// The backends of two processes, and what must stay while they are in use.
    pub(crate) struct Opened {
        pub(crate) backends: [Backend; 2],
        _kept: Box<dyn Any>,
    }

    pub(crate) async fn in_memory() -> Opened {
        let backend = Backend::memory();
        Opened {
            backends: [backend.clone(), backend],
            _kept: Box::new(()),
        }
    }

    pub(crate) async fn in_a_file_of_sqlite() -> Opened {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shared.db");
        let open = async || SqliteDatabase::open(&path).await.unwrap().backend();
        Opened {
            backends: [open().await, open().await],
            _kept: Box::new(directory),
        }
    }

    pub(crate) async fn on_a_nats_server() -> Opened {
        let server = nats::Server::start().await;
        let connect = async || server.backend().await.backend();
        Opened {
            backends: [connect().await, connect().await],
            _kept: Box::new(server),
        }
    }

    pub(crate) async fn on_postgresql() -> Opened {
        let url = shared().await.database().await;
        let connect = async || PostgresDatabase::connect(&url).await.unwrap().backend();
        Opened {
            backends: [connect().await, connect().await],
            _kept: Box::new(()),
        }
    }
}

pub(crate) use opened::{Opened, in_a_file_of_sqlite, on_postgresql};

/// Defines a test on each backend.
macro_rules! on_each_backend {
    ($($name:ident),* $(,)?) => {
        on_each_backend!(memory in_memory: $($name)*);
        on_each_backend!(sqlite in_a_file_of_sqlite: $($name)*);
        on_each_backend!(nats on_a_nats_server: $($name)*);
        on_each_backend!(postgresql on_postgresql: $($name)*);
    };
    ($backend:ident $open:ident: $($name:ident)*) => {
        mod $backend {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::opened::$open().await).await;
            })*
        }
    };
}

on_each_backend! {
    a_task_runs_for_the_principal_that_submits_it,
    an_id_has_one_task,
    a_conflict_is_repeated_and_another_error_is_not,
    each_due_time_has_one_run,
    a_task_is_cancelled_while_it_waits_and_while_it_runs,
    a_task_is_called_when_another_has_ended,
    tasks_that_are_taken_in_advance_run_once,
}

/// What the tasks of a test have done, and whether they have conflicts.
#[derive(Clone, Default)]
struct State {
    notes: Notes,
    is_repaired: Arc<AtomicBool>,
}

/// A task that notes each attempt, and then does what its argument says.
#[derive(Debug, Serialize, Deserialize)]
struct Job(String);

fn job(argument: impl Into<String>) -> Job {
    Job(argument.into())
}

impl Task for Job {
    const NAME: &'static str = "job";
    type Output = String;

    fn retry_policy() -> RetryPolicy {
        let pause = Duration::from_millis(10);
        RetryPolicy::new().max_attempts(3).backoff(pause, pause)
    }

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let state: &State = context.state()?;
        state.notes.push(self.0.clone());
        match &*self.0 {
            "conflict" if !state.is_repaired.load(Ordering::SeqCst) => {
                Err(TaskFailure::conflict("another writer was faster"))
            }
            "error" => Err("it is broken".into()),
            "endless" => pending().await,
            "after" => {
                let ended = context.ended().ok_or("no task has ended")?;
                let note = format!("after: {}", ended.state());
                state.notes.push(&*note);
                Ok(note)
            }
            _ => {
                let principal = context.principal().map_or("nobody", Principal::as_str);
                Ok(format!("{} for {principal}", self.0))
            }
        }
    }
}

fn builder(backend: &Backend, state: &State) -> TasksBuilder {
    let queue = TaskQueueOptions::new("main").task::<Job>();
    Tasks::builder(backend.clone())
        .queue(queue.concurrency(2).prefetch(8))
        .state(state.clone())
}

fn process(backend: &Backend, state: &State) -> Tasks {
    builder(backend, state).build()
}

async fn a_task_runs_for_the_principal_that_submits_it(opened: Opened) {
    let state = State::default();
    let [client, worker] = opened.backends.each_ref().map(|one| process(one, &state));
    let _worker = worker.work().unwrap();
    for name in ["ada", "bob"] {
        let call =
            Principal::new(name).scope(async { client.queue("main").call(job("tea")).await });
        assert_eq!(soon(call).await.unwrap(), format!("tea for {name}"));
    }
    let id = client.queue("main").submit(job("cake")).await.unwrap();
    let output = soon(client.output::<Job>(&id)).await.unwrap();
    assert_eq!(output, "cake for nobody");
    for tasks in [&client, &worker] {
        let status = tasks.status(&id).await.unwrap();
        assert_eq!(
            (status.state(), status.attempt()),
            (TaskState::Succeeded, 1)
        );
    }
    assert_eq!(state.notes.all(), ["tea", "tea", "cake"]);
}

async fn an_id_has_one_task(opened: Opened) {
    let state = State::default();
    let processes = opened.backends.each_ref().map(|one| process(one, &state));
    let submit = async |process: usize, id: &str, argument: &str, unique| {
        let submit = processes[process].queue("main").submit(job(argument));
        submit.with_id(id).unique(unique).await
    };
    for (process, argument) in [(0, "first"), (1, "first"), (0, "first")] {
        submit(process, "same", argument, Unique::Same)
            .await
            .unwrap();
    }
    let error = submit(1, "same", "second", Unique::Same).await.unwrap_err();
    assert!(
        matches!(error, TaskError::OtherArguments { .. }),
        "{error:?}"
    );
    for (process, argument) in [(0, "kept"), (1, "not this")] {
        submit(process, "keep", argument, Unique::KeepFirst)
            .await
            .unwrap();
    }
    for (process, argument) in [(0, "not this"), (1, "nor this"), (0, "replaced")] {
        submit(process, "replace", argument, Unique::Replace)
            .await
            .unwrap();
    }
    // Several processes at once.
    let rivals = (0..16).map(|number| submit(number % 2, "rivals", "rivals", Unique::Same));
    try_join_all(rivals).await.unwrap();

    let _workers = processes.each_ref().map(|tasks| tasks.work().unwrap());
    let expected = [
        ("same", "first"),
        ("keep", "kept"),
        ("replace", "replaced"),
        ("rivals", "rivals"),
    ];
    for (id, argument) in expected {
        let output = soon(processes[0].output::<Job>(&id.into())).await.unwrap();
        assert_eq!(output, format!("{argument} for nobody"));
    }
    submit(0, "same", "first", Unique::Same).await.unwrap();
    let mut ran = state.notes.all();
    ran.sort();
    assert_eq!(ran, ["first", "kept", "replaced", "rivals"]);
}

async fn a_conflict_is_repeated_and_another_error_is_not(opened: Opened) {
    let state = State::default();
    let [client, worker] = opened.backends.each_ref().map(|one| process(one, &state));
    let _worker = worker.work().unwrap();
    let queue = client.queue("main");
    let error = soon(queue.call(job("error"))).await.unwrap_err();
    assert!(matches!(error, TaskError::Failed { .. }), "{error:?}");

    let mut dead = Vec::new();
    for _ in 0..2 {
        let id = queue.submit(job("conflict")).await.unwrap();
        let error = soon(client.output::<Job>(&id)).await.unwrap_err();
        assert!(
            matches!(error, TaskError::Dead { attempts: 3, .. }),
            "{error:?}"
        );
        dead.push(id);
    }
    let attempts = [&["error"][..], &["conflict"; 6]].concat();
    assert_eq!(state.notes.all(), attempts);
    let listed = async || {
        let listed = client.queue("main").dead_letters().await.unwrap();
        listed
            .iter()
            .map(|status| status.id().clone())
            .collect::<Vec<_>>()
    };
    let ids: BTreeSet<_> = dead.iter().collect();
    assert_eq!(listed().await.iter().collect::<BTreeSet<_>>(), ids);

    state.is_repaired.store(true, Ordering::SeqCst);
    queue.send_again(&dead[0]).await.unwrap();
    let output = soon(client.output::<Job>(&dead[0])).await.unwrap();
    assert_eq!(output, "conflict for nobody");
    queue.discard(&dead[1]).await.unwrap();
    assert_eq!(listed().await, []);
}

async fn each_due_time_has_one_run(opened: Opened) {
    let state = State::default();
    let each_second = || {
        let due = |due| job(humantime::format_rfc3339_seconds(due).to_string());
        let schedule = Schedule::new("second", "main", "* * * * * *", due);
        schedule.unwrap().overlap(true)
    };
    let processes = opened.backends.each_ref().map(|backend| {
        let tasks = builder(backend, &state).schedule(each_second()).build();
        (tasks.work().unwrap(), tasks)
    });
    until("due times pass", async || state.notes.all().len() >= 4).await;
    let ends = processes.map(|(worker, _)| worker.drain(Duration::from_secs(60)));
    join_all(ends).await;
    let runs = state.notes.all();
    let due: BTreeSet<_> = runs.iter().collect();
    assert_eq!(due.len(), runs.len(), "{runs:?}");
}

async fn a_task_is_cancelled_while_it_waits_and_while_it_runs(opened: Opened) {
    let state = State::default();
    let [client, worker] = opened.backends.each_ref().map(|one| process(one, &state));
    let queue = client.queue("main");
    let waits = queue.submit(job("waits")).await.unwrap();
    let runs = queue.submit(job("endless")).await.unwrap();
    assert!(client.cancel(&waits).await.unwrap());
    let _worker = worker.work().unwrap();
    until("the task runs", async || state.notes.all() == ["endless"]).await;
    assert!(client.cancel(&runs).await.unwrap());
    for id in [waits, runs] {
        let error = soon(client.output::<Job>(&id)).await.unwrap_err();
        assert!(matches!(error, TaskError::Cancelled { .. }), "{error:?}");
    }
    assert_eq!(state.notes.all(), ["endless"]);
}

async fn a_task_is_called_when_another_has_ended(opened: Opened) {
    let state = State::default();
    let [client, worker] = opened.backends.each_ref().map(|one| process(one, &state));
    let _worker = worker.work().unwrap();
    for argument in ["tea", "error"] {
        let submit = client.queue("main").submit(job(argument));
        submit.on_end("main", job("after")).await.unwrap();
    }
    until("both calls have run", async || {
        let notes = state.notes.all();
        let ends = [TaskState::Succeeded, TaskState::Failed];
        ends.iter()
            .all(|end| notes.contains(&format!("after: {end}")))
    })
    .await;
}

async fn tasks_that_are_taken_in_advance_run_once(opened: Opened) {
    const TASKS: usize = 100;
    let state = State::default();
    let processes = opened.backends.each_ref().map(|one| process(one, &state));
    let submits = (0..TASKS).map(|number| {
        processes[number % 2]
            .queue("main")
            .submit(job(number.to_string()))
    });
    let ids = try_join_all(submits).await.unwrap();
    let [first, second] = processes.each_ref().map(|tasks| tasks.work().unwrap());
    until("a worker has run some tasks", async || {
        state.notes.all().len() > 10
    })
    .await;
    // Returns what it has taken in advance.
    assert_eq!(first.drain(Duration::from_secs(60)).await, 0);
    for id in &ids {
        soon(processes[0].output::<Job>(id)).await.unwrap();
        let status = processes[0].status(id).await.unwrap();
        assert_eq!(status.attempt(), 1);
    }
    drop(second);
    let ran: BTreeSet<_> = state.notes.all().into_iter().collect();
    assert_eq!((ran.len(), state.notes.all().len()), (TASKS, TASKS));
}
