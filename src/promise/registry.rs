#[cfg(feature = "blocking")]
use super::Rejection;
use super::error::{Failure, PromiseError, SubmitError};
use super::layer::Settings;
use super::slot::{AnySlot, Slot, Work};
use super::{Key, Promises, Start, observe};
#[cfg(feature = "blocking")]
use crate::blocking::BlockingPool;
use crate::body::{Detach, RequestBody};
use crate::sync::lock;
#[cfg(feature = "loader")]
use std::any::Any;
use std::any::{TypeId, type_name};
use std::collections::HashMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "blocking")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;

/// What one request has promised, shared by its handles and its response future.
///
/// User code never runs while the lock is held: neither a promise's work nor its `Drop`, nor the
/// `Clone` of a value.
pub(super) struct Registry {
    start: Start,
    max_promises: usize,
    /// Whether a response future runs the promises. A handle made for a test has none.
    is_driven: bool,
    #[cfg(feature = "blocking")]
    pool: BlockingPool,
    /// Tells requests apart that share a pool.
    #[cfg(feature = "blocking")]
    number: u64,
    /// There was no room in the pool, and the request is to be rejected for it.
    #[cfg(feature = "blocking")]
    has_given_up: AtomicBool,
    /// The promises of the request that this one is a part of.
    outer: Option<Promises>,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Counted from one.
    pass: usize,
    /// The pass has been discarded and its promises run.
    is_settling: bool,
    /// This pass is to be published whatever is pending.
    publish: bool,
    /// More promises were submitted than allowed.
    is_overfull: bool,
    entries: HashMap<Key, Entry>,
    /// How many promises there have been, which numbers them.
    count: usize,
    /// Promises that start when the pass ends, unless they are gone by then.
    queued: Vec<Weak<dyn AnySlot>>,
    /// Promises that start at once.
    starting: Vec<Arc<dyn AnySlot>>,
    /// Outer promises that were cleared here.
    hidden: Vec<Key>,
    undo: Vec<Undo>,
    /// Who is to start what is in `starting`.
    driver: Option<Waker>,
    body: RequestBodyState,
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
    number: usize,
    demand: Demand,
    /// How many are awaiting it.
    waiters: usize,
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
    Publish,
    Repeat,
    Overfull,
}

impl Registry {
    pub(super) fn new<H>(
        settings: &Settings<H>,
        is_driven: bool,
        outer: Option<Promises>,
        body: Option<Arc<dyn Detach>>,
    ) -> Self {
        Self {
            start: settings.start,
            max_promises: settings.max_promises,
            is_driven,
            #[cfg(feature = "blocking")]
            pool: settings.pool.clone(),
            #[cfg(feature = "blocking")]
            number: settings.pool.next_request(),
            #[cfg(feature = "blocking")]
            has_given_up: AtomicBool::new(false),
            outer,
            state: Mutex::new(State {
                phase: Phase::Open,
                pass: 1,
                is_settling: false,
                publish: false,
                is_overfull: false,
                entries: HashMap::new(),
                count: 0,
                queued: Vec::new(),
                starting: Vec::new(),
                hidden: Vec::new(),
                undo: Vec::new(),
                driver: None,
                body: RequestBodyState::Here(body),
                #[cfg(feature = "loader")]
                attachments: Vec::new(),
            }),
        }
    }

    /// What a request has promised whose earlier passes asked for these.
    pub(super) fn with_settled(slots: Vec<Arc<dyn AnySlot>>) -> Self {
        let registry = Self::new(&Settings::default(), false, None, None);
        {
            let mut state = lock(&registry.state);
            state.pass = if slots.is_empty() { 1 } else { 2 };
            for slot in slots {
                state.insert(slot, Demand::Met, 0);
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
        let known = state.attachments.iter().find(|known| known.0 == address);
        if let Some((_, known)) = known {
            return Arc::clone(known).downcast().ok();
        }
        let made = Arc::new(make(state.attachments.len()));
        state.attachments.push((address, Arc::clone(&made) as _));
        Some(made)
    }

    /// Whether there is a promise of this name, and if so, whether it has settled. It does not count as
    /// reading.
    pub(super) fn peek(&self, key: &Key) -> Option<bool> {
        lock(&self.state).entries.get(key).map(Entry::is_settled)
    }
}

/// For blocking promises.
#[cfg(feature = "blocking")]
impl Registry {
    pub(super) fn pool(&self) -> &BlockingPool {
        &self.pool
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
            retry_after: self.pool.retry_delay(),
        })
    }
}

