//! Handlers that let clients cancel no longer.

use crate::process::{Diary, Process, layer};
use axum::Router;
use axum::extract::{Extension, Request};
use axum::response::{IntoResponse, Response};
use test_support::Log;
use test_support::operation::{SECOND, request};
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::{PromiseLayer, Promises};
use tower_promises_operations::durable::{DurableRun, Settlement, Settling};

/// Charges a card after a pause, and waits for an approval.
fn checkout(diary: &Diary) -> Router {
    let diary = diary.clone();
    let handler = async move |Extension(run): Extension<DurableRun>, request: Request| {
        let promises = request.extensions().get::<Promises>().unwrap();
        diary.note(run.operation_id());
        let outcome = promises.sleep("pause", 10 * SECOND).and_then(|()| {
            let (run, diary) = (run.clone(), diary.clone());
            promises.durable("charge", move || async move {
                run.refuse_cancel().await;
                diary.note("charged");
            })?;
            promises.outside::<bool>("approval")
        });
        outcome.map_or_else(IntoResponse::into_response, |approved| -> Response {
            format!("approved: {approved}").into_response()
        })
    };
    Router::new().fallback(handler).layer(PromiseLayer::new())
}

// Contract: 4.9
#[tokio::test(start_paused = true)]
async fn a_client_cannot_cancel_after_the_handler_has_refused() {
    let diary = Diary::default();
    let process = Process::serving(layer(&Backend::memory()), checkout(&diary));
    let path = process.begin("POST /").await;
    let document = process.suspended(&path).await;
    assert!(document["links"]["cancel"].is_string(), "{document}");
    let charged = process.until(&path, |_| diary.count("charged") == 1).await;
    let document = process.suspended(&path).await;
    assert!(
        document["links"]["cancel"].is_null(),
        "{charged} {document}"
    );

    for line in [format!("DELETE {path}"), format!("POST {path}/cancel")] {
        let answer = process.ask(&line).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(
            answer.body.contains("cannot be cancelled any more"),
            "{answer:?}"
        );
    }
    let page = process.send(request(&format!("GET {path}"), &[("accept", "text/html")]));
    let page = page.await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("/cancel"), "{}", page.body);

    let id = path.rsplit('/').next().unwrap();
    assert_eq!(
        diary.count(id),
        diary.read().len() - 1,
        "the id of the operation"
    );
    let approval = Settlement::value(&true).unwrap();
    let settled = process.operations.settle(id, "approval", &approval).await;
    assert_eq!(settled.unwrap(), Settling::Settled);
    assert_eq!(
        process.result(&path).await,
        (200, "approved: true".to_owned())
    );
    // The operation has ended, so this removes it.
    assert_eq!(process.ask(&format!("DELETE {path}")).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_in_the_log() {
    let log = Log::start();
    let process = Process::serving(layer(&Backend::memory()), checkout(&Diary::default()));
    let path = process.begin("POST /").await;
    process.ask(&format!("DELETE {path}")).await;
    sleep(60 * SECOND).await;
    let text = log.text();
    let ends = text
        .lines()
        .filter(|line| line.contains("an operation has ended"));
    let ends: Vec<_> = ends.collect();
    assert!(
        matches!(*ends, [end] if end.contains("Canceled")),
        "{ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cancels_before_the_refusal_prevents_the_effect() {
    let diary = Diary::default();
    let process = Process::serving(layer(&Backend::memory()), checkout(&diary));
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let answer = process.ask(&format!("DELETE {path}")).await;
    assert_eq!(answer.json()["status"], "Canceled");
    sleep(60 * SECOND).await;
    assert_eq!(diary.count("charged"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_application_cancels_an_operation_that_refuses_it_to_clients() {
    let diary = Diary::default();
    let process = Process::serving(layer(&Backend::memory()), checkout(&diary));
    let path = process.begin("POST /").await;
    process.until(&path, |_| diary.count("charged") == 1).await;
    let id = path.rsplit('/').next().unwrap();
    assert!(process.operations.cancel(id).await.unwrap());
    assert_eq!(process.document(&path).await["status"], "Canceled");
}
