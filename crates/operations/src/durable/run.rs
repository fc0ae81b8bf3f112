use super::held::{Held, Owner, Replaced};
use super::recollection::Recollection;
use super::recording::{ChangedType, Recording, Replayed};
use super::token;
use crate::instance::Instance;
use crate::memory::{Durable, Entry, Fact, Settlement, WaitKind, Waiting};
use crate::observe;
use crate::record::{Key, Record, Requester};
use crate::settings::Settings;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::future::pending;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::select;
use tokio::sync::watch;
use tokio::time::sleep;
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::clock::{self, milliseconds};
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{Backend, BackendError, Revision};

/// The pauses between attempts to store.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The longest wait before the clock is read again, because it may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A run of a durable operation: the memory of its named promises.
///
/// A request of a durable operation has it in its extensions. `Promises::durable` of `tower-promises` and its relatives
/// use it. Clones are cheap and share the run.
///
/// Each method that stores something resolves after it is stored. A failure of the store is repeated while the run
/// owns the operation. A run that was replaced stores nothing more, and its futures never resolve: the run is being
/// dropped.
#[derive(Clone)]
pub struct DurableRun {
    shared: Arc<Shared>,
}

struct Shared {
    instance: Arc<Instance>,
    key: Key,
    id: String,
    fence: String,
    secret: String,
    attempt: u32,
    principal: Option<String>,
    held: tokio::sync::Mutex<Held>,
    memory: Mutex<Recollection>,
    parts: AtomicU64,
    /// Notified when the memory has changed.
    news: watch::Sender<()>,
    /// Nothing is pending except promises that wait.
    is_resting: watch::Sender<bool>,
    is_replaced: watch::Sender<bool>,
}

/// The error of a promise whose outcome could not be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotRemembered {
    /// The operation has as many remembered promises as it may have.
    #[non_exhaustive]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The outcome is larger than the room that is left for the memory of the operation.
    #[non_exhaustive]
    TooLarge {
        /// The size of the memory with the outcome, in bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

impl fmt::Display for NotRemembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { limit } => write!(
                f,
                "the operation has {limit} remembered entries, and may not have more"
            ),
            Self::TooLarge { size, limit } => write!(
                f,
                "the operation would remember {size} bytes, and may remember {limit}"
            ),
        }
    }
}

impl Error for NotRemembered {}

/// What a handler can ask.
impl DurableRun {
    /// Creates a run that remembers a recording, for unit tests of handlers. All recorded due times have passed. The run
    /// belongs to no operation: storing anything never ends.
    #[must_use]
    pub fn recorded(recording: &Recording) -> Self {
        let (principal, received) = (None, clock::now());
        let requester = Requester {
            principal,
            received,
        };
        let settings = Settings {
            // All due times have passed.
            clock: Arc::new(|| u64::MAX),
            ..Settings::default()
        };
        let longest = settings.longest();
        let mut record = Record::new("recorded".into(), String::new(), requester, longest);
        record.durable = Some(Box::new(Durable {
            runs: 2,
            ..Durable::default()
        }));
        let held = Held {
            record,
            revision: Revision::new(0),
            is_current: false,
        };
        let entries = recording.entries();
        let memory = Recollection::of((entries.len(), 0), entries);
        let instance = Instance::new(Backend::memory(), settings);
        Self::new(instance, Key::of("recorded"), held, memory, None)
    }

