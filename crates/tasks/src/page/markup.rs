//! The parts of HTML that views share.

use super::assets::{ICON, STYLE};
use super::link::Link;
use super::query::{Query, STATES};
use crate::{Principal, TaskId, TaskState, TaskStatus};
use std::fmt::Write;
use tower_promises_backend::kit::html::Escaped;
use tower_promises_backend::kit::progress::cut;

/// The largest number of bytes of a text in a row of a list.
const MAX_CELL_BYTES: usize = 300;

/// The intervals at which a page can reload itself, in seconds.
const INTERVALS: [u32; 3] = [5, 30, 300];

/// The views that the navigation leads to, with their labels. The first has no name.
const TABS: [(&str, &str); 4] = [
    ("", "Overview"),
    ("tasks", "Tasks"),
    ("dead-letters", "Dead letters"),
    ("limits", "Limits"),
];

/// A view, without the frame that all views share.
pub(super) struct View {
    /// The heading, as HTML.
    pub(super) heading: String,
    /// The heading as plain text, for the title of the window.
    pub(super) title: String,
    /// The rest, as HTML.
    pub(super) content: String,
}

impl View {
    /// Creates a view with a heading of plain text.
    pub(super) fn new(title: &str, content: String) -> Self {
        Self {
            heading: Escaped(title).to_string(),
            title: title.to_owned(),
            content,
        }
    }
}

/// Returns a whole page.
pub(super) fn page(title: &str, viewer: &Principal, query: &Query, view: &View) -> String {
    let refresh = query.refresh.map(|seconds| {
        // The address without what a form has done, which is not news any more.
        let here = query.keep_refresh(query.here()).to_string();
        let here = Escaped(&here);
        format!("<meta http-equiv=\"refresh\" content=\"{seconds};url={here}\">\n")
    });
    format!(
        include_str!("page.html"),
        title = Escaped(title),
        view = Escaped(&view.title),
        icon = ICON.file_name,
        style = STYLE.file_name,
        refresh = refresh.unwrap_or_default(),
        viewer = Escaped(viewer.as_str()),
        tabs = tabs(query),
        heading = view.heading,
        notice = notice(query),
        content = view.content,
        intervals = intervals(query),
    )
}

