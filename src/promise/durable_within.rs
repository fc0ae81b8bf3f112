use super::error::{Failure, PromiseError};
use super::{IntoKey, Key, Promises};
use crate::BoxError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::error::Error;
use std::fmt;
use std::iter::successors;
use std::marker::PhantomData;
use std::time::Duration;
use tokio::time::sleep;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_operations::durable::{
    DurableRun, RememberWithinError, RememberedValue, Settlement,
};

/// The pauses between two attempts of a transaction.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Durable promises whose work is a transaction.
impl Promises {
    /// Like [`try_durable`](Self::try_durable), for work that is a transaction of the application in the database of the
    /// backend: the value is remembered if and only if that transaction commits. So the work happens once, whatever
    /// process dies, and needs no idempotency key.
    ///
    /// `make` begins a transaction, works, calls [`Remember::within`] with the value, and commits. It is repeated after
    /// pauses if that call has failed with a conflict, or because the backend is not available, as long as the run and
    /// the [`promise_timeout`](crate::PromiseLayer::promise_timeout) last. Any other error is remembered, as that of
    /// [`try_durable`](Self::try_durable).
    ///
    /// ```
    /// # type Pool = Transaction;
    /// # #[derive(Clone)]
    /// # struct Transaction;
    /// # impl Transaction {
    /// #     async fn begin(&self) -> Result<Transaction, BoxError> { Ok(Self) }
    /// #     async fn insert(&mut self, _: &str) -> Result<i64, BoxError> { Ok(7) }
    /// #     async fn commit(self) -> Result<(), BoxError> { Ok(()) }
    /// # }
    /// use tower_promises::{BoxError, PromiseError, Promises};
    ///
    /// // With sqlx, `remember.within` gets `&mut *transaction`.
    /// fn order(promises: &Promises, pool: &Pool) -> Result<i64, PromiseError> {
    ///     let pool = pool.clone();
    ///     promises.durable_within("order", move |remember| {
    ///         let pool = pool.clone();
    ///         async move {
    ///             let mut transaction = pool.begin().await?;
    ///             let id = transaction.insert("tea").await?;
    ///             remember.within(&mut transaction, &id).await?;
    ///             transaction.commit().await?;
    ///             Ok::<_, BoxError>(id)
    ///         }
    ///     })
    /// }
    /// # let _ = order;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`try_durable`](Self::try_durable). With a backend that has no transactions, the error of
    /// [`Remember::within`].
    pub fn durable_within<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl Fn(Remember<T>) -> F + Send + 'static,
    ) -> Result<T, PromiseError>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let key = key.into_key();
        let remember = Remember {
            run: self.registry.run().cloned(),
            name: key.clone(),
            value: PhantomData,
        };
        self.remembered(key, || attempt(remember, make))
    }
}

async fn attempt<T, E, F>(
    remember: Remember<T>,
    make: impl Fn(Remember<T>) -> F + Send,
) -> Result<T, Failure>
where
    E: Into<BoxError>,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let error: BoxError = match make(remember.clone()).await {
            Ok(value) => return Ok(value),
            Err(error) => error.into(),
        };
        if !is_transient(&*error) {
            return Err(Failure::Failed(error.into()));
        }
        sleep(backoff.pause()).await;
    }
}

fn is_transient(error: &(dyn Error + 'static)) -> bool {
    let mut errors = successors(Some(error), |error| (*error).source());
    let found = errors.find_map(|error| error.downcast_ref::<RememberWithinError>());
    found.is_some_and(RememberWithinError::is_transient)
}

/// Remembers the value of a [durable promise](Promises::durable_within) in the transaction that does its work.
pub struct Remember<T> {
    /// `None` in a request that is no durable operation.
    run: Option<DurableRun>,
    name: Key,
    value: PhantomData<fn(T)>,
}

impl<T: Serialize> Remember<T> {
    /// Stores the value in the transaction that a connection of the application is in. Without effect in a request that
    /// is no durable operation.
    ///
    /// If another process has taken over the operation, the future never resolves, and is being dropped.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the transaction may or may not contain the value. Roll it back.
    ///
    /// # Errors
    ///
    /// After any error, the transaction must be rolled back, so return the error with `?`.
    pub async fn within<C: Any + Send>(
        &self,
        connection: &mut C,
        value: &T,
    ) -> Result<(), RememberWithinError> {
        let Some(run) = &self.run else {
            return Ok(());
        };
        let value = RememberedValue::new(value).map_err(BackendError::unreadable)?;
        run.remember_within(self.name.as_str(), Settlement::Value(value), connection)
            .await
    }
}

impl<T> Clone for Remember<T> {
    fn clone(&self) -> Self {
        Self {
            run: self.run.clone(),
            name: self.name.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Remember<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remember")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
