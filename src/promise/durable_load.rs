use super::error::Failure;
use super::{IntoKey, PromiseError, Promises};
use crate::loader::Loader;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Loading values that are remembered.
impl Promises {
    /// Loads a value as [`load`](Self::load) does, and remembers it under a name: a later run of the
    /// [durable operation](crate::operations::durable) reads the remembered value, whatever `loader` would return by
    /// then. All keys that a pass requests are loaded together, and their values are stored together.
    ///
    /// The name identifies the remembered value, not the key of the loader: give each key its own name. A key that the
    /// loader does not have is remembered as `None`. Errors and timeouts of the loader are remembered too, as those of
    /// [`try_durable`](Self::try_durable), so a loader for durable operations repeats calls that may succeed later. For a
    /// value that may change between two runs use [`load`](Self::load), and for the values of thousands of keys one
    /// [`try_durable`](Self::try_durable) that loads all of them.
    ///
    /// In a request that is no durable operation, this is [`load`](Self::load), and the name is not used.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_promises::loader::Loader;
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// /// Adds the prices that the order was placed with.
    /// fn total<P>(promises: &Promises, prices: &Arc<P>, articles: &[u32]) -> Result<u64, PromiseError>
    /// where
    ///     P: Loader<Key = u32, Value = u64>,
    /// {
    ///     let load = |article: &u32| promises.durable_load(format!("price {article}"), prices, *article);
    ///     // All of them, before the first `?`, so that one call loads them.
    ///     let loaded: Vec<_> = articles.iter().map(load).collect();
    ///     let loaded: Vec<_> = loaded.into_iter().collect::<Result<_, _>>()?;
    ///     Ok(loaded.into_iter().flatten().sum())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load) and of [`durable`](Self::durable).
    pub fn durable_load<L>(
        &self,
        key: impl IntoKey<Option<L::Value>>,
        loader: &Arc<L>,
        id: L::Key,
    ) -> Result<Option<L::Value>, PromiseError>
    where
        L: Loader<Value: Serialize + DeserializeOwned>,
    {
        if self.registry.run().is_none() {
            return self.load(loader, id);
        }
        self.remembered(key, || {
            let (promises, loader) = (self.downgrade(), loader.clone());
            async move {
                // Without its request, the promise is not polled.
                let promises = promises.upgrade().ok_or(Failure::Cancelled)?;
                // All promises of a pass are polled before the batch of their keys begins.
                promises.load_async(&loader, id).await.map_err(failure)
            }
        })
    }
}

/// The failure of a promise whose key could not be loaded.
fn failure(error: PromiseError) -> Failure {
    match error {
        PromiseError::Failed { error, .. } => Failure::Failed(error),
        PromiseError::TimedOut { .. } => Failure::TimedOut,
        PromiseError::Panicked { message, .. } => Failure::Panicked(message),
        // The request ends, or its limit of promises is reached.
        _ => Failure::Cancelled,
    }
}
