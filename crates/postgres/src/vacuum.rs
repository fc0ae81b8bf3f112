//! Removes the dead rows of the queue more often than autovacuum does, which looks once a minute.
//!
//! A delivery leaves dead entries at the start of the indexes of `ready` and `waiting`, and each take passes those that are
//! left. At thousands of envelopes a second, there would soon be more of them than of anything else.

use super::database::Database;
use super::observe;
use super::statement::Statement;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The number of calls after which dead rows are removed.
const CALLS: usize = 8192;

/// The pause afterwards, times the time that it took: with a large backlog, or with a transaction that is open for long, it
/// takes longer each time.
const PAUSE_FACTOR: u32 = 20;

/// The pause after an error, or if this process must not do it.
const LONG_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Vacuum {
    database: Arc<Database>,
    /// The time of the next attempt at the earliest, and the number of calls since the last one.
    next: Mutex<(Instant, usize)>,
}

impl Vacuum {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            next: Mutex::new((Instant::now(), 0)),
        }
    }

    /// Adds a number of calls.
    pub(super) fn note(&self, calls: usize) {
        lock(&self.next).1 += calls;
    }

    /// Removes dead rows, if there are enough.
    pub(super) async fn run(&self) {
        let started = Instant::now();
        {
            let mut next = lock(&self.next);
            if next.1 < CALLS || started < next.0 {
                return;
            }
            *next = (started + LONG_PAUSE, 0);
        }
        match self.attempt().await {
            Ok(true) => lock(&self.next).0 = started + started.elapsed() * PAUSE_FACTOR,
            Ok(false) => {}
            Err(error) => observe::vacuum_failed(&error),
        }
    }

    /// Returns `false` if autovacuum or another process does it alone.
    async fn attempt(&self) -> Result<bool, BackendError> {
        // All other calls would wait for the only connection.
        if self.database.pool().options().get_max_connections() == 1 {
            return Ok(false);
        }
        let schema = self.database.schema();
        // The server would warn of a role that is not the owner, and of a table that is just being vacuumed.
        let may = Statement::read(format!(
            "SELECT FROM pg_class WHERE oid = '{schema}.ready'::regclass AND pg_has_role(relowner, 'USAGE')
                AND NOT EXISTS (
                    SELECT FROM pg_stat_progress_vacuum
                    WHERE relid IN ('{schema}.ready'::regclass, '{schema}.waiting'::regclass)
                )"
        ));
        if self.database.run(may).await?.is_empty() {
            return Ok(false);
        }
        // Also with few dead rows among many, and without the truncation of the files, which locks the tables.
        let vacuum = Statement::write(format!(
            "VACUUM (SKIP_LOCKED, INDEX_CLEANUP on, TRUNCATE off) {schema}.ready, {schema}.waiting"
        ));
        self.database.run(vacuum).await.map(|_| true)
    }
}
