//! The rules of tasks: place, time, principal, attempts and errors.

use futures_util::future::lazy;
use serde::{Deserialize, Serialize, Serializer};
use std::sync::{Arc, Mutex};
use test_support::task::{Around, Broken, SECOND, act, builder, chain, client, process};
use test_support::{Counter, Log, soon, until};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, TaskState, Tasks,
    is_task,
};

#[tokio::test(start_paused = true)]
async fn a_submitted_task_does_not_run_in_the_caller() {
    let backend = Backend::memory();
    let client = client(&backend);
    let id = client.queue("main").submit(act("x")).await.unwrap();
    assert_eq!(client.status(&id).await.unwrap().state(), TaskState::Queued);

    let process = process(&backend, async |argument, _| Ok(argument + "!"));
    let _worker = process.work().unwrap();
    let output = soon(client.output::<test_support::task::Act>(&id)).await;
    assert_eq!(output.unwrap(), "x!");
    let status = client.status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.attempt()),
        (TaskState::Succeeded, 1)
    );
    assert_eq!((status.queue(), status.task()), ("main", "act"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_submitted_before_the_future_is_polled() {
    let backend = Backend::memory();
    let client = client(&backend);
    let submit = client.queue("main").submit(act("x"));
    let id = submit.id().clone();
    let error = client.status(&id).await.unwrap_err();
    assert!(matches!(error, TaskError::NotFound { .. }), "{error:?}");
    assert_eq!(submit.await.unwrap(), id);
    client.status(&id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_as_the_principal_that_submits_it() {
    let backend = Backend::memory();
    let process = process(&backend, async |_, context| {
        let current = Principal::current();
        assert_eq!(context.principal(), current.as_ref());
        // Also in awaited code, and after a suspension.
        tokio::task::yield_now().await;
        assert_eq!(current, Principal::current());
        Ok(current.map_or("nobody".into(), Into::into))
    });
    let _worker = process.work().unwrap();
    let queue = client(&backend).queue("main");

    let ada = Principal::new("ada");
    // The caller's principal counts, not the principal of the code that awaits.
    let call = ada.clone().scope(lazy(|_| queue.call(act("")))).await;
    assert_eq!(soon(call).await.unwrap(), "ada");
    let call = queue.call(act(""));
    assert_eq!(soon(ada.scope(call)).await.unwrap(), "nobody");
}

#[tokio::test(start_paused = true)]
async fn is_task_is_true_in_a_task_and_nowhere_else() {
    assert!(!is_task());
    let backend = Backend::memory();
    let process = process(&backend, async |_, context| {
        let here = is_task() && TaskContext::current().unwrap().id() == context.id();
        let elsewhere = tokio::spawn(async { is_task() }).await.unwrap();
        Ok(format!("{here} {elsewhere} {}", is_task()))
    });
    let _worker = process.work().unwrap();
    let call = process.queue("main").call(act(""));
    assert_eq!(soon(call).await.unwrap(), "true false true");
    assert!(!is_task() && TaskContext::current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_runs_in_place() {
    let backend = Backend::memory();
    // One slot, so a nested task that waited for a worker would wait forever.
    let queue = TaskQueueOptions::new("main")
        .task::<test_support::task::Act>()
        .concurrency(1);
    let process = builder(&backend, async |argument, context| {
        let queue = context.tasks().queue("main");
        let principal = || Principal::current().map(String::from).unwrap_or_default();
        match &*argument {
            "outer" => {
                let outer = tokio::task::id();
                let inner = queue.call(act("inner")).await?;
                assert_eq!(inner, format!("{outer} {}", principal()));
                let id = queue.submit(act("inner")).delay(SECOND * 60).await?;
                // The nested task has ended by now.
                Ok(context
                    .tasks()
                    .output::<test_support::task::Act>(&id)
                    .await?)
            }
            _ => {
                assert!(is_task());
                assert_ne!(TaskContext::current().unwrap().id().as_str(), "outer");
                Ok(format!("{} {}", tokio::task::id(), principal()))
            }
        }
    });
    let process = process.queue(queue).build();
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let ada = Principal::new("ada");
    let call = ada
        .scope(lazy(|_| queue.call(act("outer")).with_id("outer")))
        .await;
    let start = Instant::now();
    assert!(soon(call).await.unwrap().ends_with(" ada"));
    assert!(
        start.elapsed() < SECOND,
        "a task that runs in place is not delayed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_nested_task_is_an_error_of_the_outer_task() {
    let backend = Backend::memory();
    let attempts = Counter::default();
    let count = attempts.clone();
    let process = process(&backend, move |argument, context| {
        let attempts = count.clone();
        async move {
            match &*argument {
                "inner" => Err(TaskFailure::conflict(Broken)),
                "panic" => panic!("out of order"),
                "panics" => Ok(context.tasks().queue("main").call(act("panic")).await?),
                _ => {
                    attempts.add();
                    Ok(context.tasks().queue("main").call(act("inner")).await?)
                }
            }
        }
    });
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let error = soon(queue.call(act("outer"))).await.unwrap_err();
    assert!(
        chain(&error).ends_with(": it is broken"),
        "{}",
        chain(&error)
    );
    assert_eq!(
        attempts.get(),
        3,
        "a conflict of the nested task is a conflict of the outer task"
    );

    let error = soon(queue.call(act("panics"))).await.unwrap_err();
    assert!(matches!(error, TaskError::Failed { .. }));
    assert!(chain(&error).ends_with(": the task panicked: out of order"));
}

#[tokio::test(start_paused = true)]
async fn a_task_of_an_unknown_service_runs_at_once_with_a_warning() {
    let log = Log::start();
    let backend = Backend::memory();
    let process = process(&backend, async |argument, _| {
        assert!(is_task());
        match &*argument {
            "bad" => Err(TaskFailure::conflict(Broken)),
            _ => Ok(format!("{argument} {}", Principal::current().unwrap())),
        }
    });
    let queue = process.queue("nowhere");
    let as_ada = |task| Principal::new("ada").scope(async { queue.call(task).await });
    assert_eq!(as_ada(act("x")).await.unwrap(), "x ada");
    let warning = log.text();
    let warning = warning.lines().find(|line| line.contains("WARN")).unwrap();
    for part in ["no queue of this name", "queue=\"nowhere\"", "task=\"act\""] {
        assert!(warning.contains(part), "{warning}");
    }

    let id = Principal::new("ada").scope(async { queue.submit(act("y")).await });
    let id = id.await.unwrap();
    assert_eq!(
        process.status(&id).await.unwrap().state(),
        TaskState::Succeeded
    );
    assert_eq!(
        process
            .output::<test_support::task::Act>(&id)
            .await
            .unwrap(),
        "y ada"
    );

    let error = queue.submit(act("bad")).with_id("bad").await.unwrap_err();
    assert!(error.is_conflict() && chain(&error).ends_with(": it is broken"));
    let status = process.status(&"bad".into()).await.unwrap();
    assert_eq!(status.state(), TaskState::Failed);
    assert!(matches!(queue.work(), Err(TaskError::UnknownQueue { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_task_with_conflicts_is_dead_after_three_attempts() {
    let log = Log::start();
    let backend = Backend::memory();
    let begun = Arc::new(Mutex::new(Vec::new()));
    let times = begun.clone();
    let process = process(&backend, move |_, context| {
        times
            .lock()
            .unwrap()
            .push((context.attempt(), Instant::now()));
        async { Err(TaskFailure::conflict(Broken)) }
    });
    let _worker = process.work().unwrap();
    let error = soon(process.queue("main").call(act(""))).await.unwrap_err();
    let TaskError::Dead {
        id, attempts: 3, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        chain(&error),
        format!("task `act` was given up after 3 attempts (id `{id}`): it is broken")
    );

    let begun = begun.lock().unwrap().clone();
    let numbers: Vec<_> = begun.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    // Up to 2^n seconds, plus up to one second of the queue.
    assert!(begun[1].1 - begun[0].1 <= SECOND * 3);
    assert!(begun[2].1 - begun[1].1 <= SECOND * 5);
    assert_eq!(process.status(id).await.unwrap().state(), TaskState::Dead);
    assert!(log.text().contains("dead letter"));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_does_not_repeat_is_no_error() {
    let backend = Backend::memory();
    let process = process(&backend, async |_, context| match context.attempt() {
        1 | 2 => Err(TaskFailure::conflict(Broken)),
        attempt => Ok(attempt.to_string()),
    });
    let _worker = process.work().unwrap();
    let call = process.queue("main").call(act(""));
    let id = call.id().clone();
    assert_eq!(soon(call).await.unwrap(), "3");
    let status = process.status(&id).await.unwrap();
    assert_eq!((status.attempt(), status.error()), (3, None));
}

#[tokio::test(start_paused = true)]
async fn pauses_after_conflicts_differ() {
    let backend = Backend::memory();
    let pauses = Arc::new(Mutex::new(Vec::new()));
    let process = process(&backend, {
        let pauses = pauses.clone();
        move |_, context| {
            let pauses = pauses.clone();
            async move {
                if context.attempt() == 1 {
                    return Err(TaskFailure::conflict(Broken));
                }
                pauses.lock().unwrap().push(Instant::now());
                Ok(String::new())
            }
        }
    });
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    for _ in 0..20 {
        let start = Instant::now();
        soon(queue.call(act(""))).await.unwrap();
        assert!(start.elapsed() <= SECOND * 4);
    }
    let pauses = pauses.lock().unwrap();
    let between: Vec<_> = pauses.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        between.iter().any(|pause| *pause != between[0]),
        "{between:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn another_error_ends_the_task_and_is_logged() {
    let log = Log::start();
    let backend = Backend::memory();
    let attempts = Counter::default();
    let count = attempts.clone();
    let process = process(&backend, move |argument, _| {
        count.add();
        async move {
            if argument == "panic" {
                panic!("out of order");
            }
            Err(Broken.into())
        }
    });
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let error = soon(queue.call(act(""))).await.unwrap_err();
    let TaskError::Failed {
        id,
        is_conflict: false,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        chain(&error),
        format!("task `act` failed (id `{id}`): it is broken")
    );
    let logged = log.text();
    let logged = logged.lines().find(|line| line.contains("ERROR")).unwrap();
    for part in ["task failed", "act", "main", "it is broken", id.as_str()] {
        assert!(logged.contains(part), "{logged}");
    }

    let error = soon(queue.call(act("panic"))).await.unwrap_err();
    assert!(chain(&error).ends_with(": the task panicked: out of order"));
    assert!(
        soon(queue.call(act(""))).await.is_err(),
        "the worker goes on"
    );
    tokio::time::advance(SECOND * 1000).await;
    assert_eq!(attempts.get(), 3);
    assert!(queue.dead_letters().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_application_can_define_conflicts() {
    let backend = Backend::memory();
    let process = builder(&backend, async |_, _| Err(Around(Broken).into()));
    // The function is also called with sources.
    let process = process.is_conflict(|error| error.is::<Broken>()).build();
    let _worker = process.work().unwrap();
    let error = soon(process.queue("main").call(act(""))).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
}

struct Secret;

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("secrets do not travel"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

impl Task for Secret {
    const NAME: &'static str = "secret";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        panic!("this task does not run");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_cannot_be_serialised_fails_when_it_is_submitted() {
    let backend = Backend::memory();
    let tasks = Tasks::builder(backend)
        .queue(TaskQueueOptions::new("main").task::<Secret>())
        .build();
    let _worker = tasks.work().unwrap();
    for queue in ["main", "nowhere"] {
        let queue = tasks.queue(queue);
        let submit = queue.submit(Secret);
        let id = submit.id().clone();
        let error = submit.await.unwrap_err();
        assert_eq!(
            chain(&error),
            "task `secret` cannot be serialised: secrets do not travel"
        );
        assert!(matches!(
            tasks.status(&id).await,
            Err(TaskError::NotFound { .. })
        ));
        assert!(matches!(
            queue.call(Secret).await,
            Err(TaskError::Serialize { .. })
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_too_large_or_unknown_fails_when_it_is_submitted() {
    let backend = Backend::memory();
    let process = builder(&backend, async |_, _| Ok(String::new()));
    let process = process.max_task_bytes(10).build();
    let error = process
        .queue("main")
        .submit(act("123456789"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "task `act` has 11 bytes, more than the 10 that are allowed"
    );
    let error = process.queue("main").submit(Secret).await.unwrap_err();
    assert!(matches!(error, TaskError::Serialize { .. }));

    let other = Tasks::builder(backend)
        .queue(TaskQueueOptions::new("main"))
        .build();
    let error = other.queue("main").submit(act("")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "task queue `main` does not know tasks `act`"
    );
}

#[tokio::test(start_paused = true)]
async fn services_have_their_own_concurrency() {
    let backend = Backend::memory();
    let gate = Arc::new(Semaphore::new(0));
    let running = Counter::default();
    let process = builder(&backend, {
        let (gate, running) = (gate.clone(), running.clone());
        move |argument, _| {
            let (gate, running) = (gate.clone(), running.clone());
            async move {
                running.add();
                gate.acquire().await.unwrap().forget();
                Ok(argument)
            }
        }
    });
    let queue = |name| TaskQueueOptions::new(name).task::<test_support::task::Act>();
    let process = process
        .queue(queue("main").concurrency(2))
        .queue(queue("other").concurrency(3))
        .build();
    let _worker = process.work().unwrap();
    for name in ["main", "other"] {
        for _ in 0..5 {
            process.queue(name).submit(act("")).await.unwrap();
        }
    }
    until("five run", || running.get() == 5).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.get(), 5);
    gate.add_permits(10);
    until("all run", || running.get() == 10).await;
}
