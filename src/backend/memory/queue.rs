use super::line::{Line, Stored, after, delay};
use crate::backend::limits::{DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_MAX_ENVELOPE_BYTES};
use crate::backend::{
    BackendError, Capabilities, Enqueued, Envelope, Outcome, Queue, Receipt, Taken, check_name,
};
use crate::sync::lock;
use futures_util::future::BoxFuture;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How many envelopes a [`MemoryQueue`] holds.
pub const DEFAULT_MAX_ENVELOPES: usize = 100_000;

/// How many bytes all envelopes of a [`MemoryQueue`] may have together.
pub const DEFAULT_MAX_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// What an envelope costs beyond its names and payload, roughly.
const ENVELOPE_BYTES: usize = 256;

/// A [`Queue`] within one process.
///
/// It survives workers, and not the process. It is bounded: when its envelopes, those that are leased or delayed
/// included, are more than [`max_envelopes`](Self::max_envelopes) or
/// [`max_bytes`](Self::max_bytes), more are refused with [`BackendError::Full`]. Ids of envelopes that have ended
/// are known for the [window](Self::deduplication_window), but no more than the last
/// [`max_envelopes`](Self::max_envelopes) of them. Times go by tokio's clock, which tests can stop. Only
/// [`take`](Queue::take) and [`work`](Queue::work) need a runtime.
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
    /// Of all envelopes in the lines, and of those that have ended not long ago.
    known: HashSet<Key>,
    /// Those that have ended, and until when they are known.
    ended: VecDeque<(Instant, Key)>,
    /// Of the envelopes in the lines.
    envelopes: usize,
    bytes: usize,
    /// No line has used numbers above it, unless it is still there.
    last: u64,
}

impl MemoryQueue {
    /// A queue with the default settings.
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

    /// How many envelopes it holds, default [`DEFAULT_MAX_ENVELOPES`]. Call it before the queue is cloned.
    #[must_use]
    pub fn max_envelopes(mut self, envelopes: usize) -> Self {
        self.settings.max_envelopes = envelopes;
        self
    }

    /// How many bytes all envelopes may have together, default [`DEFAULT_MAX_QUEUE_BYTES`]: names, payloads
    /// and 256 bytes for each of them. Call it before the queue is cloned.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_bytes = bytes;
        self
    }

    /// How many bytes the payload of an envelope may have, default [`DEFAULT_MAX_ENVELOPE_BYTES`]. Call it before the
    /// queue is cloned.
    #[must_use]
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_envelope_bytes = bytes;
        self
    }

    /// For how long the id of an envelope is known after it has ended, default
    /// [`DEFAULT_DEDUPLICATION_WINDOW`]. Call it before the queue is cloned.
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

    /// Ends a lease that is in force. Returns whether there was one.
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
    /// Forgets ids that have ended long ago, or are too many.
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

    /// The line of a queue, a new one if need be.
    fn line(&mut self, queue: &str) -> &mut Line {
        if !self.lines.contains_key(queue) {
            if self.lines.len() == self.lines.capacity() {
                // Before it grows.
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

    /// Takes envelopes, or says when to look again.
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

/// What to wait for before a look into a line.
type Look = (watch::Receiver<()>, Option<Instant>);

/// What an envelope weighs.
fn size((queue, id): &Key, payload: usize) -> usize {
    queue.len() + id.len() + payload + ENVELOPE_BYTES
}

/// The number and the queue of a lease.
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
                // The line is there as long as somebody waits for its changes.
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
