//! Tasks and outputs that another version of the program has written.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;
use std::time::Duration;
use test_support::task::{Act, SECOND, act, chain, client, process};
use test_support::{Counter, Log, soon, until};
use tokio::time::Instant;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{Backend, Delivery, Envelope, Outcome, Queue, Store, WorkOptions};
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskError, TaskFailure, TaskId, TaskQueueOptions, TaskState,
    Tasks,
};

/// A report in one of its versions.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Report<V>(V);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    year: u32,
}

/// A version with a new field without a default.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    year: u32,
    format: String,
}

/// The next version, which has a default.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Mended {
    year: u32,
    #[serde(default)]
    format: String,
}

impl<V> Task for Report<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    const NAME: &'static str = "report";
    type Output = V;

    async fn run(self, context: TaskContext) -> Result<V, TaskFailure> {
        if let Ok(runs) = context.state::<Counter>() {
            runs.add();
        }
        Ok(self.0)
    }
}

/// A process with one of the versions.
struct Version<V> {
    tasks: Tasks,
    runs: Counter,
    version: PhantomData<V>,
}

impl<V> Version<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    fn of(backend: &Backend) -> Self {
        Self::living(backend, SECOND * 60 * 60 * 24)
    }

    /// With another lifetime of tasks.
    fn living(backend: &Backend, lifetime: Duration) -> Self {
        let runs = Counter::default();
        Self {
            tasks: Tasks::builder(backend.clone())
                .queue(TaskQueueOptions::new("main").task::<Report<V>>())
                .lifetime(lifetime)
                .state(runs.clone())
                .build(),
            runs,
            version: PhantomData,
        }
    }

    async fn submit(&self, version: V) -> TaskId {
        let submit = async { self.tasks.queue("main").submit(Report(version)).await };
        Principal::new("ada").scope(submit).await.unwrap()
    }

    async fn output(&self, id: &TaskId) -> Result<V, TaskError> {
        soon(self.tasks.output::<Report<V>>(id)).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_no_worker_can_read_is_a_dead_letter_with_its_arguments() {
    let log = Log::start();
    let backend = Backend::memory();
    let old = Version::<Old>::of(&backend);
    let id = old.submit(Old { year: 2026 }).await;

    let new = Version::<New>::of(&backend);
    let worker = new.tasks.work().unwrap();
    let start = Instant::now();
    let error = new.output(&id).await.unwrap_err();
    assert!(
        start.elapsed() >= SECOND * 60,
        "a roll-out has time to finish"
    );
    let TaskError::Dead { attempts: 3, .. } = &error else {
        panic!("{error:?}");
    };
    let reason = "this worker cannot read the arguments of task `report`: missing field `format`";
    assert!(chain(&error).contains(reason), "{}", chain(&error));
    let letters = new.tasks.queue("main").dead_letters().await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id(), &id);
    assert_eq!(letters[0].principal().unwrap().as_str(), "ada");
    assert_eq!(new.runs.get(), 0);
    assert!(log.text().contains("dead letter"));
    assert_eq!(worker.drain(SECOND).await, 0);

    let mended = Version::<Mended>::of(&backend);
    let _worker = mended.tasks.work().unwrap();
    mended.tasks.queue("main").send_again(&id).await.unwrap();
    let output = mended.output(&id).await.unwrap();
    assert_eq!((output.year, &*output.format), (2026, ""));
    let letters = mended.tasks.queue("main").dead_letters().await.unwrap();
    assert!(letters.is_empty());
}

