//! Requests and responses over real sockets, without axum.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use test_support::{Counter, NoRejection, promises};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::{Layer, Service, service_fn};
use tower_promises::body::ReplayBody;
use tower_promises::{BoxError, PromiseLayer};

type ServerRequest = Request<ReplayBody<Incoming>>;

/// Serves HTTP/1 and HTTP/2 on a free port of loopback.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// Waits with a timeout, so that a test fails instead of hanging.
async fn soon<F: Future>(future: F) -> F::Output {
    let waited = tokio::time::timeout(Duration::from_secs(120), future).await;
    waited.expect("the future resolves in time")
}

/// Sends raw bytes and reads until the server closes the connection.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon(stream.read_to_string(&mut response)).await.unwrap();
    response
}

/// Reads until the received text contains `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut buffer = [0; 1024];
        let length = soon(stream.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "the connection was closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

#[tokio::test]
async fn a_hyper_server_without_axum() {
    let address = serve(
        PromiseLayer::new().layer(service_fn(async |request: ServerRequest| {
            let promises = promises(&request);
            let name = request.uri().path()[1..].to_owned();
            let greeting = promises.result_or_submit("greeting", async move || {
                tokio::time::sleep(Duration::from_millis(1)).await;
                format!("Hello, {name}!")
            })?;
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(greeting)))
        })),
    )
    .await;
    let body = reqwest::get(format!("http://{address}/Ferris"))
        .await
        .unwrap();
    assert_eq!(body.text().await.unwrap(), "Hello, Ferris!");
}

#[tokio::test]
async fn a_service_that_is_not_sync_works() {
    #[derive(Clone)]
    struct NotSync(Cell<u32>);

    impl Service<ServerRequest> for NotSync {
        type Response = Response<Full<Bytes>>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Self::Response, BoxError>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), BoxError>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: ServerRequest) -> Self::Future {
            self.0.set(self.0.get() + 1);
            let calls = self.0.get();
            let read = promises(&request).result_or_submit("x", async || 1);
            std::future::ready(match read {
                Ok(x) => Ok(Response::new(Full::from(format!(
                    "{x} after {calls} calls"
                )))),
                Err(error) => Err(error.into()),
            })
        }
    }

    let address = serve(PromiseLayer::new().layer(NotSync(Cell::new(0)))).await;
    let response = reqwest::get(format!("http://{address}/")).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "1 after 2 calls");
}

#[tokio::test]
async fn when_the_client_disconnects_everything_is_dropped() {
    for path in ["/promise", "/pass", "/resolve"] {
        let (started_sender, mut started) = mpsc::unbounded_channel();
        let (dropped_sender, mut dropped) = mpsc::unbounded_channel();
        let handler = service_fn(move |request: ServerRequest| {
            let promises = promises(&request);
            let guard = |name| SendOnDrop(name, dropped_sender.clone());
            let pass = guard("pass");
            let (a, b) = (guard("a"), guard("b"));
            let undo_guard = guard("undone");
            let undo = dropped_sender.clone();
            let started = started_sender.clone();
            async move {
                let _pass = pass;
                promises.on_discard(move || {
                    let _ = undo.send("undo");
                    drop(undo_guard);
                });
                let waiting = move |guard: SendOnDrop| {
                    let started = started.clone();
                    async move {
                        let _guard = guard;
                        let _ = started.send(());
                        std::future::pending::<()>().await;
                    }
                };
                match request.uri().path() {
                    "/promise" => {
                        promises.submit("a", waiting(a))?;
                        promises.submit("b", waiting(b))?;
                    }
                    "/pass" => {
                        promises.submit("a", async move { drop(a) })?;
                        waiting(b).await;
                    }
                    _ => {
                        drop(a);
                        promises.resolve("b", || waiting(b)).await?;
                    }
                }
                Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
            }
        });
        let address = serve(PromiseLayer::new().layer(handler)).await;

        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let promises = if path == "/promise" { 2 } else { 1 };
        for _ in 0..promises {
            soon(started.recv()).await.unwrap();
        }
        drop(stream);
        let mut names = Vec::new();
        for _ in 0..5 {
            names.push(soon(dropped.recv()).await.unwrap());
        }
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "pass", "undo", "undone"], "{path}");
    }
}

struct SendOnDrop(&'static str, mpsc::UnboundedSender<&'static str>);

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

