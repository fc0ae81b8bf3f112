//! N+1 queries become one: all keys that a pass requests are loaded in one call.
//!
//! A list page renders fifty rows, and each row needs its author. A [`Loader`] combines the fifty look-ups into one
//! query. A pass is the batch, so there is no timer and no tick.
//!
//! # Example
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Arc;
//! use tower_promises::loader::Loader;
//! use tower_promises::{PromiseError, Promises};
//!
//! struct Authors;
//!
//! impl Loader for Authors {
//!     type Key = u32;
//!     type Value = String;
//!     type Error = std::io::Error;
//!
//!     async fn load(&self, ids: &[u32]) -> Result<HashMap<u32, String>, std::io::Error> {
//!         // SELECT id, name FROM authors WHERE id IN (..)
//!         Ok(ids.iter().map(|id| (*id, format!("author {id}"))).collect())
//!     }
//! }
//!
//! /// Called for each row, deep in a template.
//! fn byline(authors: &Arc<Authors>, id: u32) -> Result<String, PromiseError> {
//!     let promises = Promises::current().expect("a request is being handled");
//!     let author = promises.load(authors, id)?;
//!     Ok(author.unwrap_or_else(|| "unknown".to_owned()))
//! }
//! # let _ = byline;
//! ```
//!
//! # Rules
//!
//! 1. All keys that a pass requests from one loader are loaded together when the pass ends. Each key is loaded once,
//!    in calls of at most [`max_batch_size`](Loader::max_batch_size) keys, which run concurrently. Clones of one
//!    `Arc` are the same loader.
//! 2. A loaded value is cached for the request. A later pass loads only keys that are new.
//! 3. A key that is missing in the answer of the loader reads as `Ok(None)`.
//! 4. An error of a call is the error of each of its keys, also in later passes of the request, because a batch is a
//!    settled promise. Keys that only [`load_async`](crate::Promises::load_async) requested are loaded again in the
//!    next pass. [`clear_loaded`](crate::Promises::clear_loaded) allows another attempt.
//! 5. A panic in a loader is the error of all keys of the batch.
//! 6. [`load_async`](crate::Promises::load_async) waits in place. It loads all keys together that the task of the
//!    request has requested before the task yields.
//! 7. A loader must not await its own keys: it would wait for itself until a timeout. It may await keys of another
//!    loader.
//! 8. A batch is a promise. It counts towards the limit of promises and has the layer's timeouts.
//!    [`keys`](crate::Promises::keys) lists it under a name that contains the [name](Loader::name) of the loader.
//!
//! # Cancel safety
//!
//! A call is dropped with its request.
//!
//! # Difference from a data loader
//!
//! The data loaders of other ecosystems wait for a tick of the event loop to collect keys. Here a batch contains all
//! keys of a whole pass, including those of synchronous code.

use crate::BoxError;
use std::any::type_name;
use std::collections::HashMap;
use std::hash::Hash;

/// Loads many values at once.
pub trait Loader: Send + Sync + 'static {
    /// Identifies a value. Its `Hash` and `Eq` run under a lock that the request's other loads wait for.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;

    /// The loaded value. Each reader gets a clone, so cloning should be cheap.
    type Value: Clone + Send + Sync + 'static;

    /// The error of a failed call.
    type Error: Into<BoxError>;

    /// Loads the values of `keys`, which contain no duplicates.
    ///
    /// A key without a value is left out of the answer. Values of other keys are dropped.
    ///
    /// # Errors
    ///
    /// Any error that prevents the whole call from being answered.
    fn load(
        &self,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Value>, Self::Error>> + Send;

    /// The largest number of keys in a call. Default 1000. Values below 1 count as 1.
    fn max_batch_size(&self) -> usize {
        1000
    }

    /// The name of the loader in the log, in spans and in the names of its batches. By default the name of the type,
    /// without its path and generic arguments. Override it if several loaders of a request have one generic type.
    fn name(&self) -> &str {
        short_name::<Self>()
    }
}

/// The name of a type without its path and generic arguments.
fn short_name<T: ?Sized>() -> &'static str {
    let name = type_name::<T>();
    let path = name.split('<').next().unwrap_or(name);
    path.rsplit("::").next().unwrap_or(path)
}
