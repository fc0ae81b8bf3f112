use super::super::{answer, awkward_names, refusal};
use super::TOLERANCE;
use crate::{BackendError, Listed, Store};
use futures_util::future::join;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::sleep;

const PREFIX: &str = "conformance/list/";

/// Checks that lists have all entries of a prefix, and each of them once, in pages of any size.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn store_list<S: Store>(make: impl AsyncFn() -> S) {
    let (here, there) = (make().await, make().await);
    let mut expected = BTreeMap::new();
    for number in 0..25 {
        let (key, value) = (format!("{PREFIX}{number}"), format!("value {number}"));
        let revision = answer("put", here.put(&key, value.clone().into(), None)).await;
        expected.insert(key, (value, revision));
    }
    let others = ["conformance/list", "conformance/lisu", "conformance/LIST/x"];
    for key in others {
        answer("put", here.put(key, "other".into(), None)).await;
    }
    for limit in [1, 7, 25, 1000, usize::MAX] {
        let listed = all(&there, PREFIX, limit).await;
        assert_eq!(listed.len(), 25, "each entry is listed once");
        for listed in &listed {
            let (value, revision) = &expected[&*listed.key];
            assert_eq!(listed.entry.value, value, "the value of `{}`", listed.key);
            assert_eq!(
                listed.entry.revision, *revision,
                "the revision of the value"
            );
        }
        for (at, one) in listed.iter().enumerate().step_by(6) {
            let rest = after(&there, PREFIX, Some(one.position.clone()), limit).await;
            assert_eq!(rest, listed[at + 1..], "a list continues after each entry");
        }
    }
    one_entry_changes(&here, &there).await;
    values_are_replaced(&here, &there).await;
    entries_end(&here, &there).await;
    for key in others {
        answer("delete", here.delete(key)).await;
    }

    for key in awkward_names() {
        answer("put", here.put(&key, "x".into(), None)).await;
        let listed = all(&there, &key, 10).await;
        let has_key = listed.iter().any(|listed| *listed.key == *key);
        assert!(has_key, "`{key}` is listed");
        assert!(listed.iter().all(|listed| listed.key.starts_with(&key)));
        answer("delete", here.delete(&key)).await;
    }
    assert_eq!(all(&there, "conformance/none", 10).await, []);
    let error = refusal("list", here.list("line\nbreak", None, 1)).await;
    assert!(
        matches!(error, BackendError::InvalidName { .. }),
        "an invalid prefix is `InvalidName`, not {error:?}"
    );
    // Positions may come from clients.
    for position in [
        "",
        "-1",
        "\u{0}",
        "conformance/list/99",
        "99999999999999999999",
    ] {
        match here.list(PREFIX, Some(position), 10).await {
            Ok(_) | Err(BackendError::InvalidName { .. }) => {}
            Err(error) => {
                panic!("an unknown position is a position or `InvalidName`, not {error:?}")
            }
        }
    }
}

/// An entry that changes between two pages is not left out, and no other entry is.
async fn one_entry_changes(here: &impl Store, there: &impl Store) {
    let page = answer("list", there.list(PREFIX, None, 10)).await;
    let mut keys: Vec<_> = page.entries.into_iter().map(|listed| listed.key).collect();
    let changed = format!("{PREFIX}24");
    answer("put", here.put(&changed, "changed".into(), None)).await;
    let rest = after(there, PREFIX, page.next, 10).await;
    keys.extend(rest.into_iter().map(|listed| listed.key));
    let times = keys.iter().filter(|key| ***key == *changed).count();
    assert!(times >= 1, "an entry that changes is listed");
    keys.retain(|key| **key != *changed);
    keys.sort_unstable();
    let before = keys.len();
    keys.dedup();
    assert_eq!((before, keys.len()), (24, 24), "the others are listed once");
}

/// Entries whose values are replaced while a list is read are not left out, and no other entry is.
async fn values_are_replaced(here: &impl Store, there: &impl Store) {
    let is_replaced = |number: usize| number % 3 == 0;
    let has_ended = AtomicBool::new(false);
    let write = async {
        for round in 0..20 {
            for number in (0..25).filter(|number| is_replaced(*number)) {
                let (key, value) = (format!("{PREFIX}{number}"), format!("{round}"));
                answer("put", here.put(&key, value.into(), None)).await;
                yield_now().await;
            }
        }
        has_ended.store(true, Ordering::Relaxed);
    };
    let read = async {
        while !has_ended.load(Ordering::Relaxed) {
            yield_now().await;
            let listed = all(there, PREFIX, 4).await;
            for number in 0..25 {
                let key = format!("{PREFIX}{number}");
                let times = listed.iter().filter(|listed| *listed.key == *key).count();
                let what = "is listed although values are replaced";
                assert!(times >= 1, "`{key}` {what}");
                assert!(
                    times == 1 || is_replaced(number),
                    "`{key}` {what}, and once"
                );
            }
        }
    };
    join(write, read).await;
}

/// Entries that are deleted or expire are not listed.
async fn entries_end(here: &impl Store, there: &impl Store) {
    let short = Some(Duration::from_millis(100));
    for number in 0..25 {
        let key = format!("{PREFIX}{number}");
        if number % 2 == 0 {
            answer("delete", here.delete(&key)).await;
        } else {
            answer("put", here.put(&key, "short".into(), short)).await;
        }
    }
    sleep(Duration::from_millis(100) + TOLERANCE).await;
    assert_eq!(all(there, PREFIX, 10).await, []);
}

async fn all(store: &impl Store, prefix: &str, limit: usize) -> Vec<Listed> {
    after(store, prefix, None, limit).await
}

async fn after(
    store: &impl Store,
    prefix: &str,
    mut position: Option<Arc<str>>,
    limit: usize,
) -> Vec<Listed> {
    let mut listed = Vec::new();
    loop {
        let page = answer("list", store.list(prefix, position.as_deref(), limit)).await;
        assert!(page.entries.len() <= limit.min(1000), "a page has a limit");
        listed.extend(page.entries);
        position = page.next;
        if position.is_none() {
            return listed;
        }
    }
}
