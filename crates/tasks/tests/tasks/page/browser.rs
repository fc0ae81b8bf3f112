//! The page in a real browser: in light and dark, on a phone, by keyboard only, and without scripts.

use super::page;
use axum::Router;
use axum::routing::get;
use http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::browser::Browser;
use test_support::eventually::{eventually, soon};
use test_support::task::{Act, act, builder};
use thirtyfour::{By, Key};
use tokio::net::TcpListener;
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    Principal, Schedule, TaskFailure, TaskId, TaskState, Tasks, TasksPage, Worker,
};

/// A server with tasks in all states, and a browser.
struct Site {
    url: String,
    tasks: Tasks,
    _worker: Worker,
    /// The dead letters, oldest first.
    dead: Vec<TaskId>,
    is_broken: Arc<AtomicBool>,
    browser: Browser,
}

impl Site {
    async fn start() -> Self {
        let is_broken = Arc::new(AtomicBool::new(true));
        let broken = is_broken.clone();
        let script = move |argument: String, context: tower_promises_tasks::TaskContext| {
            let is_broken = broken.load(Ordering::SeqCst);
            async move {
                match &*argument {
                    "conflict" if is_broken => Err(TaskFailure::conflict(
                        "could not serialise access due to read/write dependencies among transactions",
                    )),
                    "fail" => Err("the year 2026 has no report yet".into()),
                    "wait" => {
                        context.set_progress(42.9);
                        context.set_message("adds up row 3 of 7");
                        std::future::pending().await
                    }
                    _ => Ok(argument),
                }
            }
        };
        let nightly = Schedule::new("nightly report", "main", "30 2 * * 1-5", |_| act("good"));
        let tasks = builder(&Backend::memory(), script)
            .max_attempts(1)
            .progress_interval(Duration::from_millis(1))
            .schedule(nightly.unwrap().time_zone("Europe/Berlin").unwrap())
            .build();
        let worker = tasks.work().unwrap();
        let queue = tasks.queue("main");
        let submit = |argument: &'static str| {
            let queue = &queue;
            Principal::new("tenant 3/user 4711").scope(async move {
                let submit = queue.submit(act(argument));
                submit.await.unwrap()
            })
        };
        let mut dead = Vec::new();
        for argument in ["good", "good", "fail", "conflict", "conflict"] {
            let id = submit(argument).await;
            let ended = soon(tasks.output::<Act>(&id)).await;
            if argument == "conflict" {
                assert!(ended.is_err());
                dead.push(id);
            }
        }
        let long = "x".repeat(300);
        let later = queue.submit(act("later")).with_id(long);
        later.delay(Duration::from_secs(3000)).await.unwrap();
        let waiting = submit("wait").await;
        eventually("a task runs", async || {
            let status = tasks.status(&waiting).await.unwrap();
            status.message().map(drop)
        })
        .await;

        let page = page(&tasks).page_size(5).count_interval(Duration::ZERO);
        let url = serve(page).await;
        Self {
            url,
            tasks,
            _worker: worker,
            dead,
            is_broken,
            browser: Browser::start().await,
        }
    }

    async fn open(&self, query: &str) {
        self.browser.open(&format!("{}?{query}", self.url)).await;
    }

    async fn see(&self, text: &str) {
        let has = format!("document.body.innerText.includes({text:?})");
        self.browser.until(&has).await;
    }

    async fn click(&self, selector: &str) {
        let element = self.browser.driver().find(By::Css(selector)).await.unwrap();
        element.click().await.unwrap();
    }

    /// Waits for the end of a dead letter that was sent again.
    async fn until_succeeded(&self, id: &TaskId) {
        let state = async || {
            let status = self.tasks.status(id).await.unwrap();
            (status.state() == TaskState::Succeeded).then_some(())
        };
        eventually("the dead letter succeeds", state).await;
    }
}

/// Serves a page, and returns its address.
async fn serve(page: TasksPage) -> String {
    let app = Router::new()
        .route_service("/tasks", page)
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/tasks", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    url
}

