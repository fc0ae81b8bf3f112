//! The memory of suspended requests, and how they continue.
//!
//! The memory of the process is what its allocator has given out, without the C code of SQLite, whose cache is bounded.
//! It is measured before and after the layer, its worker and all handles are dropped. The difference is what the layer
//! keeps for the requests, and the rest is what the memory adapters keep as a store.

use crate::server::{DAY, Server, layer};
use benches::{Percentiles, per_second, row};
use futures_util::StreamExt;
use futures_util::stream;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until};
use tower_promises::backend::Backend;
use tower_promises::operations::durable::{Settlement, Settling};
use tower_promises::{PromiseError, Promises};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The number of requests that are sent at once.
const AT_ONCE: usize = 64;

/// The requests that come first, and tell how long all of them take.
const FIRST: usize = 1000;

/// The number of measured settlements.
const WAKES: usize = 200;

/// Longer than the delay of the envelopes that are queued as a precaution.
const QUIET: Duration = Duration::from_secs(40);

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Outside,
    Sleeping,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Outside, Kind::Sleeping];

const COLUMNS: [&str; 10] = [
    "backend, kind",
    "accepted/s",
    "bytes in the process",
    "bytes in the store in memory",
    "resident, bytes",
    "wake p50 / p99, ms",
    "continued/s, due at once",
    "runs at once",
    "late p50, ms",
    "late, longest, ms",
];

pub(crate) fn head(number: usize) {
    println!("\n{number} suspended requests of each kind:\n");
    benches::head(&COLUMNS);
}

/// What the handler notes.
#[derive(Default)]
struct Notes {
    passes: AtomicUsize,
    /// When the last pass of a request began.
    woken: Mutex<Option<Instant>>,
    /// When all sleeping requests are due.
    due: OnceLock<Instant>,
    late: Mutex<Vec<Duration>>,
}

impl Notes {
    fn handle(&self, kind: Kind, promises: &Promises) -> Result<String, PromiseError> {
        let now = Instant::now();
        self.passes.fetch_add(1, Ordering::Relaxed);
        match kind {
            Kind::Outside => drop(promises.outside::<u32>("approval")?),
            Kind::Sleeping => {
                let due = *self.due.get_or_init(|| now + DAY / 2);
                promises.sleep("night", due.saturating_duration_since(now))?;
                self.late.lock().unwrap().push(due.elapsed());
            }
        }
        *self.woken.lock().unwrap() = Some(now);
        Ok(String::new())
    }

