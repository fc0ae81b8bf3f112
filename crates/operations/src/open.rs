//! The durable operations that have not ended, in lists of limited length: those of each principal, and all of them.
//!
//! One list of all would be written by each request at the same time, and would not fit into one value of the store. So
//! there are many lists of all, and the digest of an operation chooses one. The limits of the lists add up to the limit
//! at most. The record of an operation names its list, because the limit may be another one at its end.

use super::limits::Refusal;
use super::observe;
use super::record::{Key, Record};
use super::records::Records;
use super::settings::Settings;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::milliseconds;
use tower_promises_backend::kit::documents::Update;

/// The smallest limit of a list of all, if there are several. The largest is nearly twice as large.
const LISTED: usize = 64;

/// The number of lists of all that a request tries. With so many, few places are free when a request finds none.
const TRIED: usize = 4;

/// The number of operations that a request without a place looks at, to find some that have ended.
const LOOKED_AT: usize = 16;

/// The time in which the record of an operation is created after the operation is listed.
const CREATION: Duration = Duration::from_secs(60);

/// An operation that has not ended, as far as is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    key: String,
    /// In milliseconds since the epoch.
    expires: u64,
}

/// A list and the number of operations that it may have.
struct List {
    name: String,
    limit: usize,
}

/// Lists an operation that is about to be created. Returns the name of its list of all, or the limit that the operation
/// exceeds. A process that ends before the operation is created leaves it in the lists. A later request without a place
/// removes it.
pub(super) async fn open(
    records: &Records,
    settings: &Settings,
    principal: Option<&str>,
    key: &Key,
) -> Result<Result<Option<String>, Refusal>, BackendError> {
    let of_principal = principal.map(|principal| List {
        name: of_principal(principal),
        limit: settings.durable.max_open_per_principal,
    });
    if let Some(list) = &of_principal {
        if find_place(records, settings, &[list], key).await?.is_none() {
            return Ok(Err(Refusal::PrincipalOpen));
        }
    }
    let Some(all) = of_all(settings, key) else {
        return Ok(Ok(None));
    };
    let all: Vec<_> = all.iter().collect();
    if let Some(list) = find_place(records, settings, &all, key).await? {
        return Ok(Ok(Some(list.name.clone())));
    }
    if let Some(list) = of_principal {
        remove(records, settings, &list.name, &[key.as_str()]).await?;
    }
    Ok(Err(Refusal::TotalOpen))
}

/// Lists an operation again that had ended, whatever the limits are.
pub(super) async fn open_again(
    records: &Records,
    settings: &Settings,
    record: &Record,
) -> Result<(), BackendError> {
    for name in lists_of(record) {
        let limit = usize::MAX;
        let list = List { name, limit };
        add(records, settings, &list, &Key::of(&record.id)).await?;
    }
    Ok(())
}

/// Removes an operation that has ended from its lists. After a failure, a later request without a place does so.
pub(super) async fn close(records: &Records, settings: &Settings, key: &Key, lists: &[String]) {
    for list in lists {
        if let Err(error) = remove(records, settings, list, &[key.as_str()]).await {
            observe::backend_failed(key, &error);
        }
    }
}

/// Returns the names of the lists of an operation.
pub(super) fn lists_of(record: &Record) -> Vec<String> {
    let Some(durable) = &record.durable else {
        return Vec::new();
    };
    let principal = record.principal.as_deref().map(of_principal);
    principal.into_iter().chain(durable.list.clone()).collect()
}

fn of_principal(principal: &str) -> String {
    format!("operation/open/{principal}")
}

/// Returns the lists of all that may have an operation. `None` if there is no limit.
fn of_all(settings: &Settings, key: &Key) -> Option<Vec<List>> {
    let limit = settings.durable.max_open;
    if limit == usize::MAX {
        return None;
    }
    let (queue, lists) = (&settings.durable.queue, (limit / LISTED).max(1));
    let list = |attempt| List {
        // The number of lists is a part of the name: processes with another limit have lists of their own.
        name: format!(
            "operation/all/{queue}/{lists}/{}",
            choose(key, attempt, lists)
        ),
        limit: limit / lists,
    };
    Some((0..TRIED.min(lists)).map(list).collect())
}

/// Returns a number below `limit` that the digest of an operation determines.
fn choose(key: &Key, attempt: usize, limit: usize) -> usize {
    let digits = key.as_str().get(attempt * 8..attempt * 8 + 8);
    let number = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    number.unwrap_or_default() % limit
}

/// Adds an operation to the first list that has room. If none has, operations that have ended are looked for in the
/// first list: the process that has ended them may have died before it removed them.
async fn find_place<'a>(
    records: &Records,
    settings: &Settings,
    lists: &[&'a List],
    key: &Key,
) -> Result<Option<&'a List>, BackendError> {
    for list in lists {
        if add(records, settings, list, key).await? {
            return Ok(Some(list));
        }
    }
    let Some(list) = lists.first() else {
        return Ok(None);
    };
    remove_ended(records, settings, list, key).await?;
    let is_added = add(records, settings, list, key).await?;
    Ok(is_added.then_some(list))
}

/// Adds an operation, unless there are too many. Returns whether it is in the list.
async fn add(
    records: &Records,
    settings: &Settings,
    list: &List,
    key: &Key,
) -> Result<bool, BackendError> {
    let (now, longest) = (settings.now(), settings.longest());
    let add = |found: Option<Vec<Open>>| {
        let mut open = found.unwrap_or_default();
        open.retain(|open| open.expires > now && open.key != key.as_str());
        if open.len() >= list.limit {
            return Update::Keep(false);
        }
        open.push(Open {
            key: key.as_str().to_owned(),
            expires: now.saturating_add(milliseconds(longest)),
        });
        Update::Set(open, longest, true)
    };
    records.backend.change(&list.name, add).await
}

/// Looks at some operations of a list, and removes those that have ended. Which ones is decided by the digest of the new
/// operation, so that repeated requests look at others.
async fn remove_ended(
    records: &Records,
    settings: &Settings,
    list: &List,
    key: &Key,
) -> Result<(), BackendError> {
    let found: Option<Vec<Open>> = records.backend.read(&list.name).await?;
    let open = found.unwrap_or_default();
    if open.is_empty() {
        return Ok(());
    }
    let from = choose(key, TRIED, open.len());
    let (now, longest) = (settings.now(), milliseconds(settings.longest()));
    let mut ended = Vec::new();
    for open in open
        .iter()
        .cycle()
        .skip(from)
        .take(LOOKED_AT.min(open.len()))
    {
        let record = records.read(&Key::parse(&open.key)).await?;
        let listed = open.expires.saturating_sub(longest);
        let has_ended = match record {
            Some((record, _)) => record.status.is_terminal(),
            None => listed.saturating_add(milliseconds(CREATION)) <= now,
        };
        if has_ended {
            ended.push(&*open.key);
        }
    }
    remove(records, settings, &list.name, &ended).await
}

/// Removes operations from a list.
async fn remove(
    records: &Records,
    settings: &Settings,
    list: &str,
    keys: &[&str],
) -> Result<(), BackendError> {
    if keys.is_empty() {
        return Ok(());
    }
    let longest = settings.longest();
    let remove = |found: Option<Vec<Open>>| {
        let mut open = found.unwrap_or_default();
        let before = open.len();
        open.retain(|open| !keys.contains(&&*open.key));
        if open.len() == before {
            return Update::Keep(());
        }
        Update::Set(open, longest, ())
    };
    records.backend.change(list, remove).await
}
