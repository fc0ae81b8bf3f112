use super::instance::Instance;
use super::message;
use super::metrics::{self, BackendPart, Method};
use super::name::{MAX_NAME_BYTES, below};
use super::shared::Shared;
use super::{SignalError, Wait};
use bytes::Bytes;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::deadline::in_time;

/// A handle for sending and awaiting named signals, see [the module](super).
///
/// Clones are cheap and share the signals. The handle can be axum `State` or a request extension.
///
/// ```
/// use std::time::Duration;
/// use tower_promises_signals::{SignalError, Signals};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), SignalError> {
/// // `Signals::new(backend)` reaches the other processes that share the backend. `listen` there before serving.
/// let signals = Signals::memory();
/// signals.listen().await?;
///
/// // To all waiters. Each wait is subscribed when it is created.
/// let waits = [signals.wait::<u32>("answer"), signals.wait("answer")];
/// assert_eq!(signals.waiters("answer"), 2);
/// assert_eq!(signals.send("answer", &42).await?, 2);
/// for wait in waits {
///     assert_eq!(wait.await?, 42);
/// }
///
/// // To one waiter.
/// let wait = signals.wait::<String>("job");
/// assert!(signals.send_one("job", "sweep").await?);
/// assert_eq!(wait.await?, "sweep");
///
/// // To waiters that come later, too.
/// signals.latch("ready", &true, Duration::from_secs(60)).await?;
/// assert!(signals.wait::<bool>("ready").await?);
/// assert!(signals.unlatch("ready").await?);
///
/// // Names of a tenant, which no other tenant can choose.
/// let tenant = signals.namespace("tenant 3");
/// assert_ne!(tenant.path("ready"), signals.path("ready"));
/// assert_eq!(signals.all_waiters(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Signals {
    instance: Arc<Instance>,
    /// Empty, or ends with a slash.
    namespace: Arc<str>,
}

impl Signals {
    pub(super) fn of(instance: Instance) -> Self {
        Self {
            instance: Arc::new(instance),
            namespace: "".into(),
        }
    }

