//! The first view: numbers of all queues, what runs, and schedules.

use super::link::Link;
use super::markup::{Head, Table, View, link, number, principal, progress, task_link, text};
use super::reply::Failure;
use super::snapshot::Snapshot;
use super::source::Source;
use super::times::relative;
use std::fmt::Write;
use std::time::SystemTime;
use tower_promises_backend::kit::html::Escaped;

const QUEUES: &[Head] = &[
    text("Queue"),
    number("Waiting"),
    number("Running"),
    number("Dead letters"),
    number("Failed"),
    number("Succeeded"),
    number("Cancelled"),
    number("Ended in the last minute"),
    number("In the last hour"),
    number("At once in a worker"),
];

const RUNNING: &[Head] = &[
    text("Task"),
    text("Id"),
    text("Queue"),
    text("Principal"),
    text("Started"),
    text("Progress"),
];

/// Shows the overview. All views of a process share its numbers for some seconds.
pub(super) async fn show(source: &Source) -> Result<View, Failure> {
    let settings = &source.settings;
    let snapshot = source
        .snapshots
        .latest(&source.tasks, settings.max_counted, settings.count_interval)
        .await?;
    let now = SystemTime::now();
    let mut content = tiles(&snapshot);
    content.push_str("<section>\n<h2 id=\"queues\">Queues</h2>\n");
    content.push_str(&queues(source, &snapshot));
    let _ = writeln!(
        content,
        "<p class=\"muted\">{}</p>\n</section>",
        counted(&snapshot, now)
    );
    content.push_str("<section>\n<h2 id=\"running\">Running now</h2>\n");
    content.push_str(&running(&snapshot, now));
    content.push_str("</section>\n");
    #[cfg(feature = "schedules")]
    content.push_str(&schedules::show(source, now).await?);
    Ok(View::new("Overview", content))
}

/// A number, which is a lower bound if not all tasks were counted.
fn bound(number: usize, snapshot: &Snapshot) -> String {
    match (number, snapshot.is_complete) {
        (number, true) => number.to_string(),
        (number, false) => format!("{number}+"),
    }
}

fn tiles(snapshot: &Snapshot) -> String {
    let state = |name: &str| Link::to("tasks").with("state", name);
    let tiles = [
        (
            "Waiting",
            bound(snapshot.sum(|numbers| numbers.queued), snapshot),
            Some(state("queued")),
            "",
        ),
        (
            "Running",
            bound(snapshot.sum(|numbers| numbers.running), snapshot),
            Some(state("running")),
            "",
        ),
        (
            "Dead letters",
            snapshot.sum(|numbers| numbers.dead_letters).to_string(),
            Some(Link::to("dead-letters")),
            if snapshot.sum(|numbers| numbers.dead_letters) > 0 {
                " alarm"
            } else {
                ""
            },
        ),
        (
            "Ended in the last minute",
            bound(snapshot.sum(|numbers| numbers.last_minute), snapshot),
            None,
            "",
        ),
    ];
    let mut html = String::from("<ul class=\"tiles\">\n");
    for (label, number, target, class) in tiles {
        let label = target.map_or_else(|| label.to_owned(), |target| link(&target, label));
        // Writing to a string does not fail.
        let _ = writeln!(
            html,
            r#"<li class="tile{class}"><strong>{number}</strong> <span>{label}</span></li>"#
        );
    }
    html + "</ul>\n"
}

fn queues(source: &Source, snapshot: &Snapshot) -> String {
    let mut table = Table::new("queues", QUEUES);
    for (name, numbers) in &snapshot.queues {
        let provided = source.tasks.core.queues.get(name.as_str());
        let list = || Link::to("tasks").with("queue", name);
        let linked = |number: usize, target: Link| match number {
            0 => r#"<span class="muted">0</span>"#.to_owned(),
            _ => link(&target, &bound(number, snapshot)),
        };
        let state = |number, state: &str| linked(number, list().with("state", state));
        let dead_letters = Link::to("dead-letters").with("queue", name);
        table.row([
            format!("<bdi>{}</bdi>", link(&list(), name)),
            state(numbers.queued, "queued"),
            state(numbers.running, "running"),
            match numbers.dead_letters {
                0 => r#"<span class="muted">0</span>"#.to_owned(),
                number => link(&dead_letters, &number.to_string()),
            },
            state(numbers.failed, "failed"),
            state(numbers.succeeded, "succeeded"),
            state(numbers.cancelled, "cancelled"),
            bound(numbers.last_minute, snapshot),
            bound(numbers.last_hour, snapshot),
            // Known for the queues of this process. Workers elsewhere should have the same settings.
            provided.map_or_else(String::new, |queue| queue.concurrency.to_string()),
        ]);
    }
    table.or("This process has no queue, and no task is stored.")
}

