use super::error::{Failure, PromiseError};
use super::promises::WeakPromises;
use super::{Key, Promises};
use crate::loader::Loader;
use crate::sync::lock;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

/// The loads of one request with one loader.
struct Loads<L: Loader> {
    loader: Arc<L>,
    /// Distinguishes the loaders of a request in the names of batches.
    number: usize,
    state: Mutex<State<L>>,
}

struct State<L: Loader> {
    /// The state of every key that was requested.
    known: HashMap<L::Key, Known<L::Value>>,
    /// The keys of the batch that has not started.
    wanted: Vec<L::Key>,
    /// The name of the batch that has not started.
    open: Option<Key>,
    /// The number of batches so far.
    batches: usize,
}

enum Known<V> {
    /// The loaded value, or `None` if the loader has no such value. In an `Arc`, so that no value is cloned under
    /// the lock.
    Loaded(Option<Arc<V>>),
    /// The key is in a batch, or was in a batch that ended with an error.
    InBatch { batch: Key, asked: Asked },
    Failed {
        batch: Key,
        asked: Asked,
        error: Arc<dyn Error + Send + Sync>,
    },
}

/// How a key was requested.
#[derive(Clone, Copy)]
struct Asked {
    pass: u32,
    /// Whether a caller that cannot `await` requested the key.
    is_promised: bool,
}

/// The answer to a request for a key.
enum Answer<V> {
    Known(Result<Option<Arc<V>>, PromiseError>),
    /// The key is in this batch. `is_new` if this request has added the key.
    InBatch {
        batch: Key,
        is_new: bool,
    },
}

