//! Operations, section 4 of their contract: cancel and remove.

use axum::body::Body;
use axum::extract::Request;
use futures_util::future;
use test_support::Counter;
use test_support::operation::{App, SECOND, memory, progress, request_with, two_machines};
use tokio::time::{sleep, timeout};

/// A service that counts dropped work.
fn dropping(dropped: &Counter) -> App {
    let dropped = dropped.clone();
    App::new(memory(), move |_: Request| {
        let guard = dropped.on_drop();
        async move {
            sleep(SECOND * 9).await;
            drop(guard);
        }
    })
}

// Contract: 4.1
#[tokio::test(start_paused = true)]
async fn section_4_delete_drops_the_work_and_answers_with_the_document() {
    let dropped = Counter::default();
    let app = dropping(&dropped);
    let path = app.start("POST /", &[]).await;
    assert_eq!(dropped.get(), 0);
    let answer = app.ask(&format!("DELETE {path}"), &[]).await;
    assert_eq!(dropped.get(), 1, "the work is dropped before the answer");
    assert_eq!(answer.status, 200);
    let document = answer.json();
    assert_eq!(document["status"], "Canceled");
    assert_eq!(document["error"]["code"], "Canceled");
    assert!(!document["error"]["message"].as_str().unwrap().is_empty());
    assert!(document.get("finished").is_some());
    assert!(document.get("resourceLocation").is_none());
    assert_eq!(answer.header("retry-after"), "");
    assert_eq!(app.document(&path).await, document);
    sleep(SECOND * 20).await;
    assert_eq!(app.document(&path).await, document, "Canceled is final");
    assert_eq!(app.operations.running(), 0);
}

// Contract: 4.2
#[tokio::test(start_paused = true)]
async fn section_4_delete_removes_an_ended_operation() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=3000", &[]).await;
    app.ended(&path).await;
    let answer = app.ask(&format!("DELETE {path}"), &[]).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (204, ""));
    for line in ["GET", "DELETE", "HEAD"] {
        assert_eq!(app.ask(&format!("{line} {path}"), &[]).await.status, 404);
    }
    for part in ["result", "events"] {
        assert_eq!(app.get(&format!("{path}/{part}")).await.status, 404);
    }
}

// Contract: 4.3
#[tokio::test(start_paused = true)]
async fn section_4_one_of_concurrent_deletes_takes_effect() {
    for round in 0..50 {
        let dropped = Counter::default();
        let app = dropping(&dropped);
        let path = app.start("POST /", &[]).await;
        let id = path.rsplit('/').next().unwrap();
        let cancels = (0..4).map(|_| app.operations.cancel(id));
        let effective = future::join_all(cancels).await;
        let effective = effective
            .into_iter()
            .filter(|took| *took.as_ref().unwrap())
            .count();
        assert_eq!(effective, 1, "round {round}");
        assert_eq!(dropped.get(), 1);

        let line = format!("DELETE {path}");
        let deletes = (0..4).map(|_| app.ask(&line, &[]));
        let mut statuses: Vec<_> = future::join_all(deletes).await;
        statuses.sort_unstable_by_key(|answer| answer.status);
        let statuses: Vec<_> = statuses
            .iter()
            .map(|answer| answer.status.as_u16())
            .collect();
        assert_eq!(statuses, [204, 404, 404, 404], "round {round}");
    }
}

// Contract: 4.3
#[tokio::test(start_paused = true)]
async fn section_4_concurrent_deletes_of_a_running_operation_do_not_remove_it() {
    for round in 0..50 {
        let dropped = Counter::default();
        let app = dropping(&dropped);
        let path = app.start("POST /", &[]).await;
        let line = format!("DELETE {path}");
        let deletes = (0..4).map(|_| app.ask(&line, &[]));
        let mut statuses: Vec<_> = future::join_all(deletes)
            .await
            .iter()
            .map(|answer| answer.status.as_u16())
            .collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409, 409, 409], "round {round}");
        assert_eq!(app.document(&path).await["status"], "Canceled");
        // Once the first request is answered, a further one removes the operation.
        assert_eq!(app.ask(&line, &[]).await.status, 204);
    }
}

