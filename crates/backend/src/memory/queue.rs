use super::line::{Line, Stored, after, delay};
use crate::kit::limits::{DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES};
use crate::kit::sync::lock;
use crate::{
    BackendError, Capabilities, Enqueued, Envelope, Outcome, Queue, Receipt, Taken, check_name,
};
use futures_util::future::BoxFuture;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The default maximum number of envelopes of a [`MemoryQueue`]: 100,000.
const DEFAULT_MAX_ENVELOPES: usize = 100_000;

/// The default maximum size of all envelopes of a [`MemoryQueue`] together: 64 MiB.
const DEFAULT_MAX_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// The approximate overhead of an envelope, beyond its names and payload.
const ENVELOPE_BYTES: usize = 256;

/// A [`Queue`] within one process.
///
/// Envelopes survive the end of a worker, but not the end of the process.
///
/// The queue is bounded by [`max_envelopes`](Self::max_envelopes) and [`max_bytes`](Self::max_bytes), which include
/// leased and delayed envelopes. Further envelopes are refused with [`BackendError::Full`]. The ids of envelopes that
/// have ended stay known for the [window](Self::deduplication_window), but only the last
/// [`max_envelopes`](Self::max_envelopes) of them.
///
/// Times are of tokio's clock, which tests can pause. Only [`take`](Queue::take) and [`work`](Queue::work) need a
/// runtime.
#[derive(Clone)]
pub struct MemoryQueue {
    state: Arc<Mutex<State>>,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    max_envelopes: usize,
    max_bytes: usize,
    max_envelope_bytes: usize,
    window: Duration,
}

/// The queue and the id of an envelope.
type Key = (Arc<str>, Arc<str>);

#[derive(Default)]
struct State {
    lines: HashMap<Arc<str>, Line>,
    /// All envelopes in the lines, and envelopes that have ended recently.
    known: HashSet<Key>,
    /// Envelopes that have ended, with the time at which they are forgotten.
    ended: VecDeque<(Instant, Key)>,
    /// The number of envelopes in the lines.
    envelopes: usize,
    bytes: usize,
    /// At least the highest number of all lines that were removed.
    last: u64,
}

impl MemoryQueue {
    /// Creates a queue with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            settings: Settings {
                max_envelopes: DEFAULT_MAX_ENVELOPES,
                max_bytes: DEFAULT_MAX_QUEUE_BYTES,
                max_envelope_bytes: DEFAULT_MAX_ENVELOPE_BYTES,
                window: DEFAULT_DEDUPLICATION_WINDOW,
            },
        }
    }

    /// Sets the maximum number of envelopes, by default 100,000. Call it before the queue is cloned.
    #[must_use]
    pub fn max_envelopes(mut self, envelopes: usize) -> Self {
        self.settings.max_envelopes = envelopes;
        self
    }

    /// Sets the maximum size of all envelopes together, in bytes, by default 64 MiB: names, payloads and 256 bytes for
    /// each envelope. Call it before the queue is cloned.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_bytes = bytes;
        self
    }

    /// Sets the maximum size of a payload, in bytes, by default 256 KiB. Call it before the queue is cloned.
    #[must_use]
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_envelope_bytes = bytes;
        self
    }

    /// Sets how long the id of an envelope stays known after its end, by default 2 minutes. Call it before the queue is
    /// cloned.
    #[must_use]
    pub fn deduplication_window(mut self, time: Duration) -> Self {
        self.settings.window = time;
        self
    }

    fn add(&self, envelope: Envelope) -> Result<Enqueued, BackendError> {
        self.capabilities().check(&envelope)?;
        let key = (envelope.queue.clone(), envelope.id.clone());
        let bytes = size(&key, envelope.payload.len());
        let mut state = lock(&self.state);
        state.forget(self.settings.max_envelopes);
        if state.known.contains(&key) {
            return Ok(Enqueued::Duplicate);
        }
        let total = state.bytes.saturating_add(bytes);
        if state.envelopes >= self.settings.max_envelopes || total > self.settings.max_bytes {
            return Err(BackendError::Full);
        }
        state.envelopes += 1;
        state.bytes = total;
        state.known.insert(key);
        let stored = Stored {
            id: envelope.id,
            payload: envelope.payload,
            priority: envelope.priority,
            number: 0,
        };
        state.line(&envelope.queue).add(stored, envelope.delay);
        Ok(Enqueued::Added)
    }

    /// Ends an active lease. Returns whether there was one.
    fn end(&self, receipt: &Receipt, outcome: Outcome) -> bool {
        let Some((number, queue)) = read(receipt) else {
            return false;
        };
        let mut state = lock(&self.state);
        let Some((queue, line)) = state.present(queue) else {
            return false;
        };
        let Some(stored) = line.remove(number) else {
            return false;
        };
        if let Some(delay) = delay(outcome) {
            line.add(stored, delay);
            return true;
        }
        let key = (queue, stored.id);
        state.envelopes -= 1;
        state.bytes -= size(&key, stored.payload.len());
        let until = after(Instant::now(), self.settings.window);
        state.ended.push_back((until, key));
        state.forget(self.settings.max_envelopes);
        true
    }
}

