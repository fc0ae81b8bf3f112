use super::held::Held;
use super::not_remembered::NotRemembered;
use super::owned::Owned;
use super::recollection::Recollection;
use super::recording::{ChangedType, Recording, Replayed};
use super::token;
use crate::instance::Instance;
use crate::memory::{Durable, Fact, Settlement, WaitKind};
use crate::record::{Key, Record, Requester};
use crate::settings::Settings;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::fmt;
use std::future::pending;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tower_promises_backend::kit::clock;
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{Backend, Revision};

/// A run of a durable operation: the memory of its named promises.
///
/// A request of a durable operation has it in its extensions. `Promises::durable` of `tower-promises` and its relatives
/// use it. Clones are cheap and share the run.
///
/// Each method that stores something resolves after it is stored. A failure of the store is repeated while the run
/// owns the operation. A run that was replaced stores nothing more, and its futures never resolve: the run is being
/// dropped.
///
/// # Cancel safety
///
/// If the future of a method that stores something is dropped before it resolves, this may or may not be stored. The
/// call can be repeated.
#[derive(Clone)]
pub struct DurableRun {
    pub(super) owned: Arc<Owned>,
}

/// What a handler can ask.
impl DurableRun {
    /// Creates a run that remembers a recording, for unit tests of handlers. All recorded due times have passed. The run
    /// belongs to no operation: storing anything never ends.
    #[must_use]
    pub fn from_recording(recording: &Recording) -> Self {
        let (principal, received) = (None, clock::now());
        let requester = Requester {
            principal,
            received,
            callback: None,
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
        let mut memory = Recollection::of((entries.len(), 0), entries);
        let slept = memory.due_sleeps(u64::MAX);
        memory.learn(&slept);
        let instance = Instance::new(Backend::memory(), settings);
        let owned = Owned::new(instance, Key::of("recorded"), held, memory, None);
        Self::of(owned)
    }

    /// Returns the number of this run, starting at 1. A run begins anew after the loss of a process and after a
    /// suspension.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.owned.attempt
    }

    /// Returns the id of the operation, for [`Operations`](crate::Operations). It is a capability: with it alone, a client
    /// can read and cancel an operation without a principal.
    #[must_use]
    pub fn operation_id(&self) -> &str {
        &self.owned.id
    }

