use super::error::{Failure, PromiseError, SubmitError, Unreadable};
use super::outcome::Outcome;
use super::registry::{Found, Purpose};
use super::submit::failed;
use super::{AnyKey, IntoKey, Key, Promises};
use crate::BoxError;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::any::type_name;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tower_promises_operations::durable::{DurableRun, RememberedValue, Replayed, Settlement};

/// Durable promises, whose outcomes are remembered in a [durable operation](crate::operations::durable).
impl Promises {
    /// Returns the result, or submits the promise if there is none with this name. The outcome is remembered: if the
    /// process is lost or the operation is suspended, a later run of the operation reads it instead of running `make`.
    ///
    /// The outcome is stored before any pass reads it. So the future may run twice, if its process is lost between the
    /// two: use [`idempotency_key`](Self::idempotency_key) for effects outside. Values and timeouts are remembered.
    /// Panics and cancelled promises are not. The value is stored in JSON, and its size is
    /// [limited](crate::operations::OperationLayer::max_remembered_bytes). [`promise_timeout`] applies to the future,
    /// and not to storing its outcome.
    ///
    /// In a request that is no durable operation, the promise is an ordinary one.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn charge(_: u32, _: Option<String>) -> String { "receipt".into() }
    /// fn order(promises: &Promises, amount: u32) -> Result<String, PromiseError> {
    ///     let key = promises.idempotency_key("charge");
    ///     let receipt = promises.durable("charge", move || charge(amount, key))?;
    ///     Ok(format!("paid: {receipt}"))
    /// }
    /// # let _ = order;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit), [`Unreadable`](PromiseError::Unreadable) if the remembered
    /// value does not fit `T`, and [`NotRemembered`](PromiseError::NotRemembered) if the outcome is too large or is no
    /// JSON.
    ///
    /// [`promise_timeout`]: crate::PromiseLayer::promise_timeout
    pub fn durable<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.remembered(key, || make().map(Ok))
    }

    /// Like [`durable`](Self::durable), for a future that can fail. Its error is remembered as text, so it reads as
    /// [`PromiseError::Failed`] with a [`RememberedError`](crate::operations::durable::RememberedError) in each run, also
    /// in the first.
    ///
    /// # Errors
    ///
    /// Those of [`durable`](Self::durable).
    pub fn try_durable<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.remembered(key, || make().map(failed))
    }

    /// Like [`durable`](Self::durable), for a closure that computes for long or blocks its thread.
    ///
    /// # Errors
    ///
    /// Those of [`durable`](Self::durable) and of [`submit_blocking`](Self::submit_blocking).
    #[cfg(feature = "blocking")]
    pub fn durable_blocking<T>(
        &self,
        key: impl IntoKey<T>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.remembered(key, || self.blocking(|| Ok(job())))
    }

    /// Like [`try_durable`](Self::try_durable), for a closure that computes for long or blocks its thread.
    ///
    /// # Errors
    ///
    /// Those of [`durable_blocking`](Self::durable_blocking).
    #[cfg(feature = "blocking")]
    pub fn try_durable_blocking<T, E>(
        &self,
        key: impl IntoKey<T>,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
    {
        self.remembered(key, || self.blocking(|| job().map_err(Into::into)))
    }

    /// Waits until a due time: [`Pending`](PromiseError::Pending) before, and `()` from then on. The due time is
    /// `duration` after the first call with this name in any run of the operation.
    ///
    /// If nothing else is pending, the operation is suspended: it uses no memory until the due time.
    /// [`Operations::settle`](crate::operations::Operations::settle) ends the wait before. In a request that is no durable
    /// operation, the promise is an ordinary one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// fn trial(promises: &Promises) -> Result<String, PromiseError> {
    ///     promises.durable("welcome", async || println!("a mail with a welcome"))?;
    ///     // The request uses no memory for two weeks.
    ///     promises.sleep("trial", Duration::from_secs(14 * 86_400))?;
    ///     promises.durable("reminder", async || println!("a mail with a reminder"))?;
    ///     Ok("reminded".into())
    /// }
    /// # let _ = trial;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`durable`](Self::durable).
    pub fn sleep(&self, key: impl IntoKey<()>, duration: Duration) -> Result<(), PromiseError> {
        let Some(run) = self.registry.run() else {
            let sleep = || tokio::time::sleep(duration).map(Ok);
            return self.read_or(key, |found| found.or_submit(sleep));
        };
        self.read_or_recall(
            key,
            run,
            |name| run.recall(name).map(slept),
            |name, run| async move {
                let settled = run.sleep(name.as_str(), duration).await;
                settled.map_err(not_remembered).and_then(slept)
            },
        )
    }

    /// Waits until the promise is settled from outside: by a `POST` to its [address](Self::outside_url), or by
    /// [`Operations::settle`](crate::operations::Operations::settle).
    ///
    /// If nothing else is pending, the operation is suspended: it uses no memory until the settlement.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn mail(_: String) {}
    /// fn order(promises: &Promises) -> Result<String, PromiseError> {
    ///     // A `POST` to this address with `{"value": true}` settles the promise, and one with
    ///     // `{"error": {"code": "refused", "message": "…"}}` lets it fail.
    ///     let address = promises.outside_url("approval")?;
    ///     promises.durable("mail", move || mail(address))?;
    ///     match promises.outside_with_timeout("approval", Duration::from_secs(7 * 86_400)) {
    ///         Ok(true) => Ok("approved".into()),
    ///         Ok(false) => Ok("refused".into()),
    ///         Err(PromiseError::TimedOut { .. }) => Ok("not answered within a week".into()),
    ///         Err(error) => Err(error),
    ///     }
    /// }
    /// # let _ = order;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`durable`](Self::durable). A failure that is reported from outside is [`PromiseError::Failed`] with a
    /// [`RememberedError`](crate::operations::durable::RememberedError). In a request that is no durable operation,
    /// [`Rejected`](PromiseError::Rejected).
    pub fn outside<T>(&self, key: impl IntoKey<T>) -> Result<T, PromiseError>
    where
        T: DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.settled_outside(key.into_key(), None)
    }

    /// Like [`outside`](Self::outside), with a deadline: `timeout` after the first call with this name in any run, the
    /// promise is [`TimedOut`](PromiseError::TimedOut). A settlement that arrives later is refused.
    ///
    /// # Errors
    ///
    /// Those of [`outside`](Self::outside).
    pub fn outside_with_timeout<T>(
        &self,
        key: impl IntoKey<T>,
        timeout: Duration,
    ) -> Result<T, PromiseError>
    where
        T: DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.settled_outside(key.into_key(), Some(timeout))
    }

    /// Returns the address at which a promise is settled from outside: [`Pending`](PromiseError::Pending) until it is
    /// stored that the promise exists, so that the address works when the application gets it. It is the same in each
    /// run. It is a capability: a client that knows it can settle this promise. It begins with the address of the
    /// operation, which alone protects an operation without a
    /// [principal](crate::operations::OperationLayer::principal). [`outside`](Self::outside) has an example.
    ///
    /// # Errors
    ///
    /// Those of [`outside`](Self::outside).
    pub fn outside_url(&self, key: impl AnyKey) -> Result<String, PromiseError> {
        let key = key.into_any_key();
        let run = self.run_of(&key)?;
        let registered = Key::from(format!("{key} (address)"));
        let known = run.known_outside_url(key.as_str());
        self.read_or_recall(
            registered,
            run,
            |_| known.map(Ok),
            |_, run| async move {
                let url = run.outside_url(key.as_str()).await;
                url.map_err(not_remembered)
            },
        )
    }

    /// Returns a key with which another service can recognise that a call is repeated: the same in each run of the
    /// operation, and for each name another. `None` in a request that is no durable operation. [`durable`](Self::durable)
    /// has an example.
    #[must_use]
    pub fn idempotency_key(&self, key: impl AnyKey) -> Option<String> {
        let run = self.registry.run()?;
        Some(run.idempotency_key(key.into_any_key().as_str()))
    }

    /// Compares the recording of a [durable operation](crate::operations::durable) with what a handler has requested.
    /// `None` unless the handle was made of [recorded](super::PromiseResults::recorded) results, or belongs to a run.
    ///
    /// ```
    /// use tower_promises::operations::durable::{Recording, Settlement};
    /// use tower_promises::promise::PromiseResults;
    /// use tower_promises::{BoxError, Promises};
    ///
    /// fn order(promises: &Promises) -> Result<String, BoxError> {
    ///     let receipt: String = promises.durable("charge", async || "receipt 7".to_owned())?;
    ///     promises.durable("ship", async || ())?;
    ///     Ok(receipt)
    /// }
    ///
    /// # fn main() -> Result<(), BoxError> {
    /// // Usually from a file, where `Operations::recording` was saved.
    /// let recording = Recording::new()
    ///     .with("charge", Settlement::value(&"receipt 6")?)
    ///     .with("reserve", Settlement::value(&())?);
    /// let promises = Promises::with_results(PromiseResults::new().recorded(&recording));
    /// assert!(order(&promises).is_err(), "`ship` is pending");
    ///
    /// let replayed = promises.replayed().ok_or("it is recorded")?;
    /// assert_eq!(replayed.new, ["ship"]);
    /// assert_eq!(replayed.unread, ["reserve"]);
    /// assert!(replayed.changed.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn replayed(&self) -> Option<Replayed> {
        Some(self.registry.run()?.replayed())
    }

    fn run_of(&self, key: &Key) -> Result<&DurableRun, PromiseError> {
        self.registry.run().ok_or_else(|| PromiseError::Rejected {
            error: SubmitError::NotDurable { key: key.clone() },
        })
    }

    fn settled_outside<T>(&self, key: Key, limit: Option<Duration>) -> Result<T, PromiseError>
    where
        T: DeserializeOwned + Clone + Send + Sync + 'static,
    {
        let run = self.run_of(&key)?;
        self.read_or_recall(
            key,
            run,
            |name| recall(run, name),
            |name, run| async move {
                let settled = run.outside::<T>(name.as_str(), limit).await;
                settled.map_err(not_remembered).and_then(outcome)
            },
        )
    }

    /// Reads the promise that is found or remembered, or submits one that is remembered once it has settled.
    pub(super) fn remembered<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let Some(run) = self.registry.run() else {
            return self.read_or(key, |found| found.or_submit(make));
        };
        let limit = self.registry.promise_timeout();
        self.read_or_recall(
            key,
            run,
            |name| recall(run, name),
            |name, run| remembering(run, name, limit, make()),
        )
    }

    /// Reads the promise that is found, or adds the one that is recalled, or submits one.
    fn read_or_recall<T, F>(
        &self,
        key: impl IntoKey<T>,
        run: &DurableRun,
        recall: impl FnOnce(&str) -> Option<Result<T, Failure>>,
        make: impl FnOnce(Key, DurableRun) -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let key = key.into_key();
        let found = self.registry.find::<T>(self.reader(), &key, Purpose::Read);
        let present = found.and_then(|found| match found {
            Found::Promise(present) => Ok(present),
            Found::Nothing(reservation, _) => match recall(key.as_str()) {
                Some(outcome) => reservation.add_settled(Outcome::new(outcome)),
                None => {
                    let work = make(key.clone(), run.clone()).map(Outcome::new);
                    reservation.submit_limiting_itself(Box::pin(work))
                }
            },
        });
        present.map_err(SubmitError::into_promise_error)?.read(key)
    }
}

