//! The operation of a run, and what the run remembers.

use super::held::{Held, Owner, Replaced};
use super::not_remembered::NotRemembered;
use super::recollection::Recollection;
use super::{token, wake};
use crate::changes::CHANGED;
use crate::instance::Instance;
use crate::memory::{Durable, Entry, Fact, WaitKind, Waiting};
use crate::observe;
use crate::record::{Key, Record};
use std::future::pending;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::clock::milliseconds;
use tower_promises_backend::kit::sync::lock;

/// The pauses between attempts to store.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The longest wait before the clock is read again, because it may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An operation that a run owns, and its memory.
pub(super) struct Owned {
    pub(super) instance: Arc<Instance>,
    pub(super) key: Key,
    pub(super) id: String,
    /// When the lifetime of the operation ends, in milliseconds since the epoch.
    end: u64,
    fence: String,
    pub(super) secret: String,
    pub(super) attempt: u32,
    pub(super) principal: Option<String>,
    held: tokio::sync::Mutex<Held>,
    pub(super) memory: Mutex<Recollection>,
    parts: AtomicU64,
    /// Notified when the memory has changed.
    pub(super) news: watch::Sender<()>,
    /// The number of promises that are pending, if all of them wait. Otherwise 0.
    resting: watch::Sender<usize>,
    is_replaced: watch::Sender<bool>,
}

impl Owned {
    pub(super) fn new(
        instance: Arc<Instance>,
        key: Key,
        held: Held,
        memory: Recollection,
        principal: Option<String>,
    ) -> Self {
        let durable = held.record.durable.clone().unwrap_or_default();
        let end = wake::end_of_lifetime(&instance, &held.record);
        Self {
            instance,
            key,
            end,
            id: held.record.id.clone(),
            fence: durable.fence,
            secret: durable.secret,
            attempt: durable.runs,
            principal,
            held: held.into(),
            memory: memory.into(),
            parts: AtomicU64::new(0),
            news: watch::Sender::new(()),
            resting: watch::Sender::new(0),
            is_replaced: watch::Sender::new(false),
        }
    }

    /// Logs advice if the names of a later run have nothing in common with those of earlier runs.
    pub(super) fn advise(&self) {
        let has_other_names = lock(&self.memory).has_other_names();
        if has_other_names {
            observe::other_names(&self.key);
        }
    }

    pub(super) fn fence(&self) -> &str {
        &self.fence
    }

    /// Resolves when nothing is pending except promises that wait.
    pub(super) async fn rested(&self) {
        let mut resting = self.resting.subscribe();
        let _ = resting.wait_for(|number| *number > 0).await;
    }

    /// Resolves when the run does not own the operation any more.
    pub(super) async fn replaced(&self) {
        let mut replaced = self.is_replaced.subscribe();
        let _ = replaced.wait_for(|is_replaced| *is_replaced).await;
    }

    /// Returns what a resting request waits for. `None` if a promise has settled since the request came to rest: without
    /// it, the list would not tell that the request can go on.
    pub(super) fn waiting(&self) -> Option<Vec<Waiting>> {
        let mut waiting: Vec<_> = {
            let memory = lock(&self.memory);
            if memory.waiting.len() != *self.resting.borrow() {
                return None;
            }
            memory.waiting.values().cloned().collect()
        };
        waiting.sort_by(|one, other| one.name.cmp(&other.name));
        for waiting in &mut waiting {
            // The application's closure runs without the lock.
            waiting.is_shown = (self.instance.settings.durable.shows)(&waiting.name);
        }
        Some(waiting)
    }

    pub(super) fn is_settled(&self, name: &str) -> bool {
        lock(&self.memory).settlement(name).is_some()
    }

    /// Learns what other processes have stored.
    pub(super) async fn refresh(&self) -> Result<(), BackendError> {
        let mut held = self.held.lock().await;
        if !self.owner().read(&mut held).await? {
            self.is_replaced.send_replace(true);
        }
        self.news.send_replace(());
        Ok(())
    }

    /// Changes the record, unless `change` returns `None` or the run was replaced.
    pub(super) async fn change<T>(
        &self,
        change: impl FnMut(&mut Record, &mut Durable) -> Option<T>,
    ) -> Result<Option<(T, Record)>, BackendError> {
        let mut held = self.held.lock().await;
        match self.owner().change(&mut held, change).await? {
            Ok(changed) => Ok(changed.map(|result| (result, held.record.clone()))),
            Err(Replaced) => {
                self.is_replaced.send_replace(true);
                Ok(None)
            }
        }
    }

