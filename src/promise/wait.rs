use super::error::Failure;
use super::outcome::{Outcome, Work};
use super::registry::{Aftermath, Awaiting, Members, Poller, Present, Purpose, Registry};
use super::submit::failed;
use super::{IntoKey, Key, PromiseError, Promises, SubmitError};
use crate::BoxError;
use futures_util::FutureExt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Awaiting results.
impl Promises {
    /// Waits for the promise with this name, in code that can `await`.
    ///
    /// The promise starts at once, whether it is new or already submitted, and causes no further pass. All requests for
    /// the name, awaiting or not, share one promise.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn fetch_city() -> String { "Augsburg".into() }
    /// # async fn fetch_weather(city: &str) -> String { format!("sunny in {city}") }
    /// async fn weather(promises: &Promises) -> Result<String, PromiseError> {
    ///     // Components that request `city` share this promise.
    ///     let city: String = promises.resolve("city", fetch_city).await?;
    ///     promises.resolve("weather", || async move { fetch_weather(&city).await }).await
    /// }
    /// # let promises = Promises::with_results(Default::default());
    /// # let weather = futures_util::FutureExt::now_or_never(weather(&promises)).unwrap().unwrap();
    /// # assert_eq!(weather, "sunny in Augsburg");
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result) except `NotSubmitted` and `Pending`,
    /// [`Rejected`](PromiseError::Rejected) if a new promise could not be submitted, and
    /// [`Cancelled`](PromiseError::Cancelled) if the request ends first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the promise if no other code has requested it. Otherwise the promise keeps
    /// running.
    pub async fn resolve<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait(key, || make().map(Ok)).await
    }

    /// Like [`resolve`](Self::resolve), for a future that can fail.
    ///
    /// Cancel safety: as with [`resolve`](Self::resolve).
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
        self.wait(key, || make().map(failed)).await
    }

    pub(super) async fn wait<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let key = key.into_key();
        let found = self.registry.find(self.reader(), &key, Purpose::Wait);
        let present = found.and_then(|found| found.or_submit(make));
        let present = present.map_err(SubmitError::into_promise_error)?;
        self.wait_for(key, present).await
    }

    /// Waits for a promise that was found or submitted to be awaited.
    pub(super) async fn wait_for<T>(&self, key: Key, present: Present) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        match present {
            Present::Awaited(awaiting) => Waiter::new(&self.registry, key, awaiting).await,
            settled => settled.read(key),
        }
    }
}

/// A future that awaits a promise. It counts as a waiter of the promise until it is dropped.
struct Waiter<'a, T> {
    registry: &'a Registry,
    key: Key,
    awaiting: Awaiting,
    number: Option<u64>,
    has_read: bool,
    value: PhantomData<fn() -> T>,
}

impl<'a, T> Waiter<'a, T> {
    fn new(registry: &'a Registry, key: Key, awaiting: Awaiting) -> Self {
        Self {
            registry,
            key,
            awaiting,
            number: None,
            has_read: false,
            value: PhantomData,
        }
    }
}

impl<T> Future for Waiter<'_, T>
where
    T: Clone + Send + Sync + 'static,
{
    type Output = Result<T, PromiseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waiters = Arc::clone(&this.awaiting.waiters);
        let mut polled = waiters.poll(&mut this.number, cx.waker());
        if polled.is_pending() && !this.registry.is_driven() {
            // Polls the work only after registering: another waiter may be polling it at this moment. If that waiter is
            // dropped, it wakes the registered waiters, and one of them polls the work next.
            let mut members = Members::one(this.awaiting.place);
            this.registry.poll(&mut members, &mut Undriven, cx);
            polled = waiters.poll(&mut this.number, cx.waker());
        }
        let outcome = ready!(polled);
        this.has_read = true;
        Poll::Ready(outcome.read(&this.key))
    }
}

/// A waiter polls the work of its promise if there is no response future.
struct Undriven;

impl Poller for Undriven {
    fn poll(&mut self, _: usize, work: &mut Work, cx: &mut Context<'_>) -> Poll<Outcome> {
        work.as_mut().poll(cx)
    }

    fn is_observing(&self) -> bool {
        false
    }

    fn settle(&mut self, _: usize, aftermath: Option<Box<Aftermath>>) {
        if let Some(aftermath) = aftermath {
            aftermath.finish();
        }
    }
}

impl<T> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        let registry = self.registry;
        registry.leave(&self.awaiting, self.number, self.has_read);
    }
}
