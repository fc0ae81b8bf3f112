//! The view of one task.

use super::link::Link;
use super::markup::{Action, View, form, link, principal, progress, state};
use super::query::Query;
use super::reply::Failure;
use super::settings::Show;
use super::source::Source;
use super::times::{duration, exact};
use super::token::Secret;
use crate::record::Record;
use crate::{Principal, TaskId, TaskState, TaskStatus};
use std::fmt::Write;
use std::time::{Duration, SystemTime};
use tower_promises_backend::kit::clock::time;
use tower_promises_backend::kit::html::Escaped;

/// Shows a task with its times, attempts and last error, and the forms that change it.
pub(super) async fn show(
    source: &Source,
    viewer: &Principal,
    query: &Query,
) -> Result<View, Failure> {
    let id = TaskId::new(query.id.as_deref().ok_or(Failure::NothingHere)?);
    let core = &source.tasks.core;
    let record = core.read(&id).await?;
    let task = TaskStatus::new(id.clone(), record.clone());
    let now = SystemTime::now();

    let mut facts = Facts::default();
    facts.add(
        "Id",
        &format!(r#"<bdi class="id">{}</bdi>"#, Escaped(id.as_str())),
    );
    let queue = Link::to("tasks").with("queue", task.queue());
    facts.add(
        "Queue",
        &format!("<bdi>{}</bdi>", link(&queue, task.queue())),
    );
    facts.add("Principal", &principal(task.principal()));
    facts.add("Submitted", &exact(task.created(), now));
    due(&mut facts, &record, now);
    facts.add("Attempts", &attempts(source, &record));
    if let Some(started) = task.started() {
        facts.add("Started", &exact(started, now));
        let waited = started.duration_since(task.created());
        if record.attempt == 1 {
            facts.add("Waited", &duration(waited.unwrap_or_default()));
        }
    }
    end(&mut facts, &task, now);
    if let Some(limit) = record
        .letter
        .as_ref()
        .and_then(|letter| letter.limit.as_ref())
    {
        let (key, at_once) = (Escaped(limit.key()), limit.at_once());
        facts.add("Limit", &format!("<bdi>{key}</bdi>, {at_once} at once"));
    }
    facts.add("Kept until", &exact(task.expires(), now));

    let running = progress(&task);
    let mut content = format!(
        "<p class=\"status\">{} {running}</p>\n",
        state(task.state())
    );
    if task.is_cancel_requested() && !task.state().is_terminal() {
        content.push_str("<p class=\"notice\">A cancellation was requested.</p>\n");
    }
    content.push_str(&actions(source, viewer, query, &task, &record).await?);
    content.push_str(&facts.finish());
    if let Some(error) = task.error() {
        section(&mut content, "Last error", error);
    }
    json(&mut content, source, &record);
    let name = match task.task() {
        "" => "A task that no worker could read",
        name => name,
    };
    Ok(View::new(name, content))
}

/// The time before which a waiting task must not start, if the store knows it.
fn due(facts: &mut Facts, record: &Record, now: SystemTime) {
    if let Some(due) = record.due.filter(|_| record.state == TaskState::Queued) {
        facts.add("Starts at the earliest", &exact(time(due), now));
    }
}

fn attempts(source: &Source, record: &Record) -> String {
    let limit = record.letter.as_ref().map(|letter| {
        let own = letter.max_attempts;
        own.unwrap_or(source.tasks.core.settings.max_attempts)
    });
    let mut text = record.attempt.to_string();
    // Writing to a string does not fail.
    let _ = match limit {
        Some(limit) => write!(text, " of {limit}"),
        None => Ok(()),
    };
    let _ = match record.crashes {
        0 => Ok(()),
        1 => write!(text, ", of which 1 has ended with its worker"),
        crashes => write!(text, ", of which {crashes} have ended with their workers"),
    };
    text
}

fn end(facts: &mut Facts, task: &TaskStatus, now: SystemTime) {
    let running_for = |end: SystemTime| {
        let time = end.duration_since(task.started()?);
        Some(duration(time.unwrap_or(Duration::ZERO)))
    };
    if let Some(finished) = task.finished() {
        facts.add("Ended", &exact(finished, now));
        if let Some(time) = running_for(finished) {
            facts.add("Last attempt took", &time);
        }
    } else if task.state() == TaskState::Running {
        if let Some(time) = running_for(now) {
            facts.add("Running for", &time);
        }
    }
}

async fn actions(
    source: &Source,
    viewer: &Principal,
    query: &Query,
    task: &TaskStatus,
    record: &Record,
) -> Result<String, Failure> {
    let choices: &[_] = match task.state() {
        TaskState::Dead if record.is_kept() => &[Action::SendAgain, Action::Discard],
        TaskState::Dead => {
            return Ok(
                "<p class=\"muted\">This dead letter was discarded, or is too large to be sent again.</p>\n"
                    .to_owned(),
            );
        }
        TaskState::Queued | TaskState::Running if !task.is_cancel_requested() => &[Action::Cancel],
        _ => return Ok(String::new()),
    };
    let token = Secret::read(&source.tasks.core).await?;
    let token = token.token(viewer, task.id());
    let forms = choices
        .iter()
        .map(|action| form(query, task.id(), &token, *action));
    let forms: String = forms.collect();
    Ok(format!("<div class=\"actions\">{forms}</div>\n"))
}

/// Adds the arguments and the output as far as the application shows them.
fn json(content: &mut String, source: &Source, record: &Record) {
    let settings = &source.settings;
    let show = |show: &Option<std::sync::Arc<Show>>, json: &str| {
        let show = show.as_ref()?;
        show(&record.task, json)
    };
    if let Some(letter) = &record.letter {
        if let Some(text) = show(&settings.show_arguments, letter.arguments.get()) {
            section(content, "Arguments", &text);
        }
    }
    if let Some(output) = &record.output {
        if let Some(text) = show(&settings.show_output, output.get()) {
            section(content, "Output", &text);
        }
    }
}

/// Adds a plain text with a heading.
fn section(content: &mut String, heading: &str, text: &str) {
    let text = Escaped(text);
    let _ = writeln!(
        content,
        "<section>\n<h2>{heading}</h2>\n<pre dir=\"auto\">{text}</pre>\n</section>"
    );
}

/// A list of names and values.
#[derive(Default)]
struct Facts(String);

impl Facts {
    /// Adds a value, as HTML.
    fn add(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }

    fn finish(self) -> String {
        format!("<dl class=\"facts\">\n{}</dl>\n", self.0)
    }
}