// Contract: 4.7
#[tokio::test(start_paused = true)]
async fn section_4_a_condition_that_does_not_hold_changes_nothing() {
    let app = App::working(memory());
    let tag = async |path: &str| app.get(path).await.header("etag").to_owned();
    let path = app.start("POST /?ms=12000&steps=3", &[]).await;
    let old = tag(&path).await;
    sleep(SECOND * 4).await;
    let running = tag(&path).await;
    assert_ne!(old, running);
    let (delete, cancel) = (format!("DELETE {path}"), format!("POST {path}/cancel"));
    let weak = format!("W/{running}");
    for (name, value) in [
        ("if-match", &*old),
        ("if-match", "\"x\""),
        ("if-match", ""),
        // A weak tag may match another state.
        ("if-match", &weak),
        ("if-none-match", &running),
        ("if-none-match", &weak),
        ("if-none-match", "*"),
    ] {
        for line in [&delete, &cancel] {
            let answer = app.ask(line, &[(name, value)]).await;
            assert_eq!(answer.status, 412, "{line} {name}: {value}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
    assert_eq!(app.document(&path).await["status"], "Running");
    let line = format!("GET {path}");
    assert_eq!(app.ask(&line, &[("if-match", &old)]).await.status, 412);
    assert_eq!(app.ask(&line, &[("if-match", &running)]).await.status, 200);

    // The tag of a running operation allows cancelling, but not the removal of an operation that has ended meanwhile.
    let list = format!("{old}, {running}");
    let answer = app.ask(&delete, &[("if-match", &list)]).await;
    assert_eq!(answer.status, 200);
    let ended = answer.header("etag").to_owned();
    assert_eq!(app.ask(&delete, &[("if-match", &list)]).await.status, 412);
    // Without a condition this is a conflict, so it is a conflict with a condition too.
    assert_eq!(app.ask(&cancel, &[("if-match", &list)]).await.status, 409);
    assert_eq!(
        app.ask(&delete, &[("if-none-match", &ended)]).await.status,
        412
    );
    assert_eq!(app.ask(&delete, &[("if-match", &ended)]).await.status, 204);
    assert_eq!(app.ask(&delete, &[("if-match", &ended)]).await.status, 404);

    let path = app.start("POST /?ms=9000", &[]).await;
    let line = format!("POST {path}/cancel");
    let answer = app.ask(&line, &[("if-match", &tag(&path).await)]).await;
    assert_eq!(answer.status, 200);
    let path = app.start("POST /?ms=9000", &[]).await;
    let line = format!("DELETE {path}");
    assert_eq!(app.ask(&line, &[("if-match", "*")]).await.status, 200);
}

#[tokio::test]
async fn section_4_one_of_two_machines_that_cancel_at_once_succeeds() {
    for _ in 0..50 {
        let machines = two_machines(|layer| layer.wait(SECOND / 100));
        let path = machines[0].start("POST /?ms=60000", &[]).await;
        let line = format!("DELETE {path}");
        let deletes = machines.clone().map(|machine| {
            let line = line.clone();
            tokio::spawn(async move { machine.ask(&line, &[]).await })
        });
        let mut statuses = Vec::new();
        for delete in deletes {
            statuses.push(delete.await.unwrap().status.as_u16());
        }
        // The later request finds an ended operation, and removes it or gets a conflict.
        let cancelled = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(cancelled, 1, "{statuses:?}");
    }
}

// Contract: 4.6
#[tokio::test(start_paused = true)]
async fn section_4_completion_and_cancel_race_for_one_end() {
    let (mut cancelled, mut succeeded) = (0, 0);
    for round in 0..200 {
        let app = App::working(memory());
        let path = app.start("POST /?ms=3000", &[]).await;
        let cancel = async {
            // Cancels at the moment when the work ends.
            sleep(
                SECOND + std::time::Duration::from_millis(round % 3)
                    - std::time::Duration::from_millis(1),
            )
            .await;
            app.operations
                .cancel(path.rsplit('/').next().unwrap())
                .await
                .unwrap()
        };
        let took_effect = cancel.await;
        let document = app.ended(&path).await;
        let expected = if took_effect { "Canceled" } else { "Succeeded" };
        assert_eq!(document["status"], expected);
        sleep(SECOND * 5).await;
        assert_eq!(app.document(&path).await, document);
        if took_effect {
            cancelled += 1;
            assert_eq!(app.get(&format!("{path}/result")).await.status, 410);
        } else {
            succeeded += 1;
            assert_eq!(app.get(&format!("{path}/result")).await.status, 200);
        }
    }
    assert!(cancelled > 0 && succeeded > 0, "{cancelled} {succeeded}");
}

// Contract: 4.4
#[tokio::test(start_paused = true)]
async fn section_4_the_cancel_resource() {
    let app = App::working(memory());
    let start = async || app.start("POST /?ms=60000", &[]).await;
    let path = start().await;
    let line = format!("POST {path}/cancel");
    let answer = app.ask(&line, &[("accept", "application/json")]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].as_str()),
        (200, Some("Canceled"))
    );
    let answer = app.ask(&line, &[]).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let answer = app.get(&format!("{path}/cancel")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("allow")),
        (405, "POST")
    );
}