    /// Returns the principal of the request, as the layer's closure has named it.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.owned.principal.as_deref()
    }

    /// Returns a key with which another service can recognise a repeated call: the same in each run, for this operation
    /// and name. It is a keyed hash, 32 hexadecimal digits, and reveals neither.
    #[must_use]
    pub fn idempotency_key(&self, name: &str) -> String {
        token::idempotency_key(self.owned.application_secret(), &self.owned.secret, name)
    }

    /// Returns the remembered outcome of a promise.
    #[must_use]
    pub fn recall(&self, name: &str) -> Option<Settlement> {
        let mut memory = lock(&self.owned.memory);
        memory.request(name);
        memory.settlement(name).cloned()
    }

    /// Records that a remembered value was requested as a `T`, and whether it fits. [`replayed`](Self::replayed) tells
    /// of types that have changed.
    pub fn compare_type<T>(&self, name: &str, settlement: &Settlement, fits: bool) {
        let Settlement::Value(value) = settlement else {
            return;
        };
        let requested = type_name::<T>();
        let remembered = value.type_name();
        if fits && remembered.is_none_or(|remembered| remembered == requested) {
            return;
        }
        let changed = ChangedType {
            name: name.to_owned(),
            remembered: remembered.map(str::to_owned),
            requested,
            fits,
        };
        lock(&self.owned.memory).change_type(changed);
    }

    /// Compares the names that were remembered when the run began with the names that it has requested so far.
    #[must_use]
    pub fn replayed(&self) -> Replayed {
        lock(&self.owned.memory).replayed()
    }

    /// Stores the outcome of a promise. If an outcome is stored already, that one stays: [`recall`](Self::recall) returns
    /// the outcome that counts.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded. Nothing is stored.
    pub async fn remember(&self, name: &str, settlement: Settlement) -> Result<(), NotRemembered> {
        self.owned.store(name, Fact::Settled(settlement)).await
    }

    /// Lets clients cancel the operation no longer, from before an effect that a cancelled operation would leave half
    /// done. The page has no button then, the status document has no link, and `DELETE` is refused with 409.
    /// [`Operations::cancel`](crate::Operations::cancel) and the end of the
    /// [lifetime](crate::OperationLayer::lifetime) still end the operation.
    ///
    /// Resolves after this is stored, so no client has cancelled the operation before and none can afterwards. Call it
    /// in the future of the promise with the effect:
    ///
    /// ```ignore
    /// let run = run.clone();
    /// let charge = promises.durable("charge", || async move {
    ///     run.refuse_cancel().await;
    ///     provider.charge(key, amount).await
    /// })?;
    /// ```
    pub async fn refuse_cancel(&self) {
        self.owned.refuse_cancel().await;
    }

    /// Waits until a due time, which is `duration` after the first call with this name in any run, or until the
    /// application settles the sleep. That the time has come is remembered, so that a later run on a machine whose clock
    /// is behind does not wait again.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded.
    pub async fn sleep(&self, name: &str, duration: Duration) -> Result<Settlement, NotRemembered> {
        let until = Some(self.owned.due(name, duration).await?);
        let slept = Settlement::slept();
        self.settlement(name, WaitKind::Sleep, until, slept).await
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
        let of = self.owned.instance.types.learn::<T>();
        self.owned
            .store(name, Fact::Outside(Some(of.to_owned())))
            .await?;
        let until = match limit {
            Some(limit) => Some(self.owned.due(name, limit).await?),
            None => None,
        };
        let timed_out = Settlement::TimedOut;
        self.settlement(name, WaitKind::Outside, until, timed_out)
            .await
    }

    /// Waits until a promise is settled. At the due time, this run settles it.
    async fn settlement(
        &self,
        name: &str,
        kind: WaitKind,
        until: Option<u64>,
        when_due: Settlement,
    ) -> Result<Settlement, NotRemembered> {
        let mut news = self.owned.news.subscribe();
        let _waiting = self.owned.wait(name, kind, until);
        loop {
            if let Some(settlement) = self.recall(name) {
                return Ok(settlement);
            }
            let deadline = async {
                match until {
                    Some(until) => self.owned.reach(until).await,
                    None => pending().await,
                }
            };
            select! {
                _ = news.changed() => {}
                // Stored before it is read, so that a settlement which another process stores first counts.
                () = deadline => self.remember(name, when_due.clone()).await?,
            }
        }
    }

    /// Returns the address at which a promise is settled from outside. It works from the time when the future resolves.
    ///
    /// # Errors
    ///
    /// If a limit of the operation's memory is exceeded.
    pub async fn outside_url(&self, name: &str) -> Result<String, NotRemembered> {
        self.owned.store(name, Fact::Outside(None)).await?;
        Ok(self.owned.url(name))
    }

    /// Returns the address at which a promise is settled from outside, if it is known to work.
    #[must_use]
    pub fn known_outside_url(&self, name: &str) -> Option<String> {
        let is_known = lock(&self.owned.memory).get(name)?.has_address();
        is_known.then(|| self.owned.url(name))
    }

    /// Records the state of a request: `running` promises have not settled, and no handler runs. If all of them wait,
    /// the operation is suspended.
    pub fn rest(&self, running: usize) {
        let is_resting = running > 0 && lock(&self.owned.memory).waiting.len() == running;
        self.owned.set_resting(if is_resting { running } else { 0 });
    }

    /// Records that the handler runs.
    pub fn work(&self) {
        self.owned.set_resting(0);
    }
}

impl DurableRun {
    pub(super) fn of(owned: Owned) -> Self {
        Self {
            owned: Arc::new(owned),
        }
    }
}

// A panic leaves no lock in a state that another call would misread: changes are made on copies.
impl UnwindSafe for DurableRun {}
impl RefUnwindSafe for DurableRun {}

impl fmt::Debug for DurableRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableRun")
            .field("operation", &self.owned.key)
            .field("attempt", &self.owned.attempt)
            .finish_non_exhaustive()
    }
}
