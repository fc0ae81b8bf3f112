use super::registry::{Found, Purpose};
use super::{IntoKey, Key, PromiseError, Promises, SubmitError};

/// Reading results.
impl Promises {
    /// Returns a clone of the value of the promise with this name.
    ///
    /// ```
    /// use tower_promises::promise::PromiseResults;
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// let promises = Promises::with_results(PromiseResults::new().value("visitors", 7_u32));
    /// assert_eq!(promises.result::<u32>("visitors")?, 7);
    /// // The same name with another type.
    /// let wrong = promises.result::<String>("visitors");
    /// assert!(matches!(wrong, Err(PromiseError::WrongType { .. })));
    /// let missing = promises.result::<u32>("members");
    /// assert!(matches!(missing, Err(PromiseError::NotSubmitted { .. })));
    /// # Ok::<(), PromiseError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`NotSubmitted`](PromiseError::NotSubmitted) if there is no promise with this name,
    /// - [`Pending`](PromiseError::Pending) if the promise has not settled,
    /// - the promise's own error if it has one, at each read,
    /// - [`WrongType`](PromiseError::WrongType) if the promise has another type than `T`,
    /// - [`Ended`](PromiseError::Ended) if the request has ended.
    pub fn result<T>(&self, key: impl IntoKey<T>) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        let key = key.into_key();
        let found = self.registry.find::<T>(self.reader(), &key, Purpose::Read);
        match found.map_err(SubmitError::into_promise_error)? {
            Found::Promise(present) => present.read(key),
            Found::Nothing(..) => Err(PromiseError::NotSubmitted { key }),
        }
    }

    /// The number of the pass that this handle belongs to, starting at 1.
    #[must_use]
    pub fn pass(&self) -> usize {
        self.reader.pass as usize
    }

    /// Whether the layer would discard the response of the current pass if the pass ended now, because the pass
    /// requested a value that was missing or exceeded the limit of promises.
    ///
    /// A transaction layer between [`PromiseLayer`](super::PromiseLayer) and the handler calls this after the inner
    /// call, and rolls back if it returns `true`.
    ///
    /// A pass with pending fragments is also discarded if its response is not HTML or has a `Content-Encoding`, which
    /// this method cannot know. A handler that writes creates fragments only for HTML, and the layer that encodes is
    /// outside.
    ///
    /// ```
    /// use axum::extract::Request;
    /// use axum::middleware::Next;
    /// use axum::response::Response;
    /// use tower_promises::Promises;
    ///
    /// # struct Transaction;
    /// # impl Transaction {
    /// #     async fn begin() -> Self { Self }
    /// #     async fn commit(self) {}
    /// #     async fn roll_back(self) {}
    /// # }
    /// /// A middleware inside of `PromiseLayer`: `axum::middleware::from_fn(transaction)`.
    /// async fn transaction(promises: Promises, request: Request, next: Next) -> Response {
    ///     let transaction = Transaction::begin().await;
    ///     let response = next.run(request).await;
    ///     if promises.will_discard() || !response.status().is_success() {
    ///         transaction.roll_back().await;
    ///     } else {
    ///         transaction.commit().await;
    ///     }
    ///     response
    /// }
    /// # let _ = transaction;
    /// ```
    #[must_use]
    pub fn will_discard(&self) -> bool {
        self.registry.will_discard()
    }

    /// The names of all promises of the request, pending and settled, in the order of submission.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.registry.keys()
    }
}
