//! Operations, section 5 of their contract: the event stream.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::map_response;
use axum::response::Response;
use http::HeaderMap;
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;
use test_support::operation::{App, SECOND, memory, number, progress, request, two_machines};
use test_support::soon;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, DefaultPredicate};
use tower_http::decompression::DecompressionLayer;

/// A block of an event stream, as a browser reads it.
#[derive(Clone, Debug, Default)]
struct Event {
    name: String,
    id: u64,
    retry: Option<u64>,
    data: Value,
}

struct Events {
    headers: HeaderMap,
    body: Body,
    buffer: String,
    comments: usize,
}

impl Events {
    async fn open(app: &App, path: &str, last: Option<u64>) -> Self {
        let last = last.map(|id| id.to_string());
        let headers: Vec<_> = last.iter().map(|id| ("last-event-id", &**id)).collect();
        let request = request(&format!("GET {path}/events"), &headers);
        let response = app.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let (parts, body) = response.into_parts();
        Self {
            headers: parts.headers,
            body,
            buffer: String::new(),
            comments: 0,
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                let mut event = Event::default();
                let mut has_data = false;
                for line in block.lines() {
                    let (field, value) = line.split_once(':').unwrap();
                    let value = value.trim_start();
                    match field {
                        "" => self.comments += 1,
                        "event" => event.name = value.into(),
                        "id" => event.id = value.parse().unwrap(),
                        "retry" => event.retry = Some(value.parse().unwrap()),
                        "data" => {
                            has_data = true;
                            event.data = serde_json::from_str(value).unwrap();
                        }
                        _ => panic!("unknown field in {block:?}"),
                    }
                }
                if has_data {
                    return Some(event);
                }
                assert!(
                    block.starts_with(':'),
                    "a block without data is a comment: {block:?}"
                );
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

// Contract: 5.1, 5.5
#[tokio::test(start_paused = true)]
async fn section_5_events_arrive_at_once_and_end_with_done() {
    let app = App::working(memory());
    let start = Instant::now();
    let path = app.start("POST /?ms=10000&steps=5", &[]).await;
    let mut events = Events::open(&app, &path, None).await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    assert_eq!(events.headers["cache-control"], "no-store");
    // These headers ask proxies to forward each event at once.
    assert_eq!(events.headers["incremental"], "?1");
    assert_eq!(events.headers["x-accel-buffering"], "no");
    let mut seen = Vec::new();
    while let Some(event) = soon(events.next()).await {
        assert_eq!(
            event.retry.is_some(),
            seen.is_empty(),
            "retry is in the first block"
        );
        seen.push((event, start.elapsed().as_secs()));
    }
    let rising = seen.windows(2).all(|pair| pair[0].0.id < pair[1].0.id);
    assert!(rising, "{seen:?}");
    let (done, when) = seen.pop().unwrap();
    assert_eq!((&*done.name, when), ("done", 10));
    assert_eq!(done.data["status"], "Succeeded");
    assert_eq!(
        done.data,
        app.document(&path).await,
        "data is the status document"
    );
    assert!(seen.iter().all(|(event, _)| event.name == "status"));
    for (event, when) in seen {
        if let Some(percent) = event.data["progress"].as_u64() {
            assert_eq!(percent, when * 10, "at once: {event:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn section_5_an_ended_operation_sends_only_done() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=3000&code=404", &[]).await;
    app.ended(&path).await;
    let events = Events::open(&app, &path, None).await.rest().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].name, "done");
    assert!(events[0].retry.is_some());
    assert_eq!(events[0].data["status"], "Failed");
}

// Contract: 5.1
#[tokio::test(start_paused = true)]
async fn section_5_a_cancel_ends_the_stream_too() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=60000", &[]).await;
    let mut events = Events::open(&app, &path, None).await;
    assert_eq!(soon(events.next()).await.unwrap().name, "status");
    app.ask(&format!("DELETE {path}"), &[]).await;
    let done = soon(events.next()).await.unwrap();
    assert_eq!(
        (&*done.name, done.data["status"].as_str()),
        ("done", Some("Canceled"))
    );
    assert!(soon(events.next()).await.is_none());
}

// Contract: 5.2
#[tokio::test(start_paused = true)]
async fn section_5_comments_keep_the_stream_alive() {
    let app = App::working(memory().heartbeat(SECOND * 15));
    let path = app.start("POST /?ms=100000", &[]).await;
    let mut events = Events::open(&app, &path, None).await;
    while soon(events.next()).await.is_some() {}
    assert_eq!(events.comments, 6);
}

// Contract: 5.3
#[tokio::test(start_paused = true)]
async fn section_5_a_reconnect_with_the_last_id_is_204() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=3000", &[]).await;
    let events = Events::open(&app, &path, None).await.rest().await;
    let last = events.last().unwrap().id.to_string();
    let line = format!("GET {path}/events");
    let answer = app.ask(&line, &[("last-event-id", &last)]).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (204, ""));
    let answer = app.ask(&line, &[("last-event-id", "nonsense")]).await;
    assert_eq!(answer.status, 200);
}

