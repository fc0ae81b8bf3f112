//! Measures the queue on PostgreSQL beside `graphile_worker`, another queue on PostgreSQL, on the same server in one run:
//! `cargo bench -p benches --bench postgres`.
//!
//! - *jobs/s*: [`JOBS`] empty jobs that are enqueued before, with 1, 2 and 8 workers of 16 handlers each. Each worker has a
//!   pool of its own, as a process would. The time ends with the last handler. `graphile_worker` takes jobs one by one by
//!   default, and in batches with its local queue.
//! - *enqueued/s*: [`JOBS`] calls, 64 at once, with and without notifications while another process listens.
//! - *idle*: the transactions a second of a worker that waits.
//!
//! The server flushes each commit to its disk. Machines differ, so the relevant figures are the ratios.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

mod graphile;

use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use test_support::postgres::{SECOND, Server};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_promises::backend::{Backend, Delivery, Envelope, Outcome, WorkOptions};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_postgres::sqlx::Row;

const JOBS: usize = 5000;
const WORKERS: [usize; 3] = [1, 2, 8];
const HANDLERS: usize = 16;
const AT_ONCE: usize = 64;

/// Counts the handlers that have run, and resolves with the last.
#[derive(Clone, Debug, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    async fn reaches(&self, number: usize) {
        while self.0.load(Ordering::SeqCst) < number {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn per_second(number: usize, start: Instant) -> f64 {
    number as f64 / start.elapsed().as_secs_f64()
}

async fn open(url: &str, notify: bool) -> Backend {
    let database = PostgresDatabase::builder().notify(notify).connect(url);
    database.await.unwrap().backend()
}

async fn enqueue(backend: &Backend, queue: &str) {
    stream::iter(0..JOBS)
        .for_each_concurrent(AT_ONCE, async |number| {
            let envelope = Envelope::new(queue, number.to_string(), "{}".into());
            backend.queue().enqueue(envelope).await.unwrap();
        })
        .await;
}

/// The jobs a second with a number of workers.
async fn work(url: &str, workers: usize) -> f64 {
    let queue = format!("work {workers}");
    enqueue(&open(url, true).await, &queue).await;
    let counter = Counter::default();
    let mut backends = Vec::new();
    for _ in 0..workers {
        backends.push(open(url, true).await);
    }
    let start = Instant::now();
    let running: Vec<_> = backends
        .into_iter()
        .map(|backend| {
            let (counter, queue) = (counter.clone(), queue.clone());
            let (shutdown, is_shut_down) = oneshot::channel::<()>();
            let task = tokio::spawn(async move {
                let handler = move |_: Delivery| {
                    counter.add();
                    ready(Outcome::Done)
                };
                let options = WorkOptions::new(queue).concurrency(HANDLERS);
                let shutdown = is_shut_down.map(drop).boxed();
                let worked = backend.queue().work(options, Arc::new(handler), shutdown);
                worked.await.unwrap();
            });
            (shutdown, task)
        })
        .collect();
    counter.reaches(JOBS).await;
    let rate = per_second(JOBS, start);
    for (shutdown, task) in running {
        drop(shutdown);
        task.await.unwrap();
    }
    rate
}

/// The calls a second to enqueue, while another process listens to the bus and waits for other envelopes.
async fn enqueues(url: &str, notify: bool) -> f64 {
    let other = open(url, notify).await;
    let _listener = other.bus().listen().await.unwrap();
    let waiting = tokio::spawn(async move { other.queue().take("idle", 1, SECOND).await });
    let backend = open(url, notify).await;
    let queue = format!("enqueue {notify}");
    let start = Instant::now();
    enqueue(&backend, &queue).await;
    let rate = per_second(JOBS, start);
    waiting.abort();
    rate
}

/// The transactions a second of a database in which nothing but an idle worker runs.
async fn idle(server: &Server) -> f64 {
    const TIME: Duration = Duration::from_secs(10);
    let commits = async || {
        // Statistics are written up to a second late.
        let count =
            "SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname LIKE 'test%'";
        let rows = server.execute(count).await;
        rows[0].get::<i64, _>(0)
    };
    sleep(3 * SECOND).await;
    let (before, start) = (commits().await, Instant::now());
    sleep(TIME).await;
    (commits().await - before) as f64 / start.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let server = Server::with(&[]).await;
    println!("| workers | jobs/s | graphile_worker | graphile_worker with its local queue |");
    println!("|---|---|---|---|");
    for workers in WORKERS {
        let own = work(&server.database().await, workers).await;
        let single = graphile::work(&server.database().await, workers, false).await;
        let batched = graphile::work(&server.database().await, workers, true).await;
        println!("| {workers} | {own:.0} | {single:.0} | {batched:.0} |");
    }

    println!("\n| | enqueued/s |");
    println!("|---|---|");
    let url = server.database().await;
    println!("| with notifications | {:.0} |", enqueues(&url, true).await);
    println!("| without | {:.0} |", enqueues(&url, false).await);
    let graphile = graphile::enqueues(&server.database().await).await;
    println!("| graphile_worker | {graphile:.0} |");

    println!("\n| idle worker | transactions/s |");
    println!("|---|---|");
    for notify in [true, false] {
        let backend = open(&server.database().await, notify).await;
        let waiting = tokio::spawn(async move { backend.queue().take("idle", 1, SECOND).await });
        let rate = idle(&server).await;
        println!("| notifications: {notify} | {rate:.1} |");
        waiting.abort();
        let _ = waiting.await;
    }
    let url = server.database().await;
    let rate = graphile::while_idle(&url, idle(&server)).await;
    println!("| graphile_worker | {rate:.1} |");
    if cfg!(debug_assertions) {
        println!("\nThis is a debug build: the figures mean nothing.");
    }
}