/// What the numbers are based on.
fn counted(snapshot: &Snapshot, now: SystemTime) -> String {
    let (counted, taken) = (snapshot.counted, relative(snapshot.taken, now));
    if snapshot.is_complete {
        return format!(
            "Counted {taken}: all {counted} stored tasks. Tasks that have ended count as long as they are kept."
        );
    }
    format!(
        "Counted {taken}: {counted} stored tasks. There are more, so the numbers with a + are lower bounds."
    )
}

fn running(snapshot: &Snapshot, now: SystemTime) -> String {
    let mut table = Table::new("running", RUNNING);
    for task in &snapshot.running {
        table.row([
            Escaped(task.task()).to_string(),
            task_link(task.id(), task.id().as_str()),
            format!("<bdi>{}</bdi>", Escaped(task.queue())),
            principal(task.principal()),
            task.started()
                .map_or_else(String::new, |started| relative(started, now)),
            progress(task),
        ]);
    }
    let mut html = table.or("No task runs at the moment.");
    let shown = snapshot.running.len();
    if snapshot.sum(|numbers| numbers.running) > shown {
        let all = link(
            &Link::to("tasks").with("state", "running"),
            "All running tasks",
        );
        let _ = writeln!(html, "<p>{all}</p>");
    }
    html
}

#[cfg(feature = "schedules")]
mod schedules {
    use crate::page::markup::{Head, Table, state, task_link, text};
    use crate::page::reply::Failure;
    use crate::page::source::Source;
    use crate::page::times::relative;
    use crate::{ScheduleStatus, TaskError};
    use std::time::SystemTime;
    use tower_promises_backend::kit::html::Escaped;

    const SCHEDULES: &[Head] = &[
        text("Schedule"),
        text("Times"),
        text("Queue"),
        text("Task"),
        text("Next due"),
        text("Last run"),
    ];

    /// Shows the schedules of this process, with two calls to the store for each.
    pub(super) async fn show(source: &Source, now: SystemTime) -> Result<String, Failure> {
        let schedules = source.tasks.schedules().await?;
        if schedules.is_empty() {
            return Ok(String::new());
        }
        let mut table = Table::new("schedules", SCHEDULES);
        for status in &schedules {
            let schedule = status.schedule();
            let next = status.next_due();
            table.row([
                format!("<bdi>{}</bdi>", Escaped(schedule.name())),
                format!(
                    r#"<code>{}</code> <span class="muted">{}</span>"#,
                    Escaped(schedule.expression()),
                    Escaped(schedule.zone()),
                ),
                format!("<bdi>{}</bdi>", Escaped(schedule.queue())),
                Escaped(schedule.task).to_string(),
                next.map_or_else(|| "never".to_owned(), |next| relative(next, now)),
                last(source, status, now).await?,
            ]);
        }
        let table = table.or("");
        Ok(format!(
            "<section>\n<h2 id=\"schedules\">Schedules</h2>\n{table}</section>\n"
        ))
    }

    async fn last(
        source: &Source,
        status: &ScheduleStatus,
        now: SystemTime,
    ) -> Result<String, Failure> {
        let (Some(id), Some(due)) = (status.last_run(), status.last_due()) else {
            return Ok(r#"<span class="muted">none yet</span>"#.to_owned());
        };
        let state = match source.tasks.status(id).await {
            Ok(task) => state(task.state()),
            Err(TaskError::NotFound { .. }) => {
                return Ok(format!(
                    r#"{} <span class="muted">not kept any more</span>"#,
                    relative(due, now)
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let link = task_link(id, "the task");
        Ok(format!("{} {state} {link}", relative(due, now)))
    }
}