/// Loading values.
impl Promises {
    /// Returns the value that `loader` has for `key`, loaded together with all other keys that this pass requests.
    /// `None` if there is no such value.
    ///
    /// ```
    /// # use std::collections::HashMap;
    /// # use std::sync::Arc;
    /// # use tower_promises::loader::Loader;
    /// # use tower_promises::{OrPending, PromiseError, Promises};
    /// # struct Authors;
    /// # impl Loader for Authors {
    /// #     type Key = u32;
    /// #     type Value = String;
    /// #     type Error = std::io::Error;
    /// #     async fn load(&self, _: &[u32]) -> Result<HashMap<u32, String>, std::io::Error> { Ok(HashMap::new()) }
    /// # }
    /// /// [`Loader`] shows how `Authors` load their names.
    /// fn row(promises: &Promises, authors: &Arc<Authors>, author: u32) -> Result<String, PromiseError> {
    ///     // With a placeholder, the rows that follow are part of the same batch.
    ///     let name = promises.load(authors, author).or_pending(None)?;
    ///     Ok(name.unwrap_or_else(|| "unknown".to_owned()))
    /// }
    ///
    /// // In a test:
    /// let (promises, authors) = (Promises::with_results(Default::default()), Arc::new(Authors));
    /// promises.prime(&authors, 7, "Ada".to_owned());
    /// assert_eq!(row(&promises, &authors, 7)?, "Ada");
    /// row(&promises, &authors, 8)?;
    /// assert_eq!(promises.loading(&authors), [8]);
    /// // The handler has changed this author, so the name is loaded again.
    /// assert!(promises.clear_loaded(&authors, &7));
    /// row(&promises, &authors, 7)?;
    /// assert_eq!(promises.loading(&authors), [8, 7]);
    /// # Ok::<(), PromiseError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Pending`](PromiseError::Pending) if the value is not loaded yet, and the errors of
    /// [`result_or_submit`](Self::result_or_submit).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "keys are small, and a template has them by value"
    )]
    pub fn load<L: Loader>(
        &self,
        loader: &Arc<L>,
        key: L::Key,
    ) -> Result<Option<L::Value>, PromiseError> {
        let loads = self.loads(loader)?;
        let mut ended = None;
        loop {
            let (batch, is_new) = match loads.ask(self, &key, true, ended.as_ref()) {
                Answer::Known(answer) => return answer.map(|value| value.map(cloned)),
                Answer::InBatch { batch, is_new } => (batch, is_new),
            };
            let run = || Arc::clone(&loads).run(self.downgrade(), batch.clone());
            match self.read_or(&batch, |found| found.or_submit(run)) {
                Ok(()) => ended = Some(batch),
                Err(error) => {
                    if is_new && matches!(error, PromiseError::Rejected { .. }) {
                        loads.forget(&key);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Like [`load`](Self::load), for many keys. The values are in the order of the keys.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load). [`Pending`](PromiseError::Pending) only if there is no other error.
    pub fn load_many<L: Loader>(
        &self,
        loader: &Arc<L>,
        keys: impl IntoIterator<Item = L::Key>,
    ) -> Result<Vec<Option<L::Value>>, PromiseError> {
        let mut values = Vec::new();
        let mut pending = None;
        for key in keys {
            match self.load(loader, key) {
                Ok(value) => values.push(value),
                // Continue with the remaining keys, so that they are loaded in the same batch.
                Err(error) if error.is_pending() => pending = Some(error),
                Err(error) => return Err(error),
            }
        }
        match pending {
            Some(pending) => Err(pending),
            None => Ok(values),
        }
    }

    /// Like [`load`](Self::load), for code that can `await`. It causes no further pass. All keys that are requested
    /// before the task yields are loaded together, so request many keys with a `join` or with
    /// [`load_many_async`](Self::load_many_async).
    ///
    /// # Errors
    ///
    /// Those of [`resolve`](Self::resolve).
    ///
    /// # Cancel safety
    ///
    /// The same as for [`resolve`](Self::resolve).
    pub async fn load_async<L: Loader>(
        &self,
        loader: &Arc<L>,
        key: L::Key,
    ) -> Result<Option<L::Value>, PromiseError> {
        let loads = self.loads(loader)?;
        let mut ended = None;
        loop {
            let batch = match loads.ask(self, &key, false, ended.as_ref()) {
                Answer::Known(answer) => return answer.map(|value| value.map(cloned)),
                Answer::InBatch { batch, .. } => batch,
            };
            let run = || Arc::clone(&loads).run(self.downgrade(), batch.clone());
            self.wait::<(), _>(&batch, run).await?;
            ended = Some(batch);
        }
    }

    /// Like [`load_many`](Self::load_many), for code that can `await`.
    ///
    /// # Errors
    ///
    /// Those of [`load_async`](Self::load_async).
    ///
    /// # Cancel safety
    ///
    /// The same as for [`resolve`](Self::resolve).
    pub async fn load_many_async<L: Loader>(
        &self,
        loader: &Arc<L>,
        keys: impl IntoIterator<Item = L::Key>,
    ) -> Result<Vec<Option<L::Value>>, PromiseError> {
        let keys: Vec<_> = keys.into_iter().collect();
        let loads = self.loads(loader)?;
        for key in &keys {
            // Add every key to the batch before the first wait, so that one batch loads all of them.
            let _ = loads.ask(self, key, false, None);
        }
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.load_async(loader, key).await?);
        }
        Ok(values)
    }

    /// Provides a value to this request, so that `loader` does not load it. Returns whether the value was stored: a
    /// key that has already been requested, loaded or primed is left unchanged. [`load`](Self::load) has an example.
    pub fn prime<L: Loader>(&self, loader: &Arc<L>, key: L::Key, value: L::Value) -> bool {
        let Ok(loads) = self.loads(loader) else {
            return false;
        };
        let mut state = lock(&loads.state);
        let is_new = !state.known.contains_key(&key);
        if is_new {
            state
                .known
                .insert(key, Known::Loaded(Some(Arc::new(value))));
        }
        is_new
    }

    /// Removes the loaded value or the error of a key, so that the key is loaded again when it is requested.
    /// [`load`](Self::load) has an example.
    ///
    /// Returns whether there was a value or an error. A key that is being loaded is left unchanged.
    pub fn clear_loaded<L: Loader>(&self, loader: &Arc<L>, key: &L::Key) -> bool {
        let Ok(loads) = self.loads(loader) else {
            return false;
        };
        let batch = match lock(&loads.state).known.get(key) {
            None => return false,
            Some(Known::InBatch { batch, .. }) => Some(batch.clone()),
            Some(Known::Loaded(_) | Known::Failed { .. }) => None,
        };
        let is_pending = batch.is_some_and(|batch| loads.is_pending(self, &batch));
        !is_pending && loads.forget(key)
    }

    /// The keys that were requested from `loader` and whose loading has not started, in the order of the requests. For
    /// tests of the keys that a handler requests. [`load`](Self::load) has an example.
    #[must_use]
    pub fn loading<L: Loader>(&self, loader: &Arc<L>) -> Vec<L::Key> {
        let Ok(loads) = self.loads(loader) else {
            return Vec::new();
        };
        let mut state = lock(&loads.state);
        state.close_settled(self);
        state.wanted.clone()
    }

    fn loads<L: Loader>(&self, loader: &Arc<L>) -> Result<Arc<Loads<L>>, PromiseError> {
        let address = Arc::as_ptr(loader).addr();
        let make = |number| Loads {
            loader: Arc::clone(loader),
            number,
            state: Mutex::new(State {
                known: HashMap::new(),
                wanted: Vec::new(),
                open: None,
                batches: 0,
            }),
        };
        let loads = self.registry.attachment(address, make);
        loads.ok_or_else(|| PromiseError::Ended {
            key: Key::from(loader.name().to_owned()),
        })
    }
}

impl<L: Loader> State<L> {
    /// Closes the open batch if it was cancelled or timed out before it started.
    fn close_settled(&mut self, promises: &Promises) {
        if let Some(batch) = &self.open {
            if promises.registry.peek(batch) == Some(true) {
                self.open = None;
                self.wanted.clear();
            }
        }
    }
}

impl<L: Loader> Loads<L> {
    /// Looks up a key, and adds it to the open batch if there is no answer.
    ///
    /// `ended` is a batch that has ended without an error. A key that is still in that batch has no answer from it and
    /// is loaded again.
    fn ask(
        &self,
        promises: &Promises,
        key: &L::Key,
        is_promised: bool,
        ended: Option<&Key>,
    ) -> Answer<L::Value> {
        let pass = promises.reader.pass;
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.close_settled(promises);
        match state.known.get_mut(key) {
            Some(Known::Loaded(value)) => return Answer::Known(Ok(value.clone())),
            Some(Known::Failed {
                batch,
                asked,
                error,
            }) if asked.applies_in(pass) => {
                asked.is_promised |= is_promised;
                return Answer::Known(Err(PromiseError::Failed {
                    key: batch.clone(),
                    error: Arc::clone(error),
                }));
            }
            Some(Known::InBatch { batch, asked }) => {
                asked.is_promised |= is_promised;
                // A batch that is neither open nor a promise was cleared and loads nothing.
                let is_open = state.open.as_ref() == Some(batch);
                let stands = asked.applies_in(pass) && promises.registry.peek(batch).is_some();
                if is_open || (stands && ended != Some(batch)) {
                    return Answer::InBatch {
                        batch: batch.clone(),
                        is_new: false,
                    };
                }
            }
            Some(Known::Failed { .. }) | None => {}
        }
        if !promises.registry.is_current(pass) {
            let key = Key::from(self.loader.name().to_owned());
            return Answer::Known(Err(PromiseError::Ended { key }));
        }
        let batch = match &state.open {
            Some(batch) => batch.clone(),
            None => {
                state.batches += 1;
                let (name, number) = (self.loader.name(), self.number);
                let batch = Key::from(format!("{name}#{number} batch {}", state.batches));
                state.open.insert(batch).clone()
            }
        };
        let asked = Asked { pass, is_promised };
        let in_batch = Known::InBatch {
            batch: batch.clone(),
            asked,
        };
        state.wanted.push(key.clone());
        state.known.insert(key.clone(), in_batch);
        Answer::InBatch {
            batch,
            is_new: true,
        }
    }

    fn is_pending(&self, promises: &Promises, batch: &Key) -> bool {
        promises.registry.peek(batch) == Some(false)
            || lock(&self.state).open.as_ref() == Some(batch)
    }

    fn forget(&self, key: &L::Key) -> bool {
        let mut state = lock(&self.state);
        state.wanted.retain(|wanted| wanted != key);
        let known = state.known.remove(key);
        drop(state);
        // The value is dropped after the lock is released, because its `Drop` is user code.
        known.is_some()
    }

    /// The work of a batch: loads the keys that are wanted when the batch starts.
    async fn run(self: Arc<Self>, promises: WeakPromises, name: Key) -> Result<(), Failure> {
        let keys = {
            let mut state = lock(&self.state);
            if state.open.as_ref() == Some(&name) {
                state.open = None;
                std::mem::take(&mut state.wanted)
            } else {
                Vec::new()
            }
        };
        let batch = Batch {
            loads: self,
            promises,
            name,
            keys,
        };
        let size = batch.loads.loader.max_batch_size().max(1);
        let calls = batch.keys.chunks(size).map(|keys| batch.loads.call(keys));
        let mut calls: FuturesUnordered<_> = calls.collect();
        while let Some(()) = calls.next().await {}
        Ok(())
    }

    async fn call(&self, keys: &[L::Key]) {
        let answer = self.loader.load(keys).await;
        let mut answer = answer.map_err(|error| Arc::from(error.into()));
        let mut guard = lock(&self.state);
        for key in keys {
            let Some(known) = guard.known.get_mut(key) else {
                continue;
            };
            let Known::InBatch { batch, asked } = known else {
                continue;
            };
            *known = match &mut answer {
                Ok(values) => Known::Loaded(values.remove(key).map(Arc::new)),
                Err(error) => Known::Failed {
                    batch: batch.clone(),
                    asked: *asked,
                    error: Arc::clone(error),
                },
            };
        }
        drop(guard);
        // Values of keys that were not requested are dropped after the lock is released.
        drop(answer);
    }
}

/// A batch that is running.
struct Batch<L: Loader> {
    loads: Arc<Loads<L>>,
    promises: WeakPromises,
    name: Key,
    keys: Vec<L::Key>,
}

impl<L: Loader> Drop for Batch<L> {
    fn drop(&mut self) {
        // A batch that panics, times out or is cancelled keeps its promise, whose error its keys read as. A batch whose
        // last waiter was dropped has no promise any more, so its keys must become loadable again.
        let promises = self.promises.upgrade();
        let is_promise = promises.is_some_and(|it| it.registry.peek(&self.name).is_some());
        if std::thread::panicking() || is_promise {
            return;
        }
        let mut state = lock(&self.loads.state);
        for key in &self.keys {
            if let Some(Known::InBatch { .. }) = state.known.get(key) {
                state.known.remove(key);
            }
        }
    }
}

impl Asked {
    /// Whether this pass reads the error of the batch instead of loading the key again.
    fn applies_in(self, pass: u32) -> bool {
        self.is_promised || self.pass == pass
    }
}

fn cloned<V: Clone>(value: Arc<V>) -> V {
    Arc::unwrap_or_clone(value)
}
