//! The clock of a database, which continues when the clock of the machine is set.

use sqlx::sqlite::SqliteConnection;
use sqlx::{query, query_scalar};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use tower_promises_backend::kit::sync::lock;

/// The largest difference in milliseconds between the two clocks of a process. Beyond it, the clock of the machine
/// counts as set. It is less than NTP corrects in one step.
const TOLERANCE: i64 = 100;

/// The shortest interval between two marks of the shown time in the file. After a crash of all processes, the clock may
/// go back by this interval.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// A process may be suspended between reading the two clocks. If the readings take longer than this, they are repeated.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 10;

/// The state of the clock in a process. The table `clock` contains the difference to the clock of the machine.
pub(super) struct Clock {
    base: Mutex<Base>,
}

/// The three clocks at one moment.
#[derive(Clone, Copy)]
struct Base {
    machine: SystemTime,
    monotonic: Instant,
    shift: i64,
    /// Whether this process has marked the time in the file.
    is_marked: bool,
}

/// The base to use once the transaction is committed.
#[derive(Clone, Copy)]
pub(super) struct Kept(Base);

/// Makes envelopes without a delay due, in case they were enqueued by a wrong clock.
const MAKE_DUE: &str =
    "UPDATE promises_queue_envelopes SET due = (SELECT milliseconds FROM promises_now)
    WHERE NOT is_delayed AND NOT leased AND ended IS NULL
        AND due > (SELECT milliseconds FROM promises_now)";

impl Base {
    fn new(shift: i64, is_marked: bool) -> Self {
        let (machine, monotonic) = look();
        Self {
            machine,
            monotonic,
            shift,
            is_marked,
        }
    }

    /// The milliseconds by which the clock of the machine was set forward since this base.
    fn step(&self) -> i64 {
        let (machine, monotonic) = look();
        let elapsed = monotonic.saturating_duration_since(self.monotonic);
        let machine = match machine.duration_since(self.machine) {
            Ok(forward) => milliseconds(forward),
            Err(back) => -milliseconds(back.duration()),
        };
        machine.saturating_sub(milliseconds(elapsed))
    }
}

impl Clock {
    /// Opens the clock of a file. It does not go back behind the latest time that it has shown.
    pub(super) async fn open(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let is_behind = "SELECT latest > milliseconds FROM promises_clock, promises_now";
        let is_behind: bool = query_scalar(is_behind).fetch_one(&mut *connection).await?;
        if is_behind {
            query(
                "UPDATE promises_clock SET shift = shift + max(0, latest - (SELECT milliseconds FROM promises_now))",
            )
            .execute(&mut *connection)
            .await?;
        }
        let shift = query_scalar("SELECT shift FROM promises_clock");
        Ok(Self {
            base: Mutex::new(Base::new(shift.fetch_one(connection).await?, false)),
        })
    }

    /// Whether the clock of the machine was set since the last write of this process.
    pub(super) fn was_set(&self) -> bool {
        let base = *lock(&self.base);
        base.step().abs() > TOLERANCE
    }

    /// Whether the next write must call [`keep`](Self::keep).
    pub(super) fn is_due(&self) -> bool {
        let base = *lock(&self.base);
        let is_marked = base.is_marked && base.monotonic.elapsed() < MARK_INTERVAL;
        !is_marked || self.was_set()
    }

    /// Corrects the clock if the clock of the machine was set, and marks the shown time in the file. Returns the base
    /// to use once the transaction is committed.
    pub(super) async fn keep(&self, connection: &mut SqliteConnection) -> sqlx::Result<Kept> {
        let base = *lock(&self.base);
        let step = base.step();
        let mark = if step.abs() > TOLERANCE {
            // Another process may have corrected the clock already, with about the same result.
            let corrected =
                query("UPDATE promises_clock SET shift = ?1 WHERE abs(shift - ?1) > ?2")
                    .bind(base.shift.saturating_sub(step))
                    .bind(TOLERANCE)
                    .execute(&mut *connection)
                    .await?;
            if corrected.rows_affected() > 0 {
                // A process that has opened the file since the step may have enqueued envelopes by the wrong clock.
                query(MAKE_DUE).execute(&mut *connection).await?;
            }
            // Such a process may also have marked a time in the future.
            "UPDATE promises_clock SET latest = (SELECT milliseconds FROM promises_now) RETURNING shift"
        } else {
            "UPDATE promises_clock SET latest = max(latest, (SELECT milliseconds FROM promises_now)) RETURNING shift"
        };
        let shift = query_scalar(mark).fetch_one(connection).await?;
        Ok(Kept(Base::new(shift, true)))
    }

    /// Adopts the state of the file, including corrections of other processes.
    pub(super) fn take_over(&self, Kept(base): Kept) {
        *lock(&self.base) = base;
    }
}

/// Reads the clock of the machine and the monotonic clock at the same moment.
fn look() -> (SystemTime, Instant) {
    let mut looks = 0;
    loop {
        let before = Instant::now();
        let machine = SystemTime::now();
        looks += 1;
        if before.elapsed() < LOOK || looks >= LOOKS {
            return (machine, before);
        }
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
