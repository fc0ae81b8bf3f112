//! Requests that submit tasks: principal, trace context, promises, and axum routers.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use http::{Request, StatusCode};
use std::time::Duration;
use test_support::task::{Act, SECOND, act, builder, client, process};
use test_support::{Answer, Counter, answer, until};
use tokio::time::timeout;
use tower::ServiceExt;
use tower_promises::{PromiseError, PromiseLayer, Promises};
use tower_promises_backend::Backend;
use tower_promises_tasks::{Principal, TaskError, TaskId, TaskLayer, Tasks, TraceContext};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn request(path: &str) -> Request<Body> {
    Request::get(path)
        .header("user", "ada")
        .header("traceparent", PARENT)
        .header("tracestate", "vendor=7")
        .body(Body::empty())
        .unwrap()
}

async fn ask(app: Router, request: Request<Body>) -> Answer {
    answer(app.oneshot(request).await.unwrap()).await
}

fn layer(tasks: &Tasks) -> TaskLayer {
    TaskLayer::new(tasks.clone()).principal(|request| {
        let user = request.headers.get("user")?.to_str().ok()?;
        Some(Principal::new(user))
    })
}

/// A page that shows the result of a task in another process, and is blank until then.
async fn page(promises: Promises, tasks: Tasks) -> Result<String, PromiseError> {
    promises.result_or_try_submit("report", || tasks.queue("main").call(act("report")))
}

