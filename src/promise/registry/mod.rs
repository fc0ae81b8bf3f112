#[cfg(feature = "tracing")]
mod advising;
#[cfg(feature = "operations")]
mod durable;
mod entries;
#[cfg(feature = "fragments")]
mod fragments;
mod index;
mod look_up;
mod members;
mod passes;
mod polling;
mod reader;
mod reservation;
mod withdraw;

#[cfg(feature = "fragments")]
pub(crate) use fragments::{FragmentNumber, FragmentSettings, OnFragmentError, PendingFragment};
pub(super) use look_up::{Awaiting, Present, Purpose};
pub(super) use members::Members;
pub(super) use polling::{Aftermath, Poller};
pub(super) use reader::Reader;
pub(super) use reservation::Found;

use entries::{Entries, Vacancy};
#[cfg(feature = "fragments")]
use fragments::Fragments;

#[cfg(feature = "blocking")]
use super::Rejection;
use super::observe::Advice;
use super::outcome::{Kind, Outcome, Progress};
#[cfg(feature = "blocking")]
use super::waiters::wake;
use super::{Key, Start};
#[cfg(feature = "blocking")]
use crate::blocking::BlockingPool;
use crate::body::Detach;
use crate::sync::Mutex;
#[cfg(feature = "loader")]
use std::any::Any;
#[cfg(feature = "fragments")]
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
#[cfg(feature = "fragments")]
use std::sync::atomic::AtomicUsize;
#[cfg(feature = "blocking")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
#[cfg(feature = "operations")]
use std::time::Duration;
#[cfg(feature = "operations")]
use tower_promises_operations::durable::DurableRun;

/// The promises of one request, shared by its handles and its response future.
///
/// User code never runs while the lock is held: neither the work of a promise, nor its `Drop`, nor the `Clone` of a
/// value.
pub(crate) struct Registry {
    settings: Settings,
    /// Whether a response future runs the promises. A handle made for a test has none.
    is_driven: bool,
    /// Distinguishes the requests that share a pool.
    #[cfg(feature = "blocking")]
    number: u64,
    /// The pool had no room, and the request has to be rejected for that.
    #[cfg(feature = "blocking")]
    has_given_up: AtomicBool,
    /// The number of fragments that are being rendered.
    #[cfg(feature = "fragments")]
    rendering: AtomicUsize,
    /// The registry of the outer request, if this request was sent by a handler.
    outer: Option<Arc<Registry>>,
    /// The run of the durable operation whose request this is.
    #[cfg(feature = "operations")]
    run: Option<DurableRun>,
    state: Mutex<State>,
}

/// The settings that a registry needs.
pub(super) struct Settings {
    pub(super) start: Start,
    pub(super) max_promises: usize,
    #[cfg(feature = "blocking")]
    pub(super) pool: BlockingPool,
    #[cfg(feature = "fragments")]
    // A panic of `on_error` is caught where the function is called.
    pub(super) fragments: AssertUnwindSafe<Option<Arc<FragmentSettings>>>,
    /// Whether pending fragments may follow the response. Otherwise the pass is repeated.
    #[cfg(feature = "fragments")]
    pub(super) may_stream: bool,
    #[cfg(feature = "operations")]
    pub(super) promise_timeout: Option<Duration>,
}

struct State {
    phase: Phase,
    /// Starts at 1.
    pass: u32,
    /// The pass was discarded and its promises are running.
    is_settling: bool,
    /// The response was published, and its fragments follow.
    #[cfg(feature = "fragments")]
    is_streaming: bool,
    /// Whether pending fragments may follow the response.
    #[cfg(feature = "fragments")]
    may_stream: bool,
    /// The response of this pass is published even if promises are pending.
    publish: bool,
    /// Wakes the response future, which starts promises and polls them.
    driver: Option<Waker>,
    body: RequestBodyState,
    /// `None` until a promise is submitted. Most requests submit none.
    ledger: Option<Ledger>,
}

/// The promises of a request.
#[derive(Default)]
struct Ledger {
    entries: Entries,
    /// The place of the first promise that starts when the pass ends. All such promises before it have started.
    queued_from: usize,
    /// A running promise was cancelled or removed, so the response future has to poll all running promises: the others
    /// of its group may not wake.
    has_gap: bool,
    /// More promises were submitted than the limit allows.
    is_overfull: bool,
    /// The advice about changing names was given.
    #[cfg(feature = "tracing")]
    has_been_advised: bool,
    /// `None` until it is needed. Most requests do not need it.
    more: Option<Box<More>>,
}

/// The state of a request with promises that only few such requests need.
#[derive(Default)]
struct More {
    /// The places of promises that the response future has to start at once.
    starting: Vec<usize>,
    /// Names of outer promises that were cleared in this request.
    hidden: Vec<Key>,
    undo: Vec<Undo>,
    #[cfg(feature = "fragments")]
    fragments: Fragments,
    /// The names and texts of the errors of fragments that were reported.
    #[cfg(feature = "fragments")]
    reported: Vec<(Key, String)>,
    #[cfg(feature = "loader")]
    attachments: Vec<Attachment>,
}

/// The per-request state of an object outside the request, with the address of the object as its key.
#[cfg(feature = "loader")]
type Attachment = (usize, Arc<dyn Any + Send + Sync>);

enum RequestBodyState {
    /// `None` if the body is empty.
    Here(Option<Arc<dyn Detach>>),
    /// A promise has the body.
    Taken,
}