/// For the handles.
impl Registry {
    /// The promise of this name, if it has settled.
    pub(super) fn read<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: &Key,
    ) -> Result<Arc<Slot<T>>, PromiseError> {
        let slot = self.lookup(pass, key, Type::of::<T>())?;
        Ok(downcast(slot))
    }

    fn lookup(
        &self,
        pass: usize,
        key: &Key,
        wanted: Type,
    ) -> Result<Arc<dyn AnySlot>, PromiseError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if let Some(entry) = state.entries.get_mut(key) {
            wanted.check(&*entry.slot)?;
            if entry.is_settled() {
                entry.meet();
                return Ok(Arc::clone(&entry.slot));
            }
            if pass == state.pass {
                entry.demand = Demand::Missed;
            }
            return Err(PromiseError::Pending { key: key.clone() });
        }
        if state.has_ended() {
            return Err(PromiseError::Ended { key: key.clone() });
        }
        match self.outer_slot(state, key) {
            Some(slot) => wanted.check(&*slot).map(|()| slot),
            None => Err(PromiseError::NotSubmitted { key: key.clone() }),
        }
    }

    /// The settled promise of this name in the request that this one is a part of. One that is pending
    /// there may be waiting for this very request, so it is none of this request's business.
    fn outer_slot(&self, state: &State, key: &Key) -> Option<Arc<dyn AnySlot>> {
        let outer = self.outer.as_ref()?.registry();
        if state.hidden.contains(key) {
            return None;
        }
        let outer_state = lock(&outer.state);
        match outer_state.entries.get(key) {
            Some(entry) => entry.is_settled().then(|| Arc::clone(&entry.slot)),
            None => outer.outer_slot(&outer_state, key),
        }
    }

    pub(super) fn submit<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: Key,
        demand: Demand,
        work: impl FnOnce() -> Work<T>,
    ) -> Result<Admission, SubmitError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if let Some(admission) = self.admit(state, pass, &key, demand, Type::of::<T>())? {
            if admission == Admission::TimedOut {
                let slot = Slot::<T>::settled(key.clone(), Err(Failure::TimedOut.of(key)));
                state.insert(Arc::new(slot), Demand::Met, 0);
            }
            return Ok(admission);
        }
        let slot: Arc<dyn AnySlot> = Arc::new(Slot::new(key, work()));
        state.insert(Arc::clone(&slot), demand, 0);
        let driver = if self.start == Start::Eager || state.is_settling {
            state.starting.push(slot);
            state.driver.take()
        } else {
            state.queued.push(Arc::downgrade(&slot));
            None
        };
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Admission::Pending)
    }

    /// [`submit`](Self::submit) for work that reads the body of the request.
    pub(super) fn submit_body<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: Key,
        demand: Demand,
        work: impl FnOnce(RequestBody) -> Work<T>,
    ) -> Result<Admission, SubmitError> {
        let body = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            match self.admit(state, pass, &key, demand, Type::of::<T>())? {
                Some(Admission::Pending) => return Ok(Admission::Pending),
                // The body is taken only for a promise that will run.
                Some(Admission::TimedOut) => RequestBodyState::Here(None),
                None => mem::replace(&mut state.body, RequestBodyState::Taken),
            }
        };
        let body = match body {
            RequestBodyState::Here(None) => RequestBody::empty(),
            RequestBodyState::Taken => return Err(SubmitError::BodyTaken { key }),
            RequestBodyState::Here(Some(body)) => match Arc::clone(&body).detach() {
                Some(body) => body,
                None => {
                    lock(&self.state).body = RequestBodyState::Here(Some(body));
                    return Err(SubmitError::BodyRead { key });
                }
            },
        };
        // This is user code, so no lock is held.
        let work = work(body);
        self.submit(pass, key, demand, || work)
    }

    /// What becomes of a promise that is submitted, if not a new one.
    fn admit(
        &self,
        state: &mut State,
        pass: usize,
        key: &Key,
        demand: Demand,
        wanted: Type,
    ) -> Result<Option<Admission>, SubmitError> {
        if !state.is_current(pass) {
            return Err(SubmitError::Ended { key: key.clone() });
        }
        if let Some(entry) = state.entries.get_mut(key) {
            if entry.is_settled() {
                return Err(SubmitError::AlreadyResolved { key: key.clone() });
            }
            if !wanted.matches(&*entry.slot) {
                return Err(SubmitError::WrongType {
                    key: key.clone(),
                    expected: wanted.name,
                    found: entry.slot.type_name(),
                });
            }
            if demand > entry.demand {
                entry.demand = demand;
            }
            return Ok(Some(Admission::Pending));
        }
        if self.outer_slot(state, key).is_some() {
            return Err(SubmitError::AlreadyResolved { key: key.clone() });
        }
        self.make_room(state, key)?;
        let has_timed_out = state.phase == Phase::TimedOut;
        Ok(has_timed_out.then_some(Admission::TimedOut))
    }

    /// Takes part in awaiting the promise of this name, which `make` makes where there is none.
    ///
    /// Each success is to be followed by one call of [`leave`](Self::leave).
    pub(super) fn join<T: Send + Sync + 'static>(
        &self,
        pass: usize,
        key: &Key,
        make: impl FnOnce() -> Work<T>,
    ) -> Result<Arc<Slot<T>>, PromiseError> {
        if let Some(slot) = self.join_present(pass, key, Type::of::<T>(), None)? {
            return Ok(downcast(slot));
        }
        // `make` is user code, so the lock was released, and another thread may be faster.
        let made: Arc<dyn AnySlot> = Arc::new(Slot::new(key.clone(), make()));
        let joined = self.join_present(pass, key, Type::of::<T>(), Some(&made))?;
        Ok(downcast(joined.unwrap_or(made)))
    }

    fn join_present(
        &self,
        pass: usize,
        key: &Key,
        wanted: Type,
        absent: Option<&Arc<dyn AnySlot>>,
    ) -> Result<Option<Arc<dyn AnySlot>>, PromiseError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let slot = if let Some(entry) = state.entries.get_mut(key) {
            wanted.check(&*entry.slot)?;
            entry.waiters += 1;
            Arc::clone(&entry.slot)
        } else if let Some(slot) = self.outer_slot(state, key) {
            return wanted.check(&*slot).map(|()| Some(slot));
        } else if !state.is_current(pass) {
            return Err(PromiseError::Ended { key: key.clone() });
        } else if state.phase == Phase::TimedOut {
            return Err(Failure::TimedOut.of(key.clone()));
        } else {
            self.make_room(state, key)
                .map_err(|error| PromiseError::Rejected { error })?;
            let Some(slot) = absent else {
                return Ok(None);
            };
            state.insert(Arc::clone(slot), Demand::Met, 1);
            Arc::clone(slot)
        };
        let mut driver = None;
        if self.is_driven && !slot.is_settled() {
            state.starting.push(Arc::clone(&slot));
            driver = state.driver.take();
        }
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Some(slot))
    }

    /// Ends what [`join`](Self::join) began. A promise that nobody wants any more is dropped.
    pub(super) fn leave<T: Send + Sync + 'static>(
        &self,
        slot: &Arc<Slot<T>>,
        waiter: Option<u64>,
        has_read: bool,
    ) {
        slot.waiters().unregister(waiter);
        let unwanted = {
            let mut state = lock(&self.state);
            let key = slot.key();
            match state.entries.get_mut(key) {
                Some(entry) if is_same(&entry.slot, slot) => {
                    entry.waiters -= 1;
                    if has_read {
                        entry.meet();
                    }
                    if entry.is_settled() || entry.waiters > 0 || entry.demand != Demand::Met {
                        None
                    } else {
                        state.entries.remove(key)
                    }
                }
                _ => None,
            }
        };
        if let Some(entry) = unwanted {
            entry.slot.fail(Failure::Cancelled);
        }
        if !self.is_driven {
            // Another waiter has to poll the work now.
            slot.waiters().wake();
        }
    }

    pub(super) fn cancel(&self, key: &Key) -> bool {
        let slot = {
            let mut state = lock(&self.state);
            let Some(entry) = state.entries.get_mut(key) else {
                return false;
            };
            if entry.is_settled() {
                return false;
            }
            entry.demand = Demand::Met;
            Arc::clone(&entry.slot)
        };
        slot.fail(Failure::Cancelled)
    }

    pub(super) fn clear(&self, key: &Key) -> bool {
        self.remove(key, Entry::is_settled)
    }

    pub(super) fn reset(&self, key: &Key) -> bool {
        self.remove(key, |_| true)
    }

    fn remove(&self, key: &Key, condition: impl Fn(&Entry) -> bool) -> bool {
        let entry = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            match state.entries.get(key) {
                Some(entry) if condition(entry) => state.entries.remove(key),
                Some(_) => return false,
                None if self.outer_slot(state, key).is_some() => {
                    state.hidden.push(key.clone());
                    return true;
                }
                None => return false,
            }
        };
        // Dropped here, where no lock is held.
        entry
            .map(|entry| entry.slot.fail(Failure::Cancelled))
            .is_some()
    }

    pub(super) fn publish(&self, pass: usize) {
        let mut state = lock(&self.state);
        if state.is_running(pass) {
            state.publish = true;
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        !matches!(lock(&self.state).verdict(), Verdict::Publish)
    }

    /// All names, in the order in which they came.
    pub(super) fn keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|_| true)
    }

    pub(super) fn pending_keys(&self) -> Vec<Key> {
        lock(&self.state).keys(|entry| entry.demand != Demand::Met)
    }

    pub(super) fn on_discard(&self, pass: usize, undo: Undo) {
        let mut state = lock(&self.state);
        if state.is_running(pass) {
            state.undo.push(undo);
            return;
        }
        let was_published = pass == state.pass && state.phase == Phase::Published;
        drop(state);
        if !was_published {
            run([undo]);
        }
    }

    fn make_room(&self, state: &mut State, key: &Key) -> Result<(), SubmitError> {
        if state.count < self.max_promises {
            return Ok(());
        }
        state.is_overfull = true;
        Err(SubmitError::TooManyPromises {
            key: key.clone(),
            limit: self.max_promises,
        })
    }

    pub(super) fn pass(&self) -> usize {
        lock(&self.state).pass
    }
}