#[tokio::test(start_paused = true)]
async fn a_page_waits_for_a_task_in_another_process() {
    let backend = Backend::memory();
    let process = process(&backend, async |argument, context| {
        let trace = TraceContext::current().unwrap();
        assert_eq!(context.trace(), Some(&trace));
        let principal = Principal::current().unwrap();
        let (parent, state) = (trace.parent(), trace.state().unwrap());
        Ok(format!("{argument} {principal} {parent} {state}"))
    });
    let _worker = process.work().unwrap();
    let app = Router::new()
        .route("/", get(page))
        .layer(PromiseLayer::new())
        .layer(layer(&client(&backend)));
    let answer = ask(app, request("/")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, format!("report ada {PARENT} vendor=7"));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_cancels_its_task() {
    let backend = Backend::memory();
    let (begun, dropped) = (Counter::default(), Counter::default());
    let process = process(&backend, {
        let (begun, dropped) = (begun.clone(), dropped.clone());
        move |_, _| {
            begun.add();
            let guard = dropped.on_drop();
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok(String::new())
            }
        }
    });
    let _worker = process.work().unwrap();
    let app = Router::new()
        .route("/", get(page))
        .layer(PromiseLayer::new())
        .layer(layer(&client(&backend)));
    assert!(timeout(SECOND, app.oneshot(request("/"))).await.is_err());
    assert_eq!(begun.get(), 1);
    until("the task is cancelled", || dropped.get() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_a_request_keeps_its_principal() {
    async fn principals(tasks: Tasks) -> String {
        let direct = Principal::current().map(String::from);
        // The handle of a request keeps its principal.
        let spawned = tokio::spawn(async move {
            assert_eq!(Principal::current(), None);
            tasks.queue("main").call(act("")).await
        });
        format!("{direct:?} {}", spawned.await.unwrap().unwrap())
    }
    let backend = Backend::memory();
    let tasks = process(&backend, async |_, context| {
        Ok(format!("{:?}", context.principal()))
    });
    let _worker = tasks.work().unwrap();
    let app = Router::new()
        .route("/", get(principals))
        .layer(layer(&tasks));
    let answer = ask(app.clone(), request("/")).await;
    assert_eq!(answer.body, r#"Some("ada") Some(Principal("ada"))"#);
    let anonymous = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(ask(app, anonymous).await.body, "None None");
    assert_eq!(Principal::current(), None);
}

#[tokio::test(start_paused = true)]
async fn a_missing_layer_is_an_error_that_names_it() {
    async fn optional(tasks: Option<Tasks>) -> String {
        tasks.is_some().to_string()
    }
    let app = Router::new()
        .route("/", get(async |_: Tasks| "never"))
        .route("/optional", get(optional));
    let log = test_support::Log::start();
    let answer = ask(app.clone(), request("/")).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.body.contains("TaskLayer"));
    assert!(log.text().contains("needs `TaskLayer`"));
    assert_eq!(ask(app.clone(), request("/optional")).await.body, "false");
    let tasks = client(&Backend::memory());
    assert_eq!(
        ask(app.layer(layer(&tasks)), request("/optional"))
            .await
            .body,
        "true"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_task_is_hidden_from_the_client_and_logged() {
    async fn state(Path(id): Path<TaskId>, tasks: Tasks) -> Result<String, TaskError> {
        Ok(tasks.status(&id).await?.state().to_string())
    }
    async fn call(Path(argument): Path<String>, tasks: Tasks) -> Result<String, TaskError> {
        let call = tasks.queue("main").call(act(argument));
        call.timeout(SECOND).await
    }
    let backend = Backend::memory();
    let worker = process(&backend, async |argument, _| match &*argument {
        "secret error" => Err("secret error".into()),
        _ => std::future::pending().await,
    });
    let _worker = worker.work().unwrap();
    let app = Router::new()
        .route("/state/{id}", get(state))
        .route("/call/{argument}", get(call))
        .layer(layer(&client(&backend)));
    let log = test_support::Log::start();
    for (path, status) in [
        ("/state/secret", StatusCode::NOT_FOUND),
        ("/call/secret%20error", StatusCode::INTERNAL_SERVER_ERROR),
        ("/call/secret%20wait", StatusCode::GATEWAY_TIMEOUT),
    ] {
        let answer = ask(app.clone(), request(path)).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.content_type, "application/problem+json");
        assert!(!answer.body.contains("secret"), "{}", answer.body);
    }
    let log = log.text();
    assert!(log.contains("handler failed"), "{log}");
    assert!(log.contains("secret error"), "{log}");
    assert!(log.contains("has not ended within 1s"), "{log}");
    // Not logged: any client can request a task that does not exist.
    assert!(!log.contains("nothing is known"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_request_within_a_task_belongs_to_the_task() {
    let backend = Backend::memory();
    let inner: Router = Router::new().route(
        "/",
        get(async |tasks: Tasks| tasks.queue("main").call(act("inner")).await.unwrap()),
    );
    let process = builder(&backend, async |argument, context| {
        if argument == "inner" {
            return Ok(format!("{:?}", context.principal()));
        }
        let app = context.state::<Router>()?.clone();
        let app = app.layer(layer(context.tasks()));
        Ok(ask(app, request("/")).await.body)
    });
    let queue = tower_promises_tasks::TaskQueueOptions::new("main")
        .task::<Act>()
        .concurrency(1);
    let process = process.state(inner).queue(queue).build();
    let _worker = process.work().unwrap();
    let call = process
        .queue("main")
        .call(act(""))
        .timeout(Duration::from_secs(100));
    assert_eq!(call.await.unwrap(), r#"Some(Principal("ada"))"#);
}

#[test]
fn trace_contexts_are_checked() {
    assert!(TraceContext::new(PARENT).is_some());
    let (zeros, upper) = ("0".repeat(32), PARENT.to_uppercase());
    let zero_trace = format!("00-{zeros}-00f067aa0ba902b7-01");
    let zero_span = format!("00-{}-{}-01", &PARENT[3..35], &zeros[..16]);
    let longer = format!("{PARENT}-00");
    for bad in [
        "",
        "00",
        &upper,
        &zero_trace,
        &zero_span,
        &longer,
        &PARENT.replace("00-", "ff-"),
    ] {
        assert_eq!(TraceContext::new(bad), None, "{bad}");
    }
    let context = TraceContext::new(PARENT).unwrap();
    assert_eq!(context.clone().with_state(&"x".repeat(513)).state(), None);
    assert_eq!(context.with_state("a=\n").state(), None);
}