type Undo = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Open,
    /// The request has timed out, and its pending promises with it.
    TimedOut,
    Published,
    Abandoned,
}

struct Entry {
    key: Key,
    /// The hash of the name.
    hash: u32,
    /// The type of the value.
    kind: Kind,
    progress: Progress,
    /// The response future has started the promise, or starts it at once.
    has_started: bool,
    demand: Demand,
    /// The number of futures that are awaiting the promise.
    waiters: u32,
    /// The timeout of promises does not apply.
    #[cfg(feature = "operations")]
    limits_itself: bool,
    advice: Advice,
}

/// Whether a promise requires another pass.
#[derive(Clone, Copy, PartialEq)]
enum Demand {
    /// No: the value was available when it was requested.
    Met,
    /// No: only fragments that may follow the response have missed the value.
    Deferred,
    /// Yes, unless the value is read before the pass ends.
    Submitted,
    /// Yes: the value was requested and was not available.
    Missed,
}

impl Demand {
    /// Whether the value was requested and was not available.
    fn is_missed(self) -> bool {
        matches!(self, Self::Deferred | Self::Missed)
    }

    fn requires_pass(self) -> bool {
        matches!(self, Self::Submitted | Self::Missed)
    }
}

/// What has to happen at the end of a pass.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// The request has ended. It never had a promise, so there is nothing to close.
    Nothing,
    Publish,
    /// The response can be published, and fragments of it are pending.
    #[cfg(feature = "fragments")]
    Stream,
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
            #[cfg(feature = "blocking")]
            has_given_up: AtomicBool::new(false),
            #[cfg(feature = "fragments")]
            rendering: AtomicUsize::new(0),
            outer,
            #[cfg(feature = "operations")]
            run: None,
            state: Mutex::new(State {
                phase: Phase::Open,
                pass: 1,
                is_settling: false,
                #[cfg(feature = "fragments")]
                is_streaming: false,
                #[cfg(feature = "fragments")]
                may_stream: settings.may_stream,
                publish: false,
                driver: None,
                body: RequestBodyState::Here(body),
                ledger: None,
            }),
            settings,
        }
    }

    /// Creates a registry with these settled promises, as if an earlier pass had requested them.
    pub(super) fn with_settled(settings: Settings, settled: Vec<(Key, Kind, Outcome)>) -> Self {
        let registry = Self::new(settings, false, None, None);
        {
            let mut state = registry.state.lock();
            state.pass = if settled.is_empty() { 1 } else { 2 };
            for (key, kind, outcome) in settled {
                let vacancy = Vacancy::new(&key);
                let place = state.insert(&key, kind, None, Demand::Met, vacancy);
                state.settle_new(place, outcome);
            }
        }
        registry
    }

    pub(super) fn is_driven(&self) -> bool {
        self.is_driven
    }

    /// All names in the order of submission.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.state.lock().keys(|_| true)
    }

    pub(super) fn pass(&self) -> u32 {
        self.state.lock().pass
    }
}

impl State {
    /// Whether a handle of this pass may change anything. It may until the next pass begins.
    fn is_current(&self, pass: u32) -> bool {
        pass == self.pass && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Published | Phase::Abandoned)
    }

    /// Whether this pass is running.
    fn is_running(&self, pass: u32) -> bool {
        self.is_current(pass) && !self.is_settling
    }
}

/// Access for loaders.
#[cfg(feature = "loader")]
impl Registry {
    /// Whether a handle of this pass may submit promises.
    pub(super) fn is_current(&self, pass: u32) -> bool {
        self.state.lock().is_current(pass)
    }

    /// Returns the state that this request keeps for the object with this address, and creates it if necessary. The
    /// state must keep the object alive, so that its address is not reused.
    pub(super) fn attachment<T: Send + Sync + 'static>(
        &self,
        address: usize,
        make: impl FnOnce(usize) -> T,
    ) -> Option<Arc<T>> {
        let mut state = self.state.lock();
        if state.has_ended() {
            return None;
        }
        let attachments = &mut state.ledger().more().attachments;
        let known = attachments.iter().find(|known| known.0 == address);
        if let Some((_, known)) = known {
            return Arc::clone(known).downcast().ok();
        }
        let made = Arc::new(make(attachments.len()));
        attachments.push((address, Arc::clone(&made) as _));
        Some(made)
    }

    /// Whether the promise with this name has settled. `None` if there is no such promise. Does not count as reading.
    pub(super) fn peek(&self, key: &Key) -> Option<bool> {
        self.state
            .lock()
            .entry_mut(key)
            .map(|entry| entry.is_settled())
    }
}

/// Access for blocking promises.
#[cfg(feature = "blocking")]
impl Registry {
    pub(super) fn pool(&self) -> &BlockingPool {
        &self.settings.pool
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Requests the rejection of the request because the pool has no room.
    pub(super) fn give_up(&self) {
        self.has_given_up.store(true, Ordering::Relaxed);
        let driver = self.state.lock().driver.take();
        driver.into_iter().for_each(wake);
    }

    /// The rejection, if the pool had no room. It applies even while promises are running.
    pub(super) fn overload(&self) -> Option<Rejection> {
        let has_given_up = self.has_given_up.load(Ordering::Relaxed);
        has_given_up.then(|| Rejection::Saturated {
            retry_after: self.settings.pool.retry_delay(),
        })
    }
}
