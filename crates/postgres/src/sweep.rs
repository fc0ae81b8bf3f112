//! Deletes what has expired, after writes.

use super::database::Database;
use super::observe;
use super::statement::{Statement, microseconds};
use super::vacuum::Vacuum;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tower_promises_backend::kit::sync::lock;

/// A sweep follows after this number of calls, or with the first call after [`SWEEP_INTERVAL`].
const CALLS_PER_SWEEP: usize = 512;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Sweep {
    database: Arc<Database>,
    /// The time of the last sweep, and the number of calls since then.
    last: Mutex<(Instant, usize)>,
    is_running: AtomicBool,
    vacuum: Vacuum,
}

impl Sweep {
    pub(super) fn new(database: Arc<Database>) -> Arc<Self> {
        Arc::new(Self {
            vacuum: Vacuum::new(database.clone()),
            database,
            last: Mutex::new((Instant::now(), 0)),
            is_running: AtomicBool::new(false),
        })
    }

    /// Adds a number of calls, and starts a sweep if one is due. A sweep is one statement, in a task of its own, so no
    /// call waits for it.
    pub(super) fn note(self: &Arc<Self>, calls: usize) {
        self.vacuum.note(calls);
        {
            let mut last = lock(&self.last);
            last.1 += calls;
            if last.1 < CALLS_PER_SWEEP && last.0.elapsed() < SWEEP_INTERVAL {
                return;
            }
            *last = (Instant::now(), 0);
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_running.swap(true, Ordering::SeqCst) {
            return;
        }
        let running = Running(self.clone());
        runtime.spawn(async move {
            let database = &running.0.database;
            // What remains is deleted by the next sweep.
            if let Err(error) = database.run(statement(database)).await {
                observe::sweep_failed(&error);
            }
            running.0.vacuum.run().await;
        });
    }
}

struct Running(Arc<Sweep>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
    }
}

fn statement(database: &Database) -> Statement {
    let settings = database.settings();
    Statement::write(format!(
        "SELECT {}.sweep({}, {}, {}, {}, {})",
        database.schema(),
        database.lock_timeout(),
        microseconds(settings.deduplication_window),
        microseconds(settings.retention),
        settings.retained_messages,
        settings.retained_changes
    ))
}
