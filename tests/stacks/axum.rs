//! Extractors, layers, upgrades and error responses in an axum router.

use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use std::convert::Infallible;
use test_support::{Answer, Log, answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::trace::TraceLayer;
use tower_promises::operations::{OperationLayer, Operations, Progress};
use tower_promises::promise::MissingPromiseLayer;
use tower_promises::promise::{OnTimeout, Rejection, Start, SubmitError};
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises, ServiceBuilderExt};

async fn hello(Path(name): Path<String>, promises: Promises) -> Result<String, PromiseError> {
    let work = async move || format!("Hello, {name}!");
    promises.result_or_submit("greeting", work)
}

fn get_request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn ask(app: Router, request: Request<Body>) -> Answer {
    answer(app.oneshot(request).await.unwrap()).await
}

#[tokio::test]
async fn layer_and_route_layer() {
    let routes = || Router::new().route("/hello/{name}", get(hello));
    let layered = routes().layer(PromiseLayer::new());
    let route_layered = routes().route_layer(PromiseLayer::new());
    let built = routes().layer(
        ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CatchPanicLayer::new())
            .promises(),
    );
    let method_layered =
        Router::new().route("/hello/{name}", get(hello).layer(PromiseLayer::new()));
    let nested = Router::new().nest("/hello", Router::new().route("/{name}", get(hello)));
    for app in [
        layered,
        route_layered,
        built,
        method_layered,
        nested.layer(PromiseLayer::new()),
    ] {
        let answer = ask(app, get_request("/hello/Ferris")).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::OK, "Hello, Ferris!")
        );
    }
}

#[tokio::test]
async fn every_setting_fits_a_router() {
    let second = std::time::Duration::from_secs(1);
    let layer = PromiseLayer::new()
        .max_passes(3)
        .max_promises(3)
        .max_body_bytes(3)
        .start(Start::Eager)
        .promise_timeout(second)
        .timeout(second)
        .on_timeout(OnTimeout::FinalPass)
        .on_rejection(|rejection: Rejection| {
            Response::builder()
                .status(rejection.status())
                .body(Body::from("custom"))
                .unwrap()
        });
    let echo = async |promises: Promises, body: String| {
        let _ = promises.result_or_submit("x", async || ());
        body
    };
    let app = Router::new().route("/", post(echo)).layer(layer);
    let answer = ask(
        app.clone(),
        Request::post("/").body(Body::from("abc")).unwrap(),
    )
    .await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "abc"));
    let answer = ask(app, Request::post("/").body(Body::from("abcd")).unwrap()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (413, "custom")
    );
    assert!(answer.rejection.is_some());
}

#[tokio::test]
async fn a_missing_layer_is_a_500_and_the_log_names_it() {
    let log = Log::start();
    let app = Router::new().route("/hello/{name}", get(hello));
    let answer = ask(app, get_request("/hello/Ferris")).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.content_type, "application/problem+json");
    assert!(
        answer.body.contains("The server is misconfigured."),
        "{}",
        answer.body
    );
    assert!(!answer.body.contains("Promise"), "{}", answer.body);
    let log = log.text();
    assert!(
        log.contains("ERROR") && log.contains("`PromiseLayer`"),
        "{log}"
    );
}

#[tokio::test]
async fn the_handle_can_be_an_optional_extractor() {
    let handler = async |promises: Option<Promises>| promises.is_some().to_string();
    let handled = async |result: Result<Promises, MissingPromiseLayer>| result.is_ok().to_string();
    let app = Router::new()
        .route("/", get(handler))
        .route("/result", get(handled));
    for path in ["/", "/result"] {
        assert_eq!(ask(app.clone(), get_request(path)).await.body, "false");
        let app = app.clone().layer(PromiseLayer::new());
        assert_eq!(ask(app, get_request(path)).await.body, "true");
    }
}

#[tokio::test]
async fn an_error_is_logged_and_its_details_are_hidden_from_the_client() {
    let log = Log::start();
    let handler = async |promises: Promises| -> Result<String, PromiseError> {
        promises.result_or_try_submit("secret key", async || Err("secret error"))
    };
    let submit = async |promises: Promises| -> Result<String, SubmitError> {
        promises.publish();
        promises.submit("secret key", async { 1 })?;
        promises.submit("secret key", async { "two" })?;
        Ok(String::new())
    };
    let app = Router::new()
        .route("/", get(handler))
        .route("/submit", get(submit));
    let app = app.layer(PromiseLayer::new());
    for (path, status) in [("/", 500), ("/submit", 503)] {
        let answer = ask(app.clone(), get_request(path)).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.content_type, "application/problem+json");
        assert!(!answer.body.contains("secret"), "{}", answer.body);
    }
    let log = log.text();
    assert!(
        log.contains("secret key") && log.contains("secret error"),
        "{log}"
    );
}

