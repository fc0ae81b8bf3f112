use super::registry::{Found, Vacancy};
use super::slot::Type;
use super::{IntoKey, Key, PromiseError, Promises};

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
    pub fn will_discard(&self) -> bool {
        self.registry.will_discard()
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
        let read = self.find(key);
        read.unwrap_or_else(|_| Err(PromiseError::NotSubmitted { key: key.clone() }))
    }

    /// [`read`](Self::read) that tells where nobody has submitted the promise.
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