/// Runs the work of a promise, and stores its outcome.
pub(super) async fn remembering<T, F>(
    run: DurableRun,
    name: Key,
    limit: Option<Duration>,
    work: F,
) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
    F: Future<Output = Result<T, Failure>>,
{
    let settled = match limit {
        Some(limit) => timeout(limit, work).await,
        None => Ok(work.await),
    };
    remember(&run, &name, settled.unwrap_or(Err(Failure::TimedOut))).await
}

/// Stores the outcome of a promise, unless another run may have another outcome. Returns the outcome as a later run
/// reads it.
async fn remember<T>(
    run: &DurableRun,
    name: &Key,
    settled: Result<T, Failure>,
) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
{
    let settlement = match &settled {
        Ok(value) => Settlement::Value(RememberedValue::new(value).map_err(not_remembered)?),
        Err(Failure::Failed(error)) => Settlement::failed(&**error),
        Err(Failure::TimedOut) => Settlement::TimedOut,
        Err(_) => return settled,
    };
    let remembered = run.remember(name.as_str(), settlement.clone()).await;
    remembered.map_err(not_remembered)?;
    match run.recall(name.as_str()) {
        // The value itself, which is cheaper than reading it again.
        Some(stored) if settled.is_ok() && stored == settlement => settled,
        // The application may have settled the promise meanwhile.
        Some(stored) => outcome(stored),
        None => settled,
    }
}

