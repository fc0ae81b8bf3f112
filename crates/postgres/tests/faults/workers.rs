//! Worker processes are killed while they handle envelopes.

use crate::load::{self, builder};
use std::time::Duration;
use test_support::child::{ChildProcess, end_with_parent};
use test_support::postgres::shared;
use tokio::time::sleep;

/// The environment variable of the worker processes.
const ADDRESS: &str = "TEST_WORKER_DATABASE";

const WORKERS: usize = 3;

fn worker(url: &str) -> ChildProcess {
    ChildProcess::start("workers::the_worker", [(ADDRESS, url)], "it works").0
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_worker() {
    let url = std::env::var(ADDRESS).expect("other tests start this one with a database");
    end_with_parent();
    let database = builder().connect(&url).await.unwrap();
    let worker = load::work(database.backend());
    println!("it works");
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_killed_lose_nothing() {
    let url = shared().await.database().await;
    let database = builder().connect(&url).await.unwrap();
    let enqueued = tokio::spawn(async move { load::enqueue(&database.backend()).await });
    let mut workers: Vec<_> = (0..WORKERS).map(|_| worker(&url)).collect();
    let mut kills = 0;
    while load::ended(&url).await < load::ENVELOPES {
        // Not a multiple of the lease, so that kills meet all stages.
        sleep(Duration::from_millis(130)).await;
        drop(workers.remove(kills % WORKERS));
        workers.insert(kills % WORKERS, worker(&url));
        kills += 1;
    }
    assert_eq!(enqueued.await.unwrap(), 0, "nothing else fails");
    load::all_have_ended(&url).await;
    println!("{kills} workers killed");
    assert!(kills > 0);
}
