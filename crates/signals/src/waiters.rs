use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, oneshot};
use tower_promises_backend::kit::sync::lock;

/// A value for a waiter.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// The value as JSON.
    pub(super) value: Bytes,
    /// Whether the value was sent to one waiter only.
    pub(super) only_one: bool,
}

/// The waiters of this process.
#[derive(Debug)]
pub(super) struct Waiters {
    state: Mutex<State>,
    max_waiters: usize,
    max_waiters_per_name: usize,
    /// Notified when there are latches to read.
    unread: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The waiters of each name, oldest first. Names without waiters are removed.
    names: HashMap<Arc<str>, BTreeMap<u64, oneshot::Sender<Parcel>>>,
    /// Names with waiters that have a latch to read.
    unread: HashSet<Arc<str>>,
    total: usize,
    next: u64,
}

impl State {
    fn remove_name(&mut self, name: &str) -> BTreeMap<u64, oneshot::Sender<Parcel>> {
        self.unread.remove(name);
        let waiters = self.names.remove(name).unwrap_or_default();
        self.total -= waiters.len();
        waiters
    }

    fn remove_name_if_empty(&mut self, name: &str) {
        if self.names.get(name).is_some_and(BTreeMap::is_empty) {
            self.remove_name(name);
        }
    }
}

impl Waiters {
    pub(super) fn new(max_waiters: usize, max_waiters_per_name: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_waiters,
            max_waiters_per_name,
            unread: Notify::new(),
        }
    }

    /// Adds a waiter and requests the latch of its name. The error is the exceeded limit.
    pub(super) fn subscribe(
        &self,
        name: &Arc<str>,
    ) -> Result<(u64, oneshot::Receiver<Parcel>), usize> {
        let mut state = lock(&self.state);
        let here = state.names.get(name).map_or(0, BTreeMap::len);
        if here >= self.max_waiters_per_name {
            return Err(self.max_waiters_per_name);
        }
        if state.total >= self.max_waiters {
            return Err(self.max_waiters);
        }
        let (sender, receiver) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        state.total += 1;
        let waiters = state.names.entry(name.clone()).or_default();
        waiters.insert(id, sender);
        state.unread.insert(name.clone());
        drop(state);
        self.unread.notify_one();
        Ok((id, receiver))
    }

    pub(super) fn unsubscribe(&self, name: &str, id: u64) {
        let mut state = lock(&self.state);
        let waiters = state.names.get_mut(name);
        if waiters.is_some_and(|waiters| waiters.remove(&id).is_some()) {
            state.total -= 1;
            state.remove_name_if_empty(name);
        }
    }

    /// Delivers a value to all waiters of a name. Returns the number of waiters that took it.
    pub(super) fn deliver(&self, name: &str, value: &Bytes) -> usize {
        // The lock is released before the waiters wake.
        let waiters = lock(&self.state).remove_name(name);
        Self::deliver_to(waiters, value)
    }

    /// Delivers a value to the waiters of a name that subscribed before this [`moment`](Self::moment).
    pub(super) fn deliver_before(&self, moment: u64, name: &str, value: &Bytes) {
        let mut state = lock(&self.state);
        let Some(waiters) = state.names.get_mut(name) else {
            return;
        };
        let later = waiters.split_off(&moment);
        let earlier = mem::replace(waiters, later);
        state.total -= earlier.len();
        state.remove_name_if_empty(name);
        drop(state);
        Self::deliver_to(earlier, value);
    }

    /// Returns a marker that separates current waiters from later ones.
    pub(super) fn moment(&self) -> u64 {
        lock(&self.state).next
    }

    fn deliver_to(waiters: BTreeMap<u64, oneshot::Sender<Parcel>>, value: &Bytes) -> usize {
        let delivered = waiters.into_values().filter_map(|waiter| {
            let parcel = Parcel {
                value: value.clone(),
                only_one: false,
            };
            waiter.send(parcel).ok()
        });
        delivered.count()
    }

    /// Delivers a value to the longest-waiting waiter of a name. Returns whether there was one.
    pub(super) fn deliver_to_one(&self, name: &str, value: Bytes) -> bool {
        let mut parcel = Parcel {
            value,
            only_one: true,
        };
        loop {
            let mut state = lock(&self.state);
            let Some(waiters) = state.names.get_mut(name) else {
                return false;
            };
            // Names in the map have waiters.
            let Some((_, waiter)) = waiters.pop_first() else {
                return false;
            };
            state.total -= 1;
            state.remove_name_if_empty(name);
            drop(state);
            match waiter.send(parcel) {
                Ok(()) => return true,
                // The waiter is being dropped.
                Err(returned) => parcel = returned,
            }
        }
    }

    pub(super) fn count(&self, name: &str) -> usize {
        lock(&self.state).names.get(name).map_or(0, BTreeMap::len)
    }

    pub(super) fn total(&self) -> usize {
        lock(&self.state).total
    }

    /// Requests the latches of all names with waiters, because messages may have been lost.
    pub(super) fn ask_for_all_latches(&self) {
        let mut state = lock(&self.state);
        let State { names, unread, .. } = &mut *state;
        unread.extend(names.keys().cloned());
        drop(state);
        self.unread.notify_one();
    }

    /// Requests a latch, if its name still has waiters.
    pub(super) fn ask_for_latch(&self, name: &Arc<str>) {
        let mut state = lock(&self.state);
        if state.names.contains_key(name) {
            state.unread.insert(name.clone());
            drop(state);
            self.unread.notify_one();
        }
    }

    /// Waits until latches are requested.
    pub(super) async fn asked_for_latches(&self) {
        self.unread.notified().await;
    }

    /// Takes the names with requested latches.
    pub(super) fn take_unread(&self) -> HashSet<Arc<str>> {
        mem::take(&mut lock(&self.state).unread)
    }
}