/// Another version of the crate has written the envelope.
#[tokio::test(start_paused = true)]
async fn a_letter_that_no_worker_can_read_is_a_dead_letter_with_its_bytes() {
    for is_known in [true, false] {
        let (store, queue) = (MemoryStore::new(), MemoryQueue::new());
        let backend = Backend::new(store.clone(), MemoryBus::new(), queue.clone());
        let version = Version::<Old>::living(&backend, SECOND * 600);
        let id = version.submit(Old { year: 2026 }).await;
        let taken = queue.take("task/main", 1, SECOND).await.unwrap().remove(0);
        let payload = String::from_utf8(taken.payload.to_vec()).unwrap();
        let payload = payload.replace("arguments", "contents");
        if !is_known {
            store.delete(&format!("task/record/{id}")).await.unwrap();
        }
        // Another queue, which does not know the envelope.
        let queue = MemoryQueue::new();
        let backend = Backend::new(store, MemoryBus::new(), queue.clone());
        let version = Version::<Old>::living(&backend, SECOND * 600);
        let envelope = Envelope::new("task/main", &*taken.id, payload.into());
        queue.enqueue(envelope).await.unwrap();
        let _worker = version.tasks.work().unwrap();
        let queue = version.tasks.queue("main");
        let dead = async || {
            loop {
                let letters = queue.dead_letters().await.unwrap();
                if let Some(letter) = letters.first() {
                    return letter.clone();
                }
                tokio::time::sleep(SECOND).await;
            }
        };
        // The task becomes a dead letter again when it is sent to a version that cannot read it either.
        for _ in 0..2 {
            let letter = soon(dead()).await;
            assert_eq!(letter.id(), &id);
            assert_eq!(letter.state(), TaskState::Dead);
            let error = letter.error().unwrap();
            assert!(
                error.contains("this worker cannot read the task"),
                "{error}"
            );
            let error = version.output(&id).await.map(drop).unwrap_err();
            assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
            assert!(
                chain(&error).contains("missing field `arguments`"),
                "{error:?}"
            );
            queue.send_again(&id).await.unwrap();
            assert!(queue.dead_letters().await.unwrap().is_empty());
        }
        soon(dead()).await;
        // Waits for longer than the lifetime of the task.
        tokio::time::sleep(SECOND * 60 * 60).await;
        assert_eq!(version.runs.get(), 0);
        // The record now has the format of the version that can read it.
        change(&backend, &id, "contents\\\":", "arguments\\\":").await;
        queue.send_again(&id).await.unwrap();
        assert_eq!(version.output(&id).await.unwrap().year, 2026);
        assert!(queue.dead_letters().await.unwrap().is_empty());
        assert_eq!(version.runs.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_another_version_can_run_the_task_meanwhile() {
    let backend = Backend::memory();
    let old = Version::<Old>::of(&backend);
    let new = Version::<New>::of(&backend);
    let worker = new.tasks.work().unwrap();
    let id = old.submit(Old { year: 2026 }).await;
    let tried = async {
        while old.tasks.status(&id).await.unwrap().attempt() == 0 {
            tokio::time::sleep(SECOND).await;
        }
    };
    soon(tried).await;
    assert_eq!(worker.drain(SECOND).await, 0);
    let _worker = old.tasks.work().unwrap();
    let output = old.output(&id).await;
    assert_eq!(output.unwrap(), Old { year: 2026 });
    assert_eq!((old.runs.get(), new.runs.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_output_that_cannot_be_read_stays_for_a_version_that_can() {
    let backend = Backend::memory();
    let old = Version::<Old>::of(&backend);
    let _worker = old.tasks.work().unwrap();
    let id = old.submit(Old { year: 2026 }).await;
    old.output(&id).await.unwrap();

    let new = Version::<New>::of(&backend);
    for _ in 0..2 {
        let error = new.output(&id).await.unwrap_err();
        assert!(matches!(error, TaskError::WrongType { .. }), "{error:?}");
        assert!(chain(&error).contains("missing field `format`"));
    }
    // A call cannot read the output of its task either.
    let queue = new.tasks.queue("main");
    let format = String::new();
    let call = queue.call(Report(New { year: 7, format }));
    let called = call.id().clone();
    let error = soon(call).await.unwrap_err();
    assert!(matches!(error, TaskError::WrongType { .. }), "{error:?}");
    let status = new.tasks.status(&id).await.unwrap();
    assert_eq!(status.state(), TaskState::Succeeded);

    let mended = Version::<Mended>::of(&backend);
    assert_eq!(mended.output(&id).await.unwrap().year, 2026);
    assert_eq!(mended.output(&called).await.unwrap().year, 7);
}

/// A type that some versions reject.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Picky(u32);

impl From<Picky> for u32 {
    fn from(Picky(number): Picky) -> Self {
        number
    }
}

impl TryFrom<u32> for Picky {
    type Error = &'static str;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        assert!(number < 10, "numbers have one digit");
        Ok(Self(number))
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_arguments_are_read_keeps_them() {
    let backend = Backend::memory();
    let old = Version::<u32>::of(&backend);
    let id = old.submit(12).await;
    let picky = Version::<Picky>::of(&backend);
    let worker = picky.tasks.work().unwrap();
    let error = picky.output(&id).await.map(drop).unwrap_err();
    assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
    let text = chain(&error);
    let reason = "cannot read the arguments of task `report`: it panicked: numbers have one digit";
    assert!(text.contains(reason), "{text}");
    assert_eq!(worker.drain(SECOND).await, 0);

    let submit = picky.tasks.queue("main").submit(Report(Picky(12)));
    let error = submit.await.unwrap_err();
    assert!(matches!(error, TaskError::Serialize { .. }), "{error:?}");

    let _worker = old.tasks.work().unwrap();
    old.tasks.queue("main").send_again(&id).await.unwrap();
    assert_eq!(old.output(&id).await.unwrap(), 12);
}

/// A type that cannot read its own JSON.
#[derive(Serialize, Deserialize)]
struct Lost {
    #[serde(skip_serializing)]
    #[expect(dead_code)]
    field: u8,
}

impl Task for Lost {
    const NAME: &'static str = "lost";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        panic!("this task does not run");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_cannot_be_read_again_fails_when_it_is_submitted() {
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("main").task::<Lost>())
        .build();
    for queue in ["main", "nowhere"] {
        let submit = tasks.queue(queue).submit(Lost { field: 1 });
        let id = submit.id().clone();
        let error = submit.await.unwrap_err();
        assert!(matches!(error, TaskError::Serialize { .. }), "{error:?}");
        let text = chain(&error);
        let reason = "task `lost` cannot be serialised: it cannot be read again: missing field";
        assert!(text.starts_with(reason), "{text}");
        assert!(tasks.status(&id).await.is_err());
    }
}

/// Changes the record of a task to the format of another version of the crate.
async fn change(backend: &Backend, id: &TaskId, from: &str, to: &str) {
    let (store, key) = (backend.store(), format!("task/record/{id}"));
    let value = store.get(&key).await.unwrap().unwrap().value;
    let value = String::from_utf8(value.to_vec()).unwrap();
    assert!(value.contains(from), "{value}");
    let value = value.replace(from, to);
    store.put(&key, value.into(), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_an_error_that_says_so() {
    let backend = Backend::memory();
    let process = process(&backend, async |argument, _| Ok(argument));
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    let mut watch = process.watch(&id).unwrap();
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");

    change(&backend, &id, "Succeeded", "Archived").await;
    let errors = [
        soon(process.output::<Act>(&id)).await.map(drop),
        process.status(&id).await.map(drop),
        soon(watch.changed()).await.map(drop),
    ];
    for error in errors {
        let text = chain(&error.unwrap_err());
        let reason = "tasks: backend failed: this version cannot read what is stored: unknown variant `Archived`";
        assert!(text.starts_with(reason), "{text}");
    }
    change(&backend, &id, "Archived", "Succeeded").await;
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_record_cannot_be_read_waits_for_a_version_that_can() {
    let backend = Backend::memory();
    let client = client(&backend);
    let id = client.queue("main").submit(act("x")).await.unwrap();
    change(&backend, &id, "Queued", "Sleeping").await;
    let runs = Counter::default();
    let count = runs.clone();
    let process = process(&backend, move |argument, _| {
        count.add();
        async { Ok(argument) }
    });
    let _worker = process.work().unwrap();
    tokio::time::sleep(SECOND * 1000).await;
    assert_eq!(runs.get(), 0);
    change(&backend, &id, "Sleeping", "Queued").await;
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");
    assert_eq!(runs.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_read_does_not_hide_others() {
    let backend = Backend::memory();
    let old = Version::<Old>::of(&backend);
    let new = Version::<New>::of(&backend);
    let _worker = new.tasks.work().unwrap();
    let mut ids = Vec::new();
    for year in 1..=2 {
        let id = old.submit(Old { year }).await;
        let error = new.output(&id).await.unwrap_err();
        assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
        ids.push(id);
    }
    let queue = old.tasks.queue("main");
    let listed = async || {
        let letters = queue.dead_letters().await.unwrap();
        let ids = letters.into_iter().map(|letter| letter.id().clone());
        ids.collect::<Vec<_>>()
    };
    change(&backend, &ids[0], "\"Dead\"", "\"Buried\"").await;
    assert_eq!(listed().await, ids[1..]);
    change(&backend, &ids[0], "\"Buried\"", "\"Dead\"").await;
    assert_eq!(listed().await, ids);
}

/// An envelope that another version of the crate may enqueue.
#[tokio::test(start_paused = true)]
async fn an_envelope_of_another_version_stays_for_the_lifetime_of_a_task() {
    let log = Log::start();
    let backend = Backend::memory();
    let minutes = |minutes: u32| SECOND * 60 * minutes;
    let process = test_support::task::builder(&backend, async |argument, _| Ok(argument));
    let process = process.lifetime(minutes(10)).build();
    let worker = process.work().unwrap();
    let enqueue = async |id: &str| {
        let envelope = Envelope::new("task/main", id, "what comes later".into());
        backend.queue().enqueue(envelope).await.unwrap();
    };
    enqueue("first").await;
    tokio::time::sleep(minutes(5)).await;
    // The envelope does not block other tasks.
    let call = process.queue("main").call(act("x"));
    assert_eq!(soon(call).await.unwrap(), "x");
    assert_eq!(worker.drain(SECOND).await, 0);

    let taken = Counter::default();
    let work = async || {
        let count = taken.clone();
        let handler = move |delivery: Delivery| {
            assert_eq!(delivery.payload, "what comes later");
            count.add();
            async { Outcome::Done }
        };
        let options = WorkOptions::new("task/main");
        let shutdown = Box::pin(tokio::time::sleep(minutes(1)));
        let queue = backend.queue();
        queue
            .work(options, std::sync::Arc::new(handler), shutdown)
            .await
            .unwrap();
    };
    work().await;
    assert_eq!(taken.get(), 1);

    enqueue("second").await;
    let worker = process.work().unwrap();
    let text = "an envelope in the queue is not a task that this version can read";
    until("the envelope is logged", || {
        log.text().contains("envelope=\"second\"")
    })
    .await;
    assert!(log.text().contains(text));
    tokio::time::sleep(minutes(15)).await;
    assert_eq!(worker.drain(SECOND).await, 0);
    work().await;
    assert_eq!(taken.get(), 1, "the second envelope has expired");
}
