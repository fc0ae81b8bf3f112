use super::durable::{recall, remembering};
use super::error::{Failure, SubmitError};
use super::outcome::Outcome;
use super::registry::{Found, Purpose};
use super::submit::failed;
use super::{IntoKey, PromiseError, Promises};
use crate::BoxError;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Awaiting durable promises.
impl Promises {
    /// Waits for the [durable](Self::durable) promise with this name, in code that can `await`. See
    /// [`resolve`](Self::resolve).
    ///
    /// A handler that awaits is not suspended while it does.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn charge(_: Option<String>) -> String { "receipt 7".into() }
    /// async fn order(promises: &Promises) -> Result<String, PromiseError> {
    ///     let key = promises.idempotency_key("charge");
    ///     let receipt: String = promises.resolve_durable("charge", move || charge(key)).await?;
    ///     Ok(format!("paid: {receipt}"))
    /// }
    /// # let _ = order;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`durable`](Self::durable) and of [`resolve`](Self::resolve).
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the promise if no other code has requested it. Its outcome may or may not be
    /// remembered.
    pub async fn resolve_durable<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait_durable(key, || make().map(Ok)).await
    }

    /// Like [`resolve_durable`](Self::resolve_durable), for a future that can fail. See
    /// [`try_durable`](Self::try_durable).
    ///
    /// Cancel safety: as with [`resolve_durable`](Self::resolve_durable).
    ///
    /// # Errors
    ///
    /// Those of [`resolve_durable`](Self::resolve_durable).
    pub async fn try_resolve_durable<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.wait_durable(key, || make().map(failed)).await
    }

    async fn wait_durable<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let Some(run) = self.registry.run() else {
            return self.wait(key, make).await;
        };
        let key = key.into_key();
        let found = self.registry.find::<T>(self.reader(), &key, Purpose::Wait);
        let present = match found.map_err(SubmitError::into_promise_error)? {
            Found::Promise(present) => present,
            Found::Nothing(reservation, _) => {
                if let Some(outcome) = recall(run, key.as_str()) {
                    return outcome.map_err(|failure| failure.of(key));
                }
                let limit = self.registry.promise_timeout();
                let work = remembering(run.clone(), key.clone(), limit, make());
                let work = Box::pin(work.map(Outcome::new));
                let submitted = reservation.submit_limiting_itself(work);
                submitted.map_err(SubmitError::into_promise_error)?
            }
        };
        self.wait_for(key, present).await
    }
}
