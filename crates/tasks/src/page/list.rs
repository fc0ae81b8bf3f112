//! The view of tasks by queue, state, type and principal, in pages.

use super::link::Link;
use super::markup::{
    Head, Table, View, link, pager, principal, progress, short, state, task_link, text,
};
use super::query::{Query, STATES};
use super::reply::Failure;
use super::source::Source;
use super::times::relative;
use crate::{Principal, TaskFilter, TaskState, TaskStatus};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::SystemTime;
use tower_promises_backend::kit::html::Escaped;

const TASKS: &[Head] = &[
    text("Task"),
    text("State"),
    text("Id"),
    text("Queue"),
    text("Principal"),
    text("Submitted"),
    text("Details"),
];

/// Shows a page of the tasks that match the filter.
pub(super) async fn show(source: &Source, query: &Query) -> Result<View, Failure> {
    let mut filter = TaskFilter::new().limit(source.settings.page_size);
    if let Some(queue) = &query.queue {
        filter = filter.queue(queue.as_str());
    }
    if let Some(task) = &query.task {
        filter = filter.task(task.as_str());
    }
    if let Some(state) = query.task_state() {
        filter = filter.state(state);
    }
    if let Some(principal) = &query.principal {
        filter = filter.principal(Principal::new(principal.as_str()));
    }
    if let Some(after) = &query.after {
        filter = filter.after(after.as_str());
    }
    let found = source.tasks.list(&filter).await?;
    let now = SystemTime::now();
    let mut table = Table::new("heading", TASKS);
    for task in found.tasks() {
        table.row([
            short(task.task()),
            state(task.state()),
            task_link(task.id(), task.id().as_str()),
            format!("<bdi>{}</bdi>", short(task.queue())),
            principal(task.principal()),
            relative(task.created(), now),
            details(task),
        ]);
    }
    let (next, previous) = (
        found.next().map(|cursor| query.next(cursor)),
        query.previous(),
    );
    let empty = match &next {
        Some(_) => {
            "None of the tasks that this page has passed match. There are more: go to the next page."
        }
        None if previous.is_some() => "No more tasks match.",
        None => "No tasks match.",
    };
    let mut content = controls(source, query);
    content.push_str(&table.or(empty));
    content.push_str(&pager(previous.as_ref(), next.as_ref()));
    content.push_str("<p class=\"muted\">In the order of the store, not of time.</p>\n");
    Ok(View::new("Tasks", content))
}

/// The most useful about a task in its state.
fn details(task: &TaskStatus) -> String {
    match (task.state(), task.error()) {
        (TaskState::Running, _) => progress(task),
        (TaskState::Succeeded | TaskState::Cancelled, _) | (_, None) => String::new(),
        (_, Some(error)) => format!(r#"<span dir="auto">{}</span>"#, short(error)),
    }
}

/// The forms that filter the list and find a task.
fn controls(source: &Source, query: &Query) -> String {
    let mut queues: BTreeSet<&str> = source
        .tasks
        .core
        .queues
        .keys()
        .map(|name| &**name)
        .collect();
    queues.extend(query.queue.as_deref());
    let queues: Vec<_> = queues.into_iter().map(|name| (name, name)).collect();
    let states = STATES.map(|(name, _, label)| (name, label));
    let clear = link(&Link::to("tasks"), "Clear");
    format!(
        r#"<form class="controls" method="get" action="?" role="search" aria-label="Filter">
<input type="hidden" name="view" value="tasks">
<label>Queue {queue}</label>
<label>State {state}</label>
<label>Type <input name="task" value="{task}" maxlength="200"></label>
<label>Principal <input name="principal" value="{principal}" maxlength="200"></label>
<button>Filter</button> {clear}
</form>
<form class="controls" method="get" action="?" role="search" aria-label="Find a task">
<input type="hidden" name="view" value="task">
<label>Id <input name="id" required maxlength="1024" spellcheck="false"></label>
<button>Open</button>
</form>
"#,
        queue = select("queue", &queues, query.queue.as_deref()),
        state = select("state", &states, query.state.as_deref()),
        task = Escaped(query.task.as_deref().unwrap_or_default()),
        principal = Escaped(query.principal.as_deref().unwrap_or_default()),
    )
}

/// A choice among values, or any of them.
pub(super) fn select(name: &str, values: &[(&str, &str)], selected: Option<&str>) -> String {
    let mut html = format!("<select name=\"{name}\"><option value=\"\">any</option>");
    for (value, label) in values {
        let is_selected = if selected == Some(value) {
            " selected"
        } else {
            ""
        };
        let (value, label) = (Escaped(value), Escaped(label));
        // Writing to a string does not fail.
        let _ = write!(
            html,
            r#"<option value="{value}"{is_selected}>{label}</option>"#
        );
    }
    html + "</select>"
}
