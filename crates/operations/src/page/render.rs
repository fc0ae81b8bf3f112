use super::assets::{ICON, SCRIPT, STYLE};
use super::{ErrorContext, PageContext, Strings};
use crate::OperationStatus;
use http::StatusCode;
use std::fmt::Write;
use std::time::Duration;
use tower_promises_backend::kit::html::Escaped;

/// The query of the page that does not reload itself.
pub(crate) const RELOAD_OFF: &str = "reload=off";

/// Renders the page of an operation.
pub(crate) fn render(context: &PageContext<'_>) -> String {
    let strings = context.strings;
    let heading = heading(context.status, strings);
    let (title, percent) = match whole_percent(context) {
        Some(percent) => {
            let percent = strings.percent.replace("{percent}", &percent.to_string());
            let title = strings.title.replace("{heading}", heading);
            (title.replace("{percent}", &percent), percent)
        }
        None => (heading.to_owned(), String::new()),
    };
    let running = !is_terminal(context.status);
    format!(
        include_str!("page.html"),
        lang = Escaped(&strings.lang),
        dir = direction(strings),
        title = Escaped(&title),
        assets = Escaped(context.links.assets),
        icon = ICON.file_name,
        style = STYLE.file_name,
        live = if running {
            live(context)
        } else {
            String::new()
        },
        data = if running {
            data(context)
        } else {
            String::new()
        },
        heading = Escaped(heading),
        message = Escaped(context.message.unwrap_or_default()),
        waiting = Escaped(&waiting(context)),
        progress = if running {
            progress(context)
        } else {
            String::new()
        },
        percent = Escaped(&percent),
        elapsed_label = Escaped(&strings.elapsed),
        elapsed = clock(context.elapsed),
        actions = actions(context, running),
    )
}

/// Renders an error page. It contains no more information than the status.
pub(crate) fn render_error(context: &ErrorContext<'_>) -> String {
    let strings = context.strings;
    let (title, text) = match context.status {
        _ if context.is_cancelled => (&strings.cancelled, &strings.cancelled_text),
        StatusCode::NOT_FOUND => (&strings.not_found, &strings.not_found_text),
        StatusCode::CONFLICT => (&strings.conflict, &strings.conflict_text),
        StatusCode::GONE => (&strings.gone, &strings.gone_text),
        StatusCode::TOO_MANY_REQUESTS => {
            (&strings.too_many_requests, &strings.too_many_requests_text)
        }
        StatusCode::SERVICE_UNAVAILABLE => (&strings.unavailable, &strings.unavailable_text),
        status if status.is_client_error() => (&strings.refused, &strings.refused_text),
        _ => (&strings.broken, &strings.broken_text),
    };
    format!(
        include_str!("error.html"),
        lang = Escaped(&strings.lang),
        dir = direction(strings),
        title = Escaped(title),
        assets = Escaped(context.assets),
        icon = ICON.file_name,
        style = STYLE.file_name,
        text = Escaped(text),
        retry = retry(context),
        status = status(context),
    )
}

fn direction(strings: &Strings) -> &'static str {
    if strings.right_to_left { "rtl" } else { "ltr" }
}

fn heading(status: OperationStatus, strings: &Strings) -> &str {
    match status {
        OperationStatus::NotStarted => &strings.not_started,
        OperationStatus::Running => &strings.running,
        OperationStatus::Succeeded => &strings.succeeded,
        OperationStatus::Failed => &strings.failed,
        OperationStatus::Cancelled => &strings.cancelled,
    }
}

fn is_terminal(status: OperationStatus) -> bool {
    !matches!(
        status,
        OperationStatus::NotStarted | OperationStatus::Running
    )
}

/// Returns the progress, rounded down, so that unfinished work does not show 100. Returns `None` if the operation has
/// ended.
fn whole_percent(context: &PageContext<'_>) -> Option<f64> {
    let progress = context.progress.filter(|_| !is_terminal(context.status))?;
    Some(progress.floor())
}

/// The elements that keep the page up to date, with and without scripts.
fn live(context: &PageContext<'_>) -> String {
    let reload = context.reload.map(|after| {
        let seconds = whole_seconds(after).max(1);
        format!("<noscript><meta http-equiv=\"refresh\" content=\"{seconds}\"></noscript>\n")
    });
    format!(
        r#"{}<script type="module" src="{}/{}"></script>
"#,
        reload.unwrap_or_default(),
        Escaped(context.links.assets),
        SCRIPT.file_name,
    )
}

