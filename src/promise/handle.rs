use super::error::{Failure, PromiseError, SubmitError};
use super::layer::Settings;
use super::registry::{Admission, Demand, Registry};
use super::resolve::Waiter;
use super::slot::{AnySlot, Slot, Work};
use super::{IntoKey, Key, current};
use crate::BoxError;
use crate::body::{Detach, RequestBody};
use futures_util::FutureExt;
use std::fmt;
use std::sync::Arc;

/// The promises of the request being handled.
///
/// [`PromiseLayer`](super::PromiseLayer) puts one into the extensions of every request. It is cheap to
/// clone, and a clone is the same set of promises.
///
/// Where the request is out of reach, deep in a template or a component, [`Promises::current`] finds it.
///
/// # Reading and asking
///
/// ```
/// use tower_promises::promise::{OrPending, PromiseError, Promises};
///
/// # async fn fetch_name(id: u32) -> String { format!("user {id}") }
/// fn greeting(promises: &Promises, id: u32) -> Result<String, PromiseError> {
///     let name: String = promises
///         // The first time it is asked for: submitted, and `Err(Pending)`. In the next pass: the name.
///         .result_or_submit(format!("name:{id}"), || fetch_name(id))
///         // Any other error ends the handler here.
///         .or_pending(String::new())?;
///     Ok(format!("Hello, {name}!"))
/// }
/// # let _ = greeting;
/// ```
///
/// # Lifetime
///
/// A handle belongs to a pass. Once the next pass has begun it can still read what has settled, but not
/// submit. Once the request has ended, because its response was published for example, all promises
/// and their values are dropped: reading through a handle that somebody has kept is
/// [`PromiseError::Ended`], submitting is [`SubmitError::Ended`], and neither panics.
///
/// # Testing a handler
///
/// ```
/// use tower_promises::promise::{PromiseResults, Promises};
///
/// fn title(promises: &Promises) -> String {
///     let unread: u32 = promises.result_or_submit("unread", async || 0).unwrap_or_default();
///     format!("({unread}) Inbox")
/// }
///
/// // What it asks for:
/// let promises = Promises::with_results(PromiseResults::new());
/// title(&promises);
/// assert_eq!(promises.keys(), ["unread"]);
/// assert!(promises.is_pending());
///
/// // What it does with the answer:
/// let promises = Promises::with_results(PromiseResults::new().value("unread", 7_u32));
/// assert_eq!(title(&promises), "(7) Inbox");
/// ```
#[derive(Clone)]
pub struct Promises {
    registry: Arc<Registry>,
    pass: usize,
}

/// Where the request and its handles come from.
impl Promises {
    pub(super) fn open<H>(
        settings: &Settings<H>,
        outer: Option<Self>,
        body: Option<Arc<dyn Detach>>,
    ) -> Self {
        Self {
            registry: Arc::new(Registry::new(settings, true, outer, body)),
            pass: 1,
        }
    }

    /// The handle for the next pass, unless a promise is still to start.
    pub(super) fn next_pass(&self) -> Option<Self> {
        Some(Self {
            pass: self.registry.begin_pass()?,
            registry: Arc::clone(&self.registry),
        })
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// For work that is kept by the registry itself.
    #[cfg(any(feature = "blocking", feature = "loader"))]
    pub(super) fn downgrade(&self) -> WeakPromises {
        WeakPromises {
            registry: Arc::downgrade(&self.registry),
            pass: self.pass,
        }
    }

    /// The promises of the request that this thread is handling right now.
    ///
    /// `Some` wherever [`PromiseLayer`](super::PromiseLayer) is up the call stack: in the inner service,
    /// in what it calls, and in promises as they run. `None` in other tasks and threads, so not in what
    /// the handler gives to `tokio::spawn`, `spawn_blocking` or rayon: use [`scope`](Self::scope) there.
    #[must_use]
    pub fn current() -> Option<Self> {
        current::get()
    }

    /// Runs `f` with this handle as [`Promises::current`].
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        current::scope(self.clone(), f)
    }

