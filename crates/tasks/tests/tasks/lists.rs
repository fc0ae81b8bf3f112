//! Lists of tasks by queue, type, state and principal, in pages.

use std::collections::BTreeSet;
use test_support::nats::Server;
use test_support::task::{Act, act, builder, client, process};
use test_support::{Log, soon};
use tower_promises_backend::{Backend, BackendError};
use tower_promises_sqlite::SqliteDatabase;
use tower_promises_tasks::{
    Principal, TaskError, TaskFilter, TaskId, TaskQueueOptions, TaskState, Tasks,
};

/// Returns the ids of all pages, and checks that they are distinct.
async fn ids(tasks: &Tasks, filter: TaskFilter) -> BTreeSet<TaskId> {
    let (mut ids, mut filter) = (BTreeSet::new(), filter);
    loop {
        let page = tasks.list(&filter).await.unwrap();
        for status in page.tasks() {
            assert!(
                ids.insert(status.id().clone()),
                "{} is listed twice",
                status.id()
            );
        }
        let Some(next) = page.next() else {
            return ids;
        };
        filter = filter.after(next);
    }
}

async fn tasks_are_listed(backend: Backend) {
    let queues = |tasks: tower_promises_tasks::TasksBuilder| {
        tasks
            .queue(TaskQueueOptions::new("other").task::<Act>())
            .build()
    };
    let tasks = queues(builder(&backend, async |argument, _| match &*argument {
        "bad" => Err("bad".into()),
        _ => Ok(argument),
    }));
    let mut expected = BTreeSet::new();
    for number in 0..30 {
        let principal = Principal::new(if number % 3 == 0 { "ada" } else { "bob" });
        let queue = if number < 20 { "main" } else { "other" };
        let argument = if number % 10 == 0 { "bad" } else { "good" };
        let submit = async { tasks.queue(queue).submit(act(argument)).await };
        let id = principal.clone().scope(submit).await.unwrap();
        expected.insert((id, principal, queue, argument));
    }
    let select = |matches: &dyn Fn(&str, &str, &str) -> bool| -> BTreeSet<_> {
        let matching = expected
            .iter()
            .filter(|(_, principal, queue, argument)| matches(principal.as_str(), queue, argument));
        matching.map(|(id, ..)| id.clone()).collect()
    };
    for limit in [1, 7, 50] {
        let all = || TaskFilter::new().limit(limit);
        let ada = Principal::new("ada");
        assert_eq!(ids(&tasks, all()).await, select(&|_, _, _| true));
        let main = all().queue("main").principal(ada.clone());
        let wanted = select(&|principal, queue, _| principal == "ada" && queue == "main");
        assert_eq!(ids(&tasks, main.state(TaskState::Queued)).await, wanted);
        assert_eq!(ids(&tasks, all().task("act").queue("none")).await.len(), 0);
        assert_eq!(ids(&tasks, all().task("none")).await.len(), 0);
        assert_eq!(ids(&tasks, all().state(TaskState::Failed)).await.len(), 0);
    }

    let _worker = tasks.work().unwrap();
    for (id, .., argument) in &expected {
        let output = soon(tasks.output::<Act>(id)).await;
        assert_eq!(output.is_ok(), *argument == "good");
    }
    let failed = TaskFilter::new().state(TaskState::Failed);
    let wanted = select(&|_, _, argument| argument == "bad");
    assert_eq!(ids(&tasks, failed.clone()).await, wanted);
    let page = tasks.list(&failed.clone().queue("other")).await.unwrap();
    let [status] = page.tasks() else {
        panic!("one task of the queue has failed: {page:?}");
    };
    assert_eq!(status.error(), Some("bad"));
    let ended = failed.state(TaskState::Succeeded).state(TaskState::Queued);
    assert_eq!(ids(&tasks, ended).await.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn in_memory() {
    tasks_are_listed(Backend::memory()).await;
}

#[tokio::test]
async fn in_a_file_of_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let database = SqliteDatabase::open(directory.path().join("shared.db"));
    tasks_are_listed(database.await.unwrap().backend()).await;
}

#[tokio::test]
async fn on_postgresql() {
    let [backend, _] = crate::backends::on_postgresql().await.backends;
    tasks_are_listed(backend).await;
}

#[tokio::test]
async fn on_a_nats_server() {
    let server = Server::start().await;
    let backend = server.backend().await.backend();
    tasks_are_listed(backend.clone()).await;
    let foreign = TaskFilter::new().after("not a cursor");
    let error = client(&backend).list(&foreign).await.unwrap_err();
    let TaskError::Backend { error, .. } = error else {
        panic!("{error:?}");
    };
    assert!(
        matches!(error, BackendError::InvalidName { .. }),
        "{error:?}"
    );
}

/// A long list is returned in parts, also where nothing matches.
#[tokio::test(start_paused = true)]
async fn a_page_passes_a_bounded_number_of_tasks() {
    let tasks = client(&Backend::memory());
    for _ in 0..10_100 {
        tasks.queue("main").submit(act("x")).await.unwrap();
    }
    let failed = TaskFilter::new().state(TaskState::Failed);
    let page = tasks.list(&failed).await.unwrap();
    assert_eq!(page.tasks().len(), 0);
    let page = tasks
        .list(&failed.after(page.next().unwrap()))
        .await
        .unwrap();
    assert_eq!((page.tasks().len(), page.next()), (0, None));
    assert_eq!(
        ids(&tasks, TaskFilter::new().limit(1000)).await.len(),
        10_100
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_hides_no_others() {
    let log = Log::start();
    let backend = Backend::memory();
    let tasks = process(&backend, async |argument, _| Ok(argument));
    let id = tasks.queue("main").submit(act("x")).await.unwrap();
    for value in ["{}", "not json"] {
        let key = format!("task/record/{value}");
        backend.store().put(&key, value.into(), None).await.unwrap();
    }
    let page = tasks.list(&TaskFilter::new()).await.unwrap();
    assert_eq!(
        page.into_tasks().first().map(|status| status.id().clone()),
        Some(id)
    );
    assert!(log.text().contains("the backend of tasks has failed"));
}
