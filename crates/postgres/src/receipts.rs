//! Calls that end or renew leases.

use super::announcements::Announcements;
use super::batches::Call;
use super::database::Database;
use super::statement::{Statement, microseconds, number, numbers};
use super::wakes::Topic;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::Receipt;

/// The place of an envelope and the token of its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) place: i64,
    pub(super) token: i64,
}

impl Held {
    /// Reads a receipt, and returns the name of the queue too.
    pub(super) fn parse(receipt: &Receipt) -> Option<(Self, &str)> {
        let mut parts = receipt.as_str().splitn(3, ' ');
        let place = parts.next()?.parse().ok()?;
        let token = parts.next()?.parse().ok()?;
        Some((Self { place, token }, parts.next()?))
    }

    pub(super) fn receipt(self, queue: &str) -> Receipt {
        Receipt::new(format!("{} {} {queue}", self.place, self.token))
    }
}

/// The call to renew a lease.
pub(super) struct Renewal {
    pub(super) held: Held,
    pub(super) lease: Duration,
}

impl Call for Renewal {
    type Answer = bool;
    type Key = i64;

    fn key(&self) -> Option<i64> {
        Some(self.held.place)
    }

    fn size(&self) -> usize {
        0
    }

    fn statement(calls: &[Self], database: &Database, _: Option<&str>) -> Statement {
        let leases = calls
            .iter()
            .map(|call| (call.held, Some(microseconds(call.lease))));
        change("renew", leases, database)
    }

    fn answers(calls: &[Self], rows: &[PgRow]) -> sqlx::Result<Vec<bool>> {
        were_held(calls.iter().map(|call| call.held), rows)
    }

    fn announce(_: &[Self], _: &[PgRow], _: &Arc<Announcements>) {}
}

/// The call to settle an envelope.
pub(super) struct Settlement {
    pub(super) held: Held,
    pub(super) queue: String,
    /// The pause before the next delivery, or `None` for the end of the envelope.
    pub(super) after: Option<Duration>,
}

impl Call for Settlement {
    type Answer = bool;
    type Key = i64;

    /// A worker settles beside its work, so settlements wait for each other and share a statement.
    const AHEAD: usize = Self::MOST;
    /// Usually, the worker takes envelopes meanwhile, and the settlements go along.
    const PAUSE: Duration = Duration::from_millis(1);

    fn key(&self) -> Option<i64> {
        Some(self.held.place)
    }

    fn size(&self) -> usize {
        0
    }

    fn statement(calls: &[Self], database: &Database, _: Option<&str>) -> Statement {
        let delays = calls
            .iter()
            .map(|call| (call.held, call.after.map(microseconds)));
        change("settle", delays, database)
    }

    fn answers(calls: &[Self], rows: &[PgRow]) -> sqlx::Result<Vec<bool>> {
        were_held(calls.iter().map(|call| call.held), rows)
    }

    fn announce(calls: &[Self], _: &[PgRow], announcements: &Arc<Announcements>) {
        let repeated = calls.iter().filter(|call| call.after.is_some());
        let queues: HashSet<&str> = repeated.map(|call| &*call.queue).collect();
        announcements.announce(queues.into_iter().map(Topic::queue));
    }
}

/// All calls name rows in the order of the places, so that the server never locks them in two orders.
fn change(
    function: &str,
    calls: impl Iterator<Item = (Held, Option<i64>)>,
    database: &Database,
) -> Statement {
    let mut calls: Vec<_> = calls.collect();
    calls.sort_unstable_by_key(|(held, _)| held.place);
    let calls = || calls.iter();
    Statement::write(format!(
        "SELECT {}.{function}({}, {}, {}, {})",
        database.schema(),
        database.lock_timeout(),
        numbers("bigint", calls().map(|(held, _)| held.place.to_string())),
        numbers("bigint", calls().map(|(held, _)| held.token.to_string())),
        numbers("bigint", calls().map(|(_, time)| number(*time)))
    ))
}

/// Whether the leases were active. The rows are the places of those that were.
fn were_held(held: impl Iterator<Item = Held>, rows: &[PgRow]) -> sqlx::Result<Vec<bool>> {
    let places: sqlx::Result<HashSet<i64>> = rows.iter().map(|row| row.try_get(0)).collect();
    let places = places?;
    Ok(held.map(|held| places.contains(&held.place)).collect())
}