    /// A handle for testing a handler without a server. It is not run by anything: what is
    /// [submitted](Self::submit) to it stays pending, which shows in [`keys`](Self::keys) and
    /// [`is_pending`](Self::is_pending). Only [`resolve`](Self::resolve) runs promises, where it is awaited.
    #[must_use]
    pub fn with_results(results: PromiseResults) -> Self {
        let registry = Registry::with_settled(results.slots);
        Self {
            pass: registry.pass(),
            registry: Arc::new(registry),
        }
    }
}

/// Reading.
impl Promises {
    /// The value of the promise of this name, cloned, so that everybody can read it.
    ///
    /// # Errors
    ///
    /// [`NotSubmitted`](PromiseError::NotSubmitted) or [`Pending`](PromiseError::Pending) where there is
    /// no value yet, the promise's own error where it has one, at each read, and
    /// [`WrongType`](PromiseError::WrongType) where it is not a promise of a `T`.
    pub fn result<T>(&self, key: impl IntoKey<T>) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        self.read(&key.into_key())
    }

    /// The number of the pass this handle belongs to, counted from one.
    #[must_use]
    pub fn pass(&self) -> usize {
        self.pass
    }

    /// Whether the response of the present pass would be thrown away if the pass ended now, because
    /// something it asked for was not there.
    ///
    /// A transaction layer between [`PromiseLayer`](super::PromiseLayer) and the handler asks this after
    /// the inner call, and rolls back if so.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.registry.is_pending()
    }

    /// The names of all promises of the request, settled or not, in the order they were submitted.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.registry.keys()
    }

    pub(super) fn read<T>(&self, key: &Key) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        match self.registry.read::<T>(self.pass, key)?.outcome() {
            Some(outcome) => outcome.clone(),
            None => Err(PromiseError::Pending { key: key.clone() }),
        }
    }
}

