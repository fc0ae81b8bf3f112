//! The server crashes and starts again, or is shut down, while processes enqueue and handle envelopes.

use crate::load::{ENVELOPES, Load, builder};
use futures_util::StreamExt;
use test_support::eventually::{soon, until};
use test_support::postgres::Server;
use tower_promises_backend::{BackendError, Bus, BusEvent, Store};

async fn envelopes_survive(restart: impl Fn(&mut Server)) {
    // The server flushes its writes, as it does outside of tests.
    let mut server = Server::with(&[]).await;
    let load = Load::start(server.url()).await;
    for part in 1..=3 {
        load.reaches(ENVELOPES / 5 * part).await;
        restart(&mut server);
        server.start_again().await;
    }
    load.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_nothing() {
    envelopes_survive(Server::crash).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_under_load_loses_nothing() {
    envelopes_survive(Server::stop).await;
}

/// After a crash, the server has lost the messages and changes that were not received, so the streams end with an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_and_watchers_learn_of_a_crash() {
    let mut server = Server::with(&[]).await;
    let database = builder().connect(&server.url()).await.unwrap();
    let (bus, store) = (database.bus(), database.store());
    let revision = store.put("kept", "x".into(), None).await.unwrap();
    let mut listener = bus.listen().await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    server.crash();
    server.start_again().await;
    let lost = soon(listener.next()).await.unwrap().unwrap_err();
    assert!(matches!(lost, BackendError::Unavailable { .. }), "{lost:?}");
    assert!(soon(listener.next()).await.is_none(), "the stream ends");
    soon(watch.next()).await.unwrap().unwrap_err();
    assert!(soon(watch.next()).await.is_none(), "the stream ends");

    let mut listener = soon(bus.listen()).await.unwrap();
    soon(bus.publish("topic", "after".into())).await.unwrap();
    let heard = soon(listener.next()).await.unwrap().unwrap();
    assert!(matches!(heard, BusEvent::Message { .. }), "{heard:?}");
    let entry = store.get("kept").await.unwrap().unwrap();
    assert_eq!(entry.revision, revision);
    assert!(store.put("kept", "y".into(), None).await.unwrap() > revision);
}

/// A restart in good order keeps all messages, so listeners do not notice it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_outlast_a_restart() {
    let mut server = Server::with(&[]).await;
    let url = server.url();
    // The statements of the listener are repeated until the server has started again.
    let patient = || builder().timeout(test_support::eventually::BOUND);
    let here = patient().connect(&url).await.unwrap().bus();
    let there = patient().connect(&url).await.unwrap().bus();
    let mut listener = there.listen().await.unwrap();
    server.stop();
    server.start_again().await;
    until("the message is accepted", async || {
        here.publish("topic", "after".into()).await.is_ok()
    })
    .await;
    let heard = soon(listener.next()).await.unwrap().unwrap();
    assert!(matches!(heard, BusEvent::Message { .. }), "{heard:?}");
}