    /// Returns a handle for a namespace. Its names are distinct from the names in other namespaces and in this handle,
    /// whatever characters they contain. The limits are shared. Namespaces can be nested.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Self {
        Self {
            instance: self.instance.clone(),
            namespace: format!("{}/", below(&self.namespace, name)).into(),
        }
    }

    /// Returns a name with the namespaces of this handle, in the form used in errors and in the log.
    #[must_use]
    pub fn path(&self, name: &str) -> Arc<str> {
        below(&self.namespace, name)
    }

    fn checked_path(&self, name: &str) -> Result<Arc<str>, SignalError> {
        let path = self.path(name);
        if path.len() <= MAX_NAME_BYTES {
            return Ok(path);
        }
        let beginning = path.chars().take(40).collect::<String>().into();
        Err(SignalError::NameTooLong { beginning })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.instance.shared
    }

    /// Returns the number of waiters of a signal in this process.
    #[must_use]
    pub fn waiters(&self, name: &str) -> usize {
        self.shared().waiters.count(&self.path(name))
    }

    /// Returns the number of waiters of all signals in this process, in all namespaces.
    #[must_use]
    pub fn all_waiters(&self) -> usize {
        self.shared().waiters.total()
    }

    /// Waits for a signal. The returned future resolves to the next value that is sent, or to the latched value.
    ///
    /// The subscription starts when this function returns, so a value that is sent before the first poll is not lost.
    /// For values from other processes see [`listen`](Self::listen). The future is `Send` and `'static`, and borrows
    /// nothing. Without a [`timeout`](Wait::timeout) it waits forever.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_promises::{PromiseError, Promises};
    /// use tower_promises_signals::Signals;
    ///
    /// fn answer(promises: &Promises, signals: &Signals) -> Result<String, PromiseError> {
    ///     promises.result_or_try_submit("answer", || {
    ///         signals.wait::<String>("answer").timeout(Duration::from_secs(30))
    ///     })
    /// }
    /// # let _ = answer;
    /// ```
    ///
    /// The future fails with [`SignalError::TimedOut`], and with [`SignalError::WrongType`] if the value is not a `T`.
    /// Its first poll may also fail with [`SignalError::TooManyWaiters`], [`SignalError::NameTooLong`] or
    /// [`SignalError::NoRuntime`]. While the backend fails, the future keeps waiting.
    pub fn wait<T>(&self, name: &str) -> Wait<T> {
        match self.checked_path(name) {
            Ok(path) => Wait::new(&self.instance, path),
            Err(error) => Wait::refused(error),
        }
    }

    /// Starts to listen to other processes. The future resolves once their signals arrive here.
    ///
    /// The first [`wait`](Self::wait) starts to listen too, but signals from other processes are lost until the backend
    /// has answered, unless they are latched. A server that must not miss them awaits this method before it serves
    /// requests.
    ///
    /// Cancel safety: if the future is dropped after its first poll, this process listens nevertheless.
    ///
    /// # Errors
    ///
    /// [`SignalError::Backend`] if the backend does not answer in time, see
    /// [`backend_timeout`](super::SignalsBuilder::backend_timeout); the listening task retries.
    /// [`SignalError::NoRuntime`] outside of a tokio runtime.
    pub async fn listen(&self) -> Result<(), SignalError> {
        if self.instance.start().is_err() {
            return Err(SignalError::NoRuntime);
        }
        let mut listening = self.shared().listening.subscribe();
        let listens = async {
            let listens = listening.wait_for(|listening| *listening).await;
            listens.map(drop).map_err(BackendError::unavailable)
        };
        let listens = in_time(self.shared().backend.timeout(), listens).await;
        listens.map_err(|error| SignalError::Backend { name: None, error })
    }

    /// Sends a value to all current waiters, in this and in other processes. Returns the number of waiters in *this*
    /// process that got the value. Without waiters, the value is lost; see [`latch`](Self::latch).
    ///
    /// The count includes each waiter that the value was handed to, even if its request ends before it reads the value.
    ///
    /// The future does nothing until it is polled. It borrows nothing, so it can be a promise. If it is dropped before
    /// it resolves, waiters in this process may have got the value and others not.
    ///
    /// # Errors
    ///
    /// [`SignalError::Serialize`], [`SignalError::TooLarge`], [`SignalError::NameTooLong`] and
    /// [`SignalError::NoRuntime`]: no waiter got the value. [`SignalError::Backend`]: the waiters in this process got
    /// the value, but waiters in other processes may not have got it.
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
            let delivered = letter.shared.waiters.deliver(&letter.path, &letter.value);
            let published = letter.shared.publish(&letter.path, &letter.value, None);
            published.await.map_err(|error| letter.failed(error))?;
            metrics::sent(Method::Send);
            Ok(delivered)
        }
    }

    /// Sends a value to one waiter: the one in this process that has waited longest, or one in another process. Returns
    /// whether a waiter in *this* process got the value.
    ///
    /// `false` means that this process has no waiter and that the value was offered to the other processes. This
    /// process is not informed whether one of them took it. If that matters, let the waiter reply with a signal of its
    /// own. The store decides which process delivers the value, so at most one process does. A waiter that is dropped
    /// before it reads the value, or that cannot read it, passes it to the next waiter in its process. Without a next
    /// waiter, the value is lost.
    ///
    /// The future does nothing until it is polled, and borrows nothing.
    ///
    /// # Errors
    ///
    /// [`SignalError::Serialize`], [`SignalError::TooLarge`], [`SignalError::NameTooLong`] and
    /// [`SignalError::NoRuntime`]: no waiter got the value. [`SignalError::Backend`]: no waiter in this process got the
    /// value, but a waiter in another process may have got it.
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
            let waiters = &letter.shared.waiters;
            if waiters.deliver_to_one(&letter.path, letter.value.clone()) {
                metrics::sent(Method::SendOne);
                return Ok(true);
            }
            let offered = letter.shared.offer(&letter.path, &letter.value);
            offered.await.map_err(|error| letter.failed(error))?;
            metrics::sent(Method::SendOne);
            Ok(false)
        }
    }

    /// Sends a value to all current waiters and stores it for all waiters that arrive within `time_to_live`. Returns
    /// the number of current waiters in *this* process that got the value. A later latch with the same name replaces
    /// the value.
    ///
    /// While the value is latched, each [`wait`](Self::wait) for the name resolves to it at once, so a request that
    /// waits in a loop gets it repeatedly.
    ///
    /// The future does nothing until it is polled, and borrows nothing.
    ///
    /// # Errors
    ///
    /// [`SignalError::Serialize`], [`SignalError::TooLarge`], [`SignalError::NameTooLong`] and
    /// [`SignalError::NoRuntime`]: no waiter got the value. [`SignalError::Backend`]: the value may or may not be
    /// latched. If it is, waiters get it within the [`poll_interval`](super::SignalsBuilder::poll_interval).
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
            let (shared, value) = (&letter.shared, &letter.value);
            let key = message::latch_key(&letter.path);
            // Stored first: later waiters find the value in the store, earlier ones get it by delivery.
            let stored = shared.backend.put(&key, value.clone(), time_to_live).await;
            stored.map_err(|error| letter.failed(error))?;
            let delivered = shared.waiters.deliver(&letter.path, value);
            let published = shared.publish(&letter.path, value, None).await;
            published.map_err(|error| letter.failed(error))?;
            metrics::sent(Method::Latch);
            Ok(delivered)
        }
    }

    /// Removes a latch, so that later waits do not resolve to its value. Returns whether there was one.
    ///
    /// Cancel safety: if the future is dropped before it resolves, the latch may or may not exist. The call can be
    /// repeated.
    ///
    /// # Errors
    ///
    /// [`SignalError::NameTooLong`] and [`SignalError::NoRuntime`]: nothing has changed. [`SignalError::Backend`]: the
    /// latch may or may not exist.
    pub async fn unlatch(&self, name: &str) -> Result<bool, SignalError> {
        let name = self.checked_path(name)?;
        if Handle::try_current().is_err() {
            return Err(SignalError::NoRuntime);
        }
        let (shared, key) = (self.shared(), message::latch_key(&name));
        let deleted = shared.backend.delete(&key).await;
        deleted.map_err(|error| failed(&name, error))
    }

    fn letter<T>(&self, name: &str, value: &T) -> Result<Letter, SignalError>
    where
        T: Serialize + ?Sized,
    {
        let shared = self.shared().clone();
        let path = self.checked_path(name)?;
        let value = message::serialize(&path, value, shared.settings.max_message_bytes)?;
        Ok(Letter {
            shared,
            path,
            value,
        })
    }
}

/// A serialised value and its destination.
struct Letter {
    shared: Arc<Shared>,
    path: Arc<str>,
    value: Bytes,
}

impl Letter {
    /// Checks that there is a runtime, which the backend timeout needs.
    fn with_runtime(self) -> Result<Self, SignalError> {
        match Handle::try_current() {
            Ok(_) => Ok(self),
            Err(_) => Err(SignalError::NoRuntime),
        }
    }

    fn failed(&self, error: BackendError) -> SignalError {
        failed(&self.path, error)
    }
}

fn failed(name: &Arc<str>, error: BackendError) -> SignalError {
    metrics::backend_failed(BackendPart::Call);
    SignalError::Backend {
        name: Some(name.clone()),
        error,
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