/// The outcome of a promise, if it is remembered.
pub(super) fn recall<T: DeserializeOwned>(
    run: &DurableRun,
    name: &str,
) -> Option<Result<T, Failure>> {
    let settlement = run.recall(name)?;
    let outcome = outcome(settlement.clone());
    let fits = !matches!(outcome, Err(Failure::Unreadable(_)));
    run.compare_type::<T>(name, &settlement, fits);
    Some(outcome)
}

/// The outcome of a remembered promise.
fn outcome<T: DeserializeOwned>(settlement: Settlement) -> Result<T, Failure> {
    match settlement {
        Settlement::Value(value) => value.read().map_err(|error| {
            Failure::Unreadable(Unreadable {
                expected: type_name::<T>(),
                found: value.type_name().map(Into::into),
                error: error.into(),
            })
        }),
        Settlement::Failed(error) => Err(Failure::Failed(Arc::new(error))),
        _ => Err(Failure::TimedOut),
    }
}

/// The outcome of a sleep. The application may have settled it with any value.
fn slept(settlement: Settlement) -> Result<(), Failure> {
    outcome::<IgnoredAny>(settlement).map(drop)
}

fn not_remembered(error: impl Into<BoxError>) -> Failure {
    Failure::NotRemembered(error.into().into())
}