const FOCUS: &str = "document.activeElement";

#[tokio::test]
async fn the_keyboard_sends_a_dead_letter_again() {
    let site = Site::start().await;
    site.open("view=dead-letters").await;
    site.is_broken.store(false, Ordering::SeqCst);
    // The newest is the first.
    let id = site.dead.last().unwrap();
    let is_there = format!("{FOCUS}.ariaLabel === 'Send again {id}'");
    for _ in 0..40 {
        site.browser.press(Key::Tab).await;
        let visible = format!("{FOCUS}.matches(':focus-visible')");
        assert!(site.browser.evaluate::<bool>(&visible).await);
        let outline = format!("parseFloat(getComputedStyle({FOCUS}).outlineWidth) >= 2");
        assert!(site.browser.evaluate::<bool>(&outline).await);
        if site.browser.evaluate(&is_there).await {
            break;
        }
    }
    assert!(site.browser.evaluate::<bool>(&is_there).await);
    site.browser.screenshot("tasks-focus").await;
    site.browser.press(Key::Enter).await;
    site.see("The dead letter was sent again.").await;
    site.until_succeeded(id).await;
    assert_eq!(
        site.tasks.queue("main").dead_letters().await.unwrap().len(),
        1
    );

    // The first stop of each page leads past the navigation.
    site.open("view=tasks").await;
    site.browser.press(Key::Tab).await;
    site.browser.screenshot("tasks-skip").await;
    site.browser.press(Key::Enter).await;
    site.browser
        .until(&format!("{FOCUS}.id === 'content'"))
        .await;
    site.browser.press(Key::Tab).await;
    let first = format!("{FOCUS}.name === 'queue'");
    assert!(site.browser.evaluate::<bool>(&first).await);
    assert_eq!(site.browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn everything_works_without_scripts() {
    let site = Site::start().await;
    site.browser.allow_scripts(false).await;
    site.open("").await;
    site.see("Running now").await;
    site.click("nav[aria-label=Views] li:nth-child(2) a").await;
    site.see("In the order of the store").await;
    let rows = "document.querySelectorAll('tbody tr').length";
    assert_eq!(site.browser.evaluate::<usize>(rows).await, 5);
    site.click("a[rel=next]").await;
    site.browser.until(&format!("{rows} === 2")).await;
    site.click("a[rel=prev]").await;
    site.browser.until(&format!("{rows} === 5")).await;

    site.click("option[value=failed]").await;
    site.click("form[aria-label=Filter] button").await;
    site.browser.until(&format!("{rows} === 1")).await;
    site.click("tbody a.id").await;
    site.see("the year 2026 has no report yet").await;

    site.is_broken.store(false, Ordering::SeqCst);
    let id = &site.dead[0];
    site.open(&format!("view=task&id={id}")).await;
    site.click("button[value=send_again]").await;
    site.see("The dead letter was sent again.").await;
    site.until_succeeded(id).await;
    site.open("view=dead-letters").await;
    // It cannot be undone, so it takes two steps.
    let button = "document.querySelector('button[value=discard]').checkVisibility()";
    assert!(!site.browser.evaluate::<bool>(button).await);
    site.click("summary").await;
    site.click("button[value=discard]").await;
    site.see("There are no dead letters here.").await;
    assert_eq!(site.browser.complaints().await, [""; 0]);
}

/// The texts of the page whose contrast with their background is lower than 4.5.
const FAINT: &str = r"(() => {
    const parts = (color) => color.match(/[\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = parts(color).slice(0, 3).map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return parts(color)[3] === 0 && element.parentElement ? background(element.parentElement) : color;
    };
    const texts = [...document.querySelectorAll('body *')].filter((element) =>
        [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
    return texts.filter((element) => {
        const [color, behind] = [getComputedStyle(element).color, background(element)].map(light);
        return (Math.max(color, behind) + 0.05) / (Math.min(color, behind) + 0.05) < 4.5;
    }).map((element) => element.outerHTML);
})()";

#[tokio::test]
async fn the_page_is_readable_in_light_and_dark_and_on_a_phone() {
    let site = Site::start().await;
    let id = site.dead[0].clone();
    for (subject, query) in [
        ("overview", String::new()),
        ("list", "view=tasks".to_owned()),
        ("dead-letters", "view=dead-letters".to_owned()),
        (
            "task",
            format!("view=task&id={id}&done=send_again&done-id={id}"),
        ),
        ("limits", "view=limits&refresh=300".to_owned()),
        ("error", "view=task&id=unknown".to_owned()),
    ] {
        site.open(&query).await;
        let mut backgrounds = Vec::new();
        for scheme in ["light", "dark"] {
            let preference = [("prefers-color-scheme", scheme)];
            site.browser.prefer(&preference).await;
            let faint = site.browser.evaluate::<Vec<String>>(FAINT).await;
            assert_eq!(faint, [""; 0], "{subject} in {scheme}");
            let background = "getComputedStyle(document.body).backgroundColor";
            backgrounds.push(site.browser.evaluate::<String>(background).await);
            for width in [320, 800, 1160, 1280] {
                site.browser.resize(width, 900).await;
                // Not `innerWidth`, which grows with the content on a phone.
                let overflow = "[...document.querySelectorAll('body, main, tbody tr')].map((it) => \
                                it.scrollWidth - it.clientWidth).concat(document.documentElement.scrollWidth \
                                - document.documentElement.clientWidth).reduce((a, b) => Math.max(a, b))";
                let overflow = site.browser.evaluate::<i32>(overflow).await;
                assert!(overflow <= 0, "{subject} at {width}: {overflow}");
                let picture = format!("tasks-{subject}-{scheme}-{width}");
                site.browser.screenshot(&picture).await;
            }
        }
        assert_ne!(backgrounds[0], backgrounds[1]);
    }
}

#[tokio::test]
async fn a_screen_reader_gets_tables_with_names_and_heads() {
    let site = Site::start().await;
    for width in [1280, 320] {
        site.browser.resize(width, 900).await;
        site.open("").await;
        let found = site.browser.accessible().await;
        for part in [
            "navigation \"Views\"",
            "heading \"Overview\"",
            "table \"Queues\"",
            "columnheader \"Dead letters\"",
            "rowheader \"main\"",
            "progressbar \"Progress\"",
            "table \"Schedules\"",
            "rowheader \"nightly report\"",
            "navigation \"Reload interval\"",
        ] {
            assert!(
                found.iter().any(|line| line == part),
                "{part} in {found:#?}"
            );
        }
        site.open("view=dead-letters").await;
        let found = site.browser.accessible().await;
        for id in &site.dead {
            for (role, action) in [("button", "Send again"), ("DisclosureTriangle", "Discard")] {
                let control = format!("{role} \"{action} {id}\"");
                assert!(found.contains(&control), "{control} in {found:#?}");
            }
        }
        site.open("view=tasks").await;
        let found = site.browser.accessible().await;
        for part in [
            "search \"Filter\"",
            "textbox \"Principal\"",
            "textbox \"Id\"",
        ] {
            assert!(
                found.iter().any(|line| line.starts_with(part)),
                "{part} in {found:#?}"
            );
        }
    }
}

#[tokio::test]
async fn the_page_reloads_itself_where_it_is_asked() {
    let site = Site::start().await;
    site.open("refresh=2").await;
    let loaded = "performance.timeOrigin";
    let first: f64 = site.browser.evaluate(loaded).await;
    site.browser.until(&format!("{loaded} !== {first}")).await;
    site.see("Running now").await;
    // The control of the page, without the interval.
    site.click("footer li:first-child a").await;
    let has_none =
        "!document.querySelector('meta[http-equiv=refresh]') && document.readyState === 'complete'";
    site.browser.until(has_none).await;
}
