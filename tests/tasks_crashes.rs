//! Tasks that kill their workers, and what becomes of those that run beside them.
#![allow(clippy::unwrap_used)]

mod support;
mod task;

use support::{Counter, soon};
use task::{Act, SECOND, act, builder, chain};
use tower_promises::backend::Backend;
use tower_promises::task::TaskError;

#[tokio::test(start_paused = true)]
async fn a_task_that_was_told_to_stop_is_not_given_back_by_a_worker_that_shuts_down() {
    let backend = Backend::memory();
    let begun = Counter::default();
    let count = begun.clone();
    let process = builder(&backend, move |_, _| {
        count.add();
        std::future::pending()
    });
    // Nobody looks.
    let process = process.poll_interval(SECOND * 10_000).build();
    let worker = process.work().unwrap();
    let id = process.service("main").submit(act("x")).await.unwrap();
    support::until("it begins", || begun.get() == 1).await;
    // As if the message were lost: the tombstone is all there is.
    let key = format!("task/record/{id}");
    let entry = backend.store().get(&key).await.unwrap().unwrap();
    let record = String::from_utf8(entry.value.to_vec()).unwrap();
    let record = record.replace("\"cancel\":false", "\"cancel\":true");
    backend
        .store()
        .put(&key, record.into(), None)
        .await
        .unwrap();
    assert!(!worker.drain(SECOND).await);
    let error = soon(process.output::<Act>(&id)).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Cancelled { .. }),
        "{}",
        chain(&error)
    );
}
