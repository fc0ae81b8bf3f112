//! Operations over real connections: uploads, clients that disconnect, and event streams.

use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use test_support::Counter;
use test_support::eventually::{eventually, soon as in_time, until};
use test_support::operation::{App, SECOND, memory, progress, request_with};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tower_promises_operations::OperationLayer;

/// Signals between the test and the work.
#[derive(Clone)]
struct Stage {
    calls: Counter,
    dropped: Counter,
    has_started: Arc<Notify>,
    may_end: watch::Sender<bool>,
}

/// Serves work that ends when the test allows it.
async fn serve(layer: OperationLayer) -> (std::net::SocketAddr, App, Stage) {
    let stage = Stage {
        calls: Counter::default(),
        dropped: Counter::default(),
        has_started: Arc::default(),
        may_end: watch::Sender::new(false),
    };
    let on_stage = stage.clone();
    let app = App::new(layer, move |request: Request| {
        let stage = on_stage.clone();
        async move {
            stage.calls.add();
            let _guard = stage.dropped.on_drop();
            let progress = progress(&request);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            progress.set(50);
            stage.has_started.notify_one();
            let mut may_end = stage.may_end.subscribe();
            may_end.wait_for(|may_end| *may_end).await.unwrap();
            format!("{} bytes", body.len())
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = app.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, app, stage)
}

/// The head of a response, up to the empty line.
async fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = in_time(stream.read_line(&mut head)).await.unwrap();
        assert_ne!(read, 0, "the connection ends after {head:?}");
    }
    head
}

async fn dropped(stage: &Stage) {
    until("the work is dropped", async || stage.dropped.get() > 0).await;
}

// Contract: 1.9
#[tokio::test]
async fn section_1_an_upload_is_complete_when_the_first_reply_is_given() {
    let (address, _, stage) = serve(memory().wait(Duration::ZERO)).await;
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    // The wait ends at once, but there is no reply before the body is complete.
    let mut looks = 0;
    eventually("ten looks", async || {
        let early = stream.get_ref().try_read(&mut [0; 1]).unwrap_err();
        assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(stage.calls.get(), 0);
        looks += 1;
        (looks == 10).then_some(())
    })
    .await;
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 202"));
    stage.may_end.send_replace(true);
}

