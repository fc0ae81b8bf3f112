use super::answer;
use crate::kit::deadline::TimedBackend;
use crate::kit::documents::encode;
use crate::kit::journal::Journal;
use crate::memory::{MemoryBus, MemoryQueue};
use crate::{Backend, Revision, Store};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

const TIME_TO_LIVE: Duration = Duration::from_secs(60);
const PREFIX: &str = "conformance/journal/parts";

/// The number of owners that replace each other, and the number of entries that each appends.
const OWNERS: usize = 6;
const ENTRIES: usize = 12;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Document {
    owner: String,
    journal: Journal<String>,
}

/// Checks the journals of documents, which need nothing but the guarantees of [`Store`]: an owner that was replaced
/// appends nothing more, and a reader gets every entry that was acknowledged, once and in order. Each call of `make`
/// connects to the same store.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn journal<S: Store>(make: impl AsyncFn() -> S) {
    journal_grows(&make).await;
    journal_has_one_owner(&make).await;
}

/// Checks that a journal can become larger than a value, and is deleted with all parts.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn journal_grows<S: Store>(make: impl AsyncFn() -> S) {
    let (here, there) = (backend(make().await), backend(make().await));
    let key = "conformance/journal/grows";
    answer("delete", here.delete(key)).await;
    let entries: Vec<String> = [10, 9_000, 200_000, 3_000, 3_000, 3_000, 10]
        .into_iter()
        .enumerate()
        .map(|(number, bytes)| format!("{number}{}", "x".repeat(bytes)))
        .collect();
    let mut document = Document::default();
    let mut revision = None;
    for (number, entry) in entries.iter().enumerate() {
        document.journal.push(entry.clone(), entry.len());
        let unique = number.to_string();
        let moved = document
            .journal
            .move_out(&here, PREFIX, unique, TIME_TO_LIVE);
        answer("move_out", moved).await;
        assert!(
            set(&here, key, &document, revision).await,
            "the only owner appends"
        );
        let (stored, at) = read(&there, key).await;
        revision = Some(at);
        let found = answer("read", stored.journal.read(&there, PREFIX)).await;
        assert_eq!(
            found,
            entries[..=number],
            "another machine reads all entries in order"
        );
        assert_eq!(stored.journal.len(), number + 1);
    }
    answer("delete", document.journal.delete(&there, PREFIX)).await;
    let found = document.journal.read(&here, PREFIX).await;
    assert!(found.is_err(), "a journal without its parts is an error");
    answer("delete", here.delete(key)).await;
}

/// Checks that owners which replace each other at any time lose no entry that was acknowledged, and that none of them
/// appends after it was replaced.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn journal_has_one_owner<S: Store>(make: impl AsyncFn() -> S) {
    let key = "conformance/journal/owners";
    let here = backend(make().await);
    answer("delete", here.delete(key)).await;
    assert!(set(&here, key, &Document::default(), None).await);
    let mut backends = Vec::new();
    for _ in 0..OWNERS {
        backends.push(backend(make().await));
    }
    let owners = backends.iter().enumerate().map(|(number, backend)| {
        let owner = format!("owner {number}");
        async move { own(backend, key, &owner).await }
    });
    let acknowledged: Vec<Vec<String>> = join_all(owners).await;
    let (document, _) = read(&here, key).await;
    let stored = answer("read", document.journal.read(&here, PREFIX)).await;
    let distinct: BTreeSet<_> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len(), "no entry is stored twice");
    let acknowledged: BTreeSet<_> = acknowledged.iter().flatten().collect();
    assert_eq!(
        distinct, acknowledged,
        "exactly the entries that were acknowledged are stored"
    );
    // The entries of an owner are next to each other, because an owner that was replaced appends nothing more.
    let mut owners: Vec<_> = stored.iter().map(|entry| &entry[..7]).collect();
    owners.dedup();
    let distinct: BTreeSet<_> = owners.iter().collect();
    assert_eq!(
        distinct.len(),
        owners.len(),
        "an owner that was replaced appends nothing more"
    );
    answer("delete", document.journal.delete(&here, PREFIX)).await;
    answer("delete", here.delete(key)).await;
}

/// Becomes the owner, and appends until it is replaced or has appended all entries. Returns the acknowledged entries.
async fn own(backend: &TimedBackend, key: &str, owner: &str) -> Vec<String> {
    loop {
        let (mut document, revision) = read(backend, key).await;
        owner.clone_into(&mut document.owner);
        if set(backend, key, &document, Some(revision)).await {
            break;
        }
    }
    let mut acknowledged = Vec::new();
    for number in 0..ENTRIES {
        let (mut document, revision) = read(backend, key).await;
        if document.owner != owner {
            break;
        }
        let entry = format!("{owner}: {number} {}", "x".repeat(1_500));
        document.journal.push(entry.clone(), entry.len());
        let unique = format!("{owner}-{number}");
        let moved = document
            .journal
            .move_out(backend, PREFIX, unique, TIME_TO_LIVE);
        answer("move_out", moved).await;
        if !set(backend, key, &document, Some(revision)).await {
            break;
        }
        acknowledged.push(entry);
    }
    acknowledged
}

fn backend(store: impl Store) -> TimedBackend {
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    TimedBackend::new(backend, super::PATIENCE)
}

async fn read(backend: &TimedBackend, key: &str) -> (Document, Revision) {
    let found = answer("read", backend.read_revision(key)).await;
    found.expect("the document is stored")
}

async fn set(
    backend: &TimedBackend,
    key: &str,
    document: &Document,
    expected: Option<Revision>,
) -> bool {
    let value = encode(document).expect("strings are JSON");
    answer("set", backend.set(key, expected, value, TIME_TO_LIVE)).await
}
