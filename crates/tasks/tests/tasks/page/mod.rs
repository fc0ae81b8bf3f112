//! The page of tasks.

mod backends;
mod browser;
mod failures;
mod forms;
mod views;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use test_support::task::{Ran, builder};
use test_support::text;
use tower::ServiceExt;
use tower_promises_backend::Backend;
use tower_promises_tasks::{Principal, TaskContext, TaskFailure, TaskId, Tasks, TasksPage};

/// An answer of the page.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    html: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that the page contains these texts, in this order.
    fn assert_has(&self, parts: &[&str]) {
        let mut rest = &*self.html;
        for part in parts {
            let found = rest.split_once(part);
            let (_, after) = found.unwrap_or_else(|| panic!("{part} is not in {rest}"));
            rest = after;
        }
    }

    fn assert_has_no(&self, part: &str) {
        assert!(!self.html.contains(part), "{part} is in {}", self.html);
    }

    /// Returns the token of the first form for a task.
    fn token(&self, id: &TaskId) -> String {
        let field =
            format!("name=\"id\" value=\"{id}\">\n<input type=\"hidden\" name=\"token\" value=\"");
        let (_, rest) = self.html.split_once(&field).unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// Returns the target of the link with this label, without its `?`.
    fn link(&self, label: &str) -> String {
        let (before, _) = self.html.split_once(&format!("\">{label}</a>")).unwrap();
        let target = before.rsplit_once("href=\"?").unwrap().1;
        target.replace("&amp;", "&")
    }
}

/// Sends a request.
async fn send(page: &TasksPage, request: Request<Full<bytes::Bytes>>) -> Answer {
    let response = page.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        html: text(body).await,
    }
}

/// Opens a view with a query.
async fn open(page: &TasksPage, query: &str) -> Answer {
    let request = Request::get(format!("/tasks?{query}"));
    let answer = send(page, request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.html);
    answer
}

/// Shows a page to the operator `root`.
fn page(tasks: &Tasks) -> TasksPage {
    TasksPage::new(tasks.clone(), |_| Some(Principal::new("root")))
}

/// What a task of these tests does.
async fn act_out(argument: String, context: TaskContext) -> Ran {
    match argument.split(':').next().unwrap() {
        "conflict" => Err(TaskFailure::conflict(argument)),
        "fail" => Err(argument.into()),
        "wait" => {
            context.set_progress(42.9);
            context.set_message(argument);
            std::future::pending().await
        }
        _ => Ok(argument),
    }
}

/// Creates a process in which tasks have one attempt.
fn tasks(backend: &Backend) -> Tasks {
    builder(backend, act_out).max_attempts(1).build()
}
