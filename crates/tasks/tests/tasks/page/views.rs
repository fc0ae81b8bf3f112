//! What the page shows.

use super::{Answer, act_out, open, page, send, tasks};
use http::Request;
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use test_support::task::{Act, SECOND, act, builder};
use test_support::{Log, soon};
use tokio::time::sleep;
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    Principal, Schedule, Task, TaskContext, TaskFailure, TaskId, TaskLimit, TaskQueueOptions,
    TaskState, Tasks, TasksPage, Unique,
};

/// Submits a task as a principal.
async fn submit(tasks: &Tasks, argument: &str, principal: &'static str) -> TaskId {
    let queue = tasks.queue("main");
    let submit = async { queue.submit(act(argument)).await.unwrap() };
    Principal::new(principal).scope(submit).await
}

/// Submits a task, and waits for its end.
async fn finish(tasks: &Tasks, argument: &str) -> TaskId {
    let id = submit(tasks, argument, "ada").await;
    let _ = soon(tasks.output::<Act>(&id)).await;
    id
}

async fn run(tasks: &Tasks, id: &TaskId) {
    while tasks.status(id).await.unwrap().message().is_none() {
        sleep(SECOND).await;
    }
}

/// Checks that a page is kept by no cache, is in no frame, and needs no scripts.
fn assert_is_protected(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let policy = answer.header("content-security-policy");
    assert_eq!(
        policy,
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    );
    for inline in ["<script", "<style", " style=", " onclick=", "javascript:"] {
        answer.assert_has_no(inline);
    }
}

#[tokio::test(start_paused = true)]
async fn the_overview_has_the_numbers_of_each_queue() {
    let backend = Backend::memory();
    let tasks = builder(&backend, act_out)
        .max_attempts(1)
        .queue(TaskQueueOptions::new("empty").task::<Act>())
        .build();
    let page = page(&tasks);
    for argument in ["good", "good", "fail", "conflict"] {
        let worker = tasks.work().unwrap();
        finish(&tasks, argument).await;
        worker.drain(SECOND).await;
    }
    for _ in 0..7 {
        submit(&tasks, "later", "ada").await;
    }
    let overview = open(&page, "").await;
    assert_is_protected(&overview);
    overview.assert_has(&[
        "<title>Overview · Tasks</title>",
        "Shown to <bdi>root</bdi>",
        "<strong>7</strong> <span><a href=\"?view=tasks&amp;state=queued\">Waiting",
        "<strong>0</strong>",
        "tile alarm",
        "<strong>1</strong> <span><a href=\"?view=dead-letters\">Dead letters",
        "<strong>4</strong> <span>Ended in the last minute",
        ">empty</a>",
        "href=\"?view=tasks&amp;queue=main\">main</a>",
        "data-label=\"Waiting\" class=\"number\"><div><a href=\"?view=tasks&amp;queue=main&amp;state=queued\">7</a>",
        "data-label=\"Running\" class=\"number\"><div><span class=\"muted\">0</span>",
        "data-label=\"Dead letters\" class=\"number\"><div><a href=\"?view=dead-letters&amp;queue=main\">1</a>",
        "data-label=\"Failed\" class=\"number\"><div><a href=\"?view=tasks&amp;queue=main&amp;state=failed\">1</a>",
        "data-label=\"Succeeded\"",
        ">2</a>",
        "data-label=\"In the last hour\" class=\"number\"><div>4<",
        "data-label=\"At once in a worker\" class=\"number\"><div>4<",
        "all 11 stored tasks",
        "No task runs at the moment.",
    ]);
    overview.assert_has_no("http-equiv=\"refresh\"");
    overview.assert_has_no("Schedules");
}

#[tokio::test(start_paused = true)]
async fn the_overview_shows_what_runs() {
    let tasks = tasks(&Backend::memory());
    let page = page(&tasks);
    let _worker = tasks.work().unwrap();
    let id = submit(&tasks, "wait: adds up row 3", "ada").await;
    run(&tasks, &id).await;
    let target = format!("href=\"?view=task&amp;id={id}\"");
    open(&page, "").await.assert_has(&[
        "Running now",
        "scope=\"row\">act</th>",
        &target,
        "<bdi>ada</bdi>",
        "<progress max=\"100\" value=\"42.9\"",
        "42 %",
        "wait: adds up row 3",
    ]);
}

