//! What happens at the same time: due times, settlements, suspensions, and clocks that differ.

use crate::process::{Diary, Process, layer};
use axum::Router;
use axum::extract::Request;
use std::time::Duration;
use test_support::operation::SECOND;
use tokio::time::{Instant, sleep};
use tower_promises::Promises;
use tower_promises::backend::Backend;
use tower_promises_operations::durable::{DurableRun, Settlement, Settling};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The id in the path of an operation.
fn id(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// The moment between the end of a wait and the next pass, on a machine that is slow: the request is not suspended
/// until the other promise settles, as if the first one had not.
#[tokio::test(start_paused = true)]
async fn a_request_is_not_suspended_between_a_due_time_and_the_next_pass() {
    let inner = Router::new().fallback(async |request: Request| {
        let run = request.extensions().get::<DurableRun>().unwrap().clone();
        let waits = async {
            tokio::select! {
                _ = run.sleep("moment", SECOND / 2) => {}
                _ = run.outside::<()>("never", None) => {}
            }
            "done"
        };
        let rests = async {
            sleep(SECOND / 10).await;
            run.rest(2);
            sleep(SECOND).await;
            run.work();
        };
        tokio::join!(waits, rests).0
    });
    let process = Process::serving(layer(&Backend::memory()).wait(2 * SECOND), inner);
    let answer = process.ask("POST /").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "done"));
}

/// A due time that has come for one run has come for all, also on a machine whose clock is behind.
#[tokio::test(start_paused = true)]
async fn a_sleep_that_was_read_stays_over() {
    let (diary, backend) = (Diary::default(), Backend::memory());
    let handler = |hangs: bool| {
        let diary = diary.clone();
        move |promises: &Promises| {
            if let Err(error) = promises.sleep("deadline", DAY) {
                promises.outside::<()>("approval")?;
                return Err(error);
            }
            let noted = diary.clone();
            promises.durable("cancel", async move || {
                noted.note("cancel");
                if hangs {
                    std::future::pending::<()>().await;
                }
            })?;
            Ok("cancelled".to_owned())
        }
    };
    let mut one = Process::start(layer(&backend), handler(false));
    let path = one.begin("POST /").await;
    one.suspended(&path).await;
    one.kill().await;
    let clock = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let ahead = clock() + 2 * 24 * 60 * 60 * 1000;
    let mut ahead = Process::start(layer(&backend).clock(move || ahead), handler(true));
    assert!(ahead.operations.resume(id(&path)).await.unwrap());
    while diary.count("cancel") == 0 {
        sleep(SECOND / 10).await;
    }
    ahead.kill().await;
    let behind = Process::start(layer(&backend), handler(false));
    assert_eq!(behind.result(&path).await.1, "cancelled");
}

#[tokio::test(start_paused = true)]
async fn the_application_ends_a_sleep() {
    let diary = Diary::default();
    let noted = diary.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        noted.note("pass");
        promises.sleep("night", DAY)?;
        Ok("good morning".to_owned())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let began = Instant::now();
    let settlement = Settlement::value(&"an alarm").unwrap();
    let settled = process.operations.settle(id(&path), "night", &settlement);
    assert_eq!(settled.await.unwrap(), Settling::Settled);
    sleep(10 * SECOND).await;
    assert!(diary.count("pass") < 5, "{}", diary.count("pass"));
    assert_eq!(process.result(&path).await.1, "good morning");
    assert!(began.elapsed() < 30 * SECOND);
}
