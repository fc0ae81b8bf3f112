//! Measures enqueueing and whole tasks on each backend: `cargo bench -p benches --bench backends`.
//!
//! - *enqueue*: sequential calls of `Queue::enqueue` with 64 bytes, each until it is acknowledged.
//! - *bare*: the bare client of SQLite, PostgreSQL or NATS, for one insertion or one message of that size, see [`bare`]. No backend
//!   can be faster than that on the same machine.
//! - *task*: sequential calls of `TaskQueue::call` with an empty task, each from its submission to its output.
//! - *tasks/s*: [`AT_ONCE`] concurrent calls, with a worker that runs 16 tasks concurrently.
//!
//! Client and worker use two connections, as two processes would, except in memory. The tables are in Markdown. The
//! second table compares with a prototype, of which only medians are known and which had no PostgreSQL. Machines differ,
//! so the relevant figures are the ratios of a backend to memory and to its bare client. NATS and PostgreSQL need their
//! servers and are left out if those are not installed. The server of PostgreSQL flushes each commit to its disk.
#![allow(clippy::unwrap_used, missing_docs)]

use benches::{Percentiles, bare, has_nats, head, per_second, row, times};
use futures_util::StreamExt;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tower_promises::backend::{Backend, Envelope};
use tower_promises::tasks::{Task, TaskContext, TaskFailure};
use tower_promises::tasks::{TaskQueueOptions, Tasks};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_sqlite::SqliteDatabase;

/// The number of concurrent calls for measuring throughput.
const AT_ONCE: usize = 64;

/// The payload of an envelope.
const PAYLOAD: [u8; 64] = [7; 64];

/// The number of measurements of each kind.
struct Rounds {
    enqueue: usize,
    task: usize,
    throughput: usize,
}

/// The medians of the prototype, in milliseconds.
#[derive(Clone, Copy)]
struct Prototype {
    enqueue: f64,
    task: f64,
}

const MEMORY: Prototype = Prototype {
    enqueue: 0.001,
    task: 0.13,
};
const SQLITE: Prototype = Prototype {
    enqueue: 0.09,
    task: 24.0,
};
const NATS: Prototype = Prototype {
    enqueue: 0.10,
    task: 2.9,
};

struct Measured {
    name: &'static str,
    prototype: Option<Prototype>,
    enqueue: Percentiles,
    bare: Option<Percentiles>,
    task: Percentiles,
    tasks_per_second: f64,
}

#[derive(Serialize, Deserialize)]
struct Nothing;

impl Task for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

fn tasks(backend: Backend) -> Tasks {
    let queue = TaskQueueOptions::new("bench").task::<Nothing>();
    Tasks::builder(backend).queue(queue.concurrency(16)).build()
}

async fn measure(
    name: &'static str,
    prototype: Option<Prototype>,
    [client, worker]: [Backend; 2],
    bare: Option<Percentiles>,
    rounds: Rounds,
) -> Measured {
    eprintln!("measuring {name} …");
    // No worker takes from this queue.
    let payload = PAYLOAD.to_vec();
    let enqueue = times(rounds.enqueue, |round| {
        let envelope = Envelope::new("idle", round.to_string(), payload.clone().into());
        let client = client.clone();
        async move {
            client.queue().enqueue(envelope).await.unwrap();
        }
    });
    let enqueue = enqueue.await;

    let worker = tasks(worker).work().unwrap();
    let client = tasks(client);
    let queue = client.queue("bench");
    let call = || {
        let queue = queue.clone();
        async move { queue.call(Nothing).await.unwrap() }
    };
    let task = times(rounds.task, |_| call()).await;

    let start = Instant::now();
    stream::iter(0..rounds.throughput)
        .for_each_concurrent(AT_ONCE, |_| call())
        .await;
    let elapsed = start.elapsed();
    worker.drain(Duration::from_secs(10)).await;

    let tasks_per_second = per_second(rounds.throughput, elapsed);
    Measured {
        name,
        prototype,
        enqueue,
        bare,
        task,
        tasks_per_second,
    }
}

/// Compares a median with that of the prototype, as ratios to the medians of memory. Memory itself has no ratio. The
/// time of the bare client shows the part that is due to the machine.
fn verdict(is: f64, was: f64, bare: Option<f64>, memory: Option<(f64, f64)>) -> String {
    let Some((memory_is, memory_was)) = memory else {
        let verdict = if is <= was { "faster" } else { "slower" };
        return format!(
            "{is:.4} | {was} | | | the measure of the others, {verdict} than the prototype"
        );
    };
    let (ratio, allowed) = (is / memory_is, was / memory_was);
    let verdict = if ratio <= allowed {
        "within the ratio"
    } else if is <= was {
        "beyond the ratio, but not slower than the prototype"
    } else if bare.is_some_and(|bare| bare / memory_is > allowed) {
        "beyond the ratio, as the bare client is"
    } else {
        "SLOWER"
    };
    format!("{is:.4} | {was} | {ratio:.1} | {allowed:.1} | {verdict}")
}

