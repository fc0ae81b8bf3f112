//! Metrics of tasks, dead letters and schedules.

use std::future::pending;
use std::time::{Duration, SystemTime};
use test_support::away::Away;
use test_support::recorded::RecordedHere;
use test_support::soon;
use test_support::task::{Act, Broken, Ran, SECOND, act, builder, client, process};
use tokio::time::{Instant, sleep};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{Backend, Envelope};
use tower_promises_tasks::{
    Missed, Schedule, Task, TaskContext, TaskFailure, TaskId, TaskQueueOptions, TaskState, Tasks,
};

/// Labels of the task `act` in the queue `main`.
const ACT: &str = "queue=\"main\",task=\"act\"";

async fn run(argument: String, context: TaskContext) -> Ran {
    match &*argument {
        "fails" => Err(Broken.into()),
        "panics" => panic!("no tea"),
        "conflicts" => Err(TaskFailure::conflict(Broken)),
        "conflicts once" if context.attempt() == 1 => Err(TaskFailure::conflict(Broken)),
        "is endless" => pending().await,
        "takes a second" => {
            sleep(SECOND).await;
            Ok(argument)
        }
        _ => Ok(argument),
    }
}

/// Lets time pass until a condition holds.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        sleep(SECOND / 10).await;
    }
    panic!("it never happens");
}