impl State {
    /// Forgets ids whose window is over, and the oldest ones beyond the limit.
    fn forget(&mut self, limit: usize) {
        let now = Instant::now();
        while let Some((until, _)) = self.ended.front() {
            if *until > now && self.ended.len() <= limit {
                return;
            }
            if let Some((_, key)) = self.ended.pop_front() {
                self.known.remove(&key);
            }
        }
    }

    /// Returns the line of a queue, or creates it.
    fn line(&mut self, queue: &str) -> &mut Line {
        if !self.lines.contains_key(queue) {
            if self.lines.len() == self.lines.capacity() {
                // Unused lines are removed before the map grows.
                let last = &mut self.last;
                self.lines.retain(|_, line| {
                    *last = line.last().max(*last);
                    !line.is_unused()
                });
            }
            self.lines.insert(queue.into(), Line::new(self.last));
        }
        self.lines.get_mut(queue).expect("it is there by now")
    }

    fn present(&mut self, queue: &str) -> Option<(Arc<str>, &mut Line)> {
        let queue = self.lines.get_key_value(queue)?.0.clone();
        let line = self.lines.get_mut(&queue)?;
        Some((queue, line))
    }

    /// Takes envelopes. If there are none, returns what to wait for.
    fn take(&mut self, queue: &str, limit: usize, lease: Duration) -> Result<Vec<Taken>, Look> {
        let line = self.line(queue);
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some((number, leased_until, stored)) = line.take(lease) else {
                break;
            };
            taken.push(Taken {
                id: stored.id.clone(),
                payload: stored.payload.clone(),
                number: stored.number,
                leased_until,
                receipt: Receipt::new(format!("{number} {queue}")),
            });
        }
        if taken.is_empty() {
            return Err((line.changes(), line.next()));
        }
        Ok(taken)
    }
}

/// The changes, and the time, after which a call of `take` tries again.
type Look = (watch::Receiver<()>, Option<Instant>);

/// Returns the size of an envelope, including its overhead.
fn size((queue, id): &Key, payload: usize) -> usize {
    queue.len() + id.len() + payload + ENVELOPE_BYTES
}

/// Parses the number and the queue of a lease.
fn read(receipt: &Receipt) -> Option<(u64, &str)> {
    let (number, queue) = receipt.as_str().split_once(' ')?;
    Some((number.parse().ok()?, queue))
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryQueue")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Queue for MemoryQueue {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.settings.max_envelope_bytes, self.settings.window)
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move { self.add(envelope) })
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        Box::pin(async move {
            check_name(queue)?;
            loop {
                let taken = lock(&self.state).take(queue, limit.max(1), lease);
                let (mut changes, next) = match taken {
                    Ok(taken) => return Ok(taken),
                    Err(look) => look,
                };
                // The receiver keeps the line from being removed.
                let changed = changes.changed();
                let _ = match next {
                    Some(next) => timeout_at(next, changed).await,
                    None => Ok(changed.await),
                };
            }
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let Some((number, queue)) = read(receipt) else {
                return Ok(false);
            };
            let mut state = lock(&self.state);
            let line = state.present(queue);
            Ok(line.is_some_and(|(_, line)| line.renew(number, lease)))
        })
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move { Ok(self.end(receipt, outcome)) })
    }
}