/// For the response future.
impl Registry {
    /// What a pass that ends now asks for.
    pub(super) fn verdict(&self) -> Verdict {
        lock(&self.state).verdict()
    }

    /// Whether a promise has the body of the request.
    pub(super) fn has_given_body(&self) -> bool {
        matches!(lock(&self.state).body, RequestBodyState::Taken)
    }

    /// Ends a pass whose outcome was discarded: undoes what it has registered undo work for, and makes
    /// its promises start.
    pub(super) fn discard_pass(&self) {
        let undo = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            state.is_settling = true;
            let queued = mem::take(&mut state.queued);
            state
                .starting
                .extend(queued.iter().filter_map(Weak::upgrade));
            mem::take(&mut state.undo)
        };
        run(undo);
    }

    /// The promises that are to start now.
    pub(super) fn take_starting(&self) -> Vec<Arc<dyn AnySlot>> {
        mem::take(&mut lock(&self.state).starting)
    }

    /// Asks to be woken when a promise is to start. `false` if there is one already.
    pub(super) fn park(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if !state.starting.is_empty() {
            return false;
        }
        let former = state.driver.replace(waker.clone());
        drop(state);
        // Dropped where no lock is held.
        drop(former);
        true
    }

    /// Begins the next pass, unless a promise is still to start. Handles of the former pass cannot
    /// submit from here on.
    pub(super) fn begin_pass(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        if !state.starting.is_empty() {
            return None;
        }
        state.pass += 1;
        state.is_settling = false;
        state.publish = false;
        for entry in state.entries.values_mut() {
            entry.demand = Demand::Met;
        }
        Some(state.pass)
    }

    /// Ends the time of everything that is pending, and of what is submitted from now on. `false` if
    /// nothing has been submitted at all.
    pub(super) fn time_out(&self) -> bool {
        let pending = {
            let mut state = lock(&self.state);
            if state.entries.is_empty() {
                return false;
            }
            state.phase = Phase::TimedOut;
            state.stop()
        };
        for slot in pending {
            slot.fail(Failure::TimedOut);
        }
        true
    }

    /// Ends the request. Nothing is left running, and nothing is left to be held by the handles that
    /// remain, or by a value that holds one of them.
    pub(super) fn close(&self, published: bool) {
        #[cfg(feature = "loader")]
        let _attachments = mem::take(&mut lock(&self.state).attachments);
        let (pending, undo, _entries, _body, _driver) = {
            let mut state = lock(&self.state);
            if state.has_ended() {
                return;
            }
            state.phase = match published {
                true => Phase::Published,
                false => Phase::Abandoned,
            };
            (
                state.stop(),
                mem::take(&mut state.undo),
                mem::take(&mut state.entries),
                mem::replace(&mut state.body, RequestBodyState::Taken),
                state.driver.take(),
            )
        };
        for slot in pending {
            slot.fail(Failure::Cancelled);
        }
        if !published {
            run(undo);
        }
    }
}

