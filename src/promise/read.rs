use super::registry::{Found, Vacancy};
use super::slot::Type;
use super::{IntoKey, Key, PromiseError, Promises};

/// Reading results.
impl Promises {
    /// Returns a clone of the value of the promise with this name.
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
        self.read(&key.into_key())
    }

    /// The number of the pass that this handle belongs to, starting at 1.
    #[must_use]
    pub fn pass(&self) -> usize {
        self.pass
    }

    /// Whether the layer would discard the response of the current pass if the pass ended now, because the pass
    /// requested a value that was missing or exceeded the limit of promises.
    ///
    /// A transaction layer between [`PromiseLayer`](super::PromiseLayer) and the handler calls this after the inner
    /// call, and rolls back if it returns `true`.
    #[must_use]
    pub fn will_discard(&self) -> bool {
        self.registry.will_discard()
    }

    /// The names of all promises of the request, pending and settled, in the order of submission.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.registry.keys()
    }

    pub(super) fn read<T>(&self, key: &Key) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        let read = self.find(key);
        read.unwrap_or_else(|_| Err(PromiseError::NotSubmitted { key: key.clone() }))
    }

    /// Like [`read`](Self::read), but returns a [`Vacancy`] if there is no promise with this name.
    pub(super) fn find<T>(&self, key: &Key) -> Result<Result<T, PromiseError>, Vacancy>
    where
        T: Clone + Send + Sync + 'static,
    {
        let found = self.registry.find::<T>(self.pass, key);
        let key = || key.clone();
        let error = match found {
            Found::Settled(slot) => match slot.outcome() {
                Some(outcome) => return Ok(outcome),
                None => PromiseError::Pending { key: key() },
            },
            Found::Nothing(vacancy) => return Err(vacancy),
            Found::Pending => PromiseError::Pending { key: key() },
            Found::Ended => PromiseError::Ended { key: key() },
            Found::OfAnotherType(found) => Type::of::<T>().mismatch(key(), found),
        };
        Ok(Err(error))
    }
}
