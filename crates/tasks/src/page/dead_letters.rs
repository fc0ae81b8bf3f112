//! The view of dead letters, newest first.

use super::link::Link;
use super::list::select;
use super::markup::{Action, Head, Table, View, form, pager, principal, short, task_link, text};
use super::query::Query;
use super::reply::Failure;
use super::source::Source;
use super::times::relative;
use super::token::Secret;
use crate::{Principal, TaskId, TaskStatus};
use futures_util::future::join_all;
use std::time::SystemTime;
use tower_promises_backend::BackendError;

const LETTERS: &[Head] = &[
    text("Task"),
    text("Id"),
    text("Queue"),
    text("Principal"),
    text("Given up"),
    text("Attempts"),
    text("Last error"),
    text("Actions"),
];

/// Shows a page of the dead letters of a queue, or of all queues of this process. Reads the list of each queue, and the
/// records of the page.
pub(super) async fn show(
    source: &Source,
    viewer: &Principal,
    query: &Query,
) -> Result<View, Failure> {
    let core = &source.tasks.core;
    let mut queues: Vec<&str> = core.queues.keys().map(|name| &**name).collect();
    queues.sort_unstable();
    let mut listed: Vec<TaskId> = Vec::new();
    for queue in &queues {
        if query.queue.as_deref().is_none_or(|wanted| wanted == *queue) {
            listed.extend(core.listed_dead_letters(queue).await?.into_iter().rev());
        }
    }
    if let Some(other) = query.queue.as_deref().filter(|name| !queues.contains(name)) {
        listed.extend(core.listed_dead_letters(other).await?.into_iter().rev());
        queues.push(other);
    }
    let size = source.settings.page_size;
    let first = query.page.saturating_mul(size).min(listed.len());
    let last = first.saturating_add(size).min(listed.len());
    let letters = read(source, &listed[first..last]).await?;

    let secret = Secret::read(core).await?;
    let now = SystemTime::now();
    let mut table = Table::new("heading", LETTERS);
    for letter in &letters {
        table.row(row(letter, viewer, query, &secret, now));
    }
    let turn = |number: usize| {
        let link = query.selection().with("page", number.to_string());
        query.keep_refresh(link)
    };
    let previous = query.page.checked_sub(1).map(turn);
    let next = (last < listed.len()).then(|| turn(query.page.saturating_add(1)));
    let mut content = controls(&queues, query);
    content.push_str(&table.or("There are no dead letters here."));
    content.push_str(&pager(previous.as_ref(), next.as_ref()));
    if !listed.is_empty() {
        content.push_str(&format!(
            "<p class=\"muted\">{} listed, the newest of each queue first. Those that have expired are left out.</p>\n",
            listed.len()
        ));
    }
    Ok(View::new("Dead letters", content))
}

/// Reads the dead letters that can be sent again.
async fn read(source: &Source, ids: &[TaskId]) -> Result<Vec<TaskStatus>, Failure> {
    let records = &source.tasks.core.records;
    let found = join_all(ids.iter().map(|id| records.read(id))).await;
    let mut letters = Vec::with_capacity(ids.len());
    for (id, found) in ids.iter().zip(found) {
        match found {
            Ok(Some(record)) if record.is_kept() => {
                letters.push(TaskStatus::new(id.clone(), record));
            }
            // The record of another version hides no others.
            Ok(_) | Err(BackendError::Unreadable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(letters)
}

fn row(
    letter: &TaskStatus,
    viewer: &Principal,
    query: &Query,
    secret: &Secret,
    now: SystemTime,
) -> [String; 8] {
    let id = letter.id();
    let token = secret.token(viewer, id);
    let error = letter.error().unwrap_or_default();
    let type_name = match letter.task() {
        "" => r#"<span class="muted">unknown</span>"#.to_owned(),
        name => short(name),
    };
    [
        type_name,
        task_link(id, id.as_str()),
        format!("<bdi>{}</bdi>", short(letter.queue())),
        principal(letter.principal()),
        letter
            .finished()
            .map_or_else(String::new, |time| relative(time, now)),
        letter.attempt().to_string(),
        format!(r#"<span dir="auto">{}</span>"#, short(error)),
        format!(
            "<div class=\"actions\">{}{}</div>",
            form(query, id, &token, Action::SendAgain),
            form(query, id, &token, Action::Discard),
        ),
    ]
}

fn controls(queues: &[&str], query: &Query) -> String {
    let choices: Vec<_> = queues.iter().map(|name| (*name, *name)).collect();
    let all = super::markup::link(&Link::to("dead-letters"), "Clear");
    format!(
        r#"<form class="controls" method="get" action="?" role="search" aria-label="Filter">
<input type="hidden" name="view" value="dead-letters">
<label>Queue {}</label>
<button>Filter</button> {all}
</form>
"#,
        select("queue", &choices, query.queue.as_deref()),
    )
}