impl State {
    /// Whether a handle of this pass may change anything. It may until the next pass begins.
    fn is_current(&self, pass: usize) -> bool {
        pass == self.pass && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Published | Phase::Abandoned)
    }

    /// Whether this pass is under way.
    fn is_running(&self, pass: usize) -> bool {
        self.is_current(pass) && !self.is_settling
    }

    fn verdict(&self) -> Verdict {
        if self.publish || self.phase != Phase::Open {
            return Verdict::Publish;
        }
        if self.is_overfull {
            return Verdict::Overfull;
        }
        let mut entries = self.entries.values();
        match entries.any(|entry| entry.demand != Demand::Met) {
            true => Verdict::Repeat,
            false => Verdict::Publish,
        }
    }

    fn insert(&mut self, slot: Arc<dyn AnySlot>, demand: Demand, waiters: usize) {
        let entry = Entry {
            number: self.count,
            slot,
            demand,
            waiters,
        };
        self.count += 1;
        self.entries.insert(entry.slot.key().clone(), entry);
    }

    /// Takes everything that has not settled, to be failed outside the lock.
    fn stop(&mut self) -> Vec<Arc<dyn AnySlot>> {
        self.queued.clear();
        let mut pending = mem::take(&mut self.starting);
        for entry in self.entries.values().filter(|entry| !entry.is_settled()) {
            pending.push(Arc::clone(&entry.slot));
        }
        pending
    }

    fn keys(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Key> {
        let mut keys: Vec<_> = self
            .entries
            .values()
            .filter(|entry| condition(entry))
            .map(|entry| (entry.number, entry.slot.key()))
            .collect();
        keys.sort_unstable_by_key(|&(number, _)| number);
        keys.into_iter().map(|(_, key)| key.clone()).collect()
    }
}