#[tokio::test(start_paused = true)]
async fn a_count_is_bounded_and_shared_by_all_views() {
    let tasks = tasks(&Backend::memory());
    for _ in 0..700 {
        submit(&tasks, "later", "ada").await;
    }
    let page = page(&tasks).count_interval(SECOND * 30);
    let some = page.clone().max_counted(600);
    open(&some, "")
        .await
        .assert_has(&["600+", "600 stored tasks. There are more", "lower bounds"]);
    let none = page.clone().max_counted(0);
    open(&none, "").await.assert_has(&["0+", "0 stored tasks"]);
    open(&page, "").await.assert_has(&["all 700 stored tasks"]);
    submit(&tasks, "later", "ada").await;
    sleep(SECOND * 29).await;
    open(&page, "").await.assert_has(&["all 700 stored tasks"]);
    sleep(SECOND).await;
    open(&page, "").await.assert_has(&["all 701 stored tasks"]);
}

#[tokio::test(start_paused = true)]
async fn tasks_are_filtered_and_listed_in_pages() {
    let tasks = tasks(&Backend::memory());
    let page = page(&tasks).page_size(3);
    let mut ids = Vec::new();
    for number in 0..14 {
        let principal = if number % 2 == 0 { "ada" } else { "bob" };
        ids.push((submit(&tasks, "later", principal).await, principal));
    }
    let shown = |answer: &Answer| -> Vec<TaskId> {
        let links = answer.html.split("href=\"?view=task&amp;id=").skip(1);
        links
            .map(|link| TaskId::new(link.split('"').next().unwrap()))
            .collect()
    };
    let filter = "view=tasks&queue=main&state=queued&task=act&principal=ada&refresh=5";
    let mut answer = open(&page, filter).await;
    assert!(!answer.html.contains("rel=\"prev\""));
    let mut pages = vec![shown(&answer)];
    let mut found = shown(&answer);
    while answer.html.contains("rel=\"next\"") {
        answer = open(&page, &answer.link("Next")).await;
        answer.assert_has(&["http-equiv=\"refresh\" content=\"5;url=?view=tasks&amp;"]);
        found.extend(shown(&answer));
        pages.push(shown(&answer));
    }
    let mut expected: Vec<_> = ids
        .iter()
        .filter(|(_, principal)| *principal == "ada")
        .collect();
    expected.sort();
    let expected: Vec<_> = expected.into_iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(found, expected);
    for before in pages.iter().rev().skip(1) {
        answer = open(&page, &answer.link("Previous")).await;
        assert_eq!(shown(&answer), *before);
    }
    // The filters stay in the form.
    answer.assert_has(&[
        "<option value=\"main\" selected>",
        "<option value=\"queued\" selected>Waiting",
        "name=\"task\" value=\"act\"",
        "name=\"principal\" value=\"ada\"",
    ]);
    let nothing = open(&page, "view=tasks&principal=eve").await;
    nothing.assert_has(&["No tasks match."]);
    let unknown = open(&page, "view=tasks&queue=%3Cother%3E").await;
    unknown.assert_has(&[
        "<option value=\"&lt;other&gt;\" selected>",
        "No tasks match.",
    ]);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_shown_with_its_history() {
    let tasks = tasks(&Backend::memory());
    let page = page(&tasks);
    let _worker = tasks.work().unwrap();
    let query = |id: &TaskId| format!("view=task&id={id}");

    let id = finish(&tasks, "good: secret").await;
    let answer = open(&page, &query(&id)).await;
    assert_is_protected(&answer);
    answer.assert_has(&[
        "<title>act · Tasks</title>",
        "class=\"state succeeded\">Succeeded<",
        id.as_str(),
        "<dt>Queue</dt><dd><bdi><a href=\"?view=tasks&amp;queue=main\">main<",
        "<dt>Principal</dt><dd><bdi>ada</bdi>",
        "<dt>Submitted</dt><dd>20",
        " UTC <span",
        "<dt>Attempts</dt><dd>1<",
        "<dt>Waited</dt>",
        "<dt>Ended</dt>",
        "<dt>Kept until</dt>",
    ]);
    answer.assert_has_no("secret");
    answer.assert_has_no("method=\"post\"");

    let id = finish(&tasks, "fail: it is broken").await;
    let answer = open(&page, &query(&id)).await;
    answer.assert_has(&["state failed", "Last error", "fail: it is broken"]);
    answer.assert_has_no("method=\"post\"");

    let id = submit(&tasks, "wait: in progress", "ada").await;
    run(&tasks, &id).await;
    let answer = open(&page, &query(&id)).await;
    answer.assert_has(&[
        "state running",
        "42 %",
        "in progress",
        "value=\"cancel\"",
        "Running for",
    ]);

    let id = finish(&tasks, "conflict: too often").await;
    let answer = open(&page, &query(&id)).await;
    answer.assert_has(&[
        "state dead",
        "value=\"send_again\"",
        "value=\"discard\"",
        "<dt>Attempts</dt><dd>1 of 1<",
        "conflict: too often",
    ]);
    tasks.queue("main").discard(&id).await.unwrap();
    let answer = open(&page, &query(&id)).await;
    answer.assert_has(&["was discarded"]);
    answer.assert_has_no("method=\"post\"");
}

#[tokio::test(start_paused = true)]
async fn arguments_and_outputs_are_shown_as_the_application_says() {
    let tasks = builder(&Backend::memory(), async |argument, _| match &*argument {
        "secret" => Err(TaskFailure::conflict("broken")),
        _ => Ok("an <output>".to_owned()),
    });
    let tasks = tasks.max_attempts(1).build();
    let _worker = tasks.work().unwrap();
    let dead = finish(&tasks, "secret").await;
    let done = finish(&tasks, "good").await;
    let silent = page(&tasks);
    let talking = silent
        .clone()
        .show_arguments(|task, json| Some(format!("{task} <of> {json}")))
        .show_output(|task, json| (task == "act").then(|| json.to_owned()));
    for (id, text) in [
        (&dead, "act &lt;of&gt; &quot;secret&quot;"),
        (&done, "&quot;an &lt;output&gt;&quot;"),
    ] {
        let query = format!("view=task&id={id}");
        open(&talking, &query).await.assert_has(&[text]);
        for page in [
            &silent,
            &talking
                .clone()
                .show_arguments(|_, _| None)
                .show_output(|_, _| None),
        ] {
            let answer = open(page, &query).await;
            answer.assert_has_no("secret");
            answer.assert_has_no("output");
            answer.assert_has_no("<pre dir=\"auto\">&quot;");
        }
        open(&silent, "view=dead-letters")
            .await
            .assert_has_no("secret");
    }
    // A waiting task whose arguments are in the store.
    let queue = tasks.queue("main");
    let waiting = queue.submit(act("later")).unique(Unique::KeepFirst);
    let id = waiting.with_id("kept").delay(SECOND * 9000).await.unwrap();
    open(&talking, &format!("view=task&id={id}"))
        .await
        .assert_has(&[
            "<dt>Starts at the earliest</dt>",
            "in 2 h",
            "act &lt;of&gt; &quot;later&quot;",
        ]);
}

const HOSTILE: &str = r#"</p><script>"&'</script>"#;

/// A task with a name that looks like HTML.
#[derive(Serialize, Deserialize)]
struct Hostile(String);

impl Task for Hostile {
    const NAME: &'static str = HOSTILE;
    type Output = String;

    fn limit(&self, _: Option<&Principal>) -> Option<TaskLimit> {
        Some(TaskLimit::new(HOSTILE, 1))
    }

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        context.set_progress(1);
        context.set_message(HOSTILE);
        match &*self.0 {
            "conflict" => Err(TaskFailure::conflict(HOSTILE)),
            _ => std::future::pending().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_gets_out_of_its_place() {
    let due = |_| Hostile("conflict".into());
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new(HOSTILE).task::<Hostile>())
        .schedule(Schedule::new(HOSTILE, HOSTILE, "0 0 * * *", due).unwrap())
        .max_attempts(1)
        .build();
    let _worker = tasks.work().unwrap();
    let queue = tasks.queue(HOSTILE);
    let id = |name| TaskId::new(format!("{HOSTILE}{name}"));
    for name in ["conflict", "wait"] {
        let hostile = Hostile(name.into());
        let submit = async { queue.submit(hostile).with_id(id(name)).await };
        Principal::new(HOSTILE).scope(submit).await.unwrap();
        sleep(SECOND * 60).await;
    }
    assert_eq!(queue.dead_letters().await.unwrap().len(), 1);
    let page = TasksPage::new(tasks, |_| Some(Principal::new(HOSTILE)))
        .title(HOSTILE)
        .show_arguments(|task, json| Some(format!("{task}{json}{HOSTILE}")));
    let encoded =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let hostile = encoded(HOSTILE);
    for view in [
        String::new(),
        "view=limits".into(),
        "view=dead-letters".into(),
        format!("view=dead-letters&queue={hostile}&done=send_again&done-id={hostile}"),
        format!("view=tasks&queue={hostile}"),
        format!("view=tasks&task={hostile}&principal={hostile}&state={hostile}&after="),
        format!(
            "view=task&id={}&refresh=7",
            encoded(id("conflict").as_str())
        ),
        format!(
            "view=task&id={}&trail={hostile}",
            encoded(id("wait").as_str())
        ),
    ] {
        let answer = open(&page, &view).await;
        answer.assert_has(&["&lt;/p&gt;&lt;script&gt;&quot;&amp;&#39;&lt;/script&gt;"]);
        assert_is_protected(&answer);
        answer.assert_has_no(HOSTILE);
    }
}

#[tokio::test(start_paused = true)]
async fn schedules_are_shown_with_their_next_and_last_runs() {
    let backend = Backend::memory();
    let times = |_| act("good");
    let nightly = Schedule::new("nightly", "main", "* * * * *", times).unwrap();
    let never = Schedule::new("never", "main", "0 0 30 2 *", times).unwrap();
    let start = (std::time::SystemTime::now(), tokio::time::Instant::now());
    let tasks = builder(&backend, act_out)
        .schedule(nightly.time_zone("Europe/Berlin").unwrap())
        .schedule(never)
        .clock(move || start.0 + start.1.elapsed())
        .build();
    let page = page(&tasks);
    let before = open(&page, "").await;
    before.assert_has(&["id=\"schedules\"", "<bdi>never</bdi>", "<div>never</div>"]);
    before.assert_has(&[
        "<bdi>nightly</bdi>",
        "<code>* * * * *</code> <span class=\"muted\">Europe/Berlin",
        "<bdi>main</bdi>",
        "<div>act</div>",
        "data-label=\"Next due\"><div><time",
        "none yet",
    ]);
    let _worker = tasks.work().unwrap();
    sleep(Duration::from_secs(200)).await;
    open(&page, "").await.assert_has(&[
        "<bdi>nightly</bdi>",
        "data-label=\"Last run\"><div><time",
        "state succeeded",
        "?view=task&amp;id=schedule%2Fnightly%2F",
    ]);
}

#[tokio::test(start_paused = true)]
async fn limits_are_shown_while_they_are_in_use() {
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("exports").task::<Hostile>())
        .build();
    let page = page(&tasks);
    open(&page, "view=limits")
        .await
        .assert_has(&["No limit by key is in use."]);
    let _worker = tasks.work().unwrap();
    let queue = tasks.queue("exports");
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(queue.submit(Hostile("wait".into())).await.unwrap());
    }
    run(&tasks, &ids[0]).await;
    open(&page, "view=limits").await.assert_has(&[
        "<bdi>exports</bdi>",
        "data-label=\"In use\" class=\"number\"><div>1<",
        "data-label=\"Limit\" class=\"number\"><div>1<",
        "data-label=\"Waiting, at most\" class=\"number\"><div>3<",
        &format!("?view=task&amp;id={}", ids[0]),
    ]);
    for id in &ids {
        tasks.cancel(id).await.unwrap();
    }
    let all_end = async || {
        for id in &ids {
            assert_eq!(
                tasks.status(id).await.unwrap().state(),
                TaskState::Cancelled
            );
        }
    };
    sleep(SECOND * 60).await;
    all_end().await;
    open(&page, "view=limits")
        .await
        .assert_has(&["No limit by key is in use."]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_in_pages_the_newest_first() {
    let tasks = tasks(&Backend::memory());
    let page = page(&tasks).page_size(2);
    let empty = open(&page, "view=dead-letters").await;
    empty.assert_has(&["There are no dead letters here."]);
    let worker = tasks.work().unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(finish(&tasks, "conflict: too often").await);
    }
    worker.drain(SECOND).await;
    let first = open(&page, "view=dead-letters&queue=main").await;
    assert_is_protected(&first);
    first.assert_has(&[
        ids[4].as_str(),
        "conflict: too often",
        ids[3].as_str(),
        "5 listed",
    ]);
    first.assert_has_no(ids[2].as_str());
    let second = open(&page, &first.link("Next")).await;
    second.assert_has(&[ids[2].as_str(), ids[1].as_str()]);
    let third = open(&page, &second.link("Next")).await;
    third.assert_has(&[ids[0].as_str()]);
    third.assert_has_no("rel=\"next\"");
    let back = open(&page, &third.link("Previous")).await;
    back.assert_has(&[ids[2].as_str(), ids[1].as_str()]);
    back.assert_has(&["rel=\"prev\"", "rel=\"next\""]);
    open(&page, "view=dead-letters&queue=other")
        .await
        .assert_has(&[
            "<option value=\"other\" selected>",
            "There are no dead letters here.",
        ]);
    open(&page, "view=dead-letters&page=18446744073709551615").await;
}

#[tokio::test(start_paused = true)]
async fn the_page_is_shown_to_admitted_principals_only() {
    let log = Log::start();
    let tasks = tasks(&Backend::memory());
    let id = submit(&tasks, "later", "ada").await;
    let page = TasksPage::new(tasks, |request| {
        let name = request.headers.get("user")?.to_str().ok()?;
        (name == "root").then(|| Principal::new(name))
    });
    for query in [
        "",
        "view=tasks",
        &format!("view=task&id={id}"),
        "view=dead-letters",
    ] {
        for (user, status) in [("root", 200), ("eve", 404)] {
            let request = Request::get(format!("/?{query}")).header("user", user);
            let answer = send(&page, request.body(Full::default()).unwrap()).await;
            assert_eq!(answer.status, status, "{query}");
            assert_is_protected(&answer);
            if user == "eve" {
                answer.assert_has(&["There is nothing here"]);
                answer.assert_has_no(">main<");
                answer.assert_has_no(id.as_str());
            }
        }
    }
    assert!(log.text().contains("is not admitted"), "{}", log.text());

    // The files of the error page are not secret, and their names change with their contents.
    let request = Request::get("/").body(Full::default()).unwrap();
    let error = send(&page, request).await;
    for (kind, media) in [("stylesheet", "text/css"), ("icon", "image/svg+xml")] {
        let (_, rest) = error.html.split_once(&format!("rel=\"{kind}\"")).unwrap();
        let target = rest
            .split_once("href=\"")
            .unwrap()
            .1
            .split('"')
            .next()
            .unwrap();
        let request = Request::get(format!("/{target}"));
        let file = send(&page, request.body(Full::default()).unwrap()).await;
        assert_eq!(file.status, 200);
        assert!(file.header("content-type").starts_with(media));
        assert!(file.header("cache-control").contains("immutable"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_works_at_any_path_and_reloads_itself_only_if_asked() {
    let tasks = tasks(&Backend::memory());
    let app: axum::Router = axum::Router::new()
        .nest_service("/admin/tasks", page(&tasks))
        .route_service("/tasks", page(&tasks));
    for path in ["/tasks", "/admin/tasks", "/admin/tasks/"] {
        for (query, interval) in [("", None), ("refresh=30", Some(30)), ("refresh=0", Some(2))] {
            let request = Request::get(format!("{path}?view=limits&{query}"));
            let request = request.body(axum::body::Body::empty()).unwrap();
            let response = tower::ServiceExt::oneshot(app.clone(), request)
                .await
                .unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let html = test_support::text(response.into_body()).await;
            assert!(html.contains("No limit by key is in use."), "{html}");
            let refresh = interval.map(|seconds| {
                format!("content=\"{seconds};url=?view=limits&amp;refresh={seconds}\"")
            });
            let is_there = html.contains("http-equiv=\"refresh\"");
            assert_eq!(is_there, refresh.is_some(), "{html}");
            assert!(html.contains(&refresh.unwrap_or_default()), "{html}");
        }
    }
}

static_assertions::assert_impl_all!(TasksPage: Send, Sync, Clone, std::fmt::Debug);