#[tokio::test]
async fn a_pending_error_is_a_503_inside_the_layer() {
    async fn see(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
        let promises = request.extensions().get::<Promises>().unwrap().clone();
        let response = next.run(request).await;
        match promises.pass() {
            1 => assert_eq!(
                (response.status().as_u16(), promises.will_discard()),
                (503, true)
            ),
            _ => assert_eq!(
                (response.status().as_u16(), promises.will_discard()),
                (200, false)
            ),
        }
        response
    }
    let app = Router::new()
        .route("/hello/{name}", get(hello))
        .layer(axum::middleware::from_fn(see))
        .layer(PromiseLayer::new());
    assert_eq!(
        ask(app, get_request("/hello/Ferris")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn body_limits_answer_413_as_without_the_layer() {
    let echo = async |promises: Promises, body: String| {
        let _ = promises.result_or_submit("x", async || ()).or_pending(());
        body
    };
    let app = || Router::new().route("/", post(echo));
    let inside = app()
        .layer(DefaultBodyLimit::max(3))
        .layer(PromiseLayer::new());
    let outside = app()
        .layer(PromiseLayer::new())
        .layer(RequestBodyLimitLayer::new(3));
    for app in [inside, outside] {
        let chunks = futures_util::stream::iter(["ab", "cd"].map(Ok::<_, Infallible>));
        let request = Request::post("/").body(Body::from_stream(chunks)).unwrap();
        assert_eq!(
            ask(app.clone(), request).await.status,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        let request = Request::post("/").body(Body::from("abc")).unwrap();
        assert_eq!(ask(app, request).await.body, "abc");
    }
}

/// Sends an incomplete request, closes the sending half of the connection, and returns the body of the response.
async fn exchange_broken(app: Router, request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

#[tokio::test]
async fn the_error_of_a_broken_body_has_the_same_text_as_without_the_layer() {
    async fn raw(body: Body) -> String {
        match axum::body::to_bytes(body, 1024).await {
            Ok(_) => "read".to_owned(),
            Err(error) => error.to_string(),
        }
    }
    let app = Router::new()
        .route("/raw", post(raw))
        .route("/text", post(async |text: String| text))
        .route(
            "/json",
            post(async |json: axum::Json<u8>| json.0.to_string()),
        );
    async fn ask_for(promises: Promises, request: Request<Body>, next: Next) -> Response {
        let response = next.run(request).await;
        // Both passes read the error.
        match promises.result_or_submit("x", async || ()) {
            Ok(()) => response,
            Err(error) => error.into_response(),
        }
    }
    let one_pass = app.clone().layer(PromiseLayer::new());
    let two_passes = app
        .clone()
        .layer(from_fn(ask_for))
        .layer(PromiseLayer::new());
    let broken = [
        "content-length: 10\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nno length\r\nabc\r\n0\r\n\r\n",
    ];
    for path in ["/raw", "/text", "/json"] {
        for rest in broken {
            let request = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-type: application/json\r\n{rest}"
            );
            let without = exchange_broken(app.clone(), &request).await;
            assert!(
                without.contains("error reading a body from connection"),
                "{without}"
            );
            for app in [&one_pass, &two_passes] {
                assert_eq!(
                    exchange_broken(app.clone(), &request).await,
                    without,
                    "{request}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_panic_in_the_handler_reaches_the_layer_that_catches_it() {
    let handler = async || -> String { panic!("handler fell over") };
    let app = Router::new()
        .route("/", get(handler))
        .layer(PromiseLayer::new())
        .layer(CatchPanicLayer::new());
    assert_eq!(
        ask(app, get_request("/")).await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    assert!(Promises::current().is_none());
}

#[tokio::test]
async fn a_web_socket_upgrade_passes_through() {
    let handler = async |upgrade: WebSocketUpgrade, promises: Promises| {
        // Requested before the upgrade, because a discarded pass must not upgrade.
        let name: String = promises.result_or_submit("name", async || "Ferris".to_owned())?;
        Ok::<_, PromiseError>(upgrade.on_upgrade(async move |mut socket| {
            while let Some(Ok(Message::Text(text))) = socket.next().await {
                let echo = format!("{name}: {text}");
                socket.send(Message::Text(echo.into())).await.unwrap();
            }
        }))
    };
    let app = Router::new()
        .route("/", any(handler))
        .layer(PromiseLayer::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let url = format!("ws://{address}/");
    let (mut socket, response) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    for text in ["one", "two"] {
        socket
            .send(tokio_tungstenite::tungstenite::Message::text(text))
            .await
            .unwrap();
        let echo = socket.next().await.unwrap().unwrap();
        assert_eq!(
            echo.into_text().unwrap().as_str(),
            format!("Ferris: {text}")
        );
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn extensions_of_request_and_response_pass_through() {
    let handler = async |Extension(number): Extension<u32>, promises: Promises| {
        let _ = promises.result_or_submit("x", async || ());
        Extension(format!("{number} in pass {}", promises.pass()))
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(PromiseLayer::new());
    let response = app
        .layer(Extension(7_u32))
        .oneshot(get_request("/"))
        .await
        .unwrap();
    assert_eq!(
        response.extensions().get::<String>().unwrap(),
        "7 in pass 2"
    );
}

#[tokio::test]
async fn operations_and_progress_are_extracted() {
    async fn handler(operations: Operations, progress: Progress) -> String {
        format!("{} {}", operations.running(), progress.is_cancelled())
    }
    async fn without(operations: Option<Operations>, progress: Option<Progress>) -> String {
        format!("{} {}", operations.is_some(), progress.is_some())
    }
    let router = || {
        Router::new()
            .route("/", get(handler))
            .route("/without", get(without))
    };
    let layered = router().layer(OperationLayer::memory());
    let ask = async |router: Router, path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(
        ask(layered.clone(), "/").await,
        (StatusCode::OK, "0 false".into())
    );
    assert_eq!(
        ask(layered, "/without").await,
        (StatusCode::OK, "true true".into())
    );
    assert_eq!(
        ask(router(), "/without").await,
        (StatusCode::OK, "false false".into())
    );
    let (status, body) = ask(router(), "/").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("misconfigured"), "{body}");
}
