//! What a submission does under an id that is in use.

use std::time::Duration;
use test_support::mortal::Mortal;
use test_support::task::{Act, SECOND, act, process};
use test_support::{Notes, soon};
use tokio::time::Instant;
use tower_promises_backend::Backend;
use tower_promises_tasks::{Principal, TaskError, Tasks, Unique};

fn noting(backend: &Backend, notes: &Notes) -> Tasks {
    let notes = notes.clone();
    process(backend, move |argument, _| {
        notes.push(argument.clone());
        async { Ok(argument) }
    })
}

async fn submit(tasks: &Tasks, argument: &str, unique: Unique) -> Result<(), TaskError> {
    let submit = tasks.queue("main").submit(act(argument)).with_id("id");
    submit.unique(unique).await.map(drop)
}

async fn output(tasks: &Tasks) -> String {
    soon(tasks.output::<Act>(&"id".into())).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn other_arguments_are_refused_by_default() {
    let tasks = noting(&Backend::memory(), &Notes::default());
    submit(&tasks, "first", Unique::Same).await.unwrap();
    submit(&tasks, "first", Unique::default()).await.unwrap();
    let error = submit(&tasks, "second", Unique::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, TaskError::OtherArguments { .. }),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_task_is_kept() {
    let notes = Notes::default();
    let tasks = noting(&Backend::memory(), &notes);
    for argument in ["first", "second"] {
        submit(&tasks, argument, Unique::KeepFirst).await.unwrap();
    }
    let _worker = tasks.work().unwrap();
    assert_eq!(output(&tasks).await, "first");
    submit(&tasks, "third", Unique::KeepFirst).await.unwrap();
    assert_eq!(output(&tasks).await, "first");
    assert_eq!(notes.all(), ["first"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_replaced_while_it_waits() {
    let notes = Notes::default();
    let tasks = noting(&Backend::memory(), &notes);
    for argument in ["first", "second", "third"] {
        submit(&tasks, argument, Unique::Replace).await.unwrap();
    }
    let waiting = tokio::spawn({
        let tasks = tasks.clone();
        async move { output(&tasks).await }
    });
    let _worker = tasks.work().unwrap();
    assert_eq!(waiting.await.unwrap(), "third");
    submit(&tasks, "third", Unique::Replace).await.unwrap();
    let error = submit(&tasks, "fourth", Unique::Replace).await.unwrap_err();
    assert!(
        matches!(error, TaskError::OtherArguments { .. }),
        "{error:?}"
    );
    assert_eq!(notes.all(), ["third"]);
}

/// A task runs once, after the last of many changes.
#[tokio::test(start_paused = true)]
async fn a_delay_starts_again_with_each_replacement() {
    let notes = Notes::default();
    let tasks = noting(&Backend::memory(), &notes);
    let _worker = tasks.work().unwrap();
    let start = Instant::now();
    for number in 0..5 {
        let submit = tasks.queue("main").submit(act(number.to_string()));
        let submit = submit.with_id("id").unique(Unique::Replace);
        submit.delay(SECOND * 10).await.unwrap();
        tokio::time::sleep(SECOND * 4).await;
    }
    assert_eq!(output(&tasks).await, "4");
    assert_eq!(notes.all(), ["4"]);
    let elapsed = start.elapsed();
    assert!((SECOND * 26..SECOND * 28).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_id_of_another_principal_is_never_kept_or_replaced() {
    for unique in [Unique::Same, Unique::KeepFirst, Unique::Replace] {
        let tasks = noting(&Backend::memory(), &Notes::default());
        submit(&tasks, "x", unique).await.unwrap();
        let queue = tasks.queue("main");
        let submit = async { queue.submit(act("x")).with_id("id").unique(unique).await };
        let error = Principal::new("ada").scope(submit).await.unwrap_err();
        assert!(matches!(error, TaskError::IdInUse { .. }), "{error:?}");
    }
}

/// A process ends before or after each of its calls while it replaces a task. An acknowledged task is not lost: either
/// it or its replacement runs.
#[tokio::test(start_paused = true)]
async fn a_replacement_may_be_interrupted_at_any_call() {
    for unique in [Unique::KeepFirst, Unique::Replace] {
        for calls in 1..20 {
            for has_effect in [false, true] {
                let life = Mortal::new(calls, has_effect);
                let notes = Notes::default();
                let immortal = noting(&life.survivor(), &notes);
                let mortal = noting(&life.backend(), &notes);
                submit(&immortal, "first", unique).await.unwrap();
                tokio::select! {
                    result = submit(&mortal, "second", unique) => result.unwrap(),
                    () = life.died.notified() => {}
                }
                let _worker = immortal.work().unwrap();
                let output = tokio::time::timeout(Duration::from_secs(3600), output(&immortal));
                let output = output.await.expect("the task runs");
                assert_eq!(notes.all(), [output]);
            }
        }
    }
}
