//! Worker processes are killed while they handle envelopes.

use crate::load::{self, builder};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use test_support::eventually::line_after;
use test_support::postgres::shared;
use tokio::time::sleep;

/// The environment variable of the worker processes.
const ADDRESS: &str = "TEST_WORKER_DATABASE";

const WORKERS: usize = 3;

/// A worker process. It is killed on drop.
struct Worker(Child);

impl Worker {
    fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::the_worker", "--ignored", "--nocapture"])
            .env(ADDRESS, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let worker = Self(child);
        line_after("it works", output);
        worker
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_worker() {
    let url = std::env::var(ADDRESS).expect("other tests start this one with a database");
    // Ends when the process that started it ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
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
    let mut workers: Vec<_> = (0..WORKERS).map(|_| Worker::start(&url)).collect();
    let mut kills = 0;
    while load::ended(&url).await < load::ENVELOPES {
        // Not a multiple of the lease, so that kills meet all stages.
        sleep(Duration::from_millis(130)).await;
        drop(workers.remove(kills % WORKERS));
        workers.insert(kills % WORKERS, Worker::start(&url));
        kills += 1;
    }
    assert_eq!(enqueued.await.unwrap(), 0, "nothing else fails");
    load::all_have_ended(&url).await;
    println!("{kills} workers killed");
    assert!(kills > 0);
}
