use super::builder::SignalsBuilder;
use super::family::{Core, Family};
use super::message;
use super::name::{MAX_SIGNAL_NAME_BYTES, below};
use super::{SignalError, Wait};
use crate::backend::{Backend, BackendError};
use bytes::Bytes;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A handle to send and to wait for named signals, see [the module](super).
///
/// Clones are cheap and stand for the same signals. It serves as axum `State` and as request extension.
#[derive(Clone)]
pub struct Signals {
    family: Arc<Family>,
    /// Empty, or ends with a slash.
    namespace: Arc<str>,
}

impl Signals {
    /// Signals that travel over this backend, with the default settings.
    ///
    /// Each call makes signals of their own, as if in a process of their own: waiters of others are reached
    /// through the backend. A process needs one, and clones it.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self::builder(backend).build()
    }

    /// Signals within this process, with the default settings.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Backend::memory())
    }

    /// Builds signals that travel over this backend and have other settings.
    pub fn builder(backend: Backend) -> SignalsBuilder {
        SignalsBuilder::new(backend)
    }

    pub(super) fn of(family: Family) -> Self {
        Self {
            family: Arc::new(family),
            namespace: "".into(),
        }
    }

    /// A handle whose names never meet those of other namespaces, nor those of this handle, whatever
    /// characters they have. Limits are shared. Namespaces can be nested.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Self {
        Self {
            family: self.family.clone(),
            namespace: format!("{}/", below(&self.namespace, name)).into(),
        }
    }

    /// A name together with the namespaces of this handle, as it stands in errors and in the log.
    #[must_use]
    pub fn path(&self, name: &str) -> Arc<str> {
        below(&self.namespace, name)
    }

    fn checked_path(&self, name: &str) -> Result<Arc<str>, SignalError> {
        let path = self.path(name);
        if path.len() <= MAX_SIGNAL_NAME_BYTES {
            return Ok(path);
        }
        let name = path.chars().take(40).collect::<String>().into();
        Err(SignalError::NameTooLong { name })
    }

    fn core(&self) -> &Arc<Core> {
        &self.family.core
    }

    /// How many waiters a signal has in this process.
    #[must_use]
    pub fn waiters(&self, name: &str) -> usize {
        self.core().waiters.count(&self.path(name))
    }

    /// How many waiters all signals together have in this process, in all namespaces.
    #[must_use]
    pub fn all_waiters(&self) -> usize {
        self.core().waiters.total()
    }

    /// Waits for a signal: a future of the next value that is sent, or of the value that is latched.
    ///
    /// It is subscribed when this function returns, so a send that comes before the future is polled is not
    /// lost. For sends in other processes see [`listen`](Self::listen). The future is `Send`, `'static` and
    /// borrows nothing. Without a [`timeout`](Wait::timeout) it waits forever.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_promises::{PromiseError, Promises, Signals};
    ///
    /// fn answer(promises: &Promises, signals: &Signals) -> Result<String, PromiseError> {
    ///     promises.result_or_try_submit("answer", || {
    ///         signals.wait::<String>("answer").timeout(Duration::from_secs(30))
    ///     })
    /// }
    /// # let _ = answer;
    /// ```
    ///
    /// The future's errors are [`SignalError::TimedOut`], [`SignalError::WrongType`] when the value that was
    /// sent is not a `T`, and, on its first poll, [`SignalError::TooManyWaiters`],
    /// [`SignalError::NameTooLong`] and [`SignalError::NoRuntime`]. It does not fail with the backend, but
    /// waits until that has recovered.
    pub fn wait<T>(&self, name: &str) -> Wait<T> {
        match self.checked_path(name) {
            Ok(path) => Wait::new(&self.family, path),
            Err(error) => Wait::refused(error),
        }
    }

    /// Starts to listen to other processes, and resolves once their signals are heard here.
    ///
    /// The first [`wait`](Self::wait) starts to listen too, but what other processes send before the backend
    /// has answered is lost, unless it is latched. A server that cares awaits this before it serves.
    ///
    /// # Errors
    ///
    /// [`SignalError::Backend`] when the backend does not answer in time, see
    /// [`backend_timeout`](SignalsBuilder::backend_timeout); the listening task goes on trying.
    /// [`SignalError::NoRuntime`] outside of a tokio runtime.
    pub async fn listen(&self) -> Result<(), SignalError> {
        let name: Arc<str> = "".into();
        if self.family.start().is_err() {
            return Err(SignalError::NoRuntime { name });
        }
        let mut listening = self.core().listening.subscribe();
        let listens = async {
            let listens = listening.wait_for(|listening| *listening).await;
            listens.map(drop).map_err(BackendError::unavailable)
        };
        let listens = self.core().in_time(listens).await;
        listens.map_err(|error| SignalError::Backend { name, error })
    }

    /// Sends a value to everybody who waits now, here and in other processes, and returns how many waiters of
    /// *this* process got it. With nobody waiting it is lost; see [`latch`](Self::latch).
    ///
    /// "Got" means handed over: a waiter whose request ends before it looks is counted.
    ///
    /// Nothing happens before the future is polled. It borrows nothing, so it can be a promise. Dropped before
    /// it resolves, waiters may have got the value here and not elsewhere.
    ///
    /// # Errors
    ///
    /// [`SignalError::Serialize`], [`SignalError::TooLarge`], [`SignalError::NameTooLong`] and
    /// [`SignalError::NoRuntime`]: nobody got it. [`SignalError::Backend`]: waiters of this process got it,
    /// those elsewhere may not have.
    pub fn send<T>(
        &self,
        name: &str,
        value: &T,
    ) -> impl Future<Output = Result<usize, SignalError>> + Send + use<T>
    where
        T: Serialize + ?Sized,
    {
        let letter = self.letter(name, value);
        async move {
            let letter = letter?.with_runtime()?;
            let delivered = letter.core.waiters.deliver(&letter.path, &letter.value);
            let published = letter.core.publish(&letter.path, &letter.value, None);
            published.await.map_err(|error| letter.failed(error))?;
            Ok(delivered)
        }
    }

    /// Sends a value to one waiter: the one of this process that waits longest, else one of another process.
    /// Returns whether a waiter of *this* process got it.
    ///
    /// `false` says that nobody waited here and that the value was offered to the other processes. Whether
    /// one of them took it, this process cannot know; have the waiter answer with a signal of its own where
    /// that matters. Processes agree through the store who delivers, so never do two. A waiter that is dropped
    /// with the value unread, or cannot read it, hands it to the next one of its process, else it is lost.
    ///
    /// Nothing happens before the future is polled, and it borrows nothing.
    ///
    /// # Errors
    ///
    /// [`SignalError::Serialize`], [`SignalError::TooLarge`], [`SignalError::NameTooLong`] and
    /// [`SignalError::NoRuntime`]: nobody got it. [`SignalError::Backend`]: nobody of this process got it,
    /// one elsewhere may have.
    pub fn send_one<T>(
        &self,
        name: &str,
        value: &T,
    ) -> impl Future<Output = Result<bool, SignalError>> + Send + use<T>
    where
        T: Serialize + ?Sized,
    {
        let letter = self.letter(name, value);
        async move {
            let letter = letter?.with_runtime()?;
            let waiters = &letter.core.waiters;
            if waiters.deliver_to_one(&letter.path, letter.value.clone()) {
                return Ok(true);
            }
            let offered = letter.core.offer(&letter.path, &letter.value);
            offered.await.map_err(|error| letter.failed(error))?;
            Ok(false)
        }
    }

    /// Sends a value to everybody who waits now, and to everybody who comes within `time_to_live`. Returns how
    /// many waiters of *this* process got it now. A later latch of the same name replaces it.
    ///
    /// While it is latched, every [`wait`](Self::wait) for the name gets the value at once, so a request that
    /// waits in a loop sees it again and again.
    ///
    /// Nothing happens before the future is polled, and it borrows nothing.
    ///
    /// # Errors
    ///
    /// [`SignalError::Serialize`], [`SignalError::TooLarge`], [`SignalError::NameTooLong`] and
    /// [`SignalError::NoRuntime`]: nobody got it. [`SignalError::Backend`]: it may or may not be latched. If
    /// it is, waiters get it within the [`poll_interval`](SignalsBuilder::poll_interval).
    pub fn latch<T>(
        &self,
        name: &str,
        value: &T,
        time_to_live: Duration,
    ) -> impl Future<Output = Result<usize, SignalError>> + Send + use<T>
    where
        T: Serialize + ?Sized,
    {
        let letter = self.letter(name, value);
        async move {
            let letter = letter?.with_runtime()?;
            let (core, value) = (&letter.core, &letter.value);
            let key = message::latch_key(&letter.path);
            // Stored first: who comes now finds it there, who was there before hears it.
            let stored = core
                .backend
                .store()
                .put(&key, value.clone(), Some(time_to_live));
            let stored = core.in_time(stored).await;
            stored.map_err(|error| letter.failed(error))?;
            let delivered = core.waiters.deliver(&letter.path, value);
            let published = core.publish(&letter.path, value, None).await;
            published.map_err(|error| letter.failed(error))?;
            Ok(delivered)
        }
    }

    /// Ends a latch before its time: who comes from now on waits. Returns whether it was latched.
    ///
    /// # Errors
    ///
    /// [`SignalError::NameTooLong`] and [`SignalError::NoRuntime`]: nothing has changed.
    /// [`SignalError::Backend`]: it may or may not be latched still.
    pub async fn unlatch(&self, name: &str) -> Result<bool, SignalError> {
        let name = self.checked_path(name)?;
        if Handle::try_current().is_err() {
            return Err(SignalError::NoRuntime { name });
        }
        let (core, key) = (self.core(), message::latch_key(&name));
        let deleted = core.in_time(core.backend.store().delete(&key)).await;
        deleted.map_err(|error| SignalError::Backend { name, error })
    }

    fn letter<T>(&self, name: &str, value: &T) -> Result<Letter, SignalError>
    where
        T: Serialize + ?Sized,
    {
        let core = self.core().clone();
        let path = self.checked_path(name)?;
        let value = message::serialize(&path, value, core.settings.max_message_bytes)?;
        Ok(Letter { core, path, value })
    }
}

/// A value on its way.
struct Letter {
    core: Arc<Core>,
    path: Arc<str>,
    value: Bytes,
}

impl Letter {
    /// The backend is given its time by tokio's clock.
    fn with_runtime(self) -> Result<Self, SignalError> {
        match Handle::try_current() {
            Ok(_) => Ok(self),
            Err(_) => Err(SignalError::NoRuntime { name: self.path }),
        }
    }

    fn failed(&self, error: BackendError) -> SignalError {
        SignalError::Backend {
            name: self.path.clone(),
            error,
        }
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals")
            .field("namespace", &self.namespace)
            .field("all_waiters", &self.all_waiters())
            .finish_non_exhaustive()
    }
}