#[tokio::test]
async fn expect_100_continue() {
    let address = serve(
        PromiseLayer::new().layer(service_fn(async |request: ServerRequest| {
            let promises = promises(&request);
            let allowed: bool = promises.result_or_submit("allowed", {
                let allowed = request.uri().path() == "/allowed";
                async move || allowed
            })?;
            if !allowed {
                return Ok(Response::builder()
                    .status(403)
                    .body(Full::<Bytes>::default())?);
            }
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body)))
        })),
    )
    .await;

    let head = "HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("POST /allowed {head}").as_bytes())
        .await
        .unwrap();
    let interim = read_until(&mut stream, "\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 Continue"), "{interim}");
    stream.write_all(b"hello").await.unwrap();
    let response = read_until(&mut stream, "hello").await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");

    // If the server does not read the body, the client does not send it.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("POST /forbidden {head}").as_bytes())
        .await
        .unwrap();
    let response = read_until(&mut stream, "\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 403 Forbidden"), "{response}");
}

#[tokio::test]
async fn head_and_content_length() {
    let address = serve(
        PromiseLayer::new().layer(service_fn(async |request: ServerRequest| {
            if request.uri().path() == "/promise" {
                promises(&request).result_or_submit("x", async || ())?;
            }
            assert_eq!(request.body().size_hint().exact(), Some(0));
            assert!(request.body().is_end_stream());
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("hello")))
        })),
    )
    .await;
    for path in ["/", "/promise"] {
        let request =
            format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let response = exchange(address, &request).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("content-length: 5\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n"), "{response}");
    }
}

#[tokio::test]
async fn content_length_and_trailers_of_a_request() {
    let address = serve(
        PromiseLayer::new().layer(service_fn(async |request: ServerRequest| {
            let promises = promises(&request);
            let hint = request.body().size_hint().exact();
            let body = request.into_body().collect().await?;
            promises.result_or_submit("x", async || ())?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            let text = format!("{hint:?} {:?} {trailers:?}", body.to_bytes());
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(text)))
        })),
    )
    .await;
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let response = exchange(address, &format!("{head}content-length: 5\r\n\r\nhello")).await;
    assert!(response.ends_with("Some(5) b\"hello\" {}"), "{response}");
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\ntrailer: checksum\r\n\r\n\
         3\r\nhel\r\n2\r\nlo\r\n0\r\nchecksum: abc\r\n\r\n"
    );
    let response = exchange(address, &chunked).await;
    // The length was unknown until the first pass had read the body.
    assert!(
        response.ends_with("Some(5) b\"hello\" {\"checksum\": \"abc\"}"),
        "{response}"
    );
}

#[tokio::test]
async fn trailers_of_a_response() {
    let layer = PromiseLayer::new().on_rejection(NoRejection);
    let address = serve(layer.layer(service_fn(async |request: ServerRequest| {
        promises(&request).result_or_submit("x", async || ())?;
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("abc"));
        let frames = [Frame::data(Bytes::from("hello")), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert("trailer", HeaderValue::from_static("checksum"));
        Ok::<_, BoxError>(response)
    })))
    .await;
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\nte: trailers\r\nconnection: close\r\n\r\n";
    let response = exchange(address, request).await;
    assert!(
        response.ends_with("5\r\nhello\r\n0\r\nchecksum: abc\r\n\r\n"),
        "{response}"
    );
}

#[tokio::test]
async fn a_request_body_streams_in_both_directions() {
    let address = serve(
        PromiseLayer::new()
            .on_rejection(NoRejection)
            .layer(service_fn(async |request: ServerRequest| {
                promises(&request).result_or_submit("x", async || ())?;
                Ok::<_, BoxError>(Response::new(request.into_body()))
            })),
    )
    .await;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = reqwest::Client::new()
        .request(Method::POST, format!("http://{address}/"))
        .body(reqwest::Body::wrap_stream(receiver));
    let response = soon(request.send()).await.unwrap();
    let mut echo = response.bytes_stream();
    for message in ["one", "two", "three"] {
        sender.send(Ok(Bytes::from(message))).await.unwrap();
        assert_eq!(soon(echo.next()).await.unwrap().unwrap(), message);
    }
    drop(sender);
    assert!(soon(echo.next()).await.is_none());
}

#[tokio::test]
async fn a_slow_client_does_not_delay_others() {
    let arrived = Counter::default();
    let counter = arrived.clone();
    let address = serve(
        PromiseLayer::new().layer(service_fn(move |request: ServerRequest| {
            let arrived = counter.clone();
            async move {
                arrived.add();
                let body = request.into_body().collect().await?.to_bytes();
                Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body)))
            }
        })),
    )
    .await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhe")
        .await
        .unwrap();
    let client = reqwest::Client::new();
    for _ in 0..10 {
        let request = client.post(format!("http://{address}/")).body("quick");
        assert_eq!(
            soon(request.send()).await.unwrap().text().await.unwrap(),
            "quick"
        );
    }
    slow.write_all(b"llo").await.unwrap();
    read_until(&mut slow, "hello").await;
    assert_eq!(arrived.get(), 11);
}
