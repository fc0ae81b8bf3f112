//! The view of limits by key that are in use.

use super::markup::{Head, Table, View, number, pager, short, task_link, text};
use super::query::Query;
use super::reply::Failure;
use super::source::Source;
use crate::slots::{LIMITS, Slots};
use tower_promises_backend::kit::html::Escaped;

/// The number of documents that a page passes.
const PASSED: usize = 500;

/// The largest number of holders of a key that are shown.
const SHOWN: usize = 10;

const KEYS: &[Head] = &[
    text("Key"),
    text("Queue"),
    number("In use"),
    number("Limit"),
    number("Waiting, at most"),
    text("Tasks with a slot"),
];

/// Shows the keys in use among the next documents of limits. A document is kept for days after its last use, so a page
/// may show few of those that it passes.
pub(super) async fn show(source: &Source, query: &Query) -> Result<View, Failure> {
    let backend = &source.tasks.core.records.backend;
    let found = backend.list(LIMITS, query.after.as_deref(), PASSED).await?;
    let mut table = Table::new("heading", KEYS);
    for listed in &found.entries {
        // A document of another version hides no others.
        let Ok(slots) = serde_json::from_slice::<Slots>(&listed.entry.value) else {
            continue;
        };
        let waiting = slots.waiting();
        if slots.holders.is_empty() && waiting == 0 {
            continue;
        }
        table.row([
            named(slots.key.as_deref()),
            named(slots.queue.as_deref()),
            slots.holders.len().to_string(),
            slots.at_once.to_string(),
            waiting.to_string(),
            holders(&slots),
        ]);
    }
    let (next, previous) = (
        found.next.map(|cursor| query.next(&cursor)),
        query.previous(),
    );
    let empty = match &next {
        Some(_) => {
            "None of the limits that this page has passed is in use. There are more: go to the next page."
        }
        None => "No limit by key is in use.",
    };
    let mut content = table.or(empty);
    content.push_str(&pager(previous.as_ref(), next.as_ref()));
    Ok(View::new("Limits", content))
}

fn named(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("<bdi>{}</bdi>", short(name)),
        // Written by a version that did not store the name.
        None => r#"<span class="muted">unknown</span>"#.to_owned(),
    }
}

fn holders(slots: &Slots) -> String {
    let shown = slots.holders.iter().take(SHOWN);
    let links: Vec<_> = shown
        .map(|holder| task_link(&holder.id, holder.id.as_str()))
        .collect();
    let more = slots.holders.len().saturating_sub(SHOWN);
    let links = links.join(", ");
    match more {
        0 => links,
        more => format!("{links} {}", Escaped(&format!("and {more} more"))),
    }
}
