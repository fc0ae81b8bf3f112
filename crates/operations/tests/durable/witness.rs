//! A store that checks each change of an operation, and that can have a fault.

use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, CompareAndSet, Entry, Revision, Store, WatchStream,
};

const RECORDS: &str = "operation/record/";

/// A fault of the store, which leads to what a faulty layer would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// A change is stored whatever the revision is, so a run that was replaced still stores.
    NoFence,
    /// A takeover is confirmed and not stored, so a run records before the store knows it.
    NoTakeover,
    /// A settlement from outside is hidden from the next one.
    SettledTwice,
    /// A change is confirmed before it is stored.
    ReadBeforeStored,
}

/// What the store holds, and the rules that were broken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    records: HashMap<String, Value>,
    broken: Vec<String>,
}

impl Witness {
    /// Returns a backend whose store has a fault.
    pub(crate) fn backend(&self, fault: Fault) -> Backend {
        let store = WitnessedStore {
            store: Arc::new(MemoryStore::new()),
            witness: self.clone(),
            fault,
        };
        Backend::new(store, MemoryBus::new(), MemoryQueue::new())
    }

    pub(crate) fn break_rule(&self, text: impl Into<String>) {
        self.0.lock().unwrap().broken.push(text.into());
    }

    pub(crate) fn broken(&self) -> Vec<String> {
        self.0.lock().unwrap().broken.clone()
    }

    /// Returns the remembered outcome of a promise, of any operation that has run.
    pub(crate) fn remembered(&self, name: &str) -> Option<Value> {
        let seen = self.0.lock().unwrap();
        let mut outcomes = seen.records.values().flat_map(outcomes);
        outcomes.find_map(|(of, outcome)| (of == name).then(|| outcome.clone()))
    }

    /// Returns the number of runs that have begun.
    pub(crate) fn runs(&self) -> u64 {
        let seen = self.0.lock().unwrap();
        let runs = seen.records.values().map(runs);
        runs.max().unwrap_or_default()
    }

    fn see(&self, key: &str, value: &Bytes) {
        if !key.starts_with(RECORDS) {
            return;
        }
        let new: Value = serde_json::from_slice(value).unwrap();
        let mut seen = self.0.lock().unwrap();
        if let Some(old) = seen.records.insert(key.to_owned(), new.clone()) {
            let broken = broken(&old, &new);
            seen.broken.extend(broken);
        }
        if seen.records.values().filter(|it| runs(it) > 0).count() > 1 {
            seen.broken.push("a request is two operations".to_owned());
        }
    }
}

fn runs(record: &Value) -> u64 {
    record["durable"]["runs"].as_u64().unwrap_or_default()
}

/// The outcomes in a record. The test is so small that all of them are in the record itself.
fn outcomes(record: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let entries = record["durable"]["journal"]["latest"].as_array();
    let entries = entries.into_iter().flatten();
    entries.filter_map(|entry| Some((entry["name"].as_str()?, entry["fact"].get("settled")?)))
}

/// Returns the rules that a change breaks.
fn broken(old: &Value, new: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let has_ended = old["finished"].is_u64();
    if has_ended
        && ["status", "error", "result"]
            .iter()
            .any(|it| old[it] != new[it])
    {
        broken.push(format!("two ends: {} and {}", old["status"], new["status"]));
    }
    for number in ["turn", "runs"] {
        if new["durable"][number].as_u64() < old["durable"][number].as_u64() {
            broken.push(format!("the {number} went back"));
        }
    }
    for (name, outcome) in outcomes(old) {
        let mut first = outcomes(new).filter(|(of, _)| *of == name);
        match first.next() {
            Some((_, same)) if same == outcome => {}
            Some(_) => broken.push(format!("{name} has settled twice")),
            None => broken.push(format!("{name} is forgotten")),
        }
    }
    broken
}

struct WitnessedStore {
    store: Arc<MemoryStore>,
    witness: Witness,
    fault: Fault,
}

impl WitnessedStore {
    fn has(&self, fault: Fault, key: &str) -> bool {
        self.fault == fault && key.starts_with(RECORDS)
    }

    /// Whether a change of this record is a takeover.
    async fn is_takeover(&self, key: &str, value: &Bytes) -> Result<bool, BackendError> {
        let Some(entry) = self.store.get(key).await? else {
            return Ok(false);
        };
        let [old, new] = [&entry.value, value].map(|it| serde_json::from_slice(it).unwrap());
        Ok(runs(&old) < runs(&new))
    }
}

impl Store for WitnessedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        async move {
            let mut found = self.store.get(key).await?;
            if let Some(entry) = found
                .as_mut()
                .filter(|_| self.has(Fault::SettledTwice, key))
            {
                let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
                if let Some(entries) = record["durable"]["journal"]["latest"].as_array_mut() {
                    let is_settlement = |it: &Value| {
                        it["name"] == "approval" && it["fact"].get("settled").is_some()
                    };
                    entries.retain(|it| !is_settlement(it));
                }
                entry.value = serde_json::to_vec(&record).unwrap().into();
            }
            Ok(found)
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        self.store.put(key, value, time_to_live)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        mut expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        async move {
            let late = Revision::new(u64::MAX);
            if self.has(Fault::NoFence, key) {
                expected = self.store.get(key).await?.map(|entry| entry.revision);
            }
            if self.has(Fault::NoTakeover, key) && self.is_takeover(key, &value).await? {
                return Ok(CompareAndSet::Set(late));
            }
            if self.has(Fault::ReadBeforeStored, key) && expected.is_some() {
                let (store, witness) = (self.store.clone(), self.witness.clone());
                let key = key.to_owned();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let set = store.compare_and_set(&key, expected, value.clone(), time_to_live);
                    if let Ok(CompareAndSet::Set(_)) = set.await {
                        witness.see(&key, &value);
                    }
                });
                return Ok(CompareAndSet::Set(late));
            }
            let set = self
                .store
                .compare_and_set(key, expected, value.clone(), time_to_live);
            let set = set.await?;
            if let CompareAndSet::Set(_) = set {
                self.witness.see(key, &value);
            }
            Ok(set)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.store.delete(key)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}
