mod list;
mod watch;

pub use list::store_list;
pub use watch::{store_lag, store_watch};

use super::{answer, awkward_names, invalid_names, refusal};
use crate::{BackendError, CompareAndSet, Entry, Revision, Store};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::sleep;

const TIME_TO_LIVE: Duration = Duration::from_secs(3);

/// More than the second by which a time to live may exceed the requested one, and the difference between two clocks.
const TOLERANCE: Duration = Duration::from_millis(1200);

/// The number of concurrent callers.
const RIVALS: usize = 16;

/// Checks all guarantees of [`Store`]. Each call of `make` connects to the same store.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store<S: Store>(make: impl AsyncFn() -> S) {
    store_values(&make).await;
    store_revisions(&make).await;
    store_compare_and_set(&make).await;
    store_races(&make).await;
    store_time_to_live(&make).await;
    store_watch(&make).await;
    store_lag(&make).await;
    store_list(&make).await;
    store_limits(&make).await;
}

/// Checks that all machines observe what one machine puts or deletes.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_values<S: Store>(make: impl AsyncFn() -> S) {
    let (here, there) = (make().await, make().await);
    for key in awkward_names() {
        answer("delete", here.delete(&key)).await;
        assert_eq!(get(&here, &key).await, None, "a deleted value is absent");

        for value in [Bytes::from_static(b"\0\xff"), Bytes::new()] {
            let revision = answer("put", here.put(&key, value.clone(), None)).await;
            let entry = Some(Entry { value, revision });
            assert_eq!(
                get(&here, &key).await,
                entry,
                "`get` returns the value that was put"
            );
            assert_eq!(
                get(&there, &key).await,
                entry,
                "other machines get the value too"
            );
        }
    }
    // After all values were put, so that keys which the adapter confuses are detected.
    for key in awkward_names() {
        let deleted = answer("delete", there.delete(&key)).await;
        assert!(deleted, "`delete` reports that `{key}` existed");
        let deleted = answer("delete", here.delete(&key)).await;
        assert!(!deleted, "`delete` reports that `{key}` did not exist");
        assert_eq!(
            get(&here, &key).await,
            None,
            "all machines see the deletion"
        );
    }
}

/// Checks that the revisions of a key increase with every kind of change.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_revisions<S: Store>(make: impl AsyncFn() -> S) {
    let (store, key) = (make().await, "conformance/revisions");
    let first = put(&store, key, "same").await;
    let second = put(&store, key, "same").await;
    assert!(
        first < second,
        "revisions rise when the value stays the same"
    );
    answer("delete", store.delete(key)).await;
    let third = put(&store, key, "same").await;
    assert!(second < third, "revisions rise across deletion");
    let set = answer(
        "set",
        store.compare_and_set(key, Some(third), "new".into(), None),
    )
    .await;
    let CompareAndSet::Set(fourth) = set else {
        panic!("compare-and-set with the present revision sets");
    };
    assert!(third < fourth, "revisions rise with compare-and-set");
    answer("delete", store.delete(key)).await;
}

/// Checks that compare-and-set only replaces the expected revision.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_compare_and_set<S: Store>(make: impl AsyncFn() -> S) {
    let (store, key) = (make().await, "conformance/compare");
    let set = async |expected, value: &'static str| {
        let set = store.compare_and_set(key, expected, value.into(), None);
        match answer("compare_and_set", set).await {
            CompareAndSet::Set(revision) => Some(revision),
            CompareAndSet::Conflict => None,
        }
    };
    answer("delete", store.delete(key)).await;
    let other = put(&store, "conformance/other", "other").await;

    let refused = set(Some(other), "0").await;
    assert_eq!(refused, None, "an absent value has no revision");
    let first = set(None, "1").await.expect("an absent value can be set");
    let refused = set(None, "2").await;
    assert_eq!(refused, None, "an existing value is not absent");
    let second = set(Some(first), "3").await;
    let second = second.expect("the present revision can be replaced");
    let refused = set(Some(first), "4").await;
    assert_eq!(refused, None, "a former revision is a conflict");

    let entry = Entry {
        value: "3".into(),
        revision: second,
    };
    assert_eq!(
        get(&store, key).await,
        Some(entry),
        "a conflict changes nothing"
    );

    answer("delete", store.delete(key)).await;
    let refused = set(Some(second), "5").await;
    assert_eq!(
        refused, None,
        "the revision of a deleted value is a conflict"
    );
    set(None, "6").await.expect("a deleted value is absent");
    for key in [key, "conformance/other"] {
        answer("delete", store.delete(key)).await;
    }
}

/// Checks that exactly one of many concurrent callers wins. Run it on a multi-threaded runtime as well.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_races<S: Store>(make: impl AsyncFn() -> S) {
    const ROUNDS: usize = 10;
    let (store, key) = (make().await, "conformance/races");
    answer("delete", store.delete(key)).await;

    let mut expected = None;
    for _ in 0..ROUNDS {
        let results = at_once(&make, |store: S| async move {
            let set = store.compare_and_set(key, expected, "won".into(), None);
            answer("compare_and_set", set).await
        })
        .await;
        let mut winners = results.into_iter().filter_map(|result| match result {
            CompareAndSet::Set(revision) => Some(revision),
            CompareAndSet::Conflict => None,
        });
        let (winner, second) = (winners.next(), winners.next());
        assert!(winner.is_some(), "one of many concurrent calls wins");
        assert_eq!(second, None, "only one of many concurrent calls wins");
        expected = winner;
    }

    let deleted = at_once(&make, |store: S| async move {
        answer("delete", store.delete(key)).await
    });
    let deleted = deleted.await.into_iter().filter(|deleted| *deleted).count();
    assert_eq!(
        deleted, 1,
        "exactly one of many concurrent deletions returns `true`"
    );

    // Each caller increments the value, and retries until it succeeds.
    let counted = at_once(&make, |store: S| async move {
        loop {
            let entry = answer("get", store.get(key)).await;
            let count = entry.as_ref().map_or(0, |entry| count(&entry.value));
            let expected = entry.map(|entry| entry.revision);
            let value = Bytes::from((count + 1).to_string());
            let set = store.compare_and_set(key, expected, value, None);
            if let CompareAndSet::Set(_) = answer("compare_and_set", set).await {
                break;
            }
        }
    });
    answer("counting", async { Ok(counted.await) }).await;
    let entry = get(&store, key).await.expect("the value was set");
    assert_eq!(count(&entry.value), RIVALS, "no change is lost");
    answer("delete", store.delete(key)).await;
}

