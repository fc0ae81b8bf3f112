use super::error::{Failure, PromiseError};
use super::promises::WeakPromises;
use super::registry::Demand;
use super::{Key, Promises, SubmitError};
use crate::loader::Loader;
use crate::sync::lock;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::any::type_name;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

/// What one request has asked one loader for.
struct Loads<L: Loader> {
    loader: Arc<L>,
    /// Tells it from the request's other loaders.
    number: usize,
    state: Mutex<State<L>>,
}

struct State<L: Loader> {
    known: HashMap<L::Key, Known<L::Value>>,
    /// The keys of the batch that has not started.
    wanted: Vec<L::Key>,
    /// The name of that batch.
    open: Option<Key>,
    batches: usize,
}

enum Known<V> {
    /// What was loaded, or that there is nothing. Shared, so that it is not cloned under the lock.
    Loaded(Option<Arc<V>>),
    /// It is in a batch, or was in one that did not end well.
    InBatch { batch: Key, asked: Asked },
    Failed {
        batch: Key,
        asked: Asked,
        error: Arc<dyn Error + Send + Sync>,
    },
}

/// How a key was asked for.
#[derive(Clone, Copy)]
struct Asked {
    pass: usize,
    /// By somebody who could not wait.
    is_promised: bool,
}

/// What is known of a key at the moment.
enum Answer<V> {
    Known(Result<Option<Arc<V>>, PromiseError>),
    /// This batch has it, or will. It may be new there.
    InBatch {
        batch: Key,
        is_new: bool,
    },
}

/// Loading.
impl Promises {
    /// The value that `loader` has for `key`, loaded together with all other keys that are asked for in
    /// this pass. `None` where there is no such value.
    ///
    /// # Errors
    ///
    /// [`Pending`](PromiseError::Pending) where it is not there yet, and the errors of
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
            let run = Arc::clone(&loads).run(self.downgrade(), batch.clone());
            match self.register(batch.clone(), Demand::Missed, run) {
                // If it has just settled, in another thread, the key is known now.
                Ok(_) | Err(SubmitError::AlreadyResolved { .. }) => self.read::<()>(&batch)?,
                Err(error) => {
                    if is_new {
                        loads.forget(&key);
                    }
                    return Err(PromiseError::Rejected { error });
                }
            }
            ended = Some(batch);
        }
    }

    /// [`load`](Self::load) for many keys. The values come in the order of the keys.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load): any other before [`Pending`](PromiseError::Pending).
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
                // The rest is asked for all the same, so that it is in the same batch.
                Err(error) if error.is_pending() => pending = Some(error),
                Err(error) => return Err(error),
            }
        }
        match pending {
            Some(pending) => Err(pending),
            None => Ok(values),
        }
    }

    /// [`load`](Self::load) for code that can wait. It costs no further pass, and loads together what is asked
    /// for before the task yields: ask for many with a `join`, or with
    /// [`load_many_async`](Self::load_many_async).
    ///
    /// # Errors
    ///
    /// Those of [`resolve`](Self::resolve).
    ///
    /// # Cancel safety
    ///
    /// That of [`resolve`](Self::resolve).
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
            self.wait::<(), _>(batch.clone(), run).await?;
            ended = Some(batch);
        }
    }

    /// [`load_many`](Self::load_many) for code that can wait.
    ///
    /// # Errors
    ///
    /// Those of [`load_async`](Self::load_async).
    ///
    /// # Cancel safety
    ///
    /// That of [`resolve`](Self::resolve).
    pub async fn load_many_async<L: Loader>(
        &self,
        loader: &Arc<L>,
        keys: impl IntoIterator<Item = L::Key>,
    ) -> Result<Vec<Option<L::Value>>, PromiseError> {
        let keys: Vec<_> = keys.into_iter().collect();
        let loads = self.loads(loader)?;
        for key in &keys {
            // All of them are in the batch before it is waited for.
            let _ = loads.ask(self, key, false, None);
        }
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.load_async(loader, key).await?);
        }
        Ok(values)
    }

    /// Tells this request a value that `loader` need not load. Returns whether it was news: a key that has
    /// been asked for, or is known, stays as it is.
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

    /// Forgets what was loaded for a key, or why it could not be, so that it can be asked for again.
    ///
    /// Returns whether there was anything to forget. A key that is being loaded stays.
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

    /// The keys that `loader` has been asked for and that have not been loaded yet, in the order in which
    /// they were asked for. For tests of what a handler asks for.
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
        let loads = self.registry().attachment(address, make);
        loads.ok_or_else(|| PromiseError::Ended {
            key: Key::from_static(short_name::<L>()),
        })
    }
}

