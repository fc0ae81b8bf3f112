//! What other processes make of a process that has died at any call of its backend.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use test_support::mortal::at_each_call;
use test_support::task::{SECOND, act, builder};
use tokio::time::{Instant, sleep, timeout};
use tower_promises_backend::Backend;
use tower_promises_tasks::{Schedule, TaskContext, TaskId, TaskState, Tasks};

/// The tasks that have run, with the ends that they were called on.
type Calls = Arc<Mutex<Vec<(String, Option<(TaskId, TaskState)>)>>>;

fn process(backend: &Backend, calls: &Calls) -> Tasks {
    let calls = calls.clone();
    let script = move |name: String, context: TaskContext| {
        let calls = calls.clone();
        async move {
            let ended = context.ended();
            let ended = ended.map(|ended| (ended.id().clone(), ended.state()));
            calls.lock().unwrap().push((name.clone(), ended));
            match &*name {
                "fails" => Err("it fails".into()),
                _ => Ok(name),
            }
        }
    };
    builder(backend, script).build()
}

#[tokio::test(start_paused = true)]
async fn a_task_is_called_on_an_end_wherever_the_process_dies() {
    for (name, state) in [
        ("works", TaskState::Succeeded),
        ("fails", TaskState::Failed),
    ] {
        at_each_call(async |mortal| {
            let (calls, backend) = (Calls::default(), mortal.survivor());
            let client = process(&backend, &calls);
            let submit = client.queue("main").submit(act(name)).with_id("first");
            submit.on_end("main", act("told")).await.unwrap();
            let worker = process(&mortal.backend(), &calls).work().unwrap();
            let _ = timeout(SECOND * 100, mortal.died.notified()).await;
            drop(worker);
            let _worker = client.work().unwrap();
            sleep(SECOND * 100).await;
            let status = client.status(&"first".into()).await.unwrap();
            assert_eq!(status.state(), state);
            let calls = calls.lock().unwrap();
            let told: Vec<_> = calls.iter().filter(|(name, _)| name == "told").collect();
            assert!(!told.is_empty());
            for (_, ended) in told {
                assert_eq!(*ended, Some((TaskId::from("first"), state)));
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_due_time_runs_wherever_the_process_dies() {
    at_each_call(async |mortal| {
        let start = Instant::now();
        let clock = move || SystemTime::UNIX_EPOCH + SECOND * 3_000_030 + start.elapsed();
        let calls = Calls::default();
        let process = |backend: &Backend| {
            let calls = calls.clone();
            let hourly = Schedule::new("tick", "main", "0 * * * *", |due| {
                let due = due.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                act(due.as_secs().to_string())
            });
            let script = move |due: String, _| {
                calls.lock().unwrap().push((due.clone(), None));
                async { Ok(due) }
            };
            builder(backend, script)
                .clock(clock)
                .schedule(hourly.unwrap())
                .build()
        };
        let worker = process(&mortal.backend()).work().unwrap();
        let _ = timeout(SECOND * 5_000, mortal.died.notified()).await;
        drop(worker);
        let next = process(&mortal.survivor());
        let _worker = next.work().unwrap();
        sleep(SECOND * 7_200).await;
        // A run whose process has died begins again. No due time is without a run.
        let calls = calls.lock().unwrap();
        let mut due: Vec<u64> = calls.iter().map(|(due, _)| due.parse().unwrap()).collect();
        due.sort_unstable();
        due.dedup();
        assert!(due.len() >= 2);
        for pair in due.windows(2) {
            assert_eq!(pair[1] - pair[0], 3600);
        }
    })
    .await;
}
