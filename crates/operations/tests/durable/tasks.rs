//! Durable requests that wait for tasks.

use crate::process::{Diary, Handle, Process, layer};
use test_support::operation::SECOND;
use test_support::task::{act, builder, client};
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::tasks::Tasks;

/// Waits for a task whose id is the idempotency key of the promise.
fn calling(tasks: &Tasks, diary: &Diary, process: &'static str) -> impl Handle + use<> {
    let (tasks, diary) = (tasks.clone(), diary.clone());
    move |promises| {
        let key = promises.idempotency_key("invoice").unwrap();
        promises.try_durable("invoice", || {
            diary.note(format!("called by {process}"));
            tasks.queue("main").call(act("7")).with_id(key)
        })
    }
}

// Rule 9 of the module `durable`.
#[tokio::test(start_paused = true)]
async fn a_later_run_finds_the_task_of_the_run_that_was_lost() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let noted = diary.clone();
    let worker = builder(&backend, move |order, _| {
        noted.note("task");
        async move {
            sleep(20 * SECOND).await;
            Ok(format!("invoice of order {order}"))
        }
    });
    let _worker = worker.build().work().unwrap();
    let tasks = client(&backend);
    let mut one = Process::start(layer(&backend), calling(&tasks, &diary, "one"));
    let path = one.begin("POST /").await;
    sleep(5 * SECOND).await;
    assert_eq!(diary.read(), ["called by one", "task"]);
    one.kill().await;

    let other = Process::start(layer(&backend), calling(&tasks, &diary, "the other"));
    assert_eq!(
        other.result(&path).await,
        (200, "invoice of order 7".to_owned())
    );
    assert_eq!(
        diary.read(),
        ["called by one", "task", "called by the other"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_later_run_reads_the_output_of_a_task_that_has_ended_meanwhile() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let noted = diary.clone();
    let worker = builder(&backend, move |order, _| {
        noted.note("task");
        async move {
            sleep(2 * SECOND).await;
            Ok(format!("invoice of order {order}"))
        }
    });
    let _worker = worker.build().work().unwrap();
    let tasks = client(&backend);
    let mut one = Process::start(layer(&backend), calling(&tasks, &diary, "one"));
    let path = one.begin("POST /").await;
    one.kill().await;
    sleep(10 * SECOND).await;
    let other = Process::start(layer(&backend), calling(&tasks, &diary, "the other"));
    assert_eq!(other.result(&path).await.1, "invoice of order 7");
    let tasks_run = diary.read().iter().filter(|note| *note == "task").count();
    assert_eq!(tasks_run, 1);
}
