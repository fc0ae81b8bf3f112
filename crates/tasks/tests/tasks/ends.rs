//! Tasks that are called on the end of another task.

use std::sync::{Arc, Mutex};
use test_support::task::{Act, SECOND, act, builder};
use test_support::until;
use tokio::time::sleep;
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    Principal, TaskContext, TaskError, TaskFailure, TaskQueueOptions, TaskState, Tasks,
};

/// The ends that the task `told` has seen: id, queue, type, state, principal.
type Ends = Arc<Mutex<Vec<(String, String, String, TaskState, Option<String>)>>>;

fn process(backend: &Backend, ends: &Ends) -> Tasks {
    let ends = ends.clone();
    let script = move |name: String, context: TaskContext| {
        let ends = ends.clone();
        async move {
            match &*name {
                "fails" => Err("it fails".into()),
                "conflicts" => Err(TaskFailure::conflict("it conflicts")),
                "sleeps" => {
                    sleep(SECOND * 60).await;
                    Ok(name)
                }
                "told" => {
                    let ended = context.ended().ok_or("no task has ended")?;
                    let principal = context.principal().map(ToString::to_string);
                    let (id, queue, task) = (ended.id().to_string(), ended.queue(), ended.task());
                    let end = (id, queue.into(), task.into(), ended.state(), principal);
                    ends.lock().unwrap().push(end);
                    Ok(name)
                }
                _ => {
                    assert!(context.ended().is_none());
                    Ok(name)
                }
            }
        }
    };
    builder(backend, script)
        .queue(TaskQueueOptions::new("others").task::<Act>())
        .build()
}

#[tokio::test(start_paused = true)]
async fn a_task_is_called_once_on_each_kind_of_end() {
    for (name, state) in [
        ("works", TaskState::Succeeded),
        ("fails", TaskState::Failed),
        ("conflicts", TaskState::Dead),
    ] {
        let (ends, backend) = (Ends::default(), Backend::memory());
        let tasks = process(&backend, &ends);
        let _worker = tasks.work().unwrap();
        let queue = tasks.queue("main");
        let submit = async { queue.submit(act(name)).on_end("others", act("told")).await };
        let id = Principal::new("ada").scope(submit).await.unwrap();
        sleep(SECOND * 600).await;
        let expected = (
            id.to_string(),
            "main".into(),
            "act".into(),
            state,
            Some("ada".into()),
        );
        assert_eq!(
            ends.lock().unwrap().as_slice(),
            std::slice::from_ref(&expected)
        );
        if state == TaskState::Dead {
            // A dead letter that is sent again ends again.
            queue.send_again(&id).await.unwrap();
            sleep(SECOND * 600).await;
            assert_eq!(*ends.lock().unwrap(), [expected.clone(), expected]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_called_on_a_cancel() {
    let (ends, backend) = (Ends::default(), Backend::memory());
    let tasks = process(&backend, &ends);
    let queue = tasks.queue("main");
    let submit = |name| queue.submit(act(name)).on_end("others", act("told"));
    let waiting = submit("waits").await.unwrap();
    assert!(tasks.cancel(&waiting).await.unwrap());
    let _worker = tasks.work().unwrap();
    until("the end is told", || ends.lock().unwrap().len() == 1).await;
    let running = submit("sleeps").await.unwrap();
    sleep(SECOND).await;
    assert!(tasks.cancel(&running).await.unwrap());
    until("the end is told", || ends.lock().unwrap().len() == 2).await;
    let ends = ends.lock().unwrap();
    let ends: Vec<_> = ends.iter().map(|end| (&*end.0, end.3)).collect();
    let cancelled = TaskState::Cancelled;
    assert_eq!(
        ends,
        [(waiting.as_str(), cancelled), (running.as_str(), cancelled)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_called_task_and_a_task_in_place_have_ends_too() {
    let (ends, backend) = (Ends::default(), Backend::memory());
    let tasks = process(&backend, &ends);
    let _worker = tasks.work().unwrap();
    let call = tasks.queue("main").call(act("works"));
    call.on_end("others", act("told")).await.unwrap();
    until("the end is told", || ends.lock().unwrap().len() == 1).await;
    // The queue does not exist, so the task runs here.
    let submit = tasks.queue("unknown").submit(act("fails"));
    submit.on_end("others", act("told")).await.unwrap_err();
    until("the end is told", || ends.lock().unwrap().len() == 2).await;
    assert_eq!(ends.lock().unwrap()[1].3, TaskState::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_made_is_refused_at_once() {
    let backend = Backend::memory();
    let tasks = process(&backend, &Ends::default());
    let submit = |queue: &'static str, name: String| {
        let submit = tasks.queue("main").submit(act("works".repeat(5_000)));
        submit.on_end(queue, act(name))
    };
    let error = submit("unknown", "told".into()).await.unwrap_err();
    assert!(matches!(error, TaskError::UnknownQueue { .. }), "{error}");
    let error = submit("others", "x".repeat(30_000)).await.unwrap_err();
    assert!(matches!(error, TaskError::TooLarge { .. }), "{error}");
    submit("others", "x".repeat(20_000)).await.unwrap();
}
