//! Gauges: requests, promises and jobs in flight, and the bytes of bodies.

use futures_util::future::join;
use http::Request;
use http_body_util::BodyExt;
use std::future::pending;
use std::sync::Mutex;
use test_support::recorded::{Recorded, ask_for, ask_for_job, held};
use test_support::uploads::{temporary_directory, upload};
use test_support::{TestBody, ask, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::blocking::BlockingPool;
use tower_promises::body::ReplayBody;
use tower_promises::{BoxError, PromiseLayer};
#[tokio::test]
async fn gauges_show_what_is_in_flight_until_the_client_disconnects() {
    let recorded = Recorded::start().await;
    let requests: Vec<_> = (0..3)
        .map(|_| tokio::spawn(ask_for(PromiseLayer::new(), pending)))
        .collect();
    recorded.shows("requests_in_flight", 3.0).await;
    recorded.shows("promises_in_flight", 3.0).await;
    for request in requests {
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
    }
    assert_eq!(recorded.gauge("requests_in_flight"), 0.0);
    assert_eq!(recorded.gauge("promises_in_flight"), 0.0);
    assert_eq!(
        recorded.counters(),
        [
            "passes_total{outcome=\"discarded\"} 3",
            "promises_total{outcome=\"cancelled\"} 3"
        ]
    );
}

#[tokio::test]
async fn a_promise_is_in_flight_from_its_start_until_it_settles() {
    let recorded = Recorded::start().await;
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let released = Mutex::new(Some(released));
    let request = ask(PromiseLayer::new(), |promises| {
        if let Some(released) = released.lock().unwrap().take() {
            promises.try_submit("first", released)?;
            assert_eq!(recorded.gauge("promises_in_flight"), 0.0);
        }
        promises.result::<()>("first")?;
        assert_eq!(recorded.gauge("promises_in_flight"), 0.0);
        assert_eq!(recorded.gauge("requests_in_flight"), 1.0);
        Ok(String::new())
    });
    let client = async {
        recorded.shows("promises_in_flight", 1.0).await;
        release.send(()).unwrap();
    };
    join(request, client).await.0.unwrap();
    recorded.is_idle().await;
}

#[tokio::test]
async fn gauges_show_running_and_waiting_jobs() {
    let recorded = Recorded::start().await;
    let layer = PromiseLayer::new().blocking(BlockingPool::builder().max_running(1).build());
    let (release, job) = held();
    let running = tokio::spawn(ask_for_job(layer.clone(), job));
    recorded.shows("blocking_jobs_in_flight", 1.0).await;
    let waiting = tokio::spawn(ask_for_job(layer.clone(), || ()));
    recorded.shows("blocking_queue_depth", 1.0).await;
    let gone = tokio::spawn(ask_for_job(layer, || ()));
    recorded.shows("blocking_queue_depth", 2.0).await;

    // A job leaves the queue when its client disconnects, without any other event.
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(recorded.gauge("blocking_queue_depth"), 1.0);
    assert_eq!(recorded.gauge("blocking_jobs_in_flight"), 1.0);

    drop(release);
    running.await.unwrap();
    waiting.await.unwrap();
    recorded.is_idle().await;
}

#[tokio::test]
async fn a_job_that_continues_without_its_client_is_in_flight() {
    let recorded = Recorded::start().await;
    let (release, held) = held();
    let (started, mut has_started) = tokio::sync::mpsc::channel(1);
    let request = tokio::spawn(ask_for_job(PromiseLayer::new(), move || {
        started.blocking_send(()).unwrap();
        held();
    }));
    has_started.recv().await.unwrap();
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    assert_eq!(recorded.gauge("requests_in_flight"), 0.0);
    assert_eq!(recorded.gauge("promises_in_flight"), 0.0);
    assert_eq!(recorded.gauge("blocking_jobs_in_flight"), 1.0);
    drop(release);
    recorded.is_idle().await;
}

#[tokio::test]
async fn replay_bytes_count_bodies_that_can_be_read_again() {
    let recorded = Recorded::start().await;
    let body = |len| ReplayBody::with_max_bytes(TestBody::from(vec![b'x'; len]), 1000);
    let (first, second, large) = (body(600), body(1000), body(1001));
    assert_eq!(recorded.gauge("replay_bytes"), 0.0);
    // The body is shared: reading it does not change the number of bytes.
    first.replay().collect().await.unwrap();
    second.replay().collect().await.unwrap();
    assert_eq!(recorded.gauge("replay_bytes"), 1600.0);
    second.replay().collect().await.unwrap();
    assert_eq!(recorded.gauge("replay_bytes"), 1600.0);
    large.replay().collect().await.unwrap();
    assert_eq!(
        recorded.gauge("replay_bytes"),
        1600.0,
        "the large body exceeds the limit"
    );
    drop(first);
    assert_eq!(recorded.gauge("replay_bytes"), 1000.0);
    drop(second);
    assert_eq!(recorded.gauge("replay_bytes"), 0.0);
}

#[tokio::test]
async fn replay_bytes_end_with_the_last_pass_and_with_the_client() {
    let recorded = Recorded::start().await;
    let directory = temporary_directory();
    let spooling = PromiseLayer::new()
        .max_body_bytes(1000)
        .spool_dir(directory.path());
    for (layer, kept) in [
        // The trailers have 11 bytes.
        (PromiseLayer::new(), 200_011.0),
        // A frame of 700 bytes and the trailers stay in memory.
        (spooling, 711.0),
    ] {
        for has_client in [true, false] {
            let (release, released) = tokio::sync::watch::channel(false);
            let service =
                layer
                    .clone()
                    .layer(service_fn(move |request: Request<ReplayBody<_>>| {
                        let mut released = released.clone();
                        async move {
                            let promises = promises(&request);
                            assert_eq!(
                                test_support::uploads::read(request.into_body()).await?,
                                200_000
                            );
                            promises.result_or_submit("x", async move || {
                                let _ = released.wait_for(|released| *released).await;
                            })?;
                            Ok::<_, BoxError>(text_response(""))
                        }
                    }));
            let request = Request::new(upload(200_000, 700));
            let request = tokio::spawn(service.oneshot(request));
            recorded.shows("replay_bytes", kept).await;
            recorded.shows("promises_in_flight", 1.0).await;
            if has_client {
                release.send(true).unwrap();
                let response = request.await.unwrap().unwrap();
                assert_eq!(recorded.gauge("replay_bytes"), 0.0);
                drop(response);
            } else {
                request.abort();
                assert!(request.await.unwrap_err().is_cancelled());
            }
            recorded.is_idle().await;
        }
    }
}
