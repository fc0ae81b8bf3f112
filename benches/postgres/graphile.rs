//! The same work with `graphile_worker`.

use crate::{AT_ONCE, Clock, Counter, HANDLERS, Rate, jobs, per_second};
use futures_util::{StreamExt, stream};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext,
    WorkerOptions,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::postgres::Server;

#[derive(Clone, Serialize, Deserialize)]
struct Nothing {}

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = "nothing";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(counter) = context.get_ext::<Counter>() {
            counter.add();
        }
        Ok::<(), String>(())
    }
}

async fn worker(url: &str, counter: Counter, in_batches: bool) -> Arc<Worker> {
    let mut options = WorkerOptions::default()
        .database_url(url)
        .max_pg_conn(10)
        .concurrency(HANDLERS)
        .listen_os_shutdown_signals(false)
        .add_extension(counter)
        .define_job::<Nothing>();
    if in_batches {
        options = options
            .local_queue(LocalQueueConfig::default())
            .complete_job_batch_delay(Duration::from_millis(1));
    }
    Arc::new(options.init().await.unwrap())
}

async fn enqueue(worker: &Worker) {
    let utils = worker.create_utils();
    stream::iter(0..jobs())
        .for_each_concurrent(AT_ONCE, async |_| {
            let added = utils.add_job(Nothing {}, JobSpec::default()).await;
            added.unwrap();
        })
        .await;
}

/// The jobs a second with a number of workers.
pub(crate) async fn work(server: &Server, workers: usize, in_batches: bool) -> Rate {
    let url = &*server.database().await;
    let counter = Counter::default();
    let utils = worker(url, counter.clone(), in_batches)
        .await
        .create_utils();
    let spec = JobSpec::default();
    let added = utils.add_jobs(&vec![(Nothing {}, &spec); jobs()]).await;
    added.unwrap();
    let mut all = Vec::new();
    for _ in 0..workers {
        all.push(worker(url, counter.clone(), in_batches).await);
    }
    let clock = Clock::start(server, url, counter).await;
    let running: Vec<_> = all
        .into_iter()
        .map(|worker| {
            let task = tokio::spawn({
                let worker = worker.clone();
                async move {
                    if in_batches {
                        worker.run().await
                    } else {
                        // `run` takes jobs that have waited at its poll interval only.
                        worker.run_once().await
                    }
                }
            });
            (worker, task)
        })
        .collect();
    let has_jobs = "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)";
    let rate = clock.ends(has_jobs).await;
    for (worker, task) in running {
        worker.request_shutdown();
        let _ = task.await;
    }
    rate
}

/// The calls a second to enqueue, while a worker waits for other jobs.
pub(crate) async fn enqueues(url: &str) -> f64 {
    let worker = worker(url, Counter::default(), false).await;
    let start = Instant::now();
    enqueue(&worker).await;
    per_second(jobs(), start)
}

/// The output of a future during which a worker waits.
pub(crate) async fn while_idle<T>(url: &str, future: impl Future<Output = T>) -> T {
    let worker = worker(url, Counter::default(), false).await;
    let task = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });
    let output = future.await;
    worker.request_shutdown();
    let _ = task.await;
    output
}