    /// Returns the number of this run, starting at 1. A run begins anew after the loss of a process and after a
    /// suspension.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.shared.attempt
    }

    /// Returns the principal of the request, as the layer's closure has named it.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.shared.principal.as_deref()
    }

    /// Returns a key with which another service can recognise a repeated call: the same in each run, for this operation
    /// and name. It is a keyed hash, 32 hexadecimal digits, and reveals neither.
    #[must_use]
    pub fn idempotency_key(&self, name: &str) -> String {
        token::idempotency_key(self.application_secret(), &self.shared.secret, name)
    }

    /// Returns the remembered outcome of a promise.
    #[must_use]
    pub fn recall(&self, name: &str) -> Option<Settlement> {
        let mut memory = lock(&self.shared.memory);
        memory.request(name);
        memory.settlement(name).cloned()
    }

    /// Records that a remembered value was requested as a `T`, and whether it fits. [`replayed`](Self::replayed) tells
    /// of types that have changed.
    pub fn compare_type<T>(&self, name: &str, settlement: &Settlement, fits: bool) {
        let Settlement::Value { of, .. } = settlement else {
            return;
        };
        let requested = type_name::<T>();
        if fits && of.as_ref().is_none_or(|of| of == requested) {
            return;
        }
        let changed = ChangedType {
            name: name.to_owned(),
            remembered: of.clone(),
            requested,
            fits,
        };
        lock(&self.shared.memory).change_type(changed);
    }

    /// Compares the names that were remembered when the run began with the names that it has requested so far.
    #[must_use]
    pub fn replayed(&self) -> Replayed {
        lock(&self.shared.memory).replayed()
    }

    /// Stores the outcome of a promise. If an outcome is stored already, that one stays: [`recall`](Self::recall) returns
    /// the outcome that counts.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded. Nothing is stored.
    pub async fn remember(&self, name: &str, settlement: Settlement) -> Result<(), NotRemembered> {
        self.store(name, Fact::Settled(settlement)).await
    }

    /// Waits until a due time, which is `duration` after the first call with this name in any run.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded.
    pub async fn sleep(&self, name: &str, duration: Duration) -> Result<(), NotRemembered> {
        let until = self.due(name, duration).await?;
        let _waiting = self.wait(name, WaitKind::Sleep, Some(until));
        self.reach(until).await;
        Ok(())
    }

    /// Whether the due time of a [`sleep`](Self::sleep) has come.
    #[must_use]
    pub fn has_slept(&self, name: &str) -> bool {
        let mut memory = lock(&self.shared.memory);
        memory.request(name);
        let until = memory.until(name);
        until.is_some_and(|until| until <= self.shared.instance.settings.now())
    }

    /// Waits until a promise is settled from outside, or until its deadline, which is `limit` after the first call with
    /// this name in any run. The value is a `T`: the layer refuses other values from outside, if this process has waited
    /// for a `T` before.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded.
    pub async fn outside<T: DeserializeOwned>(
        &self,
        name: &str,
        limit: Option<Duration>,
    ) -> Result<Settlement, NotRemembered> {
        let of = self.shared.instance.types.learn::<T>();
        self.store(name, Fact::Outside(Some(of.to_owned()))).await?;
        let until = match limit {
            Some(limit) => Some(self.due(name, limit).await?),
            None => None,
        };
        let mut news = self.shared.news.subscribe();
        let _waiting = self.wait(name, WaitKind::Outside, until);
        loop {
            if let Some(settlement) = self.recall(name) {
                return Ok(settlement);
            }
            let deadline = async {
                match until {
                    Some(until) => self.reach(until).await,
                    None => pending().await,
                }
            };
            select! {
                _ = news.changed() => {}
                // Stored before it is read, so that a settlement which another process stores first counts.
                () = deadline => self.remember(name, Settlement::TimedOut).await?,
            }
        }
    }

    /// Returns the address at which a promise is settled from outside. It works from the time when the future resolves.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded.
    pub async fn outside_url(&self, name: &str) -> Result<String, NotRemembered> {
        self.store(name, Fact::Outside(None)).await?;
        Ok(self.url(name))
    }

    /// Returns the address at which a promise is settled from outside, if it is known to work.
    #[must_use]
    pub fn known_outside_url(&self, name: &str) -> Option<String> {
        let is_outside = lock(&self.shared.memory).get(name)?.outside.is_some();
        is_outside.then(|| self.url(name))
    }

    /// Records the state of a request: `running` promises have not settled, and no handler runs. If all of them wait,
    /// the operation is suspended.
    pub fn rest(&self, running: usize) {
        let is_resting = running > 0 && lock(&self.shared.memory).waiting.len() == running;
        self.set_resting(is_resting);
    }

    /// Records that the handler runs.
    pub fn work(&self) {
        self.set_resting(false);
    }
}

/// What the worker needs.
impl DurableRun {
    pub(super) fn new(
        instance: Arc<Instance>,
        key: Key,
        held: Held,
        memory: Recollection,
        principal: Option<String>,
    ) -> Self {
        let durable = held.record.durable.clone().unwrap_or_default();
        Self {
            shared: Arc::new(Shared {
                instance,
                key,
                id: held.record.id.clone(),
                fence: durable.fence,
                secret: durable.secret,
                attempt: durable.runs,
                principal,
                held: held.into(),
                memory: memory.into(),
                parts: AtomicU64::new(0),
                news: watch::Sender::new(()),
                is_resting: watch::Sender::new(false),
                is_replaced: watch::Sender::new(false),
            }),
        }
    }

    /// Logs advice if the names of a later run have nothing in common with those of earlier runs.
    pub(super) fn advise(&self) {
        let has_other_names = lock(&self.shared.memory).has_other_names();
        if has_other_names {
            observe::other_names(&self.shared.key);
        }
    }

    pub(super) fn fence(&self) -> &str {
        &self.shared.fence
    }

    /// Resolves when nothing is pending except promises that wait.
    pub(super) async fn rested(&self) {
        let mut resting = self.shared.is_resting.subscribe();
        let _ = resting.wait_for(|is_resting| *is_resting).await;
    }