async fn output(tasks: &Tasks, argument: &str) {
    let id = tasks.queue("main").submit(act(argument)).await.unwrap();
    let _ = soon(tasks.output::<Act>(&id)).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_and_attempts_are_counted_by_outcome() {
    let recorded = RecordedHere::start();
    let tasks = process(&Backend::memory(), run);
    let _worker = tasks.work().unwrap();
    for argument in [
        "takes a second",
        "fails",
        "panics",
        "conflicts",
        "conflicts once",
    ] {
        output(&tasks, argument).await;
    }
    let series = |family: &str, outcome: &str, value: u32| {
        format!("{family}{{{ACT},outcome=\"{outcome}\"}} {value}")
    };
    assert_eq!(
        recorded.values("tasks_"),
        [
            format!("tasks_started_total{{{ACT}}} 5"),
            format!("tasks_submitted_total{{{ACT}}} 5"),
            series("tasks_total", "dead", 1),
            series("tasks_total", "failed", 2),
            series("tasks_total", "succeeded", 2),
        ]
    );
    assert_eq!(
        recorded.values("task_"),
        [
            format!("task_attempt_duration_seconds_count{{{ACT}}} 8"),
            series("task_attempts_total", "dead", 1),
            series("task_attempts_total", "failed", 2),
            series("task_attempts_total", "retried", 3),
            series("task_attempts_total", "succeeded", 2),
            "task_dead_letters_total{queue=\"main\",change=\"added\"} 1".to_owned(),
            format!("task_wait_duration_seconds_count{{{ACT}}} 5"),
        ]
    );
    let time = recorded.value(&format!("task_attempt_duration_seconds_sum{{{ACT}}}"));
    assert!((1.0..1.1).contains(&time), "{time}");
}

#[tokio::test(start_paused = true)]
async fn a_gauge_shows_running_tasks_until_they_are_cancelled_dropped_or_returned() {
    let recorded = RecordedHere::start();
    let running = || recorded.value(&format!("tasks_in_flight{{{ACT}}}"));
    let tasks = process(&Backend::memory(), run);
    let worker = tasks.work().unwrap();
    let submit = || async { tasks.queue("main").submit(act("is endless")).await.unwrap() };
    let cancelled = submit().await;
    submit().await;
    until(|| running() == 2.0).await;

    assert!(tasks.cancel(&cancelled).await.unwrap());
    until(|| running() == 1.0).await;
    assert_eq!(worker.drain(Duration::ZERO).await, 1);
    assert_eq!(running(), 0.0);

    // The next worker is dropped, and the one after that finds its attempt lost.
    let worker = tasks.work().unwrap();
    until(|| running() == 1.0).await;
    drop(worker);
    until(|| running() == 0.0).await;
    let _worker = tasks.work().unwrap();
    until(|| running() == 1.0).await;

    let attempts = recorded.values("task_attempts_total");
    let wanted = ["aborted", "cancelled", "lost", "returned"];
    assert_eq!(
        attempts,
        wanted.map(|outcome| format!("task_attempts_total{{{ACT},outcome=\"{outcome}\"}} 1"))
    );
    // An attempt that was returned did not start the task a second time.
    assert_eq!(
        recorded.value(&format!("tasks_started_total{{{ACT}}}")),
        2.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_while_it_waits_has_ended() {
    let recorded = RecordedHere::start();
    let client = client(&Backend::memory());
    let id = client.queue("main").submit(act("")).await.unwrap();
    assert!(client.cancel(&id).await.unwrap());
    assert!(!client.cancel(&id).await.unwrap());
    assert_eq!(
        recorded.values("tasks_"),
        [
            format!("tasks_submitted_total{{{ACT}}} 1"),
            format!("tasks_total{{{ACT},outcome=\"cancelled\"}} 1"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_repeated_submission_is_not_counted() {
    let recorded = RecordedHere::start();
    let client = client(&Backend::memory());
    for _ in 0..3 {
        let task = client.queue("main").submit(act("")).with_id("one");
        task.await.unwrap();
    }
    let submitted = recorded.values("tasks_submitted");
    assert_eq!(submitted, [format!("tasks_submitted_total{{{ACT}}} 1")]);
}

#[tokio::test]
async fn the_time_that_a_task_has_waited_is_recorded() {
    let recorded = RecordedHere::start();
    let tasks = process(&Backend::memory(), run);
    let waited = || recorded.value(&format!("task_wait_duration_seconds_sum{{{ACT}}}"));
    let id = tasks.queue("main").submit(act("")).await.unwrap();
    let created = tasks.status(&id).await.unwrap().created();
    // Without a worker, the task waits. Clocks of real time, because two machines share no other ones.
    let age = || {
        SystemTime::now()
            .duration_since(created)
            .unwrap_or_default()
    };
    test_support::eventually::until("the task is old", async || age().as_millis() >= 50).await;
    let _worker = tasks.work().unwrap();
    let _ = soon(tasks.output::<Act>(&id)).await;
    let first = waited();
    assert!(first >= 0.05, "{first}");

    // The delay of a task is no wait.
    let delay = Duration::from_secs(60 * 60);
    let delayed = tasks.queue("main").submit(act("")).delay(delay);
    let id = delayed.await.unwrap();
    tokio::time::pause();
    soon(tasks.output::<Act>(&id)).await.unwrap();
    assert_eq!(waited(), first);
}

#[tokio::test(start_paused = true)]
async fn changes_of_dead_letters_are_counted() {
    let recorded = RecordedHere::start();
    let tasks = process(&Backend::memory(), run);
    let _worker = tasks.work().unwrap();
    let queue = tasks.queue("main");
    output(&tasks, "conflicts").await;
    let id = queue.dead_letters().await.unwrap()[0].id().clone();
    queue.send_again(&id).await.unwrap();
    let _ = soon(tasks.output::<Act>(&id)).await;
    while queue.dead_letters().await.unwrap().is_empty() {
        sleep(SECOND).await;
    }
    queue.discard(&id).await.unwrap();
    let letters = |change: &str, count: u32| {
        format!("task_dead_letters_total{{queue=\"main\",change=\"{change}\"}} {count}")
    };
    assert_eq!(
        recorded.values("task_dead_letters"),
        [
            letters("added", 2),
            letters("discarded", 1),
            letters("sent_again", 1)
        ]
    );
    // A dead letter that is sent again starts again, without a submission.
    assert_eq!(
        recorded.value(&format!("tasks_submitted_total{{{ACT}}}")),
        1.0
    );
    assert_eq!(
        recorded.value(&format!("tasks_started_total{{{ACT}}}")),
        2.0
    );
}

#[tokio::test(start_paused = true)]
async fn dead_letters_without_room_in_the_list_are_counted() {
    let recorded = RecordedHere::start();
    let tasks = process(&Backend::memory(), run);
    let _worker = tasks.work().unwrap();
    // The list has 48 KiB.
    for number in 0..60 {
        let id = format!("{number}{}", "x".repeat(900));
        let submitted = tasks.queue("main").submit(act("conflicts"));
        let id = submitted.with_id(id).await.unwrap();
        let _ = soon(tasks.output::<Act>(&id)).await;
    }
    let dropped = "task_dead_letters_total{queue=\"main\",change=\"dropped\"}";
    until(|| recorded.value(dropped) >= 1.0).await;
}

#[tokio::test(start_paused = true)]
async fn an_envelope_that_no_version_can_read_is_a_dead_letter_of_an_unknown_type() {
    let recorded = RecordedHere::start();
    let backend = Backend::memory();
    let tasks = builder(&backend, run).lifetime(SECOND * 40).build();
    let envelope = Envelope::new("task/main", "id/submission", "?".into());
    backend.queue().enqueue(envelope).await.unwrap();
    let _worker = tasks.work().unwrap();
    let dead = "queue=\"main\",task=\"unknown\",outcome=\"dead\"";
    let dead = format!("tasks_total{{{dead}}}");
    until(|| recorded.value(&dead) == 1.0).await;
}

/// A task that a worker of another version does not know.
#[derive(serde::Serialize, serde::Deserialize)]
struct New;

impl Task for New {
    const NAME: &'static str = "new";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_registered_share_a_series() {
    let recorded = RecordedHere::start();
    let backend = Backend::memory();
    let queue = TaskQueueOptions::new("main").task::<New>();
    let newer = Tasks::builder(backend.clone()).queue(queue).build();
    newer.queue("main").submit(New).await.unwrap();
    let older = process(&backend, run);
    let _worker = older.work().unwrap();
    let retried = "queue=\"main\",task=\"unknown\",outcome=\"retried\"";
    let retried = format!("task_attempts_total{{{retried}}}");
    until(|| recorded.value(&retried) == 1.0).await;

    // Neither does a queue have a series whose name is not registered. A client may choose it.
    let _ = older.queue("sesame").submit(act("")).await;
    let _ = older.queue("sesame").submit(act("fails")).await;
    assert!(!recorded.handle.render().contains("sesame"));
    let in_place = |outcome: &str| format!("tasks_in_place_total{{outcome=\"{outcome}\"}} 1");
    assert_eq!(
        recorded.values("tasks_in_place"),
        [in_place("failed"), in_place("succeeded")]
    );
}

#[tokio::test(start_paused = true)]
async fn registered_names_have_zeros_before_the_first_task() {
    let recorded = RecordedHere::start();
    let _client = client(&Backend::memory());
    let text = recorded.handle.render();
    let zeros = text.lines().filter(|line| line.contains(ACT));
    let zeros: Vec<_> = zeros.filter(|line| line.ends_with(" 0")).collect();
    // Two counters, a gauge, four outcomes of tasks and eight of attempts.
    assert_eq!(zeros.len(), 15, "{text}");
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_backend_are_counted() {
    let recorded = RecordedHere::start();
    // No output has room in the store.
    let store = MemoryStore::builder().max_value_bytes(1000).build();
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    let tasks = process(&backend, async |_, _| Ok("x".repeat(2000)));
    let _worker = tasks.work().unwrap();
    output(&tasks, "").await;
    let failed = recorded.values("task_backend_errors");
    assert_eq!(failed, ["task_backend_errors_total{kind=\"call\"} 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_bus_and_a_schedule_that_cannot_be_kept_are_counted() {
    let recorded = RecordedHere::start();
    // No plan has room in the store.
    let store = MemoryStore::builder().max_value_bytes(1).build();
    let backend = Backend::new(store, Away, MemoryQueue::new());
    let schedule = Schedule::new("tick", "main", "* * * * *", |_| act(""));
    let tasks = builder(&backend, run).schedule(schedule.unwrap()).build();
    let _worker = tasks.work().unwrap();
    let mut watch = tasks.watch(&TaskId::new("unknown")).unwrap();
    let _ = tokio::time::timeout(SECOND, watch.changed()).await;
    let bus = "task_backend_errors_total{kind=\"bus\"}";
    until(|| recorded.value(bus) >= 1.0).await;
    let schedule = "schedule_errors_total{schedule=\"tick\"}";
    until(|| recorded.value(schedule) >= 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn due_times_are_counted_by_what_was_decided() {
    let recorded = RecordedHere::start();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_020);
    let began = Instant::now();
    let schedule = |name: &'static str, expression| {
        let schedule = Schedule::new(name, "main", expression, move |_| act(name)).unwrap();
        schedule.missed(Missed::Skip)
    };
    let broken = Schedule::new("broken", "main", "* * * * *", |_| -> Act {
        panic!("no tea")
    });
    let tasks = builder(&Backend::memory(), run)
        .clock(move || start + began.elapsed())
        .schedule(schedule("skips", "*/10 * * * *"))
        .schedule(schedule("is endless", "* * * * *"))
        .schedule(broken.unwrap())
        .build();
    let worker = tasks.work().unwrap();
    sleep(SECOND * 150).await;
    drop(worker);
    // Two due times of every ten minutes have passed, the last one two minutes ago.
    sleep(SECOND * 750).await;
    let _worker = tasks.work().unwrap();
    sleep(SECOND).await;
    let due = |schedule: &str, outcome: &str| {
        recorded.value(&format!(
            "schedule_due_times_total{{schedule=\"{schedule}\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!(due("skips", "missed"), 1.0, "{}", recorded.handle.render());
    assert_eq!(due("skips", "run"), 0.0);
    assert!(due("is endless", "overlapping") >= 2.0);
    assert_eq!(due("is endless", "run"), 1.0);
    assert!(due("broken", "failed") >= 2.0);
    assert_eq!(due("broken", "run"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn states_of_tasks_and_outcomes_have_the_same_names() {
    let recorded = RecordedHere::start();
    let _client = client(&Backend::memory());
    for state in [
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Dead,
    ] {
        let series = format!("tasks_total{{{ACT},outcome=\"{state}\"}}");
        assert!(recorded.handle.render().contains(&series), "{series}");
    }
}

#[test]
fn the_documentation_has_all_metrics_with_their_kinds_and_labels() {
    let code = include_str!("../../src/metrics.rs");
    test_support::described::assert_is_documented(code, tower_promises_tasks::metrics::describe);
}
