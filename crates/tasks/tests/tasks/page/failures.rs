//! The page while the backend or a client fails.

use super::{Answer, page, send, tasks};
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use http_body_util::Full;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use test_support::Log;
use test_support::task::{SECOND, act};
use tokio::time::Instant;
use tower::ServiceExt;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, CompareAndSet, Entry, Page, Revision, Store, WatchStream,
};
use tower_promises_tasks::TasksPage;

/// A store that can be away, and whose lists can be missing.
struct Away {
    store: MemoryStore,
    is_away: Arc<AtomicBool>,
    has_lists: bool,
}

impl Away {
    async fn or_fail<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(BackendError::unavailable("the store is away")),
            false => answer.await,
        }
    }
}

impl Store for Away {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(self.or_fail(self.store.get(key)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(self.or_fail(self.store.put(key, value, time_to_live)))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(
            self.or_fail(
                self.store
                    .compare_and_set(key, expected, value, time_to_live),
            ),
        )
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.or_fail(self.store.delete(key)))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        if self.has_lists {
            return Box::pin(self.or_fail(self.store.list(prefix, after, limit)));
        }
        Box::pin(async { Err(BackendError::unsupported("lists")) })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        Box::pin(self.or_fail(self.store.watch(prefix)))
    }
}

fn backend(has_lists: bool) -> (Backend, Arc<AtomicBool>) {
    let is_away = Arc::<AtomicBool>::default();
    let store = Away {
        store: MemoryStore::new(),
        is_away: is_away.clone(),
        has_lists,
    };
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    (backend, is_away)
}

async fn show(page: &TasksPage, view: &str) -> Answer {
    let request = Request::get(format!("/?{view}"));
    send(page, request.body(Full::default()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_backend_is_a_page() {
    let log = Log::start();
    let (backend, is_away) = backend(true);
    let tasks = tasks(&backend);
    let id = tasks.queue("main").submit(act("later")).await.unwrap();
    let page = page(&tasks);
    is_away.store(true, Ordering::SeqCst);
    let task = format!("view=task&id={id}");
    for view in ["", "view=tasks", "view=limits", "view=dead-letters", &task] {
        let answer = show(&page, view).await;
        assert_eq!(answer.status, 503, "{view}");
        answer.assert_has(&["The tasks cannot be read", "Error 503"]);
    }
    assert!(
        log.text()
            .contains("the page of tasks cannot read the backend")
    );
    is_away.store(false, Ordering::SeqCst);
    assert_eq!(show(&page, &task).await.status, 200);
    assert_eq!(show(&page, "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_lists_still_shows_tasks_and_dead_letters() {
    let (backend, _) = backend(false);
    let tasks = tasks(&backend);
    let id = tasks.queue("main").submit(act("later")).await.unwrap();
    let page = page(&tasks);
    let task = format!("view=task&id={id}");
    for (view, status) in [
        ("", 501),
        ("view=tasks", 501),
        ("view=limits", 501),
        ("view=dead-letters", 200),
        (&task, 200),
    ] {
        assert_eq!(show(&page, view).await.status, status, "{view}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found() {
    let page = page(&tasks(&Backend::memory()));
    for view in [
        "view=other",
        "view=task",
        "view=task&id=unknown",
        "view=task&id=%00",
        "file=page.css",
        "file=../page.css",
    ] {
        let answer = show(&page, view).await;
        let expected = if view.ends_with("%00") { 400 } else { 404 };
        assert_eq!(answer.status, expected, "{view}");
    }
}

/// A record that another version has written hides no others.
#[tokio::test(start_paused = true)]
async fn unreadable_records_are_left_out() {
    let backend = Backend::memory();
    let tasks = tasks(&backend);
    let id = tasks.queue("main").submit(act("later")).await.unwrap();
    for (key, value) in [
        ("task/record/one", "{}"),
        ("task/record/two", "not json"),
        ("task/limit/one", "{}"),
        ("task/dead/main", r#"["one","two","missing"]"#),
    ] {
        let put = backend.store().put(key, value.into(), None);
        put.await.unwrap();
    }
    let page = page(&tasks);
    // Not all were counted.
    show(&page, "")
        .await
        .assert_has(&["1+", "3 stored tasks. There are more"]);
    show(&page, "view=tasks").await.assert_has(&[id.as_str()]);
    let limits = show(&page, "view=limits").await;
    limits.assert_has(&["No limit by key is in use."]);
    let letters = show(&page, "view=dead-letters").await;
    letters.assert_has(&["There are no dead letters here."]);
}

/// A body that never ends.
struct Slow;

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_form_that_does_not_arrive_is_not_waited_for() {
    let page = page(&tasks(&Backend::memory()));
    let request = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
    let start = Instant::now();
    let response = page.oneshot(request.body(Slow).unwrap()).await.unwrap();
    assert_eq!(response.status(), 408);
    assert_eq!(start.elapsed().as_secs(), (SECOND * 10).as_secs());
}
