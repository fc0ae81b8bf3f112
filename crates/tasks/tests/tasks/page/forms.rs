//! The forms of the page: sending dead letters again, discarding them, cancelling tasks, and their protection.

use super::{Answer, open, page, send, tasks};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use test_support::task::{Act, SECOND, act, process};
use test_support::{Log, soon};
use tokio::time::sleep;
use tower::ServiceExt;
use tower_promises_backend::Backend;
use tower_promises_tasks::{Principal, TaskFailure, TaskId, TaskState, Tasks, TasksPage};

/// The headers that a browser sends with a form of the page.
pub(super) const BROWSER: [(&str, &str); 4] = [
    ("content-type", "application/x-www-form-urlencoded"),
    ("host", "example.com"),
    ("origin", "null"),
    ("sec-fetch-site", "same-origin"),
];

/// Sends a form to a view.
pub(super) async fn post(
    page: &TasksPage,
    view: &str,
    headers: &[(&str, &str)],
    form: String,
) -> Answer {
    let mut request = Request::post(format!("/tasks?{view}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(page, request.body(Full::from(form)).unwrap()).await
}

pub(super) fn form(action: &str, id: &TaskId, token: &str) -> String {
    format!("id={id}&token={token}&action={action}")
}

/// Makes a dead letter.
pub(super) async fn die(tasks: &Tasks) -> TaskId {
    let queue = tasks.queue("main");
    let submit = async { queue.submit(act("conflict")).await.unwrap() };
    let id = Principal::new("ada").scope(submit).await;
    let _ = soon(tasks.output::<Act>(&id)).await;
    id
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_sent_again() {
    let log = Log::start();
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    let tasks = process(&Backend::memory(), move |argument, context| {
        let is_broken = broken.load(Ordering::SeqCst);
        async move {
            let principal = context.principal().ok_or("no principal")?;
            match is_broken {
                true => Err(TaskFailure::conflict("it is broken")),
                false => Ok(format!("{argument} of {principal}")),
            }
        }
    });
    let _worker = tasks.work().unwrap();
    let id = die(&tasks).await;
    let page = page(&tasks);
    is_broken.store(false, Ordering::SeqCst);
    let view = "view=dead-letters&queue=main";
    let token = open(&page, view).await.token(&id);
    // An earlier count does not hide the change.
    open(&page, "").await.assert_has(&["tile alarm"]);

    let answer = post(&page, view, &BROWSER, form("send_again", &id, &token)).await;
    assert_eq!(answer.status, 303, "{}", answer.html);
    assert_eq!(answer.header("cache-control"), "no-store");
    let location = answer.header("location");
    assert_eq!(location, format!("?{view}&done=send_again&done-id={id}"));
    let output = soon(tasks.output::<Act>(&id)).await.unwrap();
    assert_eq!(output, "conflict of ada");
    open(&page, &location[1..]).await.assert_has(&[
        "role=\"status\">The dead letter was sent again.",
        &format!("?view=task&amp;id={id}"),
        "There are no dead letters here.",
    ]);
    let overview = open(&page, "").await;
    overview.assert_has_no("tile alarm");
    // The notice does not stay when the page reloads itself.
    let reloading = open(&page, &format!("{}&refresh=5", &location[1..])).await;
    reloading.assert_has(&["content=\"5;url=?view=dead-letters&amp;queue=main&amp;refresh=5\""]);

    // Repeating the form does not run the task again.
    let again = post(&page, view, &BROWSER, form("send_again", &id, &token)).await;
    assert_eq!(again.status, 409, "{}", again.html);
    again.assert_has(&["That is not possible now", "Back to the overview"]);
    let line = format!("principal=\"root\" action=\"send_again\" id=\"{id}\"");
    assert!(log.text().contains(&line), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_discarded_by_another_process() {
    let backend = Backend::memory();
    let tasks = tasks(&backend);
    let _worker = tasks.work().unwrap();
    let id = die(&tasks).await;
    let view = format!("view=task&id={id}");
    let token = open(&page(&tasks), &view).await.token(&id);
    // Shares only the backend.
    let other = page(&super::tasks(&backend));
    let answer = post(&other, &view, &BROWSER, form("discard", &id, &token)).await;
    assert_eq!(answer.status, 303, "{}", answer.html);
    assert!(tasks.queue("main").dead_letters().await.unwrap().is_empty());
    let after = open(&other, &answer.header("location")[1..]).await;
    after.assert_has(&["The dead letter was discarded.", "state dead"]);
    after.assert_has_no("method=\"post\"");
}

#[tokio::test(start_paused = true)]
async fn waiting_and_running_tasks_are_cancelled() {
    let tasks = tasks(&Backend::memory());
    let page = page(&tasks);
    let queue = tasks.queue("main");
    let waiting = queue.submit(act("good")).await.unwrap();
    cancel(&page, &waiting, 303).await;
    let status = tasks.status(&waiting).await.unwrap();
    assert_eq!(status.state(), TaskState::Cancelled);

    let running = queue.submit(act("wait")).await.unwrap();
    let ended = queue.submit(act("good")).await.unwrap();
    let token = {
        let view = format!("view=task&id={ended}");
        open(&page, &view).await.token(&ended)
    };
    let _worker = tasks.work().unwrap();
    sleep(SECOND * 2).await;
    cancel(&page, &running, 303).await;
    sleep(SECOND * 10).await;
    let status = tasks.status(&running).await.unwrap();
    assert_eq!(status.state(), TaskState::Cancelled);
    let late = form("cancel", &ended, &token);
    assert_eq!(post(&page, "", &BROWSER, late).await.status, 409);
}

async fn cancel(page: &TasksPage, id: &TaskId, status: u16) {
    let view = format!("view=task&id={id}");
    let token = open(page, &view).await.token(id);
    let answer = post(page, &view, &BROWSER, form("cancel", id, &token)).await;
    assert_eq!(answer.status, status, "{}", answer.html);
}

#[tokio::test(start_paused = true)]
async fn a_form_of_another_site_changes_nothing() {
    let log = Log::start();
    let tasks = tasks(&Backend::memory());
    let _worker = tasks.work().unwrap();
    let (id, other) = (die(&tasks).await, die(&tasks).await);
    let page = page(&tasks);
    let eve = TasksPage::new(tasks.clone(), |_| Some(Principal::new("eve")));
    let view = format!("view=task&id={id}");
    let token = open(&page, &view).await.token(&id);
    let with = |name: &'static str, value: &'static str| {
        let mut headers = BROWSER.to_vec();
        headers.retain(|(other, _)| {
            *other != name && (name != "origin" || *other != "sec-fetch-site")
        });
        headers.push((name, value));
        headers
    };
    let good = form("discard", &id, &token);
    let of_other = open(&page, &format!("view=task&id={other}"))
        .await
        .token(&other);
    let of_eve = open(&eve, &view).await.token(&id);
    for (headers, form, status) in [
        (BROWSER.to_vec(), form("discard", &id, ""), 403),
        (BROWSER.to_vec(), form("discard", &id, &token[1..]), 403),
        (
            BROWSER.to_vec(),
            form("discard", &id, &token.replace(|_| true, "0")),
            403,
        ),
        (BROWSER.to_vec(), form("discard", &id, &of_other), 403),
        (BROWSER.to_vec(), form("discard", &id, &of_eve), 403),
        (BROWSER.to_vec(), form("delete", &id, &token), 403),
        (BROWSER.to_vec(), String::new(), 403),
        (with("sec-fetch-site", "cross-site"), good.clone(), 403),
        (with("sec-fetch-site", "same-site"), good.clone(), 403),
        (with("origin", "https://evil.example"), good.clone(), 403),
        (with("content-type", "text/plain"), good.clone(), 415),
        (
            with("content-type", "multipart/form-data; boundary=x"),
            good.clone(),
            415,
        ),
        (
            BROWSER.to_vec(),
            format!("{good}&x={}", "x".repeat(10_000)),
            413,
        ),
    ] {
        let answer = post(&page, &view, &headers, form.clone()).await;
        assert_eq!(answer.status, status, "{headers:?} {form}");
        answer.assert_has(&["That request was not accepted", &format!("Error {status}")]);
    }
    // The fields of a form in the query are no form.
    open(&page, &format!("{view}&{good}")).await;
    assert_eq!(tasks.queue("main").dead_letters().await.unwrap().len(), 2);
    assert!(
        log.text()
            .contains("a form of the page of tasks is refused")
    );

    // A proxy that changes the host, with a browser that sends its origin.
    let behind_proxy = page.clone().public_origin("https://evil.example/");
    let headers = with("origin", "https://evil.example");
    let answer = post(&behind_proxy, &view, &headers, good).await;
    assert_eq!(answer.status, 303, "{}", answer.html);
    assert_eq!(tasks.queue("main").dead_letters().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_admitted_principals_change_tasks() {
    let tasks = tasks(&Backend::memory());
    let _worker = tasks.work().unwrap();
    let id = die(&tasks).await;
    let view = format!("view=task&id={id}");
    let token = open(&page(&tasks), &view).await.token(&id);
    let nobody = TasksPage::new(tasks.clone(), |_| None);
    let answer = post(&nobody, &view, &BROWSER, form("discard", &id, &token)).await;
    assert_eq!(answer.status, 404);
    assert_eq!(tasks.queue("main").dead_letters().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_methods_are_not_allowed() {
    let page = page(&tasks(&Backend::memory()));
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let request = Request::builder().method(&method).uri("/");
        let answer = send(&page, request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), "GET, HEAD, POST");
    }
    let request = Request::head("/").body(Full::<Bytes>::default()).unwrap();
    let response = page.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
}