    /// Records that clients cannot cancel the operation any more. Never resolves if the run was replaced.
    pub(super) async fn refuse_cancel(&self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let mut has_refused = false;
            let changed = self.change(|record, durable| {
                has_refused = std::mem::replace(&mut durable.refuses_cancel, true);
                (!has_refused).then(|| record.touch())
            });
            match changed.await {
                Ok(Some(_)) => return self.instance.announce(&self.key, CHANGED).await,
                Ok(None) if has_refused => return,
                Ok(None) => return pending().await,
                Err(error) => observe::not_stored(&self.key, &error),
            }
            sleep(backoff.pause()).await;
        }
    }

    fn owner(&self) -> Owner<'_> {
        Owner {
            instance: &self.instance,
            key: &self.key,
            fence: &self.fence,
            memory: &self.memory,
            parts: &self.parts,
        }
    }

    pub(super) fn application_secret(&self) -> &[u8] {
        &self.instance.settings.durable.secret
    }

    pub(super) fn url(&self, name: &str) -> String {
        let token = token::outside(self.application_secret(), &self.secret, name);
        let links = self.instance.settings.links(&self.id);
        format!("{}/promises/{token}", links.own)
    }

    pub(super) fn set_resting(&self, number: usize) {
        self.resting.send_if_modified(|resting| {
            let before = std::mem::replace(resting, number);
            before != number
        });
    }

    /// Returns the stored due time, and stores one if there is none.
    pub(super) async fn due(&self, name: &str, duration: Duration) -> Result<u64, NotRemembered> {
        let now = self.instance.settings.now();
        let until = now.saturating_add(milliseconds(duration));
        if until > self.end && lock(&self.memory).until(name).is_none() {
            observe::beyond_lifetime(&self.key);
        }
        self.store(name, Fact::Until(until)).await?;
        Ok(lock(&self.memory).until(name).unwrap_or(until))
    }

    /// Waits until a time by the clock, which may be set meanwhile.
    pub(super) async fn reach(&self, until: u64) {
        loop {
            let left = until.saturating_sub(self.instance.settings.now());
            if left == 0 {
                return;
            }
            sleep(Duration::from_millis(left).min(LONGEST_WAIT)).await;
        }
    }

    pub(super) fn wait(&self, name: &str, kind: WaitKind, until: Option<u64>) -> Wait<'_> {
        lock(&self.memory).wait(name, kind, until);
        Wait {
            owned: self,
            name: name.to_owned(),
        }
    }

    /// Stores a fact, together with all others that are to be stored at this time.
    pub(super) async fn store(&self, name: &str, fact: Fact) -> Result<(), NotRemembered> {
        let entry = Entry {
            name: name.to_owned(),
            fact,
        };
        self.want(&entry)?;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let error = {
                let mut held = self.held.lock().await;
                if lock(&self.memory).has(&entry) {
                    return Ok(());
                }
                match self.store_pending(&mut held).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(Replaced)) => {
                        drop(held);
                        self.is_replaced.send_replace(true);
                        return pending().await;
                    }
                    Err(error) => error,
                }
            };
            observe::not_stored(&self.key, &error);
            sleep(backoff.pause()).await;
        }
    }

    /// Adds an entry that has to be stored, if the limits allow it.
    fn want(&self, entry: &Entry) -> Result<(), NotRemembered> {
        let mut memory = lock(&self.memory);
        memory.request(&entry.name);
        if memory.has(entry) {
            return Ok(());
        }
        let settings = &self.instance.settings.durable;
        if memory.known + memory.pending().len() >= settings.max_remembered {
            let limit = settings.max_remembered;
            return Err(NotRemembered::TooMany { limit });
        }
        let size = memory.bytes + memory.pending_bytes() + entry.bytes();
        if size > settings.max_remembered_bytes {
            let limit = settings.max_remembered_bytes;
            return Err(NotRemembered::TooLarge { size, limit });
        }
        memory.want(entry);
        Ok(())
    }

    async fn store_pending(&self, held: &mut Held) -> Result<Result<(), Replaced>, BackendError> {
        let memory = &self.memory;
        let owner = self.owner();
        let changed = owner.change(held, |_, durable| {
            let new = lock(memory).pending().to_vec();
            if new.is_empty() {
                return None;
            }
            for entry in &new {
                durable.journal.push(entry.clone(), entry.bytes());
            }
            // The run gets on, so it is not what ends its processes.
            durable.recoveries = 0;
            Some(((durable.journal.len(), durable.journal.bytes()), new))
        });
        match changed.await? {
            Ok(Some((known, new))) => {
                let mut memory = lock(memory);
                (memory.known, memory.bytes) = known;
                memory.learn(&new);
            }
            Ok(None) => {}
            Err(replaced) => return Ok(Err(replaced)),
        }
        self.news.send_replace(());
        Ok(Ok(()))
    }
}

/// A promise that waits, until dropped.
pub(super) struct Wait<'a> {
    owned: &'a Owned,
    name: String,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        lock(&self.owned.memory).waiting.remove(&self.name);
    }
}
