//! Measures the queue on PostgreSQL beside `graphile_worker`, another queue on PostgreSQL, on the same server in one run:
//! `cargo bench -p benches --bench postgres`.
//!
//! - *jobs/s*: [`JOBS`] empty jobs that are enqueued before, with 1, 2 and 8 workers of 16 handlers each. Each worker has a
//!   pool of its own, as a process would. The time ends when the ends of all jobs are stored. By default, our workers take
//!   as many jobs as they have free handlers, and those of `graphile_worker` one by one. Both can take jobs in advance, about
//!   100 with each call: `graphile_worker` with its local queue, whose default that is, and our workers with a prefetch of
//!   [`PREFETCH`], of which they ask for half at a time.
//! - *enqueued/s*: [`JOBS`] calls, 64 at once, with and without notifications while another process listens.
//! - *idle*: the transactions a second of a worker that waits.
//!
//! `-- jobs`, `-- prefetch`, `-- enqueue` and `-- idle` choose a part, and the environment variable `JOBS` sets the number of
//! jobs. The server flushes each commit to its disk. Machines differ, so the relevant figures are the ratios.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

mod cpu;
mod graphile;

use cpu::Cpu;
use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use test_support::postgres::{SECOND, Server};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_promises::backend::{Backend, Delivery, Envelope, Outcome, WorkOptions};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_postgres::sqlx::{Connection, PgConnection, Row, query_scalar};

/// The number of jobs, unless the environment variable `JOBS` has another one.
const JOBS: usize = 20_000;
const WORKERS: [usize; 3] = [1, 2, 8];
const HANDLERS: usize = 16;
const AT_ONCE: usize = 64;
const PREFETCH: usize = 200;

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

fn jobs() -> usize {
    std::env::var("JOBS").map_or(JOBS, |jobs| jobs.parse().unwrap())
}

fn per_second(number: usize, start: Instant) -> f64 {
    number as f64 / start.elapsed().as_secs_f64()
}

/// The jobs a second, and the microseconds of processor time of the server and of this process for each.
struct Rate {
    per_second: f64,
    cpu: [f64; 2],
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            per_second,
            cpu: [server, client],
        } = self;
        write!(f, "{per_second:.0} ({server:.0} + {client:.0})")
    }
}

/// Measures the time until all jobs have run and their ends are stored.
struct Clock {
    counter: Counter,
    connection: PgConnection,
    start: Instant,
    cpu: Cpu,
}

impl Clock {
    async fn start(server: &Server, url: &str, counter: Counter) -> Self {
        let connection = PgConnection::connect(url).await.unwrap();
        let cpu = Cpu::start(server).await;
        Self {
            counter,
            connection,
            start: Instant::now(),
            cpu,
        }
    }

    /// Resolves when the query, whether there are jobs that have not ended, returns `false`.
    async fn ends(mut self, has_jobs: &'static str) -> Rate {
        self.counter.reaches(jobs()).await;
        while query_scalar(has_jobs)
            .fetch_one(&mut self.connection)
            .await
            .unwrap()
        {
            sleep(Duration::from_millis(1)).await;
        }
        Rate {
            per_second: per_second(jobs(), self.start),
            cpu: self.cpu.per_job(jobs()),
        }
    }
}

async fn open(url: &str, notify: bool) -> Backend {
    let database = PostgresDatabase::builder().notify(notify).connect(url);
    database.await.unwrap().backend()
}

async fn enqueue(backend: &Backend, queue: &str) {
    stream::iter(0..jobs())
        .for_each_concurrent(AT_ONCE, async |number| {
            let envelope = Envelope::new(queue, number.to_string(), "{}".into());
            backend.queue().enqueue(envelope).await.unwrap();
        })
        .await;
}

/// The jobs a second with a number of workers.
async fn work(server: &Server, workers: usize, prefetch: usize) -> Rate {
    let url = server.database().await;
    let queue = format!("work {workers}");
    enqueue(&open(&url, true).await, &queue).await;
    let counter = Counter::default();
    let mut backends = Vec::new();
    for _ in 0..workers {
        backends.push(open(&url, true).await);
    }
    let clock = Clock::start(server, &url, counter.clone()).await;
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
                let options = WorkOptions::new(queue)
                    .concurrency(HANDLERS)
                    .prefetch(prefetch);
                let shutdown = is_shut_down.map(drop).boxed();
                let worked = backend.queue().work(options, Arc::new(handler), shutdown);
                worked.await.unwrap();
            });
            (shutdown, task)
        })
        .collect();
    let has_jobs = "SELECT EXISTS (SELECT FROM tower_promises.ready)
        OR EXISTS (SELECT FROM tower_promises.waiting)";
    let rate = clock.ends(has_jobs).await;
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
    let rate = per_second(jobs(), start);
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
    let parts: Vec<_> = std::env::args().skip(1).collect();
    let mut parts = parts
        .iter()
        .filter(|part| !part.starts_with('-'))
        .peekable();
    let has_all = parts.peek().is_none();
    let parts: Vec<_> = parts.collect();
    let has = |part: &str| has_all || parts.iter().any(|wanted| *wanted == part);
    if has("jobs") {
        run(&server, true).await;
    }
    if !has_all && has("prefetch") {
        run(&server, false).await;
    }
    if has("enqueue") {
        enqueued(&server).await;
    }
    if has("idle") {
        idle_workers(&server).await;
    }
    if cfg!(debug_assertions) {
        println!("\nThis is a debug build: the figures mean nothing.");
    }
}

/// Runs jobs, all variants or only those that take jobs in advance.
async fn run(server: &Server, all: bool) {
    println!(
        "jobs/s, and in parentheses microseconds of processor time for each job: the server + the workers\n"
    );
    println!(
        "| workers | `PostgresQueue` | graphile_worker | `PostgresQueue` with prefetch | graphile_worker with its local queue |"
    );
    println!("|---|---|---|---|---|");
    for workers in WORKERS {
        let (mut own, mut single) = (String::new(), String::new());
        if all {
            own = work(server, workers, 0).await.to_string();
            single = graphile::work(server, workers, false).await.to_string();
        }
        let prefetched = work(server, workers, PREFETCH).await;
        let local = graphile::work(server, workers, true).await;
        println!("| {workers} | {own} | {single} | {prefetched} | {local} |");
    }
}

async fn enqueued(server: &Server) {
    println!("\n| | enqueued/s |");
    println!("|---|---|");
    let url = server.database().await;
    println!("| with notifications | {:.0} |", enqueues(&url, true).await);
    println!("| without | {:.0} |", enqueues(&url, false).await);
    let graphile = graphile::enqueues(&server.database().await).await;
    println!("| graphile_worker | {graphile:.0} |");
}

async fn idle_workers(server: &Server) {
    println!("\n| idle worker | transactions/s |");
    println!("|---|---|");
    for notify in [true, false] {
        let backend = open(&server.database().await, notify).await;
        let waiting = tokio::spawn(async move { backend.queue().take("idle", 1, SECOND).await });
        let rate = idle(server).await;
        println!("| notifications: {notify} | {rate:.1} |");
        waiting.abort();
        let _ = waiting.await;
    }
    let url = server.database().await;
    let rate = graphile::while_idle(&url, idle(server)).await;
    println!("| graphile_worker | {rate:.1} |");
}
