//! Compares `Loader` with the `DataLoader` of async-graphql: `cargo bench -p benches --bench loaders`.
//!
//! A page has 50 rows. Each row shows an author and the publisher of that author, so there are two levels of keys. All
//! variants render the same page from the same simulated database in the same process, one variant after the other:
//!
//! - *no loader*: each row awaits its two queries, and the rows run at the same time.
//! - *`Loader`, synchronous rows*: [`Promises::load`] in three passes.
//! - *`Loader`, asynchronous rows*: [`Promises::load_async`] in one pass.
//! - *`DataLoader` for each request*: async-graphql's, as its documentation for request-scoped data has it.
//! - *`DataLoader` for all requests*: one without a cache, so that requests share batches.
//! - *`DataLoader` for each request, no delay*: the same with a delay of zero.
//!
//! The database answers each query after [`ANSWER`], at most [`CONNECTIONS`] at a time. It does not compute, so *CPU* is
//! the time that the process spends for one page in total.
//!
//! `-- --quick` renders a tenth of the pages.
#![allow(clippy::unwrap_used, missing_docs)]

mod database;
mod sites;

use database::Database;
use sites::{SITES, Site, no_loader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The time of a query.
const ANSWER: Duration = Duration::from_millis(5);

/// The queries that the database runs at the same time.
const CONNECTIONS: usize = 20;

/// The clients that request a page at the same time, and the pages of a run.
const LOADS: [(usize, usize); 3] = [(1, 200), (32, 4_000), (256, 8_000)];

/// The most pages of the variant without a loader. Its queries use all connections, so more clients only wait longer.
const WITHOUT_LOADER: usize = 500;

/// The time of all threads of the process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the name of the process. Times are in hundredths of a second on Linux.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Requests pages with so many clients, and returns the sorted times.
async fn load(site: &Arc<Site>, clients: usize, pages: usize) -> Vec<Duration> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut running = Vec::new();
    for _ in 0..clients {
        let (site, next) = (site.clone(), next.clone());
        running.push(tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let page = next.fetch_add(1, Ordering::Relaxed);
                if page >= pages {
                    return times;
                }
                let start = Instant::now();
                let text = site.request(page).await;
                times.push(start.elapsed());
                assert_eq!(text, database::expected(page), "{}", site.name);
            }
        }));
    }
    let mut times = Vec::new();
    for client in running {
        times.extend(client.await.unwrap());
    }
    times.sort_unstable();
    times
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss)]
async fn measure(clients: usize, pages: usize, build: fn(Database) -> Site) {
    let database = Database::new(ANSWER, CONNECTIONS);
    let site = Arc::new(build(database.clone()));
    load(&site, clients, clients).await;

    let (queries, keys) = (database.queries(), database.keys());
    let (start, before) = (Instant::now(), cpu());
    let times = load(&site, clients, pages).await;
    let (elapsed, used) = (start.elapsed(), cpu().saturating_sub(before));
    let pages = pages as f64;
    println!(
        "| {clients} | {} | {:.2} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
        site.name,
        (database.queries() - queries) as f64 / pages,
        (database.keys() - keys) as f64 / pages,
        milliseconds(times[times.len() / 2]),
        milliseconds(times[times.len() * 99 / 100]),
        pages / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / pages,
    );
}

#[tokio::main]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    println!(
        "| clients | variant | queries per page | keys per page | p50, ms | p99, ms | pages/s | CPU per page, µs |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (clients, pages) in LOADS {
        let pages = if is_quick { pages / 10 } else { pages };
        measure(clients, pages.min(WITHOUT_LOADER).max(clients), no_loader).await;
        for build in SITES {
            measure(clients, pages.max(clients), build).await;
        }
    }
    if cfg!(debug_assertions) {
        println!("\nThis is a debug build: only the numbers of queries and keys mean something.");
    }
}