impl<L: Loader> State<L> {
    /// Closes the open batch if it was cancelled, or its time was up, before it started.
    fn close_settled(&mut self, promises: &Promises) {
        if let Some(batch) = &self.open {
            if promises.registry().peek(batch) == Some(true) {
                self.open = None;
                self.wanted.clear();
            }
        }
    }
}

impl<L: Loader> Loads<L> {
    /// What is known of a key. If nothing is, it is put into the open batch. `ended` is a batch that has
    /// ended without an error, so that it must have told all that it can.
    fn ask(
        &self,
        promises: &Promises,
        key: &L::Key,
        is_promised: bool,
        ended: Option<&Key>,
    ) -> Answer<L::Value> {
        let pass = promises.pass();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.close_settled(promises);
        match state.known.get_mut(key) {
            Some(Known::Loaded(value)) => return Answer::Known(Ok(value.clone())),
            Some(Known::Failed {
                batch,
                asked,
                error,
            }) if asked.stands_in(pass) => {
                asked.is_promised |= is_promised;
                return Answer::Known(Err(PromiseError::Failed {
                    key: batch.clone(),
                    error: Arc::clone(error),
                }));
            }
            Some(Known::InBatch { batch, asked }) => {
                asked.is_promised |= is_promised;
                // A batch that is neither open nor a promise any more was cleared: it loads nothing.
                let is_open = state.open.as_ref() == Some(batch);
                let stands = asked.stands_in(pass) && promises.registry().peek(batch).is_some();
                if is_open || (stands && ended != Some(batch)) {
                    return Answer::InBatch {
                        batch: batch.clone(),
                        is_new: false,
                    };
                }
            }
            Some(Known::Failed { .. }) | None => {}
        }
        if !promises.registry().is_current(pass) {
            let key = Key::from_static(short_name::<L>());
            return Answer::Known(Err(PromiseError::Ended { key }));
        }
        let batch = match &state.open {
            Some(batch) => batch.clone(),
            None => {
                state.batches += 1;
                let (name, number) = (short_name::<L>(), self.number);
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
        let read = promises.read::<()>(batch);
        read.is_err_and(|error| error.is_pending())
            || lock(&self.state).open.as_ref() == Some(batch)
    }

    fn forget(&self, key: &L::Key) -> bool {
        let mut state = lock(&self.state);
        state.wanted.retain(|wanted| wanted != key);
        let known = state.known.remove(key);
        drop(state);
        // Dropped where no lock is held.
        known.is_some()
    }

    /// The work of a batch: loads everything that is wanted when it starts.
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
        // What was not asked for is dropped where no lock is held.
        drop(answer);
    }
}

/// A batch that is being loaded.
struct Batch<L: Loader> {
    loads: Arc<Loads<L>>,
    promises: WeakPromises,
    name: Key,
    keys: Vec<L::Key>,
}

impl<L: Loader> Drop for Batch<L> {
    fn drop(&mut self) {
        // A batch that panics, times out or is cancelled has an error that its keys are to be read as.
        // One that nobody waits for any more has nothing, and its keys can be asked for again.
        let promises = self.promises.upgrade();
        let is_promise = promises.is_some_and(|it| it.registry().peek(&self.name).is_some());
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
    /// Whether an error is to be told in this pass, rather than the key be asked for again.
    fn stands_in(self, pass: usize) -> bool {
        self.is_promised || self.pass == pass
    }
}

fn cloned<V: Clone>(value: Arc<V>) -> V {
    Arc::unwrap_or_clone(value)
}

/// The name of a type without the path.
fn short_name<T>() -> &'static str {
    let name = type_name::<T>();
    let path = name.split('<').next().unwrap_or(name);
    path.rsplit("::").next().unwrap_or(path)
}
