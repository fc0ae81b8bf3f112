//! A store that checks each change of an operation, and that can have a fault.

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, CompareAndSet, Entry, Page, Revision, Store, WatchStream,
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
    records: HashMap<String, Record>,
    broken: Vec<String>,
}

/// What the rules are about. All else in a stored record is skipped, which is much faster than reading it.
#[derive(Debug, Deserialize)]
struct Record {
    status: String,
    error: Option<Value>,
    result: Option<Value>,
    finished: Option<u64>,
    durable: Durable,
}

#[derive(Debug, Deserialize)]
struct Durable {
    turn: u64,
    runs: u64,
    journal: Journal,
}

/// The test is so small that all entries are in the record itself.
#[derive(Debug, Deserialize)]
struct Journal {
    latest: Vec<Remembered>,
}

#[derive(Debug, Deserialize)]
struct Remembered {
    name: String,
    fact: Fact,
}

#[derive(Debug, Deserialize)]
struct Fact {
    settled: Option<Value>,
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
        let mut outcomes = seen.records.values().flat_map(Record::outcomes);
        outcomes.find_map(|(of, outcome)| (of == name).then(|| outcome.clone()))
    }

    /// Returns the number of runs that have begun.
    pub(crate) fn runs(&self) -> u64 {
        let seen = self.0.lock().unwrap();
        let runs = seen.records.values().map(|record| record.durable.runs);
        runs.max().unwrap_or_default()
    }

    fn see(&self, key: &str, value: &Bytes) {
        if !key.starts_with(RECORDS) {
            return;
        }
        let new: Record = serde_json::from_slice(value).unwrap();
        let mut seen = self.0.lock().unwrap();
        if let Some(old) = seen.records.get(key) {
            let broken = broken(old, &new);
            seen.broken.extend(broken);
        }
        seen.records.insert(key.to_owned(), new);
        let records = seen.records.values();
        if records.filter(|record| record.durable.runs > 0).count() > 1 {
            seen.broken.push("a request is two operations".to_owned());
        }
    }
}

impl Record {
    fn outcomes(&self) -> impl Iterator<Item = (&str, &Value)> {
        let entries = self.durable.journal.latest.iter();
        entries.filter_map(|entry| Some((&*entry.name, entry.fact.settled.as_ref()?)))
    }
}

/// Returns the rules that a change breaks.
fn broken(old: &Record, new: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let is_same = (&old.status, &old.error, &old.result) == (&new.status, &new.error, &new.result);
    if old.finished.is_some() && !is_same {
        broken.push(format!("two ends: {} and {}", old.status, new.status));
    }
    let numbers = [
        ("turn", old.durable.turn, new.durable.turn),
        ("runs", old.durable.runs, new.durable.runs),
    ];
    for (number, old, new) in numbers {
        if new < old {
            broken.push(format!("the {number} went back"));
        }
    }
    for (name, outcome) in old.outcomes() {
        let mut first = new.outcomes().filter(|(of, _)| *of == name);
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
        let runs = |value: &Bytes| {
            let record: Record = serde_json::from_slice(value).unwrap();
            record.durable.runs
        };
        Ok(runs(&entry.value) < runs(value))
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

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        self.store.list(prefix, after, limit)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}