/// Asking.
impl Promises {
    /// Registers a promise. It starts when the pass ends, or at once with [`Start::Eager`](super::Start::Eager), and runs at the same
    /// time as the others; then the handler runs again and finds the [`result`](Self::result).
    ///
    /// A name that is pending already stays the promise it is: `future` is dropped unpolled.
    ///
    /// The future runs within the request, not in a task of its own. It is dropped when the client goes away.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](SubmitError::AlreadyResolved) where the name has a result,
    /// [`WrongType`](SubmitError::WrongType) where it is pending with another type,
    /// [`TooManyPromises`](SubmitError::TooManyPromises), and [`Ended`](SubmitError::Ended) where the handle's pass
    /// is over. `future` is dropped unpolled.
    pub fn submit<T, F>(&self, key: impl IntoKey<T>, future: F) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let future = future.map(Ok);
        self.register(key.into_key(), Demand::Submitted, future)
            .map(drop)
    }

    /// [`submit`](Self::submit) for a future that can fail. An error becomes
    /// [`PromiseError::Failed`] at each read.
    ///
    /// # Errors
    ///
    /// Those of [`submit`](Self::submit).
    pub fn try_submit<T, E, F>(&self, key: impl IntoKey<T>, future: F) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let future = future.map(failed);
        self.register(key.into_key(), Demand::Submitted, future)
            .map(drop)
    }

    /// Reads the result, or submits the promise if nobody has.
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result), where `NotSubmitted` becomes [`Pending`](PromiseError::Pending), or
    /// [`Rejected`](PromiseError::Rejected) if the promise could not be submitted.
    pub fn result_or_submit<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.read_or_register(key.into_key(), || make().map(Ok))
    }

    /// [`result_or_submit`](Self::result_or_submit) for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit).
    pub fn result_or_try_submit<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.read_or_register(key.into_key(), || make().map(failed))
    }

    /// Hands the body of the request to a promise, which reads it as a stream in its own time: an upload,
    /// a digest. Nothing of it is kept for later passes, which see an empty body.
    ///
    /// The promise gets the whole body, also if this pass has read some of it. Whoever still reads it in
    /// this pass gets [`ReplayError::Superseded`](crate::body::ReplayError::Superseded). The client is held
    /// back as the promise reads, and an error of the body is the promise's to handle.
    ///
    /// ```
    /// use http_body_util::BodyExt;
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// fn page(promises: &Promises) -> Result<String, PromiseError> {
    ///     let size = promises.result_or_try_submit_body("size", async |mut body| {
    ///         let mut size = 0;
    ///         while let Some(frame) = body.frame().await {
    ///             size += frame?.data_ref().map_or(0, |data| data.len());
    ///         }
    ///         Ok::<_, tower_promises::BoxError>(size)
    ///     })?;
    ///     Ok(format!("{size} bytes"))
    /// }
    /// # let _ = page;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`submit`](Self::submit), [`BodyTaken`](SubmitError::BodyTaken) where another promise has the body,
    /// and [`BodyRead`](SubmitError::BodyRead) where more of it was read than is kept for replay.
    pub fn submit_body<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let make = |body| make(body).map(Ok);
        self.register_body(key.into_key(), Demand::Submitted, make)
            .map(drop)
    }

    /// [`submit_body`](Self::submit_body) for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`submit_body`](Self::submit_body).
    pub fn try_submit_body<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let make = |body| make(body).map(failed);
        self.register_body(key.into_key(), Demand::Submitted, make)
            .map(drop)
    }

    /// Reads the result, or [hands the body](Self::submit_body) to the promise if nobody has.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit), where [`Rejected`](PromiseError::Rejected) includes
    /// those of [`submit_body`](Self::submit_body).
    pub fn result_or_try_submit_body<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.read_or(key.into_key(), |key| {
            self.register_body(key, Demand::Missed, |body| make(body).map(failed))
        })
    }

    /// Waits for the promise of this name, for code that can wait. It starts at once, whether it is new
    /// or was submitted before, and costs no further pass. The name is shared: whoever asks second, awaiting
    /// or not, gets the same promise.
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result) but `NotSubmitted` and `Pending`. It is
    /// [`Cancelled`](PromiseError::Cancelled) when the request ends first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the promise if nobody else has asked for it. Otherwise the promise
    /// goes on.
    pub async fn resolve<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait(key.into_key(), || make().map(Ok)).await
    }

    /// [`resolve`](Self::resolve) for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`resolve`](Self::resolve).
    pub async fn try_resolve<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.wait(key.into_key(), || make().map(failed)).await
    }

    pub(super) fn register<T, F>(
        &self,
        key: Key,
        demand: Demand,
        future: F,
    ) -> Result<Admission, SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.registry
            .submit(self.pass, key, demand, || Box::pin(future))
    }

    pub(super) fn read_or_register<T, F>(
        &self,
        key: Key,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.read_or(key, |key| self.register(key, Demand::Missed, make()))
    }

    fn register_body<T, F>(
        &self,
        key: Key,
        demand: Demand,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<Admission, SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let work = |body| Box::pin(make(body)) as Work<T>;
        self.registry.submit_body(self.pass, key, demand, work)
    }

    /// Reads the result, or registers the promise if nobody has.
    fn read_or<T>(
        &self,
        key: Key,
        register: impl FnOnce(Key) -> Result<Admission, SubmitError>,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        match self.read(&key) {
            Err(PromiseError::NotSubmitted { .. }) => {}
            read => return read,
        }
        match register(key.clone()) {
            Ok(Admission::Pending) => Err(PromiseError::Pending { key }),
            Ok(Admission::TimedOut) => Err(PromiseError::TimedOut { key }),
            // Another thread was faster.
            Err(SubmitError::AlreadyResolved { .. }) => self.read(&key),
            Err(error) => Err(PromiseError::Rejected { error }),
        }
    }

    pub(super) async fn wait<T, F>(
        &self,
        key: Key,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let slot = self.registry.join(self.pass, &key, || Box::pin(make()))?;
        Waiter::new(&self.registry, slot).await
    }
}

