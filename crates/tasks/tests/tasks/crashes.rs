//! Tasks that crash their workers, and the tasks that run beside them.

use std::sync::{Arc, Mutex};
use test_support::task::{Act, Ran, SECOND, act, builder, chain};
use test_support::{Counter, soon};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    TaskContext, TaskError, TaskId, TaskQueueOptions, TaskState, Tasks, Worker,
};

/// A process with two queues. The argument of a task decides what it does: `poison` crashes the process
/// after a while, `endless` does not end, and any other argument takes a minute.
#[derive(Clone, Default)]
struct Site {
    /// Notified when the process should end.
    dies: Arc<Notify>,
    /// The running tasks.
    running: Arc<Mutex<Vec<String>>>,
    /// The tasks that were running at each crash of the process.
    beside: Arc<Mutex<Vec<Vec<String>>>>,
}

/// Lists a task as running until it is dropped.
struct Running(Site, String);

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.0.running.lock().unwrap();
        let place = running.iter().position(|name| *name == self.1).unwrap();
        running.remove(place);
    }
}

impl Site {
    fn process(&self, backend: &Backend) -> Tasks {
        let site = self.clone();
        let script = move |name: String, context: TaskContext| site.clone().run(name, context);
        let queue = |name| TaskQueueOptions::new(name).task::<Act>().concurrency(16);
        builder(backend, script)
            .queue(queue("main"))
            .queue(queue("other"))
            // Long enough for the results to exist when the test reads them.
            .retention(SECOND * 1_000_000)
            .build()
    }

    async fn run(self, name: String, context: TaskContext) -> Ran {
        self.running.lock().unwrap().push(name.clone());
        let running = Running(self.clone(), name.clone());
        if name == "poison" {
            // All other tasks have started by then.
            sleep(SECOND * 10).await;
            let mut beside = self.running.lock().unwrap().clone();
            beside.retain(|other| *other != name);
            self.beside.lock().unwrap().push(beside);
            self.dies.notify_one();
            std::future::pending::<()>().await;
        }
        if name == "endless" {
            std::future::pending::<()>().await;
        }
        sleep(SECOND * 60).await;
        drop(running);
        Ok(format!("{name} {}", context.attempt()))
    }

