#[cfg(feature = "tracing")]
mod advising;
mod entries;
mod passes;
mod read;
mod state;
mod submit;
mod wait;
mod withdraw;

pub(super) use entries::Vacancy;

use entries::Entries;

#[cfg(feature = "blocking")]
use super::Rejection;
use super::observe::Advice;
use super::slot::{AnySlot, Slot, Type};
use super::{Key, Start};
#[cfg(feature = "blocking")]
use crate::blocking::BlockingPool;
use crate::body::Detach;
use crate::sync::lock;
#[cfg(feature = "loader")]
use std::any::Any;
#[cfg(feature = "blocking")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// What one request has promised, shared by its handles and its response future.
///
/// User code never runs while the lock is held: neither a promise's work nor its `Drop`, nor the
/// `Clone` of a value.
pub(super) struct Registry {
    settings: Settings,
    /// Whether a response future runs the promises. A handle made for a test has none.
    is_driven: bool,
    /// Tells requests apart that share a pool.
    #[cfg(feature = "blocking")]
    number: u64,
    /// There was no room in the pool, and the request is to be rejected for it.
    #[cfg(feature = "blocking")]
    has_given_up: AtomicBool,
    /// That of the request that this one is a part of.
    outer: Option<Arc<Registry>>,
    state: Mutex<State>,
}

/// What a request may promise, and when it starts.
pub(super) struct Settings {
    pub(super) start: Start,
    pub(super) max_promises: usize,
    #[cfg(feature = "blocking")]
    pub(super) pool: BlockingPool,
}

struct State {
    phase: Phase,
    /// Counted from one.
    pass: usize,
    /// The pass has been discarded and its promises run.
    is_settling: bool,
    /// This pass is to be published whatever is pending.
    publish: bool,
    /// Who is to start what is in [`Ledger::starting`].
    driver: Option<Waker>,
    body: RequestBodyState,
    /// `None` until something is promised, which for most requests is never.
    ledger: Option<Box<Ledger>>,
}

/// What has been promised.
#[derive(Default)]
struct Ledger {
    entries: Entries,
    /// How many promises there have been.
    count: usize,
    /// More promises were submitted than allowed.
    is_overfull: bool,
    /// The developer has been told that names seem to change.
    #[cfg(feature = "tracing")]
    has_been_advised: bool,
    /// Promises that start at once.
    starting: Vec<Arc<dyn AnySlot>>,
    /// Outer promises that were cleared here.
    hidden: Vec<Key>,
    undo: Vec<Undo>,
    #[cfg(feature = "loader")]
    attachments: Vec<Attachment>,
}

/// What the request keeps for something outside of it, and the address of that.
#[cfg(feature = "loader")]
type Attachment = (usize, Arc<dyn Any + Send + Sync>);

enum RequestBodyState {
    /// `None` if it is empty.
    Here(Option<Arc<dyn Detach>>),
    /// A promise has it.
    Taken,
}

type Undo = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Open,
    /// The request's time is up: what has not settled has timed out.
    TimedOut,
    Published,
    Abandoned,
}

struct Entry {
    slot: Arc<dyn AnySlot>,
    /// It starts when the pass ends.
    is_queued: bool,
    demand: Demand,
    /// How many are awaiting it.
    waiters: usize,
    advice: Advice,
}

/// What there is of a promise.
pub(super) enum Found<T> {
    Settled(Arc<Slot<T>>),
    Pending,
    /// Nobody has submitted it.
    Nothing(Vacancy),
    /// Nothing any more: the request has ended.
    Ended,
    OfAnotherType(Type),
}

/// Whether this pass has to be run again because of a promise. A later variant outweighs an earlier.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum Demand {
    /// No: its value was there when it was asked for.
    Met,
    /// Yes, unless its value is read before the pass ends.
    Submitted,
    /// Yes: its value was asked for and was not there.
    Missed,
}

/// What becomes of a promise that is submitted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Admission {
    Pending,
    TimedOut,
}

/// What the end of a pass asks for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Nothing, and the request has ended: nobody has ever promised anything.
    Nothing,
    Publish,
    Repeat,
    Overfull,
}

impl Registry {
    pub(super) fn new(
        settings: Settings,
        is_driven: bool,
        outer: Option<Arc<Self>>,
        body: Option<Arc<dyn Detach>>,
    ) -> Self {
        Self {
            is_driven,
            #[cfg(feature = "blocking")]
            number: settings.pool.next_request(),
            settings,
            #[cfg(feature = "blocking")]
            has_given_up: AtomicBool::new(false),
            outer,
            state: Mutex::new(State {
                phase: Phase::Open,
                pass: 1,
                is_settling: false,
                publish: false,
                driver: None,
                body: RequestBodyState::Here(body),
                ledger: None,
            }),
        }
    }

    /// What a request has promised whose earlier passes asked for these.
    pub(super) fn with_settled(settings: Settings, slots: Vec<Arc<dyn AnySlot>>) -> Self {
        let registry = Self::new(settings, false, None, None);
        {
            let mut state = lock(&registry.state);
            state.pass = if slots.is_empty() { 1 } else { 2 };
            for slot in slots {
                state.insert(slot, Demand::Met, Vacancy::default());
            }
        }
        registry
    }

    pub(super) fn is_driven(&self) -> bool {
        self.is_driven
    }
}

/// For loaders.
#[cfg(feature = "loader")]
impl Registry {
    /// Whether a handle of this pass may submit.
    pub(super) fn is_current(&self, pass: usize) -> bool {
        lock(&self.state).is_current(pass)
    }

    /// What this request keeps for a thing of this address, which the value must hold on to.
    pub(super) fn attachment<T: Send + Sync + 'static>(
        &self,
        address: usize,
        make: impl FnOnce(usize) -> T,
    ) -> Option<Arc<T>> {
        let mut state = lock(&self.state);
        if state.has_ended() {
            return None;
        }
        let attachments = &mut state.ledger().attachments;
        let known = attachments.iter().find(|known| known.0 == address);
        if let Some((_, known)) = known {
            return Arc::clone(known).downcast().ok();
        }
        let made = Arc::new(make(attachments.len()));
        attachments.push((address, Arc::clone(&made) as _));
        Some(made)
    }

    /// Whether there is a promise of this name, and if so, whether it has settled. It does not count as
    /// reading.
    pub(super) fn peek(&self, key: &Key) -> Option<bool> {
        lock(&self.state).entry(key).map(Entry::is_settled)
    }
}

/// For blocking promises.
#[cfg(feature = "blocking")]
impl Registry {
    pub(super) fn pool(&self) -> &BlockingPool {
        &self.settings.pool
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Asks for the request to be rejected because the pool has no room.
    pub(super) fn give_up(&self) {
        self.has_given_up.store(true, Ordering::Relaxed);
        let driver = lock(&self.state).driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Why the request is to be rejected although its promises run.
    pub(super) fn overload(&self) -> Option<Rejection> {
        let has_given_up = self.has_given_up.load(Ordering::Relaxed);
        has_given_up.then(|| Rejection::Saturated {
            retry_after: self.settings.pool.retry_delay(),
        })
    }
}
