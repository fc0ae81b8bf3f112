//! Many keys asked for in a pass become one call.
//!
//! A list page renders fifty rows, and each row asks for its author. With a [`Loader`] the fifty questions
//! become one query: a pass is the batch. There is no timer and no tick.
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
//! 1. All keys asked of one loader in one pass, anywhere, are loaded together when the pass ends: once
//!    each, in calls of at most [`max_batch_size`](Loader::max_batch_size) keys, which run concurrently.
//!    The same `Arc` is the same loader.
//! 2. What was loaded stays for the request. A later pass asks only for what is new.
//! 3. A key that the loader leaves out of its answer reads as `Ok(None)`.
//! 4. An error of a call is the error of each of its keys, in this request's later passes too: it is a
//!    settled promise. Only what was asked for by [`load_async`](crate::Promises::load_async) alone is asked for
//!    again in the next pass. [`clear_loaded`](crate::Promises::clear_loaded) makes room for another try.
//! 5. A panic in a loader is the error of all keys of the batch.
//! 6. [`load_async`](crate::Promises::load_async) waits in place. It loads together what is asked for before the task
//!    that handles the request yields.
//! 7. A loader must not await a key of its own: it would wait for itself, until a timeout. Another loader's
//!    keys are fine.
//! 8. A batch is a promise. It counts as one, has the layer's timeouts, and shows among the
//!    [`keys`](crate::Promises::keys) under a name made of the loader's type.
//!
//! # Cancel safety
//!
//! A call is dropped with its request.
//!
//! # Difference from a data loader
//!
//! What other ecosystems call a data loader waits a tick of the event loop for more keys. Here synchronous
//! code takes part, and a batch has everything that a whole pass has asked for.

use crate::BoxError;
use std::collections::HashMap;
use std::hash::Hash;

/// Loads many values at once.
pub trait Loader: Send + Sync + 'static {
    /// What a value is asked for by. Its `Hash` and `Eq` run while the request's other loads wait.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;

    /// What is loaded. Each reader gets a clone, so make it cheap to clone.
    type Value: Clone + Send + Sync + 'static;

    /// Why a call failed.
    type Error: Into<BoxError>;

    /// Loads the values of these keys, no two of which are the same.
    ///
    /// A key without a value is left out of the answer. Answers that were not asked for are dropped.
    ///
    /// # Errors
    ///
    /// Any that keeps the whole call from being answered.
    fn load(
        &self,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Value>, Self::Error>> + Send;

    /// How many keys a call may have. Default 1000. Values below 1 count as 1.
    fn max_batch_size(&self) -> usize {
        1000
    }
}
