//! The call of the application at the end of an operation, and the address that a client sets.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::mortal::at_each_call;
use test_support::operation::{App, SECOND};
use test_support::{Log, until};
use tokio::time::{sleep, timeout};
use tower_promises_backend::{Backend, BoxError};
use tower_promises_operations::{Operation, OperationLayer};

/// The operations that the application was told of, with their statuses.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(String, String)>>>);

impl Told {
    fn note(&self, operation: &Operation) {
        let told = (operation.id().to_owned(), operation.status().to_string());
        self.0.lock().unwrap().push(told);
    }

    fn statuses(&self) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter().map(|(_, status)| status.clone()).collect()
    }
}

fn machine(backend: &Backend, told: &Told) -> App {
    let told = told.clone();
    let layer = OperationLayer::new(backend.clone()).wait(Duration::ZERO);
    App::working(layer.on_end(move |operation| {
        told.note(&operation);
        async { Ok(()) }
    }))
}

// Contract: 9.3
#[tokio::test(start_paused = true)]
async fn the_application_is_told_once_of_each_end() {
    for (line, status) in [
        ("POST /?ms=5000", "Succeeded"),
        ("POST /?ms=5000&code=500", "Failed"),
        ("POST /?ms=7200000", "Canceled"),
    ] {
        let told = Told::default();
        let app = machine(&Backend::memory(), &told);
        let path = app.start(line, &[]).await;
        sleep(SECOND).await;
        assert!(told.statuses().is_empty());
        // Longer than the lifetime.
        sleep(SECOND * 3_700).await;
        assert_eq!(told.statuses(), [status]);
        assert!(path.ends_with(&told.0.lock().unwrap()[0].0));
    }
    let told = Told::default();
    let app = machine(&Backend::memory(), &told);
    let path = app.start("POST /?ms=5000", &[]).await;
    app.ask(&format!("DELETE {path}"), &[]).await;
    sleep(SECOND * 100).await;
    assert_eq!(told.statuses(), ["Canceled"]);
}

// Contract: 9.3
#[tokio::test(start_paused = true)]
async fn the_application_is_told_of_an_end_wherever_the_process_dies() {
    at_each_call(async |mortal| {
        let told = Told::default();
        let here = machine(&mortal.backend(), &told);
        let there = machine(&mortal.survivor(), &told);
        // If the process dies earlier, the client has no reply.
        let start = timeout(SECOND * 20, here.ask("POST /?ms=5000", &[])).await;
        sleep(SECOND * 100).await;
        let Ok(reply) = start else {
            // The other machine, which takes part from its first request on, has nothing to do.
            there.get("/.operations/unknown").await;
            return;
        };
        let path = reply.header("operation-location");
        if reply.status != 202 {
            return;
        }
        let ended = there.ended(path).await;
        sleep(SECOND * 100).await;
        let told = told.statuses();
        assert!(!told.is_empty());
        assert!(
            told.iter().all(|status| *status == ended["status"]),
            "{told:?}"
        );
    })
    .await;
}

// Contract: 9.3, 9.4
#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_repeated_and_holds_the_operation_until_then() {
    let log = Log::start();
    let (told, calls) = (Told::default(), Arc::new(Mutex::new(0)));
    let (note, count) = (told.clone(), calls.clone());
    let layer = OperationLayer::memory().wait(Duration::ZERO);
    let app = App::working(layer.on_end(move |operation| {
        let (note, count) = (note.clone(), count.clone());
        async move {
            *count.lock().unwrap() += 1;
            let number = *count.lock().unwrap();
            match number {
                1 => Err(BoxError::from("it is away")),
                2 => panic!("it is broken"),
                _ => {
                    note.note(&operation);
                    Ok(())
                }
            }
        }
    }));
    let path = app.start("POST /?ms=1000", &[]).await;
    app.ended(&path).await;
    until("the first call", || *calls.lock().unwrap() == 1).await;
    // The second call.
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 503);
    assert!(told.statuses().is_empty());
    sleep(SECOND * 100).await;
    assert_eq!(told.statuses(), ["Succeeded"]);
    assert!(
        log.text().contains("was not told of the end"),
        "{}",
        log.text()
    );
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    sleep(SECOND * 100).await;
    assert_eq!(told.statuses().len(), 1);
}