#[tokio::test]
async fn section_7_bodies_over_the_bound_take_no_place_of_running_work() {
    let layer = memory().max_running(5).max_body_bytes(1000);
    let (address, app, stage) = serve(layer).await;
    let mut uploads = Vec::new();
    for number in 0..10 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The `content-length` shows that the body is too large, or the first bytes of a chunked body do.
        let request = if number % 2 == 0 {
            "POST /up HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n".to_owned()
        } else {
            let begin = "x".repeat(1001);
            format!(
                "POST /up HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n{begin}\r\n"
            )
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        uploads.push(stream);
    }
    until("the service has all uploads", async || {
        stage.calls.get() == 10
    })
    .await;
    stage.may_end.send_replace(true);
    for _ in 0..5 {
        let answer = in_time(app.ask("POST /", &[])).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "0 bytes"));
    }
    // The uploads continue.
    let mut stream = BufReader::new(uploads.remove(0));
    stream.write_all(&[b'x'; 1001]).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn section_7_a_client_that_vanishes_during_its_upload_starts_nothing() {
    let (address, app, stage) = serve(memory().max_receiving(1)).await;
    stage.may_end.send_replace(true);
    let upload = || request_with("POST /", &[], Body::from("all at once"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nbegin";
    stream.write_all(request.as_bytes()).await.unwrap();
    // Until it disconnects, this upload takes the only place.
    until("the upload is received", async || {
        app.send(upload()).await.status == 503
    })
    .await;
    // A request without a body need not be received.
    assert_eq!(app.ask("POST /", &[]).await.status, 200);
    drop(stream);
    until("the place is free", async || {
        app.send(upload()).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn section_7_a_connection_that_breaks_before_the_reply_drops_the_work() {
    let (address, app, stage) = serve(memory().wait(SECOND * 600)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    in_time(stage.has_started.notified()).await;
    assert_eq!(stage.dropped.get(), 0);
    drop(stream);
    dropped(&stage).await;
    assert_eq!(app.operations.running(), 0);
}

#[tokio::test]
async fn section_7_a_connection_that_breaks_after_the_reply_changes_nothing() {
    let (address, app, stage) = serve(memory().wait(Duration::ZERO)).await;
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody")
        .await
        .unwrap();
    let head = head(&mut stream).await;
    drop(stream);
    let path = head
        .lines()
        .find_map(|line| line.strip_prefix("operation-location: "))
        .unwrap();
    in_time(stage.has_started.notified()).await;
    assert_eq!(stage.dropped.get(), 0);
    stage.may_end.send_replace(true);
    assert_eq!(in_time(app.ended(path)).await["status"], "Succeeded");
    assert_eq!(app.get(&format!("{path}/result")).await.body, "4 bytes");
}

// Contract: 5.2
#[tokio::test]
async fn section_5_events_arrive_over_a_connection_and_the_stream_closes() {
    let (address, app, stage) = serve(memory().wait(Duration::ZERO)).await;
    let path = app.start("POST /", &[]).await;
    in_time(stage.has_started.notified()).await;
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let request = format!("GET {path}/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.contains("text/event-stream"));
    let mut text = String::new();
    while !text.contains("\"progress\":50") {
        assert_ne!(
            in_time(stream.read_line(&mut text)).await.unwrap(),
            0,
            "{text}"
        );
    }
    assert!(!text.contains("event: done"));
    stage.may_end.send_replace(true);
    in_time(stream.read_to_string(&mut text)).await.unwrap();
    assert!(text.contains("event: done"), "{text}");
    assert!(text.contains("Succeeded"), "{text}");
}

// Contract: 3.7
#[tokio::test]
async fn section_3_a_result_to_be_read_once_outlives_a_broken_connection() {
    // More than the buffers of a connection hold.
    const BYTES: usize = 24 << 20;
    let layer = memory()
        .wait(Duration::ZERO)
        .result_once(true)
        .max_result_bytes(2 * BYTES)
        .max_stored_bytes(2 * BYTES);
    let gate = Arc::new(Notify::new());
    let behind = gate.clone();
    let app = App::new(layer, move |_: Request| {
        let gate = behind.clone();
        async move {
            gate.notified().await;
            vec![b'x'; BYTES]
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = app.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let path = app.start("POST /", &[]).await;
    gate.notify_one();
    in_time(app.ended(&path)).await;
    let result = format!("{path}/result");
    for _ in 0..3 {
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let request = format!("GET {result} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
        in_time(stream.read_exact(&mut [0; 1000])).await.unwrap();
    }
    assert_eq!(app.get(&result).await.body.len(), BYTES);
    until("the result is gone", async || {
        app.get(&result).await.status == 410
    })
    .await;
}

/// Sends a request without a body. Returns the status and the body of the response.
async fn exchange(stream: &mut BufReader<TcpStream>, line: &str, headers: &str) -> (u16, String) {
    let request = format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(stream).await.to_ascii_lowercase();
    let status: u16 = head["http/1.1 ".len()..][..3].parse().unwrap();
    let lengths: Vec<usize> = head
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .collect();
    assert!(lengths.len() <= 1, "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    let has_body = !line.starts_with("HEAD") && !matches!(status, 204 | 304);
    assert!(lengths.len() == 1 || !has_body, "{head}");
    let mut body = vec![0; if has_body { lengths[0] } else { 0 }];
    in_time(stream.read_exact(&mut body)).await.unwrap();
    (status, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn responses_have_lengths_for_all_methods_and_statuses() {
    let may_end = Arc::new(Semaphore::new(0));
    let ends = may_end.clone();
    let app = App::new(memory().wait(Duration::ZERO), move |request: Request| {
        let ends = ends.clone();
        async move {
            ends.acquire_owned().await.unwrap().forget();
            test_support::operation::work(request).await
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = app.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    for code in [200, 204, 205, 206, 301, 304, 404, 500] {
        let line = format!("POST /?code={code}");
        let (status, document) = exchange(&mut stream, &line, "").await;
        assert_eq!(status, 202);
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        let path = document["links"]["self"].as_str().unwrap().to_owned();
        let (status, body) = exchange(&mut stream, &format!("HEAD {path}"), "").await;
        assert_eq!((status, &*body), (200, ""));
        may_end.add_permits(1);
        in_time(app.ended(&path)).await;
        let result = format!("{path}/result");
        for (line, headers, expected) in [
            (format!("GET {path}"), "", 200),
            (format!("GET {path}"), "if-none-match: *\r\n", 304),
            (format!("HEAD {path}"), "if-none-match: *\r\n", 304),
            (format!("GET {path}"), "accept: text/html\r\n", 303),
            (format!("HEAD {path}/events"), "", 200),
            (format!("HEAD {result}"), "", code),
            (format!("GET {result}"), "range: bytes=0-1\r\n", code),
            (format!("POST {path}/cancel"), "", 409),
            (format!("PUT {path}"), "", 405),
            (format!("DELETE {path}"), "", 204),
            (format!("HEAD {path}"), "", 404),
            (format!("GET {path}"), "accept: text/html\r\n", 404),
        ] {
            let (status, body) = exchange(&mut stream, &line, headers).await;
            assert_eq!(status, expected, "{code} {line} {headers}");
            if line.starts_with("GET") && line.ends_with("result") && !matches!(code, 204 | 304) {
                assert_eq!(body, r#"{"answer":42}"#);
            }
        }
    }
}