impl Entry {
    fn is_settled(&self) -> bool {
        self.slot.is_settled()
    }

    /// Its value has been read.
    fn meet(&mut self) {
        if self.demand == Demand::Submitted {
            self.demand = Demand::Met;
        }
    }
}

/// The type that a reader expects.
#[derive(Clone, Copy)]
struct Type {
    id: TypeId,
    name: &'static str,
}

impl Type {
    fn of<T: 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>(),
        }
    }

    fn matches(self, slot: &dyn AnySlot) -> bool {
        self.id == slot.type_id()
    }

    fn check(self, slot: &dyn AnySlot) -> Result<(), PromiseError> {
        match self.matches(slot) {
            true => Ok(()),
            false => Err(PromiseError::WrongType {
                key: slot.key().clone(),
                expected: self.name,
                found: slot.type_name(),
            }),
        }
    }
}

fn downcast<T: Send + Sync + 'static>(slot: Arc<dyn AnySlot>) -> Arc<Slot<T>> {
    slot.into_any()
        .downcast()
        .unwrap_or_else(|_| unreachable!("the type was checked when the slot was looked up"))
}

fn is_same<T: Send + Sync + 'static>(any: &Arc<dyn AnySlot>, slot: &Arc<Slot<T>>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(any), Arc::as_ptr(slot))
}

/// Runs undo work, the last registered first. One that panics does not keep the others from running.
fn run(undo: impl IntoIterator<Item = Undo, IntoIter: DoubleEndedIterator>) {
    for undo in undo.into_iter().rev() {
        if catch_unwind(AssertUnwindSafe(undo)).is_err() {
            observe::undo_panicked();
        }
    }
}
