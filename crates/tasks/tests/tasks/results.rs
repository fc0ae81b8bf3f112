//! Status, results and cancellation of tasks.

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use static_assertions::assert_impl_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use test_support::task::{Act, SECOND, act, builder, client, process};
use test_support::{Counter, soon, until};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, advance, timeout};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{Backend, BackendError, BoxFuture, Bus, BusStream, Priority};
use tower_promises_tasks::{
    Call, Principal, Submit, Task, TaskContext, TaskError, TaskFailure, TaskId, TaskQueue,
    TaskQueueOptions, TaskState, TaskStatus, TaskWatch, Tasks, Worker,
};

assert_impl_all!(Tasks: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(TaskQueue: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(TaskContext: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(TaskError: Clone, Send, Sync, std::error::Error);
assert_impl_all!(TaskStatus: Clone, Send, Sync);
assert_impl_all!(Submit: Send, Unpin, std::fmt::Debug);
assert_impl_all!(Call<Act>: Send, Unpin, std::fmt::Debug);
assert_impl_all!(TaskWatch: Send);
assert_impl_all!(Worker: Send);

/// A process in which tasks wait for a permit, and count their ends.
struct Waiting {
    tasks: Tasks,
    begun: Counter,
    dropped: Counter,
    gate: Arc<Semaphore>,
    _worker: Worker,
}

fn waiting(backend: &Backend) -> Waiting {
    let (begun, dropped) = (Counter::default(), Counter::default());
    let gate = Arc::new(Semaphore::new(0));
    let tasks = process(backend, {
        let (begun, dropped, gate) = (begun.clone(), dropped.clone(), gate.clone());
        move |argument, _| {
            let (begun, guard, gate) = (begun.clone(), dropped.on_drop(), gate.clone());
            async move {
                begun.add();
                gate.acquire().await.unwrap().forget();
                drop(guard);
                Ok(argument)
            }
        }
    });
    Waiting {
        _worker: tasks.work().unwrap(),
        tasks,
        begun,
        dropped,
        gate,
    }
}

impl Waiting {
    async fn begins(&self) {
        until("the task begins", || self.begun.get() > 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_is_cancelled_at_once() {
    let backend = Backend::memory();
    let client = client(&backend);
    let id = client.queue("main").submit(act("x")).await.unwrap();
    assert!(client.cancel(&id).await.unwrap());
    assert!(!client.cancel(&id).await.unwrap());
    let error = client.output::<Act>(&id).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));

    // A worker does not start the task.
    let process = waiting(&backend);
    advance(SECOND * 100).await;
    process.tasks.queue("main").submit(act("y")).await.unwrap();
    process.begins().await;
    assert_eq!(process.begun.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_is_dropped_when_it_is_cancelled_elsewhere() {
    let backend = Backend::memory();
    let (process, client) = (waiting(&backend), client(&backend));
    let id = client.queue("main").submit(act("x")).await.unwrap();
    process.begins().await;
    let start = Instant::now();
    assert!(client.cancel(&id).await.unwrap());
    let error = soon(client.output::<Act>(&id)).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
    assert_eq!(process.dropped.get(), 1);
    assert!(
        start.elapsed() < SECOND,
        "the bus is faster than the slow poll"
    );
    // The task is not started again.
    advance(SECOND * 100).await;
    tokio::task::yield_now().await;
    assert_eq!(process.begun.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thread_can_detect_the_cancel_of_its_task() {
    let backend = Backend::memory();
    let told = Arc::new(AtomicBool::new(false));
    let begun = Counter::default();
    let process = process(&backend, {
        let (told, begun) = (told.clone(), begun.clone());
        move |_, context| {
            let (told, begun) = (told.clone(), begun.clone());
            async move {
                assert!(!context.is_cancelled());
                tokio::spawn(async move {
                    context.cancelled().await;
                    told.store(context.is_cancelled(), Ordering::SeqCst);
                });
                begun.add();
                std::future::pending().await
            }
        }
    });
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("")).await.unwrap();
    until("the task begins", || begun.get() > 0).await;
    process.cancel(&id).await.unwrap();
    until("the thread detects the cancel", || {
        told.load(Ordering::SeqCst)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_cancels_its_task() {
    let backend = Backend::memory();
    let (process, client) = (waiting(&backend), client(&backend));
    let call = client.queue("main").call(act("x"));
    let id = call.id().clone();
    assert!(timeout(SECOND, call).await.is_err());
    process.begins().await;
    until("the task is cancelled", || process.dropped.get() == 1).await;
    let error = soon(client.output::<Act>(&id)).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_is_submitted_leaves_nothing() {
    let backend = Backend::memory();
    let client = client(&backend);
    let mut call = client.queue("main").call(act("x"));
    let id = call.id().clone();
    // Polled once, so at most the store and the queue were called.
    let _ = (&mut call).now_or_never();
    drop(call);
    let error = soon(async {
        loop {
            match client.output::<Act>(&id).await {
                Err(TaskError::NotFound { .. }) => tokio::task::yield_now().await,
                other => break other.unwrap_err(),
            }
        }
    });
    assert!(matches!(error.await, TaskError::Cancelled { .. }));
    let process = waiting(&backend);
    process.tasks.queue("main").submit(act("y")).await.unwrap();
    process.begins().await;
    assert_eq!(process.begun.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_detached_call_leaves_its_task_running() {
    let backend = Backend::memory();
    let (process, client) = (waiting(&backend), client(&backend));
    let detached = client.queue("main").call(act("x")).detached();
    let named = client.queue("main").call(act("y")).with_id("y");
    let timed = client.queue("main").call(act("z"));
    let timed = timed.detached().timeout(SECOND / 2);
    let ids = [
        detached.id().clone(),
        named.id().clone(),
        timed.id().clone(),
    ];
    let calls = async { tokio::join!(detached, named) };
    assert!(
        timeout(SECOND, async { tokio::join!(calls, timed) })
            .await
            .is_err()
    );
    process.gate.add_permits(3);
    for (id, output) in ids.iter().zip(["x", "y", "z"]) {
        assert_eq!(soon(client.output::<Act>(id)).await.unwrap(), output);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_a_call_is_a_value_and_cancels_the_task() {
    let backend = Backend::memory();
    let (process, client) = (waiting(&backend), client(&backend));
    let start = Instant::now();
    let error = client.queue("main").call(act("x")).timeout(SECOND).await;
    assert_eq!(start.elapsed(), SECOND);
    let error = error.unwrap_err();
    assert!(error.to_string().ends_with("has not ended within 1s"));
    until("the task is cancelled", || process.dropped.get() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_id_is_submitted_once() {
    let backend = Backend::memory();
    let (process, client) = (waiting(&backend), client(&backend));
    let queue = client.queue("main");
    for _ in 0..3 {
        let id = queue.submit(act("x")).with_id("order/7").await.unwrap();
        assert_eq!(id.as_str(), "order/7");
    }
    process.begins().await;
    let call = queue.call(act("x")).with_id("order/7");
    process.gate.add_permits(10);
    assert_eq!(soon(call).await.unwrap(), "x");
    // Also after the end of the task.
    let again = process
        .tasks
        .queue("main")
        .call(act("x"))
        .with_id("order/7");
    assert_eq!(soon(again).await.unwrap(), "x");
    assert_eq!(process.begun.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_id_belongs_to_one_task_and_principal() {
    let backend = Backend::memory();
    let queue = client(&backend).queue("main");
    queue.submit(act("x")).with_id("order/7").await.unwrap();
    let eve = Principal::new("eve");
    let submit = eve.scope(async { queue.call(act("x")).with_id("order/7").await });
    let error = submit.await.unwrap_err();
    assert!(matches!(error, TaskError::IdInUse { .. }));
    assert_eq!(
        error.to_string(),
        "the id `order/7` belongs to another task"
    );
}

#[tokio::test(start_paused = true)]
async fn a_result_has_a_time_to_live() {
    let backend = Backend::memory();
    let process = builder(&backend, async |argument, _| Ok(argument));
    let process = process.retention(SECOND * 60).build();
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");
    }
    advance(SECOND * 62).await;
    let error = process.output::<Act>(&id).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("nothing is known of a task `{id}`")
    );
    // The id can be used again, although the queue still knows it.
    let id = process
        .queue("main")
        .submit(act("y"))
        .with_id(id)
        .await
        .unwrap();
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "y");
}

#[tokio::test(start_paused = true)]
async fn progress_reaches_other_processes() {
    let backend = Backend::memory();
    let (go, client) = (Arc::new(Notify::new()), client(&backend));
    let process = process(&backend, {
        let go = go.clone();
        move |_, context| {
            let go = go.clone();
            async move {
                context.set_progress(-1.0);
                context.set_progress(f64::NAN);
                context.set_message("begins");
                go.notified().await;
                context.set_progress(250);
                context.set_message("ß".repeat(1000));
                Ok(String::new())
            }
        }
    });
    let _worker = process.work().unwrap();
    let id = client.queue("main").submit(act("")).await.unwrap();
    let mut watch = client.watch(&id).unwrap();
    let start = Instant::now();
    let status = loop {
        let status = soon(watch.changed()).await.unwrap();
        if status.message().is_some() {
            break status;
        }
    };
    assert!(
        start.elapsed() < SECOND * 2,
        "the bus is faster than the slow poll"
    );
    assert_eq!(status.state(), TaskState::Running);
    assert_eq!(
        (status.progress(), status.message()),
        (Some(0.0), Some("begins"))
    );
    go.notify_one();
    let status = loop {
        let status = soon(watch.changed()).await.unwrap();
        if status.state().is_terminal() {
            break status;
        }
    };
    // The last report is stored, however shortly before the end it was made.
    assert_eq!(status.progress(), Some(100.0));
    assert_eq!(status.message().unwrap().len(), 1024);
    assert!(status.created() <= status.started().unwrap());
    assert!(status.started().unwrap() <= status.finished().unwrap());
    assert!(status.finished().unwrap() < status.expires());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_begins_without_progress() {
    let backend = Backend::memory();
    let begun = Counter::default();
    let count = begun.clone();
    let process = process(&backend, move |_, context| {
        count.add();
        async move {
            if context.attempt() == 1 {
                context.set_progress(80);
                context.set_message("almost");
                return Err(TaskFailure::conflict("another writer was faster"));
            }
            std::future::pending().await
        }
    });
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("")).await.unwrap();
    let mut watch = process.watch(&id).unwrap();
    let status = loop {
        let status = soon(watch.changed()).await.unwrap();
        if begun.get() == 2 {
            break status;
        }
    };
    assert_eq!((status.state(), status.attempt()), (TaskState::Running, 2));
    assert_eq!((status.progress(), status.message()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_longer_than_its_lifetime_is_not_forgotten() {
    let backend = Backend::memory();
    let process = builder(&backend, async |argument, _| {
        tokio::time::sleep(SECOND * 60 * 50).await;
        Ok(argument)
    });
    let process = process.lifetime(SECOND * 60).build();
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");
}

/// A bus that loses all messages.
struct Deaf(MemoryBus);

impl Bus for Deaf {
    fn publish<'a>(
        &'a self,
        _: &'a str,
        _: bytes::Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async { Err(BackendError::unavailable("deaf")) })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        self.0.listen()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_only_causes_a_delay() {
    let bus = Deaf(MemoryBus::new());
    let backend = Backend::new(MemoryStore::new(), bus, MemoryQueue::new());
    let (process, client) = (waiting(&backend), client(&backend));
    let queue = client.queue("main");
    let (first, second) = (queue.call(act("x")), queue.submit(act("y")).await.unwrap());
    let first = tokio::spawn(first);
    until("both begin", || process.begun.get() == 2).await;
    let start = Instant::now();
    assert!(client.cancel(&second).await.unwrap());
    let error = soon(client.output::<Act>(&second)).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
    assert_eq!(process.dropped.get(), 1);
    // First the worker polls, then the waiting call.
    assert!(start.elapsed() <= SECOND * 10);
    let start = Instant::now();
    process.gate.add_permits(1);
    assert_eq!(soon(first).await.unwrap().unwrap(), "x");
    assert!(start.elapsed() <= SECOND * 5);
}

#[derive(Serialize, Deserialize)]
struct Count;

impl Task for Count {
    const NAME: &'static str = "act";
    type Output = u32;

    async fn run(self, _: TaskContext) -> Result<u32, TaskFailure> {
        Ok(7)
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_or_output_of_another_type_is_an_error() {
    let backend = Backend::memory();
    let process = process(&backend, async |argument, _| Ok(argument));
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    let error = soon(process.output::<Count>(&id)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the output of task `{id}` is not a `u32`")
    );
    // The two processes use the same name for different types.
    let other = Tasks::builder(backend)
        .queue(TaskQueueOptions::new("main").task::<Count>())
        .build();
    let error = soon(other.queue("main").call(Count)).await.unwrap_err();
    assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_too_large_is_an_error_of_the_task() {
    let backend = Backend::memory();
    let process = process(&backend, async |_, _| Ok("x".repeat(100_000)));
    let _worker = process.work().unwrap();
    let error = soon(process.queue("main").call(act(""))).await.unwrap_err();
    let error = test_support::task::chain(&error);
    assert!(
        error.ends_with("the output has 100002 bytes, more than the 49152 that are allowed"),
        "{error}"
    );

    // Also if only the store has a limit.
    let store = MemoryStore::builder().max_value_bytes(2000).build();
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    let process = test_support::task::process(&backend, async |_, _| Ok("x".repeat(10_000)));
    let _worker = process.work().unwrap();
    let error = soon(process.queue("main").call(act(""))).await.unwrap_err();
    assert!(test_support::task::chain(&error).contains("more than the 2000 that are allowed"));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_begins_later_and_a_high_priority_earlier() {
    let backend = Backend::memory();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let queue = TaskQueueOptions::new("main").task::<Act>().concurrency(1);
    let process = builder(&backend, {
        let order = order.clone();
        move |argument, _| {
            order.lock().unwrap().push((argument, Instant::now()));
            async { Ok(String::new()) }
        }
    });
    let process = process.queue(queue).build();
    let queue = process.queue("main");
    let start = Instant::now();
    let late = queue.submit(act("late")).delay(SECOND * 60).await.unwrap();
    queue
        .submit(act("low"))
        .priority(Priority::Low)
        .await
        .unwrap();
    queue.submit(act("normal")).await.unwrap();
    queue
        .submit(act("high"))
        .priority(Priority::High)
        .await
        .unwrap();
    let _worker = process.work().unwrap();
    soon(process.output::<Act>(&late)).await.unwrap();
    let order = order.lock().unwrap();
    let names: Vec<_> = order.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["high", "normal", "low", "late"]);
    assert!(order[3].1 - start >= SECOND * 60);
}

#[test]
fn no_runtime_is_an_error() {
    let tasks = client(&Backend::memory());
    let submit = tasks.queue("main").submit(act("")).now_or_never();
    assert!(matches!(submit.unwrap(), Err(TaskError::NoRuntime)));
    let call = tasks.queue("main").call(act("")).now_or_never();
    assert!(matches!(call.unwrap(), Err(TaskError::NoRuntime)));
    assert!(matches!(tasks.work(), Err(TaskError::NoRuntime)));
    let id = TaskId::new("x");
    let cancel = tasks.cancel(&id).now_or_never();
    assert!(matches!(cancel.unwrap(), Err(TaskError::NoRuntime)));
    let output = tasks.output::<Act>(&id).now_or_never();
    assert!(matches!(output.unwrap(), Err(TaskError::NoRuntime)));
}

#[tokio::test]
async fn a_task_is_tested_without_a_worker() {
    let tasks = process(&Backend::memory(), async |argument, context| {
        context.set_progress(50);
        Ok(format!("{argument} {:?}", context.principal()))
    });
    let output = act("x").run(TaskContext::detached(&tasks)).await;
    assert_eq!(output.unwrap(), "x None");
    let tasks = Tasks::builder(Backend::memory()).build();
    let error = act("x")
        .run(TaskContext::detached(&tasks))
        .await
        .unwrap_err();
    assert!(
        error
            .error()
            .to_string()
            .starts_with("tasks have no state of type")
    );
}
