//! The clock of a database, which goes on when that of the machine is set.

use tower_promises_backend::kit::sync::lock;
use sqlx::sqlite::SqliteConnection;
use sqlx::{query, query_scalar};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// By how many milliseconds the two clocks of a process may differ before that of the machine counts as set. It is less
/// than what NTP corrects in one step.
const TOLERANCE: i64 = 100;

/// How long a time that was shown is not written down, at least. After a crash of all processes the clock may go back by
/// that much.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at the same clock a process may stand still. Then it looks again.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 10;

/// What a process knows of the clock. In the file, `clock` has the difference to that of the machine.
pub(super) struct Clock {
    base: Mutex<Base>,
}

/// The three clocks at one moment.
#[derive(Clone, Copy)]
struct Base {
    machine: SystemTime,
    monotonic: Instant,
    shift: i64,
    /// Whether this process has written it down.
    is_marked: bool,
}

/// What a process knows once its transaction is committed.
#[derive(Clone, Copy)]
pub(super) struct Kept(Base);

/// What has no delay is due, whatever the clock was when it was enqueued.
const MAKE_DUE: &str = "UPDATE queue_envelopes SET due = (SELECT milliseconds FROM now)
    WHERE NOT is_delayed AND NOT leased AND ended IS NULL
        AND due > (SELECT milliseconds FROM now)";

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

    /// By how many milliseconds the clock of the machine was set forward since then.
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
    /// The clock of a file. It does not go back behind what it has shown.
    pub(super) async fn open(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let is_behind = "SELECT latest > milliseconds FROM clock, now";
        let is_behind: bool = query_scalar(is_behind).fetch_one(&mut *connection).await?;
        if is_behind {
            query(
                "UPDATE clock SET shift = shift + max(0, latest - (SELECT milliseconds FROM now))",
            )
            .execute(&mut *connection)
            .await?;
        }
        let shift = query_scalar("SELECT shift FROM clock");
        Ok(Self {
            base: Mutex::new(Base::new(shift.fetch_one(connection).await?, false)),
        })
    }

    /// Whether the clock of the machine was set since this process has last written.
    pub(super) fn was_set(&self) -> bool {
        let base = *lock(&self.base);
        base.step().abs() > TOLERANCE
    }

    /// Whether [`keep`](Self::keep) has something to do.
    pub(super) fn is_due(&self) -> bool {
        let base = *lock(&self.base);
        let is_marked = base.is_marked && base.monotonic.elapsed() < MARK_INTERVAL;
        !is_marked || self.was_set()
    }

    /// Corrects the clock if that of the machine was set, and writes down what it shows. Returns what the process knows once
    /// that has been committed.
    pub(super) async fn keep(&self, connection: &mut SqliteConnection) -> sqlx::Result<Kept> {
        let base = *lock(&self.base);
        let step = base.step();
        let mark = if step.abs() > TOLERANCE {
            // Another process may have done so, and has found about the same.
            let corrected = query("UPDATE clock SET shift = ?1 WHERE abs(shift - ?1) > ?2")
                .bind(base.shift.saturating_sub(step))
                .bind(TOLERANCE)
                .execute(&mut *connection)
                .await?;
            if corrected.rows_affected() > 0 {
                // A process that has begun since the step may have enqueued them by the wrong clock.
                query(MAKE_DUE).execute(&mut *connection).await?;
            }
            // Such a process may have written down a time that is not yet.
            "UPDATE clock SET latest = (SELECT milliseconds FROM now) RETURNING shift"
        } else {
            "UPDATE clock SET latest = max(latest, (SELECT milliseconds FROM now)) RETURNING shift"
        };
        let shift = query_scalar(mark).fetch_one(connection).await?;
        Ok(Kept(Base::new(shift, true)))
    }

    /// Takes over what is in the file, also what another process has corrected.
    pub(super) fn take_over(&self, Kept(base): Kept) {
        *lock(&self.base) = base;
    }
}

/// The clock of the machine and the monotonic one, at the same moment.
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