    /// Waits until this number of passes have begun.
    async fn passed(&self, number: usize) {
        while self.passes.load(Ordering::Relaxed) < number {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn start(backend: &Backend, kind: Kind, notes: &Arc<Notes>) -> Server {
    let notes = notes.clone();
    let handle = move |promises: &Promises| notes.handle(kind, promises);
    Server::start(layer(backend.clone()), handle)
}

/// Begins requests, and waits until all of them are suspended. Returns the ids of some.
async fn suspend(server: &Server, notes: &Notes, number: usize) -> Vec<String> {
    let before = notes.passes.load(Ordering::Relaxed);
    let begin = |_| server.begin();
    let begun = stream::iter(0..number).map(begin).buffer_unordered(AT_ONCE);
    let mut last = Vec::new();
    let mut begun = std::pin::pin!(begun);
    while let Some(id) = begun.next().await {
        last.truncate(WAKES);
        last.insert(0, id);
    }
    notes.passed(before + number).await;
    while server.operations.running() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    last.truncate(WAKES);
    for id in &last {
        let document = server.document(id).await;
        assert!(document.contains("waitingFor"), "{document}");
    }
    last
}

/// The bytes that the allocator has given out.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or_default() * 1024
}

pub(crate) async fn measure(name: &str, kind: Kind, backend: Backend, number: usize) {
    eprintln!("{name}, {kind:?}: {number} requests …");
    let notes = Arc::new(Notes::default());
    let server = start(&backend, kind, &notes);
    let start_of_first = Instant::now();
    suspend(&server, &notes, FIRST.min(number)).await;
    let each = start_of_first.elapsed() / u32::try_from(FIRST.min(number)).unwrap();
    server.end().await;

    // Sleeping requests are due when all of them are suspended and their memory is measured.
    let notes = Arc::new(Notes::default());
    let all = each * u32::try_from(number).unwrap();
    let due = Instant::now() + all * 2 + QUIET * 2 + Duration::from_secs(10);
    notes.due.get_or_init(|| due);
    let server = start(&backend, kind, &notes);
    sleep(QUIET).await;
    let (before, resident_before) = (allocated(), resident());
    let start_of_all = Instant::now();
    let last = suspend(&server, &notes, number).await;
    let accepted = per_second(number, start_of_all.elapsed());
    sleep(QUIET).await;
    let (suspended, resident_after) = (allocated(), resident());
    let wakes = match kind {
        Kind::Outside => Some(wake(&server, &notes, &last).await),
        Kind::Sleeping => None,
    };
    let with_process = allocated();
    server.end().await;
    let without_process = allocated();
    let fixed = fixed(&backend, kind).await;
    let in_process = with_process
        .saturating_sub(without_process)
        .saturating_sub(fixed);
    let in_store = suspended.saturating_sub(before).saturating_sub(in_process);
    let continued = match kind {
        Kind::Sleeping => Some(continue_all(&backend, &notes, due, number).await),
        Kind::Outside => None,
    };
    let of_one = |bytes: usize| (bytes / number).to_string();
    let mut cells = vec![
        format!("{name}, {kind:?}"),
        format!("{accepted:.0}"),
        of_one(in_process),
        of_one(in_store),
        of_one(resident_after.saturating_sub(resident_before)),
        wakes.map(|wakes| wakes.to_string()).unwrap_or_default(),
    ];
    if let Some(Continued { rate, most, late }) = continued {
        cells.extend([
            format!("{rate:.0}"),
            most.to_string(),
            format!("{:.0}", late.p50),
            format!("{:.0}", late.longest),
        ]);
    }
    row(&cells, COLUMNS.len());
}

/// Settles some promises, one after the other. Returns the times until their requests continue.
async fn wake(server: &Server, notes: &Notes, ids: &[String]) -> Percentiles {
    let settlement = Settlement::value(&7).unwrap();
    let mut times = Vec::new();
    for id in ids {
        let passes = notes.passes.load(Ordering::Relaxed);
        let start = Instant::now();
        let settled = server.operations.settle(id, "approval", &settlement);
        assert_eq!(settled.await.unwrap(), Settling::Settled);
        notes.passed(passes + 1).await;
        while server.operations.running() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let woken = notes.woken.lock().unwrap().unwrap();
        times.push(woken.duration_since(start));
    }
    Percentiles::of(times)
}

/// The memory of a process that has served no requests.
async fn fixed(backend: &Backend, kind: Kind) -> usize {
    let server = start(backend, kind, &Arc::default());
    let _ = server.document("unknown").await;
    let with_process = allocated();
    server.end().await;
    with_process.saturating_sub(allocated())
}

struct Continued {
    rate: f64,
    /// The most runs at once.
    most: usize,
    late: Percentiles,
}

/// Lets all sleeping requests continue, which are due at the same time.
async fn continue_all(
    backend: &Backend,
    notes: &Arc<Notes>,
    due: Instant,
    number: usize,
) -> Continued {
    let server = start(backend, Kind::Sleeping, notes);
    assert!(
        Instant::now() < due,
        "the requests took longer than expected"
    );
    let passes = notes.passes.load(Ordering::Relaxed);
    sleep_until(due.into()).await;
    let mut most = 0;
    while notes.passes.load(Ordering::Relaxed) < passes + number {
        most = most.max(server.operations.running());
        sleep(Duration::from_millis(1)).await;
    }
    let rate = per_second(number, due.elapsed());
    let late = std::mem::take(&mut *notes.late.lock().unwrap());
    server.end().await;
    let late = Percentiles::of(late);
    Continued { rate, most, late }
}