fn count(value: &Bytes) -> usize {
    let text = std::str::from_utf8(value).expect("the value is text");
    text.parse().expect("the value is a number")
}

/// Runs a function concurrently on many connections.
async fn at_once<S: Store, T, F>(make: impl AsyncFn() -> S, run: impl Fn(S) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut rivals = Vec::new();
    for _ in 0..RIVALS {
        rivals.push(run(make().await));
    }
    let rivals: Vec<_> = rivals.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for rival in rivals {
        results.push(rival.await.expect("a rival does not fail"));
    }
    results
}

/// Checks that values expire after their time to live, not sooner, and that each change replaces the time to live.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_time_to_live<S: Store>(make: impl AsyncFn() -> S) {
    let (store, other, time_to_live) = (make().await, make().await, Some(TIME_TO_LIVE));
    let keys = ["put", "set", "kept", "renewed"].map(|name| format!("conformance/ttl/{name}"));
    let [put_key, set_key, kept, renewed] = &keys;
    for key in &keys {
        answer("delete", store.delete(key)).await;
    }
    let first = answer("put", store.put(put_key, "x".into(), time_to_live)).await;
    let set = store.compare_and_set(set_key, None, "x".into(), time_to_live);
    assert!(
        matches!(answer("set", set).await, CompareAndSet::Set(_)),
        "an absent value can be set with a time to live"
    );
    answer("put", store.put(kept, "x".into(), time_to_live)).await;
    answer("put", store.put(renewed, "x".into(), time_to_live)).await;
    answer("put", store.put(kept, "x".into(), None)).await;

    sleep(TIME_TO_LIVE / 2).await;
    for key in &keys {
        let there = get(&store, key).await.is_some();
        assert!(there, "`{key}` does not expire before its time to live");
    }
    answer(
        "put",
        store.put(renewed, "x".into(), Some(TIME_TO_LIVE * 20)),
    )
    .await;

    sleep(TIME_TO_LIVE / 2 + TOLERANCE).await;
    for key in [put_key, set_key] {
        for store in [&store, &other] {
            let there = get(store, key).await.is_some();
            assert!(!there, "`{key}` expires after its time to live");
        }
    }
    for key in [kept, renewed] {
        let there = get(&store, key).await.is_some();
        assert!(there, "`{key}` has the time to live of its last change");
    }
    let deleted = answer("delete", store.delete(put_key)).await;
    assert!(!deleted, "an expired value cannot be deleted");
    let expired = store.compare_and_set(put_key, Some(first), "y".into(), None);
    let expired = answer("set", expired).await;
    assert_eq!(
        expired,
        CompareAndSet::Conflict,
        "an expired value cannot be replaced"
    );
    let again = store.compare_and_set(put_key, None, "y".into(), None);
    match answer("set", again).await {
        CompareAndSet::Set(second) => assert!(first < second, "revisions rise across expiry"),
        CompareAndSet::Conflict => panic!("an expired value is absent"),
    }
    for key in &keys {
        answer("delete", store.delete(key)).await;
    }
}

/// Checks that invalid keys and values are refused.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_limits<S: Store>(make: impl AsyncFn() -> S) {
    let store = make().await;
    for key in invalid_names() {
        let errors = [
            refusal("get", store.get(&key)).await,
            refusal("put", store.put(&key, Bytes::new(), None)).await,
            refusal("set", store.compare_and_set(&key, None, Bytes::new(), None)).await,
            refusal("delete", store.delete(&key)).await,
        ];
        for error in errors {
            assert!(
                matches!(error, BackendError::InvalidName { .. }),
                "an invalid key is `InvalidName`, not {error:?}"
            );
        }
    }
    let watched = store.watch("line\nbreak").await;
    assert!(watched.is_err(), "an invalid prefix is an error");

    let large = Bytes::from(vec![b'x'; 64 * 1024]);
    let key = "conformance/large";
    answer("putting 64 KiB", store.put(key, large.clone(), None)).await;
    let value = get(&store, key).await.map(|entry| entry.value);
    assert_eq!(value, Some(large), "a value of 64 KiB can be stored");
    // `Duration::MAX` must work like any other time to live.
    answer("put", store.put(key, "x".into(), Some(Duration::MAX))).await;
    assert!(get(&store, key).await.is_some(), "the value is stored");
    answer("delete", store.delete(key)).await;
}

async fn get(store: &impl Store, key: &str) -> Option<Entry> {
    answer("get", store.get(key)).await
}

async fn put(store: &impl Store, key: &str, value: &'static str) -> Revision {
    answer("put", store.put(key, value.into(), None)).await
}