// Contract: 5.3
#[tokio::test(start_paused = true)]
async fn section_5_a_reconnect_neither_repeats_nor_skips() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=20000&steps=10", &[]).await;
    let mut last = None;
    let mut seen = Vec::new();
    // A connection that breaks after each event, sometimes at once and sometimes after a while.
    for round in 0.. {
        let line = format!("GET {path}/events");
        let id = last.map(|id: u64| id.to_string()).unwrap_or_default();
        if last.is_some()
            && app
                .ask(&format!("HEAD {path}/events"), &[("last-event-id", &id)])
                .await
                .status
                == 204
        {
            assert_eq!(app.ask(&line, &[("last-event-id", &id)]).await.status, 204);
            break;
        }
        let mut events = Events::open(&app, &path, last).await;
        let event = soon(events.next()).await.unwrap();
        assert!(last.is_none_or(|last| event.id > last), "{event:?} repeats");
        last = Some(event.id);
        seen.push(event);
        if round % 3 == 0 {
            drop(events);
            sleep(Duration::from_millis(700)).await;
        }
    }
    let end = seen.last().unwrap();
    assert_eq!(
        (&*end.name, end.data["progress"].as_u64()),
        ("done", Some(100))
    );
    assert!(seen.len() >= 10, "{seen:?}");
}