/// The text and the links for a reader without scripts. A reload takes the focus away, so the reader can switch it off.
fn reloading(context: &PageContext<'_>) -> String {
    let strings = context.strings;
    let (mut text, mut stop) = (String::new(), String::new());
    if context.reload.is_some() {
        text = format!("<p class=\"note\">{}</p>\n", Escaped(&strings.reloads));
        let label = Escaped(&strings.stop_reloading);
        stop = format!("<a href=\"?{RELOAD_OFF}\">{label}</a>");
    }
    // An empty address is that of the page, whichever it is.
    let reload = Escaped(&strings.reload);
    format!(
        "<noscript>\n{text}<p class=\"note links\"><a href=\"\">{reload}</a>{stop}</p>\n</noscript>\n"
    )
}

/// The data for the script.
fn data(context: &PageContext<'_>) -> String {
    let strings = context.strings;
    let elapsed = context.elapsed.as_secs().to_string();
    let refresh = whole_seconds(context.refresh).max(1).to_string();
    let attributes = [
        ("own", context.links.own),
        ("events", context.links.events),
        ("elapsed", &elapsed),
        ("refresh", &refresh),
        ("not-started", &strings.not_started),
        ("running", &strings.running),
        ("succeeded", &strings.succeeded),
        ("failed", &strings.failed),
        ("canceled", &strings.cancelled),
        ("title", &strings.title),
        ("percent", &strings.percent),
        ("waiting-for", &strings.waiting_for),
        ("canceling", &strings.cancelling),
        ("connection-lost", &strings.connection_lost),
    ];
    let mut data = String::new();
    for (name, value) in attributes {
        // Writing to a string does not fail.
        let _ = write!(data, "\ndata-{name}=\"{}\"", Escaped(value));
    }
    data
}

fn waiting(context: &PageContext<'_>) -> String {
    if context.waiting_for.is_empty() {
        return String::new();
    }
    let names = context.waiting_for.join(", ");
    context.strings.waiting_for.replace("{names}", &names)
}

fn progress(context: &PageContext<'_>) -> String {
    let value = context.progress.map(|value| format!(r#" value="{value}""#));
    format!(
        r#"<progress max="100" aria-labelledby="heading"{}></progress>
"#,
        value.unwrap_or_default()
    )
}

/// The actions: cancel, or open the result.
fn actions(context: &PageContext<'_>, running: bool) -> String {
    let strings = context.strings;
    let mut actions = String::new();
    if running {
        actions.push_str(&reloading(context));
    }
    if running && context.can_cancel {
        let form = format!(
            r#"<form method="post" action="{}">
<input type="hidden" name="token" value="{}">
<button>{}</button>
</form>
"#,
            Escaped(context.links.cancel),
            Escaped(context.cancel_token),
            Escaped(&strings.cancel),
        );
        actions.push_str(&form);
    }
    let hidden = if running { " hidden" } else { "" };
    let result = Escaped(context.links.result);
    let label = Escaped(&strings.result);
    let link = format!("<p id=\"result\"{hidden}><a href=\"{result}\">{label}</a></p>\n");
    actions + &link
}

/// The number of the status, for support requests. A page for a cancelled operation has none.
fn status(context: &ErrorContext<'_>) -> String {
    if context.is_cancelled {
        return String::new();
    }
    let status = context.status.as_str();
    let status = context.strings.error_status.replace("{status}", status);
    format!("<p class=\"figures\">{}</p>\n", Escaped(&status))
}

fn retry(context: &ErrorContext<'_>) -> String {
    let Some(delay) = context.retry_after else {
        return String::new();
    };
    let strings = context.strings;
    let text = match whole_seconds(delay) {
        seconds @ ..120 => strings
            .retry_seconds
            .replace("{seconds}", &seconds.to_string()),
        seconds => {
            let minutes = seconds.div_ceil(60).to_string();
            strings.retry_minutes.replace("{minutes}", &minutes)
        }
    };
    format!("<p>{}</p>\n", Escaped(&text))
}

/// Rounds up, so that clients do not retry too early.
fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// Formats a duration as `0:07`, `12:34` or `1:02:03`, like the script.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}
