//! Results of operations that another version has written.

use axum::extract::Request;
use bytes::Bytes;
use futures_util::StreamExt;
use test_support::operation::{App, SECOND};
use tokio::time::sleep;
use tower_promises_backend::{Backend, BackendError, Change};
use tower_promises_operations::OperationLayer;

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_read_stays_for_a_version_that_can() {
    let backend = Backend::memory();
    let store = backend.store();
    let mut results = store.watch("operation/result/").await.unwrap();
    let layer = OperationLayer::new(backend.clone())
        .idempotency_keys(true)
        .principal(|_| Some("ada".to_owned()));
    let app = App::new(layer, async |_: Request| {
        sleep(SECOND * 9).await;
        "made"
    });
    let headers = [("idempotency-key", "8e03978e-40d5-43dd-bc93-6894a57f9324")];
    let path = app.start("POST /", &headers).await;
    app.ended(&path).await;
    let (key, head) = loop {
        let change = results.next().await.unwrap().unwrap();
        match change {
            Change::Put { key, entry } if key.ends_with("/head") => break (key, entry.value),
            _ => {}
        }
    };
    let put = async |value: Bytes| {
        store.put(&key, value, None).await.unwrap();
    };
    let text = String::from_utf8(head.to_vec()).unwrap();
    for other in [
        // An unknown format, and data that is not a valid response.
        "{\"version\":2}".to_owned(),
        text.replace("\"status\":200", "\"status\":7"),
        text.replace("content-type", "content type"),
    ] {
        assert_ne!(other, text);
        put(other.into()).await;
        let answers = [
            app.get(&format!("{path}/result")).await,
            // A repeated request with the same idempotency key.
            app.ask("POST /", &headers).await,
        ];
        for answer in answers {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(!answer.body.contains("been read"), "{answer:?}");
        }
    }
    put(head).await;
    for answer in [
        app.get(&format!("{path}/result")).await,
        app.ask("POST /", &headers).await,
    ] {
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "made"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_cannot_be_read_does_not_hide_others() {
    let backend = Backend::memory();
    let store = backend.store();
    let mut records = store.watch("operation/record/").await.unwrap();
    let layer = OperationLayer::new(backend.clone()).principal(|_| Some("ada".to_owned()));
    let app = App::working(layer);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let path = app.start("POST /?ms=9000", &[]).await;
        ids.push(app.ended(&path).await["id"].as_str().unwrap().to_owned());
    }
    let key = match records.next().await.unwrap().unwrap() {
        Change::Put { key, .. } => key,
        change => panic!("{change:?}"),
    };
    let value = store.get(&key).await.unwrap().unwrap().value;
    let text = String::from_utf8(value.to_vec()).unwrap();
    let other = text.replace("\"Succeeded\"", "\"Archived\"");
    assert_ne!(other, text);
    store.put(&key, other.into(), None).await.unwrap();

    let listed = async || {
        let listed = app.operations.list("ada").await.unwrap();
        let ids = listed.iter().map(|operation| operation.id().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed().await, ids[1..]);
    let error = app.operations.get(&ids[0]).await.unwrap_err();
    assert!(
        matches!(error, BackendError::Unreadable { .. }),
        "{error:?}"
    );
    store.put(&key, value, None).await.unwrap();
    ids.reverse();
    assert_eq!(listed().await, ids);
}