// Contract: 5.4
#[tokio::test(start_paused = true)]
async fn section_5_a_slow_reader_sees_the_newest_state_and_delays_no_work() {
    let app = App::new(memory(), async |request: Request| {
        let steps = number(&request, "steps").unwrap();
        let progress = progress(&request);
        for step in 1..=steps {
            sleep(Duration::from_millis(10)).await;
            progress.set(100.0 * step as f64 / steps as f64);
        }
        sleep(SECOND * 100).await;
    });
    let path = app.start("POST /?steps=1000", &[]).await;
    let mut slow = Events::open(&app, &path, None).await;
    soon(slow.next()).await.unwrap();
    sleep(SECOND * 30).await;
    let event = soon(slow.next()).await.unwrap();
    assert_eq!(
        event.data["progress"], 100,
        "states in between are not buffered"
    );
    // Changes are coalesced, and the last change arrives.
    assert!(event.id < 200, "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn section_5_the_stream_of_a_removed_operation_ends() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=60000", &[]).await;
    let mut events = Events::open(&app, &path, None).await;
    soon(events.next()).await.unwrap();
    let line = format!("DELETE {path}");
    app.ask(&line, &[]).await;
    app.ask(&line, &[]).await;
    assert!(soon(events.next()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn section_5_ids_agree_between_machines() {
    let [here, there] = two_machines(|layer| layer);
    let path = here.start("POST /?ms=10000&steps=5", &[]).await;
    let streams = [
        Events::open(&here, &path, None).await,
        Events::open(&there, &path, None).await,
    ];
    let [near, far] = streams.map(|stream| tokio::spawn(stream.rest()));
    let (near, far) = (near.await.unwrap(), far.await.unwrap());
    // One stream may miss a short-lived state. Events with the same id have the same data on both machines.
    for event in &far {
        if let Some(same) = near.iter().find(|other| other.id == event.id) {
            assert_eq!(same.data, event.data);
        }
    }
    let ids = |events: &[Event]| -> Vec<_> { events.iter().map(|event| event.id).collect() };
    assert!(
        far.len() >= 5 && ids(&far).last() == ids(&near).last(),
        "{far:?}"
    );
    let half = near[near.len() / 2].id;
    // A client that reconnects to the other machine continues where it stopped.
    let rest = Events::open(&there, &path, Some(half)).await.rest().await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].id, near.last().unwrap().id);
    let last = rest[0].id.to_string();
    let answer = there
        .ask(&format!("GET {path}/events"), &[("last-event-id", &last)])
        .await;
    assert_eq!(answer.status, 204);
}

#[tokio::test(start_paused = true)]
async fn events_end_when_the_process_has_drained() {
    let [here, there] = two_machines(|layer| layer);
    let path = here.start("POST /?ms=60000", &[]).await;
    let mut events = Events::open(&there, &path, None).await;
    soon(events.next()).await.unwrap();
    assert_eq!(there.operations.drain(SECOND).await, 0);
    assert!(timeout(SECOND, events.next()).await.unwrap().is_none());
    assert_eq!(here.document(&path).await["status"], "Running");
}

#[tokio::test(start_paused = true)]
async fn section_5_an_unknown_last_event_id_is_ignored() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000", &[]).await;
    let events = Events::open(&app, &path, Some(u64::MAX)).await;
    let names: Vec<_> = soon(events.rest()).await;
    let names: Vec<_> = names.into_iter().map(|event| event.name).collect();
    assert_eq!(names.first().unwrap(), "status");
    assert_eq!(names.last().unwrap(), "done");
    let events = Events::open(&app, &path, Some(u64::MAX)).await.rest().await;
    assert_eq!((events.len(), &*events[0].name), (1, "done"));
    for id in ["-1", "x", "", "18446744073709551616"] {
        let line = format!("GET {path}/events");
        let answer = app.ask(&line, &[("last-event-id", id)]).await;
        assert!(answer.body.contains("event: done\n"), "{id:?} {answer:?}");
    }
}

/// A service behind a compression layer, for clients that decompress. `x-encoding` has the encoding of a response.
fn compressed(predicate: impl Predicate + Send + Sync + 'static) -> App {
    let mut app = App::working(memory().heartbeat(SECOND * 15));
    app.router = app
        .router
        .layer(CompressionLayer::new().compress_when(predicate))
        .layer(map_response(async |mut response: Response| {
            if let Some(encoding) = response.headers().get("content-encoding").cloned() {
                response.headers_mut().insert("x-encoding", encoding);
            }
            response
        }))
        .layer(DecompressionLayer::new());
    app
}

#[tokio::test(start_paused = true)]
async fn section_5_events_arrive_at_once_through_compression() {
    let app = compressed(SizeAbove::default());
    let start = Instant::now();
    let path = app.start("POST /?ms=100000&steps=2", &[]).await;
    let mut events = Events::open(&app, &path, None).await;
    assert_eq!(events.headers["x-encoding"], "gzip");
    // An encoder that buffers its output would deliver an event with the next heartbeat, or at the end.
    let mut seen = Vec::new();
    while let Some(event) = soon(events.next()).await {
        seen.push((event.data["progress"].as_u64(), start.elapsed().as_secs()));
    }
    seen.dedup();
    assert_eq!(seen, [(None, 2), (Some(50), 50), (Some(100), 100)]);
    assert_eq!(events.comments, 6, "heartbeats arrive too");
}

#[tokio::test(start_paused = true)]
async fn section_5_compression_leaves_events_alone_by_default() {
    let app = compressed(DefaultPredicate::new());
    let path = app.start("POST /?ms=10000&steps=1", &[]).await;
    let document = app.get(&path).await;
    assert_eq!(document.header("x-encoding"), "gzip");
    let mut events = Events::open(&app, &path, None).await;
    assert!(!events.headers.contains_key("x-encoding"));
    let start = Instant::now();
    assert_eq!(soon(events.next()).await.unwrap().name, "status");
    assert_eq!(start.elapsed(), Duration::ZERO);
}
