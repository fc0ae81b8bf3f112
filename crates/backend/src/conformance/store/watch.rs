use super::super::{PATIENCE, answer};
use super::{get, put};
use crate::{Change, CompareAndSet, Store, WatchStream};
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::timeout;

/// The number of changes that a watcher does not read in [`store_lag`].
const FLOOD: usize = 2000;

/// The pause without events after which a watcher has seen everything.
const QUIET: Duration = Duration::from_secs(1);

/// Checks that a watch yields every change of its keys in order, and no changes of other keys.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_watch<S: Store>(make: impl AsyncFn() -> S) {
    let (here, there) = (make().await, make().await);
    for key in ["conformance/w/1", "conformance/w/2"] {
        answer("delete", here.delete(key)).await;
    }
    let before = put(&here, "conformance/w/1", "before").await;
    let mut watches = [
        answer("watch", here.watch("conformance/w/")).await,
        answer("watch", there.watch("conformance/w/")).await,
        answer("watch", there.watch("")).await,
    ];

    let key = "conformance/w/1";
    put(&here, "conformance/v", "another prefix").await;
    let first = put(&here, key, "1").await;
    let conflict = here.compare_and_set(key, Some(before), "not set".into(), None);
    assert_eq!(answer("set", conflict).await, CompareAndSet::Conflict);
    let set = there.compare_and_set(key, Some(first), "2".into(), None);
    let CompareAndSet::Set(second) = answer("set", set).await else {
        panic!("the present revision can be replaced");
    };
    put(&there, "conformance/w/2", "3").await;
    answer("delete", here.delete(key)).await;
    answer("delete", here.delete(key)).await;
    put(&there, key, "4").await;

    for watch in &mut watches {
        let mut seen = Vec::new();
        let mut last = before;
        while seen.len() < 4 {
            match change(watch).await {
                Change::Put {
                    key: changed,
                    entry,
                } if *changed == *key => {
                    assert!(
                        last < entry.revision,
                        "a watch sees the changes of a key in order"
                    );
                    last = entry.revision;
                    seen.push(Some(entry.value));
                }
                Change::Deleted {
                    key: changed,
                    revision,
                } if *changed == *key => {
                    assert!(last < revision, "a deletion has a revision of its own");
                    last = revision;
                    seen.push(None);
                }
                _ => {}
            }
        }
        let expected = [Some("1"), Some("2"), None, Some("4")];
        let expected = expected.map(|value| value.map(Bytes::from));
        assert_eq!(
            seen, expected,
            "a watch sees every change, and nothing else"
        );
    }
    assert!(first < second);

    // Only the watch of all keys yields changes with another prefix.
    let [mut watch, _, mut all] = watches;
    put(&here, "conformance/v", "another prefix").await;
    put(&here, "conformance/w/2", "end").await;
    for (watch, sees_it) in [(&mut watch, false), (&mut all, true)] {
        let mut seen = false;
        loop {
            let Change::Put { key, entry } = change(watch).await else {
                continue;
            };
            seen |= &*key == "conformance/v";
            if entry.value == "end" {
                break;
            }
        }
        assert_eq!(seen, sees_it, "a watch sees the keys with its prefix");
    }
    let current = get(&there, "conformance/w/2")
        .await
        .map(|entry| entry.value);
    assert_eq!(
        current.as_deref(),
        Some(&b"end"[..]),
        "a received change can be read"
    );
    for key in ["conformance/v", key, "conformance/w/2"] {
        answer("delete", here.delete(key)).await;
    }
}

/// Checks that a watcher that falls behind is notified, and that the changes it receives are in order.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_lag<S: Store>(make: impl AsyncFn() -> S) {
    let (here, there) = (make().await, make().await);
    let key = "conformance/lag";
    let mut slow = answer("watch", there.watch(key)).await;
    let mut last = None;
    for _ in 0..FLOOD {
        last = Some(put(&here, key, "x").await);
    }
    let last = last.expect("at least one value was put");
    let (mut seen, mut missed, mut newest) = (0, 0, None);
    let mut see = |change| match change {
        Change::Put { entry, .. } => {
            assert!(newest < Some(entry.revision), "changes arrive in order");
            newest = Some(entry.revision);
            seen += 1;
            newest
        }
        Change::Lagged(changes) => {
            assert!(changes > 0, "`Lagged` counts at least one change");
            missed += 1;
            None
        }
        Change::Deleted { .. } => panic!("nothing was deleted"),
    };
    while let Ok(event) = timeout(QUIET, slow.next()).await {
        match event {
            Some(Ok(change)) => drop(see(change)),
            Some(Err(error)) => panic!("a slow watcher is not an error: {error:?}"),
            None => panic!("a slow watcher is not disconnected"),
        }
    }
    // Changes that were lost at the end may be reported with the next change.
    let later = put(&there, key, "later").await;
    while see(change(&mut slow).await) != Some(later) {}
    assert!(
        missed > 0 || seen == FLOOD + 1,
        "a watcher that has lost changes gets `Lagged`"
    );
    let current = answer("get", here.get(key)).await;
    let current = current.map(|entry| entry.revision);
    assert_eq!(
        current,
        Some(later),
        "a slow watcher can read the present value"
    );
    assert!(last < later);
    answer("delete", here.delete(key)).await;
}

async fn change(watch: &mut WatchStream) -> Change {
    match timeout(PATIENCE, watch.next()).await {
        Ok(Some(Ok(change))) => change,
        Ok(event) => panic!("a watch sees changes, not {event:?}"),
        Err(_) => panic!("a watch sees every change"),
    }
}