fn tabs(query: &Query) -> String {
    let current = query.view.as_deref().unwrap_or_default();
    let mut tabs = String::new();
    for (name, label) in TABS {
        let link = Link::default().with_some("view", Some(name).filter(|name| !name.is_empty()));
        let current = if name == current {
            r#" aria-current="page""#
        } else {
            ""
        };
        // Writing to a string does not fail.
        let _ = writeln!(tabs, r#"<li><a href="{link}"{current}>{label}</a></li>"#);
    }
    tabs
}

/// The links that set how often the page reloads itself. It does not by default, because that moves the focus.
fn intervals(query: &Query) -> String {
    let mut links = String::new();
    let choices = [None].into_iter().chain(INTERVALS.map(Some));
    for choice in choices {
        let label = match choice {
            None => "off".to_owned(),
            Some(seconds @ ..60) => format!("{seconds} s"),
            Some(seconds) => format!("{} min", seconds / 60),
        };
        let seconds = choice.map(|seconds| seconds.to_string());
        let link = query.here().with_some("refresh", seconds.as_deref());
        let link = link.to_string();
        let current = if choice == query.refresh {
            r#" aria-current="true""#
        } else {
            ""
        };
        let link = Escaped(&link);
        let _ = writeln!(links, r#"<li><a href="{link}"{current}>{label}</a></li>"#);
    }
    links
}

/// What a form has done.
fn notice(query: &Query) -> String {
    let (Some(done), Some(id)) = (query.done.as_deref(), query.done_id.as_deref()) else {
        return String::new();
    };
    let text = match done {
        "send_again" => "The dead letter was sent again.",
        "discard" => "The dead letter was discarded.",
        "cancel" => "The cancellation was requested.",
        _ => return String::new(),
    };
    // The label is not the id, which is any text in the address.
    let task = task_link(&TaskId::new(id), "The task");
    format!("<p class=\"notice\" role=\"status\">{text} {task}</p>\n")
}

/// A link to a task.
pub(super) fn task_link(id: &TaskId, label: &str) -> String {
    let link = Link::to("task").with("id", id.as_str()).to_string();
    let (link, label) = (Escaped(&link), short(label));
    format!(r#"<a class="id" href="{link}"><bdi>{label}</bdi></a>"#)
}

/// A link with plain text.
pub(super) fn link(link: &Link, label: &str) -> String {
    let (link, label) = (link.to_string(), Escaped(label));
    format!(r#"<a href="{}">{label}</a>"#, Escaped(&link))
}

/// A text for a cell: escaped, and cut off if it is long.
pub(super) fn short(text: &str) -> String {
    if text.len() <= MAX_CELL_BYTES {
        return Escaped(text).to_string();
    }
    let mut text = text.to_owned();
    cut(&mut text, MAX_CELL_BYTES);
    format!("{}…", Escaped(&text))
}

/// The state of a task.
pub(super) fn state(state: TaskState) -> String {
    let found = STATES.iter().find(|(_, known, _)| *known == state);
    let (name, label) = found.map_or(("other", "Other"), |(name, _, label)| (*name, *label));
    format!(r#"<span class="state {name}">{label}</span>"#)
}

/// The progress of a running task, with its message.
pub(super) fn progress(task: &TaskStatus) -> String {
    let mut html = String::new();
    if task.state() != TaskState::Running {
        return html;
    }
    if let Some(percent) = task.progress() {
        let whole = percent.floor();
        html = format!(
            r#"<span class="progress"><progress max="100" value="{percent}" aria-label="Progress"></progress> {whole} %</span>"#
        );
    }
    if let Some(message) = task.message() {
        let message = short(message);
        let _ = write!(html, r#" <span class="muted" dir="auto">{message}</span>"#);
    }
    html
}

/// The principal of a task.
pub(super) fn principal(principal: Option<&Principal>) -> String {
    principal.map_or_else(
        || r#"<span class="muted">none</span>"#.to_owned(),
        |principal| format!("<bdi>{}</bdi>", short(principal.as_str())),
    )
}

/// What an operator can do with a task.
#[derive(Clone, Copy)]
pub(super) enum Action {
    SendAgain,
    Discard,
    Cancel,
}

/// A form with one button, which changes a task. A change that cannot be undone takes two steps.
pub(super) fn form(query: &Query, id: &TaskId, token: &str, action: Action) -> String {
    let (name, label, class) = match action {
        Action::SendAgain => ("send_again", "Send again", ""),
        Action::Discard => ("discard", "Discard for good", r#" class="danger""#),
        Action::Cancel => ("cancel", "Cancel the task", r#" class="danger""#),
    };
    let first_step = match action {
        Action::SendAgain => None,
        Action::Discard => Some("Discard"),
        Action::Cancel => Some("Cancel"),
    };
    let target = query.keep_refresh(query.here()).to_string();
    let (target, field, named) = (Escaped(&target), Escaped(id.as_str()), short(id.as_str()));
    let form = format!(
        r#"<form method="post" action="{target}">
<input type="hidden" name="id" value="{field}">
<input type="hidden" name="token" value="{token}">
<button name="action" value="{name}" aria-label="{label} {named}"{class}>{label}</button>
</form>
"#
    );
    match first_step {
        Some(step) => {
            format!(
                "<details><summary aria-label=\"{step} {named}\">{step}</summary>\n{form}</details>\n"
            )
        }
        None => form,
    }
}

/// Links to the pages before and after this one.
pub(super) fn pager(previous: Option<&Link>, next: Option<&Link>) -> String {
    if previous.is_none() && next.is_none() {
        return String::new();
    }
    let mut html = String::from("<nav class=\"pager\" aria-label=\"Pages\">\n");
    for (target, relation, label) in [(previous, "prev", "Previous"), (next, "next", "Next")] {
        if let Some(target) = target {
            let target = target.to_string();
            let target = Escaped(&target);
            let _ = writeln!(html, r#"<a rel="{relation}" href="{target}">{label}</a>"#);
        }
    }
    html + "</nav>\n"
}

/// A table whose rows become cards on a narrow screen. Its roles are explicit, because some browsers drop those of a
/// table that is displayed as blocks.
pub(super) struct Table {
    html: String,
    heads: &'static [Head],
    rows: usize,
}

/// The head of a column.
pub(super) struct Head {
    pub(super) label: &'static str,
    pub(super) is_number: bool,
}

/// Creates the head of a column with texts.
pub(super) const fn text(label: &'static str) -> Head {
    Head {
        label,
        is_number: false,
    }
}

/// Creates the head of a column with numbers.
pub(super) const fn number(label: &'static str) -> Head {
    Head {
        label,
        is_number: true,
    }
}

impl Table {
    /// Begins a table. `labelled_by` is the id of its heading.
    pub(super) fn new(labelled_by: &str, heads: &'static [Head]) -> Self {
        let mut html = format!(
            "<table role=\"table\" aria-labelledby=\"{labelled_by}\">\n<thead role=\"rowgroup\"><tr role=\"row\">"
        );
        for head in heads {
            let class = class(head);
            let label = head.label;
            let _ = write!(
                html,
                r#"<th role="columnheader" scope="col"{class}>{label}</th>"#
            );
        }
        html.push_str("</tr></thead>\n<tbody role=\"rowgroup\">\n");
        Self {
            html,
            heads,
            rows: 0,
        }
    }

    /// Adds a row of cells, as HTML. The first is the head of the row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows += 1;
        self.html.push_str(r#"<tr role="row">"#);
        for (at, (head, cell)) in self.heads.iter().zip(cells).enumerate() {
            let (class, label) = (class(head), head.label);
            let _ = match at {
                0 => write!(
                    self.html,
                    r#"<th role="rowheader" scope="row"{class}>{cell}</th>"#
                ),
                _ if cell.is_empty() => write!(self.html, r#"<td role="cell"></td>"#),
                // One element, because a card arranges the children of its cells.
                _ => write!(
                    self.html,
                    r#"<td role="cell" data-label="{label}"{class}><div>{cell}</div></td>"#
                ),
            };
        }
        self.html.push_str("</tr>\n");
    }

    /// Returns the table, or a text if it has no rows.
    pub(super) fn or(self, empty: &str) -> String {
        match self.rows {
            0 => format!("<p class=\"empty\">{empty}</p>\n"),
            _ => self.html + "</tbody>\n</table>\n",
        }
    }
}

fn class(head: &Head) -> &'static str {
    if head.is_number {
        r#" class="number""#
    } else {
        ""
    }
}