/// Changing one's mind.
impl Promises {
    /// Cancels a pending promise: its future is dropped, unpolled if it has not started, and its outcome is
    /// [`PromiseError::Cancelled`]. It asks for no further pass.
    ///
    /// Returns whether there was a pending promise of this name.
    pub fn cancel(&self, key: impl Into<Key>) -> bool {
        self.registry.cancel(&key.into())
    }

    /// Forgets a settled promise, so that its name can be submitted again.
    ///
    /// Returns whether there was a settled promise of this name. Clearing and submitting in every pass
    /// never ends before [`max_passes`](super::PromiseLayer::max_passes).
    pub fn clear(&self, key: impl Into<Key>) -> bool {
        self.registry.clear(&key.into())
    }

    /// Forgets a promise whatever its state: [`cancel`](Self::cancel), then [`clear`](Self::clear).
    ///
    /// Returns whether there was a promise of this name.
    pub fn reset(&self, key: impl Into<Key>) -> bool {
        self.registry.reset(&key.into())
    }

    /// Publishes the response of this pass, whatever is pending. Promises that have not settled by the
    /// end of the pass are dropped.
    pub fn publish(&self) {
        self.registry.publish(self.pass);
    }

    /// Runs `undo` if the response of this pass is not published: when it is discarded, when the request is
    /// rejected, and when the client goes away or the handler panics before there is a response.
    ///
    /// Undo work runs where the response future runs, the last registered first. It must not block. One
    /// that panics is logged and does not keep the others from running.
    pub fn on_discard(&self, undo: impl FnOnce() + Send + 'static) {
        self.registry.on_discard(self.pass, Box::new(undo));
    }
}

impl fmt::Debug for Promises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promises")
            .field("pass", &self.pass)
            .field("keys", &self.keys())
            .finish()
    }
}

fn failed<T, E: Into<BoxError>>(result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Failed(error.into().into()))
}

/// A handle that does not keep the promises alive.
#[cfg(any(feature = "blocking", feature = "loader"))]
pub(super) struct WeakPromises {
    registry: std::sync::Weak<Registry>,
    pass: usize,
}

#[cfg(any(feature = "blocking", feature = "loader"))]
impl WeakPromises {
    pub(super) fn upgrade(&self) -> Option<Promises> {
        Some(Promises {
            registry: self.registry.upgrade()?,
            pass: self.pass,
        })
    }
}

/// What [`Promises::with_results`] has to offer.
#[derive(Default)]
pub struct PromiseResults {
    slots: Vec<Arc<dyn AnySlot>>,
}

impl PromiseResults {
    /// No results, as in the first pass.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A promise that was kept.
    #[must_use]
    pub fn value<T>(self, key: impl IntoKey<T>, value: T) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with(Slot::settled(key.into_key(), Ok(value)))
    }

    /// A promise of a `T` that failed with `error`.
    #[must_use]
    pub fn failed<T>(self, key: impl IntoKey<T>, error: impl Into<BoxError>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with_failure::<T>(key.into_key(), Failure::Failed(error.into().into()))
    }

    /// A promise of a `T` that timed out.
    #[must_use]
    pub fn timed_out<T>(self, key: impl IntoKey<T>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with_failure::<T>(key.into_key(), Failure::TimedOut)
    }

    fn with_failure<T>(self, key: Key, failure: Failure) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with(Slot::<T>::settled(key.clone(), Err(failure.of(key))))
    }

    fn with<T>(mut self, slot: Slot<T>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.slots.push(Arc::new(slot));
        self
    }
}

impl fmt::Debug for PromiseResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.slots.iter().map(|slot| slot.key());
        f.debug_list().entries(keys).finish()
    }
}