#[tokio::main]
async fn main() {
    // On a worker thread of the runtime, like requests. The future of `main` itself would run on another thread.
    tokio::spawn(compare()).await.unwrap();
}

async fn compare() {
    let mut all = Vec::new();

    let memory = Backend::memory();
    let rounds = Rounds {
        enqueue: 20_000,
        task: 2000,
        throughput: 5000,
    };
    all.push(
        measure(
            "memory",
            Some(MEMORY),
            [memory.clone(), memory],
            None,
            rounds,
        )
        .await,
    );

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bench.db");
    let sqlite = [
        SqliteDatabase::open(&file).await.unwrap().backend(),
        SqliteDatabase::open(&file).await.unwrap().backend(),
    ];
    let rounds = Rounds {
        enqueue: 2000,
        task: 200,
        throughput: 1000,
    };
    let bare = bare::sqlite(&directory.path().join("bare.db"), rounds.enqueue, &PAYLOAD).await;
    all.push(measure("SQLite", Some(SQLITE), sqlite, Some(bare), rounds).await);

    let has_postgres = test_support::postgres::is_installed();
    if has_postgres {
        let server = test_support::postgres::Server::with(&[]).await;
        let url = server.url();
        let backends = [
            PostgresDatabase::connect(&url).await.unwrap().backend(),
            PostgresDatabase::connect(&url).await.unwrap().backend(),
        ];
        let rounds = Rounds {
            enqueue: 2000,
            task: 500,
            throughput: 1000,
        };
        let bare = bare::postgres(&server, rounds.enqueue, &PAYLOAD).await;
        all.push(measure("PostgreSQL", None, backends, Some(bare), rounds).await);
    }

    let has_nats = has_nats();
    if has_nats {
        let server = test_support::nats::Server::start().await;
        let backends = [
            server.backend().await.backend(),
            server.backend().await.backend(),
        ];
        let rounds = Rounds {
            enqueue: 2000,
            task: 500,
            throughput: 1000,
        };
        let bare = bare::nats(&server, rounds.enqueue, &PAYLOAD).await;
        all.push(measure("NATS", Some(NATS), backends, Some(bare), rounds).await);
    }

    let columns = [
        "backend",
        "enqueue p50 / p99, ms",
        "bare p50 / p99, ms",
        "times bare",
        "task p50 / p99, ms",
        "tasks/s",
    ];
    head(&columns);
    for measured in &all {
        let Measured {
            name,
            enqueue,
            bare,
            task,
            tasks_per_second,
            ..
        } = measured;
        let times = bare.map(|bare| format!("{:.2}", enqueue.p50 / bare.p50));
        let cells = [
            (*name).to_owned(),
            enqueue.to_string(),
            bare.map(|bare| bare.to_string()).unwrap_or_default(),
            times.unwrap_or_default(),
            format!("{:.2} / {:.2}", task.p50, task.p99),
            format!("{tasks_per_second:.0}"),
        ];
        row(&cells, columns.len());
    }
    for (name, is_installed) in [("PostgreSQL", has_postgres), ("NATS", has_nats)] {
        if !is_installed {
            row(
                &[name.to_owned(), "not installed".to_owned()],
                columns.len(),
            );
        }
    }

    println!();
    head(&[
        "p50 of",
        "ms",
        "prototype, ms",
        "times memory",
        "in the prototype",
        "verdict",
    ]);
    let memory = &all[0];
    for (index, measured) in all.iter().enumerate() {
        let name = measured.name;
        let Some(prototype) = measured.prototype else {
            continue;
        };
        let beside = |is, was| (index > 0).then_some((is, was));
        let (is, was) = (measured.enqueue.p50, prototype.enqueue);
        let bare = measured.bare.as_ref().map(|bare| bare.p50);
        let enqueue = verdict(is, was, bare, beside(memory.enqueue.p50, MEMORY.enqueue));
        let (is, was) = (measured.task.p50, prototype.task);
        let task = verdict(is, was, None, beside(memory.task.p50, MEMORY.task));
        println!("| {name}, enqueue | {enqueue} |");
        println!("| {name}, task | {task} |");
    }
    if cfg!(debug_assertions) {
        println!("\nThis is a debug build: the verdicts mean nothing.");
    }
}