/// The token in the form of the page.
async fn token(app: &App, path: &str) -> String {
    let page = app
        .ask(&format!("GET {path}"), &[("accept", "text/html")])
        .await;
    let (_, rest) = page
        .body
        .split_once("name=\"token\"")
        .expect("the form has a token");
    let (_, rest) = rest.split_once("value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

// Contract: 4.5
#[tokio::test(start_paused = true)]
async fn section_4_the_form_is_protected_against_other_sites() {
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    let app = App::working(memory().public_origin("https://good.example"));
    let host = ("host", "inside.example");
    let html = ("accept", "text/html");
    for (headers, has_token, status) in [
        // Requests as browsers send them from the page, which sends no referrer.
        (
            &[
                host,
                html,
                FORM,
                ("origin", "null"),
                ("sec-fetch-site", "same-origin"),
            ] as &[_],
            true,
            303,
        ),
        (&[host, html, FORM, ("origin", "null")], true, 303),
        (&[host, html, FORM], true, 303),
        (
            &[host, html, FORM, ("origin", "https://good.example")],
            true,
            303,
        ),
        (
            &[host, FORM, ("origin", "http://inside.example")],
            true,
            200,
        ),
        (&[host, FORM, ("sec-fetch-site", "none")], true, 200),
        // Requests that do not come from the page.
        (&[host, FORM], false, 403),
        (&[host, FORM, ("sec-fetch-site", "same-origin")], false, 403),
        (&[host, FORM, ("sec-fetch-site", "cross-site")], true, 403),
        (&[host, FORM, ("sec-fetch-site", "same-site")], true, 403),
        (&[host, FORM, ("origin", "https://evil.example")], true, 403),
        (
            &[host, FORM, ("origin", "https://good.example.evil.example")],
            true,
            403,
        ),
        (&[host, ("origin", "https://evil.example")], false, 403),
        (&[host, ("origin", "null")], false, 403),
        (&[host, ("content-type", "text/plain")], false, 403),
        (
            &[host, ("content-type", "Multipart/Form-Data; boundary=x")],
            false,
            403,
        ),
        // Requests that do not come from a browser.
        (&[host], false, 200),
        (&[host, ("content-type", "application/json")], false, 200),
    ] {
        let path = app.start("POST /?ms=60000", &[]).await;
        let path = path
            .strip_prefix("https://good.example")
            .unwrap()
            .to_owned();
        let form = if has_token {
            format!("x=y&token={}", token(&app, &path).await)
        } else {
            "token=".into()
        };
        let line = format!("POST {path}/cancel");
        let answer = app
            .send(request_with(&line, headers, Body::from(form)))
            .await;
        assert_eq!(answer.status, status, "{headers:?} {has_token}");
        if status == 303 {
            assert_eq!(
                answer.header("location"),
                format!("https://good.example{path}")
            );
        }
        let expected = if status == 403 { "Running" } else { "Canceled" };
        assert_eq!(app.document(&path).await["status"], expected, "{headers:?}");
        app.ask(&format!("DELETE {path}"), &[]).await;
    }
    // The token of one operation is not valid for another.
    let (one, other) = (
        app.start("POST /?ms=60000", &[]).await,
        app.start("POST /?ms=60000", &[]).await,
    );
    let [one, other] = [one, other].map(|path| path["https://good.example".len()..].to_owned());
    let form = format!("token={}", token(&app, &one).await);
    let line = format!("POST {other}/cancel");
    assert_eq!(
        app.send(request_with(&line, &[FORM], Body::from(form)))
            .await
            .status,
        403
    );
}

// Contract: 4.8
#[tokio::test(start_paused = true)]
async fn section_4_work_on_another_thread_is_notified_of_a_cancel() {
    let app = App::new(memory(), async |request: Request| {
        let progress = progress(&request);
        tokio::task::spawn_blocking(move || {
            let start = std::time::Instant::now();
            while !progress.is_cancelled() && start.elapsed() < SECOND * 60 {
                std::thread::sleep(SECOND / 1000);
            }
            assert!(progress.is_cancelled());
        })
        .await
        .unwrap();
    });
    // Blocking work keeps the paused clock from advancing by itself.
    let path = app.start("POST /", &[("prefer", "respond-async")]).await;
    let line = format!("DELETE {path}");
    let delete = app.ask(&line, &[]);
    assert_eq!(timeout(SECOND * 10, delete).await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn completed_work_is_not_cancelled() {
    let app = App::new(memory(), async |request: Request| {
        let progress = progress(&request);
        let handle = progress.clone();
        tokio::spawn(async move {
            sleep(SECOND * 60).await;
            assert!(!handle.is_cancelled());
        });
        sleep(SECOND * 3).await;
        assert!(!progress.is_cancelled());
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
    sleep(SECOND * 70).await;
}