    /// Resolves when the run does not own the operation any more.
    pub(super) async fn replaced(&self) {
        let mut replaced = self.shared.is_replaced.subscribe();
        let _ = replaced.wait_for(|is_replaced| *is_replaced).await;
    }

    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let mut waiting: Vec<_> = {
            let memory = lock(&self.shared.memory);
            memory.waiting.values().cloned().collect()
        };
        waiting.sort_by(|one, other| one.name.cmp(&other.name));
        for waiting in &mut waiting {
            // The application's closure runs without the lock.
            waiting.is_shown = (self.shared.instance.settings.durable.shows)(&waiting.name);
        }
        waiting
    }

    pub(super) fn is_settled(&self, name: &str) -> bool {
        lock(&self.shared.memory).settlement(name).is_some()
    }

    /// Learns what other processes have stored.
    pub(super) async fn refresh(&self) -> Result<(), BackendError> {
        let mut held = self.shared.held.lock().await;
        if !self.owner().read(&mut held).await? {
            self.shared.is_replaced.send_replace(true);
        }
        self.shared.news.send_replace(());
        Ok(())
    }

    /// Changes the record, unless `change` returns `None` or the run was replaced.
    pub(super) async fn change<T>(
        &self,
        change: impl FnMut(&mut Record, &mut Durable) -> Option<T>,
    ) -> Result<Option<(T, Record)>, BackendError> {
        let mut held = self.shared.held.lock().await;
        match self.owner().change(&mut held, change).await? {
            Ok(changed) => Ok(changed.map(|result| (result, held.record.clone()))),
            Err(Replaced) => {
                self.shared.is_replaced.send_replace(true);
                Ok(None)
            }
        }
    }
}

impl DurableRun {
    fn owner(&self) -> Owner<'_> {
        Owner {
            instance: &self.shared.instance,
            key: &self.shared.key,
            fence: &self.shared.fence,
            memory: &self.shared.memory,
            parts: &self.shared.parts,
        }
    }

    fn application_secret(&self) -> &[u8] {
        &self.shared.instance.settings.durable.secret
    }

    fn url(&self, name: &str) -> String {
        let token = token::outside(self.application_secret(), &self.shared.secret, name);
        let links = self.shared.instance.settings.links(&self.shared.id);
        format!("{}/promises/{token}", links.own)
    }

    fn set_resting(&self, is_resting: bool) {
        self.shared.is_resting.send_if_modified(|was_resting| {
            let changes = *was_resting != is_resting;
            *was_resting = is_resting;
            changes
        });
    }

    /// Returns the stored due time, and stores one if there is none.
    async fn due(&self, name: &str, duration: Duration) -> Result<u64, NotRemembered> {
        let now = self.shared.instance.settings.now();
        let until = now.saturating_add(milliseconds(duration));
        self.store(name, Fact::Until(until)).await?;
        Ok(lock(&self.shared.memory).until(name).unwrap_or(until))
    }

    /// Waits until a time by the clock, which may be set meanwhile.
    async fn reach(&self, until: u64) {
        loop {
            let left = until.saturating_sub(self.shared.instance.settings.now());
            if left == 0 {
                return;
            }
            sleep(Duration::from_millis(left).min(LONGEST_WAIT)).await;
        }
    }

    fn wait(&self, name: &str, kind: WaitKind, until: Option<u64>) -> Wait<'_> {
        lock(&self.shared.memory).wait(name, kind, until);
        Wait {
            run: self,
            name: name.to_owned(),
        }
    }

    /// Stores a fact, together with all others that are to be stored at this time.
    async fn store(&self, name: &str, fact: Fact) -> Result<(), NotRemembered> {
        let entry = Entry {
            name: name.to_owned(),
            fact,
        };
        self.want(&entry)?;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let error = {
                let mut held = self.shared.held.lock().await;
                if lock(&self.shared.memory).has(&entry) {
                    return Ok(());
                }
                match self.store_pending(&mut held).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(Replaced)) => {
                        drop(held);
                        self.shared.is_replaced.send_replace(true);
                        return pending().await;
                    }
                    Err(error) => error,
                }
            };
            observe::not_stored(&self.shared.key, &error);
            sleep(backoff.pause()).await;
        }
    }

    /// Adds an entry that has to be stored, if the limits allow it.
    fn want(&self, entry: &Entry) -> Result<(), NotRemembered> {
        let mut memory = lock(&self.shared.memory);
        memory.request(&entry.name);
        if memory.has(entry) {
            return Ok(());
        }
        let settings = &self.shared.instance.settings.durable;
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
        let memory = &self.shared.memory;
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
        self.shared.news.send_replace(());
        Ok(Ok(()))
    }
}

/// A promise that waits, until dropped.
struct Wait<'a> {
    run: &'a DurableRun,
    name: String,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        lock(&self.run.shared.memory).waiting.remove(&self.name);
    }
}

// A panic leaves no lock in a state that another call would misread: changes are made on copies.
impl UnwindSafe for DurableRun {}
impl RefUnwindSafe for DurableRun {}

impl fmt::Debug for DurableRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableRun")
            .field("operation", &self.shared.key)
            .field("attempt", &self.shared.attempt)
            .finish_non_exhaustive()
    }
}
