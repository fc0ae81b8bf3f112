//! An id belongs to the arguments of its first submission.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use test_support::nats::Server;
use test_support::task::{Act, Broken, SECOND, act, builder, client, process};
use test_support::{Counter, soon};
use tower_promises_backend::Backend;
use tower_promises_sqlite::SqliteDatabase;
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, Tasks,
};

fn is_refused<T: std::fmt::Debug>(result: Result<T, TaskError>) {
    let error = result.unwrap_err();
    assert!(
        matches!(error, TaskError::OtherArguments { .. }),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "the id `order/7` belongs to a task with other arguments"
    );
}

/// Submits under an id before, while and after its task runs.
async fn an_id_keeps_its_arguments(backend: Backend) {
    let client = client(&backend);
    let queue = client.queue("main");
    queue.submit(act("x")).with_id("order/7").await.unwrap();
    queue.submit(act("x")).with_id("order/7").await.unwrap();
    is_refused(queue.submit(act("y")).with_id("order/7").await);
    is_refused(queue.call(act("y")).with_id("order/7").await);

    let begun = Counter::default();
    let count = begun.clone();
    let process = process(&backend, move |argument, _| {
        count.add();
        async { Ok(argument) }
    });
    let _worker = process.work().unwrap();
    let output = soon(process.output::<Act>(&"order/7".into())).await;
    assert_eq!(output.unwrap(), "x");
    is_refused(queue.submit(act("y")).with_id("order/7").await);
    let again = queue.call(act("x")).with_id("order/7");
    assert_eq!(soon(again).await.unwrap(), "x");
    assert_eq!(begun.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn in_memory() {
    an_id_keeps_its_arguments(Backend::memory()).await;
}

#[tokio::test]
async fn in_a_file_of_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let database = SqliteDatabase::open(directory.path().join("shared.db"));
    an_id_keeps_its_arguments(database.await.unwrap().backend()).await;
}

#[tokio::test]
async fn on_a_server_of_nats() {
    let server = Server::start().await;
    an_id_keeps_its_arguments(server.backend().await.backend()).await;
}

#[tokio::test(start_paused = true)]
async fn until_the_id_is_forgotten() {
    let backend = Backend::memory();
    let process = builder(&backend, async |argument, _| Ok(argument));
    let process = process.retention(SECOND * 60).build();
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let call = |argument| soon(queue.call(act(argument)).with_id("order/7"));
    assert_eq!(call("x").await.unwrap(), "x");
    is_refused(call("y").await);
    tokio::time::advance(SECOND * 62).await;
    assert_eq!(call("y").await.unwrap(), "y");
}

#[tokio::test(start_paused = true)]
async fn dead_letters_and_letters_sent_again_keep_their_arguments() {
    let backend = Backend::memory();
    let process = builder(&backend, async |_, _| Err(TaskFailure::conflict(Broken)));
    let process = process.max_attempts(1).build();
    let worker = process.work().unwrap();
    let queue = process.queue("main");
    let dead = queue.call(act("x")).with_id("order/7");
    soon(dead).await.unwrap_err();
    is_refused(queue.submit(act("y")).with_id("order/7").await);
    assert_eq!(worker.drain(SECOND).await, 0);
    queue.send_again(&"order/7".into()).await.unwrap();
    is_refused(queue.submit(act("y")).with_id("order/7").await);
    queue.submit(act("x")).with_id("order/7").await.unwrap();
}

/// A worker that has the task recreates its lost record, with the arguments.
#[tokio::test(start_paused = true)]
async fn a_lost_record_is_recreated_from_the_queue() {
    let backend = Backend::memory();
    let queue = client(&backend).queue("main");
    queue.submit(act("x")).with_id("order/7").await.unwrap();
    let store = backend.store();
    store.delete("task/record/order/7").await.unwrap();
    let process = process(&backend, async |_, _| std::future::pending().await);
    let _worker = process.work().unwrap();
    let known = async {
        while process.status(&"order/7".into()).await.is_err() {
            tokio::time::sleep(SECOND).await;
        }
    };
    soon(known).await;
    is_refused(queue.submit(act("y")).with_id("order/7").await);
}

#[tokio::test(start_paused = true)]
async fn one_of_many_concurrent_submissions_gets_the_id() {
    let backend = Backend::memory();
    let client = client(&backend);
    let submits = (0..20).map(|number| {
        let queue = client.queue("main");
        tokio::spawn(queue.submit(act(number.to_string())).with_id("order/7"))
    });
    let submits: Vec<_> = submits.collect();
    let mut submitted = Vec::new();
    for (number, submit) in submits.into_iter().enumerate() {
        match submit.await.unwrap() {
            Ok(_) => submitted.push(number.to_string()),
            refused => is_refused(refused),
        }
    }
    let process = process(&backend, async |argument, _| Ok(argument));
    let _worker = process.work().unwrap();
    let output = soon(process.output::<Act>(&"order/7".into())).await;
    assert_eq!(submitted, [output.unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn another_principal_does_not_learn_whether_the_arguments_are_the_same() {
    let queue = client(&Backend::memory()).queue("main");
    queue.submit(act("x")).with_id("order/7").await.unwrap();
    for argument in ["x", "y"] {
        let submit = async { queue.submit(act(argument)).with_id("order/7").await };
        let error = Principal::new("eve").scope(submit).await.unwrap_err();
        assert!(matches!(error, TaskError::IdInUse { .. }), "{error:?}");
    }
}

/// Arguments with maps, whose keys have no fixed order.
#[derive(Serialize, Deserialize)]
struct Order {
    amounts: HashMap<String, u64>,
    #[serde(flatten)]
    notes: BTreeMap<String, serde_json::Value>,
}

impl Task for Order {
    const NAME: &'static str = "order";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

fn order(change: impl FnOnce(&mut Order)) -> Order {
    let note = |text| serde_json::from_str(text).unwrap();
    let mut order = Order {
        amounts: (0..100)
            .map(|number| (number.to_string(), number))
            .collect(),
        notes: BTreeMap::from([("large".to_owned(), note("[1, {\"a\": 0.5, \"b\": null}]"))]),
    };
    change(&mut order);
    order
}

#[tokio::test(start_paused = true)]
async fn only_the_order_of_keys_makes_no_difference() {
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("main").task::<Order>())
        .build();
    let submit = async |order| {
        let queue = tasks.queue("main");
        queue.submit(order).with_id("order/7").await
    };
    // Each map has an order of its own.
    for _ in 0..10 {
        submit(order(|_| {})).await.unwrap();
    }
    let changes: [fn(&mut Order); 5] = [
        |order| *order.amounts.get_mut("7").unwrap() = 8,
        |order| order.amounts.retain(|name, _| name != "7"),
        |order| order.notes.extend([("more".to_owned(), 1.into())]),
        |order| *order.notes.get_mut("large").unwrap() = "[1]".into(),
        |order| order.notes.get_mut("large").unwrap()[1]["b"] = 0.into(),
    ];
    for change in changes {
        is_refused(submit(order(change)).await);
    }
}

/// Large numbers, some of which are equal as floating-point numbers.
#[derive(Serialize, Deserialize)]
struct Large(u128);

impl Task for Large {
    const NAME: &'static str = "large";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn large_numbers_are_distinguished() {
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("main").task::<Large>())
        .build();
    let queue = tasks.queue("main");
    let submit = |number| queue.submit(Large(number)).with_id("order/7");
    submit(u128::MAX).await.unwrap();
    submit(u128::MAX).await.unwrap();
    is_refused(submit(u128::MAX - 1).await);
}

/// A record from before arguments were compared.
#[tokio::test(start_paused = true)]
async fn a_task_without_a_fingerprint_is_accepted_as_before() {
    let backend = Backend::memory();
    let queue = client(&backend).queue("main");
    queue.submit(act("x")).with_id("order/7").await.unwrap();
    let (store, key) = (backend.store(), "task/record/order/7");
    let entry = store.get(key).await.unwrap().unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    let fingerprint = record.as_object_mut().unwrap().remove("fingerprint");
    assert!(fingerprint.is_some());
    let record = serde_json::to_vec(&record).unwrap();
    store.put(key, record.into(), None).await.unwrap();
    queue.submit(act("y")).with_id("order/7").await.unwrap();
}