    /// Restarts the process after each crash, until it runs for half a day without one.
    async fn until_it_lives(&self, backend: &Backend) -> (Tasks, Worker) {
        loop {
            let process = self.process(backend);
            let worker = process.work().unwrap();
            if timeout(SECOND * 40_000, self.dies.notified())
                .await
                .is_err()
            {
                return (process, worker);
            }
            // Like the end of the process.
            drop(worker);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_workers_does_not_harm_other_tasks() {
    let backend = Backend::memory();
    let site = Site::default();
    let client = site.process(&backend);
    let queue = client.queue("main");
    let poison = queue.submit(act("poison")).await.unwrap();
    let mut bystanders = Vec::new();
    for number in 1..=15 {
        let submit = queue.submit(act(number.to_string()));
        bystanders.push(submit.await.unwrap());
    }
    let (process, _worker) = site.until_it_lives(&backend).await;

    let error = process.output::<Act>(&poison).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    for (number, id) in (1..).zip(&bystanders) {
        let output = process.output::<Act>(id).await.unwrap();
        assert!(output.starts_with(&format!("{number} ")), "{output}");
    }
    let letters = process.queue("main").dead_letters().await.unwrap();
    assert_eq!(letters.len(), 1);
    // The last attempt ran alone.
    let beside = site.beside.lock().unwrap();
    let beside: Vec<_> = beside.iter().map(Vec::len).collect();
    assert_eq!(beside, [15, 15, 0]);
}

#[tokio::test(start_paused = true)]
async fn many_tasks_that_kill_their_workers_do_not_harm_other_tasks() {
    let backend = Backend::memory();
    let site = Site::default();
    let client = site.process(&backend);
    let queue = client.queue("main");
    let mut ids = Vec::new();
    for number in 1..=12 {
        let poison = queue.submit(act("poison")).await.unwrap();
        let bystander = queue.submit(act(number.to_string())).await.unwrap();
        ids.push((poison, bystander));
    }
    let (process, _worker) = site.until_it_lives(&backend).await;
    for (poison, bystander) in &ids {
        let error = process.output::<Act>(poison).await.unwrap_err();
        assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
        process.output::<Act>(bystander).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_workers_does_not_harm_other_services() {
    let backend = Backend::memory();
    let site = Site::default();
    let client = site.process(&backend);
    let poison = client.queue("main").submit(act("poison")).await.unwrap();
    let bystander = client.queue("other").submit(act("x")).await.unwrap();
    let (process, _worker) = site.until_it_lives(&backend).await;
    let error = process.output::<Act>(&poison).await.unwrap_err();
    assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
    assert_eq!(process.output::<Act>(&bystander).await.unwrap(), "x 3");
}

/// Starts a worker with a task that has lost two workers, and with another task that runs.
async fn waiting_for_its_last_attempt(
    site: &Site,
    backend: &Backend,
    other: &str,
) -> (Tasks, Worker, TaskId) {
    let client = site.process(backend);
    let id = client.queue("main").submit(act("poison")).await.unwrap();
    for _ in 1..=2 {
        let worker = site.process(backend).work().unwrap();
        soon(site.dies.notified()).await;
        drop(worker);
    }
    let process = site.process(backend);
    let worker = process.work().unwrap();
    process.queue("main").submit(act(other)).await.unwrap();
    // The other task starts at once. Without it, the suspect task would start when its lease ends.
    let mut watch = process.watch(&id).unwrap();
    while soon(watch.changed()).await.unwrap().state() != TaskState::Queued {}
    (process, worker, id)
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_waits_for_running_tasks_and_later_tasks_wait_for_it() {
    let backend = Backend::memory();
    let site = Site::default();
    let (process, _worker, id) = waiting_for_its_last_attempt(&site, &backend, "long").await;
    let status = process.status(&id).await.unwrap();
    assert_eq!((status.state(), status.attempt()), (TaskState::Queued, 2));
    assert!(status.error().unwrap().contains("the worker has ended"));
    assert_eq!(*site.running.lock().unwrap(), ["long"]);
    let late = process.queue("main").submit(act("late")).await.unwrap();
    soon(site.dies.notified()).await;
    assert_eq!(*site.running.lock().unwrap(), ["poison"]);
    assert_eq!(process.status(&id).await.unwrap().attempt(), 3);
    assert_eq!(
        process.status(&late).await.unwrap().state(),
        TaskState::Queued
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_its_last_attempt_does_not_block_others_forever() {
    let backend = Backend::memory();
    let site = Site::default();
    let (process, _worker, id) = waiting_for_its_last_attempt(&site, &backend, "endless").await;
    let start = Instant::now();
    let late = process.queue("main").submit(act("late")).await.unwrap();
    assert_eq!(soon(process.output::<Act>(&late)).await.unwrap(), "late 1");
    // Five minutes, plus the times of other steps.
    assert!(start.elapsed() >= SECOND * 60 * 5);
    assert!(start.elapsed() <= SECOND * 60 * 7, "{:?}", start.elapsed());
    assert_eq!(process.status(&id).await.unwrap().attempt(), 2);
    // Another worker gets the task eventually.
    let _other = site.process(&backend).work().unwrap();
    soon(site.dies.notified()).await;
    assert_eq!(process.status(&id).await.unwrap().attempt(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_its_last_attempt_is_cancelled_at_once() {
    let backend = Backend::memory();
    let site = Site::default();
    let (process, _worker, id) = waiting_for_its_last_attempt(&site, &backend, "endless").await;
    let start = Instant::now();
    assert!(process.cancel(&id).await.unwrap());
    let error = process.output::<Act>(&id).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
    assert!(start.elapsed() < SECOND);
    // The cancelled task no longer blocks other tasks, and does not start when the worker is free.
    let late = process.queue("main").submit(act("late")).await.unwrap();
    assert_eq!(soon(process.output::<Act>(&late)).await.unwrap(), "late 1");
    assert!(start.elapsed() < SECOND * 70, "{:?}", start.elapsed());
    sleep(SECOND * 1000).await;
    assert_eq!(site.beside.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn draining_returns_a_task_that_waits_for_its_last_attempt() {
    let backend = Backend::memory();
    let site = Site::default();
    let (process, worker, id) = waiting_for_its_last_attempt(&site, &backend, "long").await;
    assert_eq!(worker.drain(SECOND * 1000).await, 0, "the other task ends");
    assert_eq!(
        site.beside.lock().unwrap().len(),
        2,
        "the suspect task has not begun"
    );
    let status = process.status(&id).await.unwrap();
    assert_eq!((status.state(), status.attempt()), (TaskState::Queued, 2));
    // Another worker gets the task at once.
    let _worker = process.work().unwrap();
    let start = Instant::now();
    soon(site.dies.notified()).await;
    assert!(start.elapsed() < SECOND * 12);
}

/// Waits until an attempt has started.
async fn begins(process: &Tasks, id: &TaskId, attempt: u32) {
    let mut watch = process.watch(id).unwrap();
    loop {
        let status = soon(watch.changed()).await.unwrap();
        if (status.state(), status.attempt()) == (TaskState::Running, attempt) {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_another_service_blocks_no_other_task() {
    let backend = Backend::memory();
    let process = || {
        let script = async |name: String, _: TaskContext| {
            if name == "endless" {
                std::future::pending::<()>().await;
            }
            Ok(name)
        };
        let other = TaskQueueOptions::new("other").task::<Act>().concurrency(1);
        builder(&backend, script).queue(other).build()
    };
    let here = process();
    let (main, other) = (here.queue("main"), here.queue("other"));
    let first = main.submit(act("endless")).await.unwrap();
    let second = other.submit(act("endless")).await.unwrap();
    for attempt in 1..=2 {
        let there = process();
        let worker = there.work().unwrap();
        begins(&there, &first, attempt).await;
        begins(&there, &second, attempt).await;
        drop(worker);
    }
    let _main = main.work().unwrap();
    begins(&here, &first, 3).await;
    // The second task waits for the first one, in the only slot.
    let _other = other.work().unwrap();
    let mut watch = here.watch(&second).unwrap();
    while soon(watch.changed()).await.unwrap().state() != TaskState::Queued {}
    let start = Instant::now();
    for late in ["one", "two"] {
        assert_eq!(soon(other.call(act(late))).await.unwrap(), late);
    }
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    // The second task starts once it can run alone.
    assert!(here.cancel(&first).await.unwrap());
    begins(&here, &second, 3).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_has_its_full_time_and_can_submit_tasks() {
    for concurrency in [1, 2] {
        let backend = Backend::memory();
        let process = || {
            let script = async |name: String, context: TaskContext| {
                if name == "suspect" {
                    let inner = context.tasks().queue("main").call(act("inner"));
                    let inner = inner.await?;
                    sleep(SECOND * 90).await;
                    return Ok(format!("{inner} {}", context.attempt()));
                }
                sleep(SECOND * 90).await;
                Ok(name)
            };
            let queue = TaskQueueOptions::new("main").task::<Act>();
            let queue = queue.concurrency(concurrency).timeout(SECOND * 190);
            builder(&backend, script).queue(queue).build()
        };
        let client = process();
        let id = client.queue("main").submit(act("suspect")).await.unwrap();
        for attempt in 1..=2 {
            let there = process();
            let worker = there.work().unwrap();
            begins(&there, &id, attempt).await;
            drop(worker);
        }
        // Waits for most of the time of the suspect task.
        client.queue("main").submit(act("other")).await.unwrap();
        let _worker = client.work().unwrap();
        let output = soon(client.output::<Act>(&id)).await.unwrap();
        assert_eq!(output, "inner 3");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_not_returned_by_a_worker_that_shuts_down() {
    let backend = Backend::memory();
    let begun = Counter::default();
    let count = begun.clone();
    let process = builder(&backend, move |_, _| {
        count.add();
        std::future::pending()
    });
    // No poll happens during the test.
    let process = process.poll_interval(SECOND * 10_000).build();
    let worker = process.work().unwrap();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    test_support::until("the task begins", || begun.get() == 1).await;
    // Simulates a lost message: only the record is changed.
    let key = format!("task/record/{id}");
    let entry = backend.store().get(&key).await.unwrap().unwrap();
    let record = String::from_utf8(entry.value.to_vec()).unwrap();
    let record = record.replace("\"cancel\":false", "\"cancel\":true");
    backend
        .store()
        .put(&key, record.into(), None)
        .await
        .unwrap();
    assert_eq!(worker.drain(SECOND).await, 1);
    let error = soon(process.output::<Act>(&id)).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Cancelled { .. }),
        "{}",
        chain(&error)
    );
}
