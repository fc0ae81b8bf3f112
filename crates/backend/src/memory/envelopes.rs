//! The envelopes of one queue.

use crate::kit::clock;
use crate::{Outcome, Priority};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// An envelope in a queue.
pub(super) struct Stored {
    pub(super) id: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) priority: Priority,
    /// The number of deliveries so far.
    pub(super) number: u32,
}

/// The envelopes of a queue: due, delayed and leased ones. All times are of tokio's clock.
pub(super) struct Envelopes {
    /// Sorted in the order in which they are taken.
    due: BTreeMap<(Reverse<Priority>, u64), Stored>,
    waiting: BTreeMap<(Instant, u64), Stored>,
    /// By the number of the lease.
    leased: HashMap<u64, (Instant, Stored)>,
    /// The ends of the leases.
    ends: BTreeSet<(Instant, u64)>,
    /// The last number that was given to a position or to a lease. All numbers are distinct.
    last: u64,
    /// Notified of each change that calls of `take` must react to.
    changed: watch::Sender<()>,
}

impl Envelopes {
    /// Creates an empty queue. Its numbers start after `last`.
    pub(super) fn new(last: u64) -> Self {
        Self {
            due: BTreeMap::new(),
            waiting: BTreeMap::new(),
            leased: HashMap::new(),
            ends: BTreeSet::new(),
            last,
            changed: watch::Sender::new(()),
        }
    }

    /// Returns the highest number so far.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether the queue has neither envelopes nor waiting calls.
    pub(super) fn is_unused(&self) -> bool {
        let is_empty = self.due.is_empty() && self.waiting.is_empty() && self.leased.is_empty();
        is_empty && self.changed.receiver_count() == 0
    }

    pub(super) fn add(&mut self, stored: Stored, delay: Duration) {
        self.last += 1;
        if delay.is_zero() {
            self.due
                .insert((Reverse(stored.priority), self.last), stored);
        } else {
            let due = after(Instant::now(), delay);
            self.waiting.insert((due, self.last), stored);
        }
        self.changed.send_replace(());
    }

    /// Takes the first due envelope. Returns the number and the end of its lease.
    pub(super) fn take(&mut self, lease: Duration) -> Option<(u64, Instant, &Stored)> {
        let now = Instant::now();
        self.advance(now);
        let (_, mut stored) = self.due.pop_first()?;
        stored.number = stored.number.saturating_add(1);
        self.last += 1;
        let (number, end) = (self.last, after(now, lease));
        self.ends.insert((end, number));
        // Waiting calls must wake when this lease ends.
        self.changed.send_replace(());
        let (_, stored) = self.leased.entry(number).or_insert((end, stored));
        Some((number, end, stored))
    }

    /// Returns the time at which the next delayed or leased envelope becomes due.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.waiting.keys().next().map(|(due, _)| *due);
        let end = self.ends.first().map(|(end, _)| *end);
        [waiting, end].into_iter().flatten().min()
    }

    /// Renews a lease. Returns whether it was active.
    pub(super) fn renew(&mut self, number: u64, lease: Duration) -> bool {
        let now = Instant::now();
        let Some((end, _)) = self.leased.get_mut(&number).filter(|(end, _)| *end > now) else {
            return false;
        };
        self.ends.remove(&(*end, number));
        *end = after(now, lease);
        self.ends.insert((*end, number));
        // The lease may end earlier than before.
        self.changed.send_replace(());
        true
    }

    /// Removes a leased envelope. Returns `None` if the lease was not active.
    pub(super) fn remove(&mut self, number: u64) -> Option<Stored> {
        let (end, _) = self.leased.get(&number)?;
        if *end <= Instant::now() {
            return None;
        }
        let (end, stored) = self.leased.remove(&number)?;
        self.ends.remove(&(end, number));
        Some(stored)
    }

    /// Moves envelopes that have become due to the due ones, in the order of their times.
    fn advance(&mut self, now: Instant) {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            let (time, _) = *first.key();
            if time > now {
                break;
            }
            due.push((time, first.remove()));
        }
        while let Some((end, number)) = self.ends.first().copied() {
            if end > now {
                break;
            }
            self.ends.pop_first();
            due.extend(self.leased.remove(&number));
        }
        due.sort_by_key(|(time, _)| *time);
        for (_, stored) in due {
            self.add(stored, Duration::ZERO);
        }
    }
}

/// Returns the delay before the next delivery, or `None` if the envelope has ended.
pub(super) fn delay(outcome: Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Retry { after } => Some(after),
        Outcome::Done | Outcome::GiveUp => None,
    }
}

pub(super) fn after(time: Instant, duration: Duration) -> Instant {
    time.checked_add(duration).unwrap_or(time + clock::LONGEST)
}