// Contract: 9.4
#[tokio::test(start_paused = true)]
async fn an_operation_is_not_removed_before_the_application_was_told() {
    let told = Told::default();
    let app = machine(&Backend::memory(), &told);
    let path = app.start("POST /?ms=1000", &[]).await;
    app.ended(&path).await;
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    sleep(SECOND * 100).await;
    assert!(told.statuses().iter().all(|status| status == "Succeeded"));
    assert!(!told.statuses().is_empty());
}

fn with_callbacks(told: &Arc<Mutex<Vec<Option<String>>>>) -> App {
    let told = told.clone();
    let layer = OperationLayer::memory()
        .wait(Duration::ZERO)
        .callbacks(|request, url| {
            request.uri.path() != "/never" && url.starts_with("https://hooks.example/")
        })
        .on_end(move |operation| {
            let callback = operation.callback().map(str::to_owned);
            told.lock().unwrap().push(callback);
            async { Ok(()) }
        });
    App::working(layer)
}

// Contract: 9.1
#[tokio::test(start_paused = true)]
async fn a_client_sets_the_address_that_is_called_at_the_end() {
    let told = Arc::default();
    let app = with_callbacks(&told);
    let url = r#"url="https://hooks.example/a?b=c,d;e""#;
    for (prefer, applied) in [
        (format!("callback; {url}"), "callback"),
        (
            format!("respond-async, Callback ;{url}"),
            "respond-async, callback",
        ),
        (format!("odata.callback;other=1; {url}"), "callback"),
        (
            format!("wait=0, callback; {url}, callback; url=\"x\""),
            "wait=0, callback",
        ),
    ] {
        let answer = app.ask("POST /?ms=1000", &[("prefer", &prefer)]).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.header("preference-applied"), applied, "{prefer}");
        app.ended(answer.header("operation-location")).await;
    }
    sleep(SECOND).await;
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 4);
    for callback in told.iter() {
        assert_eq!(callback.as_deref(), Some("https://hooks.example/a?b=c,d;e"));
    }
}

// Contract: 9.2
#[tokio::test(start_paused = true)]
async fn an_address_that_is_malformed_or_not_allowed_is_ignored() {
    let told = Arc::default();
    let app = with_callbacks(&told);
    let long = format!(
        r#"callback; url="https://hooks.example/{}""#,
        "x".repeat(3000)
    );
    for (line, prefer) in [
        ("POST /?ms=1000", "callback"),
        ("POST /?ms=1000", "callback; url"),
        ("POST /?ms=1000", r#"callback; url="""#),
        (
            "POST /?ms=1000",
            r#"callback; url="https://other.example/""#,
        ),
        (
            "POST /?ms=1000",
            r#"callback, callback; url="https://hooks.example/""#,
        ),
        ("POST /?ms=1000", &long),
        (
            "POST /never?ms=1000",
            r#"callback; url="https://hooks.example/""#,
        ),
    ] {
        let answer = app.ask(line, &[("prefer", prefer)]).await;
        assert_eq!(answer.status, 202, "{prefer}");
        assert_eq!(answer.header("preference-applied"), "", "{prefer}");
        app.ended(answer.header("operation-location")).await;
    }
    sleep(SECOND).await;
    assert_eq!(*told.lock().unwrap(), vec![None; 7]);
    // By default no client may.
    let app = App::working(OperationLayer::memory().wait(Duration::ZERO));
    let prefer = r#"callback; url="https://hooks.example/""#;
    let answer = app.ask("POST /?ms=1000", &[("prefer", prefer)]).await;
    assert_eq!(answer.header("preference-applied"), "");
}
