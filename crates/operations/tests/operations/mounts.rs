//! Operations, section 7 of their contract: clients get addresses only if the layer is mounted so that the addresses
//! reach it.

use axum::Router;
use axum::body::Body;
use axum::routing::{any, get, post};
use futures_util::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use test_support::Log;
use test_support::operation::{App, SECOND, memory, work};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tower::{Layer, ServiceBuilder};
use tower_promises_operations::OperationLayer;
use tower_promises_operations::OperationRequestBody;

const ROUTES: &str = "/.operations/{*rest}";

fn working() -> Router {
    Router::new()
        .route("/work", post(work))
        .route("/other", get(async || "other").post(work))
}

fn other() -> Router {
    Router::new().route("/elsewhere", get(async || "elsewhere"))
}

fn app(layer: &OperationLayer, router: Router) -> App {
    App {
        operations: layer.operations(),
        router,
    }
}

fn line(name: &str) -> &'static str {
    if name.contains("nest") {
        "POST /api/work?ms=9000"
    } else {
        "POST /work?ms=9000"
    }
}

/// Sends the first request of a process, and checks that all addresses in the answer work.
async fn check_right(name: &str, mount: impl Fn(OperationLayer) -> Router) {
    // Once like `axum::serve`, and once with an `Operations` handle.
    let layer = memory();
    let served = app(&layer, mount(layer.clone()).with_state(()));
    assert_eq!(served.ask(line(name), &[]).await.status, 202, "{name}");

    let layer = memory();
    let operations = layer.operations();
    let router = mount(layer);
    let app = App { operations, router };
    let answer = app.ask(line(name), &[]).await;
    assert_eq!(answer.status, 202, "{name}");
    let path = answer.header("operation-location");
    assert_eq!(app.ended(path).await["status"], "Succeeded", "{name}");
    let result = app.get(answer.header("location")).await;
    assert_eq!(result.body, r#"{"answer":42}"#, "{name}");
    let events = app.get(&format!("{path}/events")).await;
    assert!(events.body.contains("event: done"), "{name}");
    let browser = [("accept", "text/html")];
    let page = app.ask(&format!("GET {path}"), &browser).await;
    assert_eq!(page.status, 303, "{name}");
    let removed = app.ask(&format!("DELETE {path}"), &[]).await;
    assert_eq!(removed.status, 204, "{name}");
    let router = app.router.clone();
    let checked = app.operations.check_mount::<_, Body>(router).await;
    assert_eq!(checked, Ok(()), "{name}");
}

// Contract: 7.17
#[tokio::test(start_paused = true)]
async fn section_7_right_mounts_have_operations_from_the_first_request_on() {
    let plain = |layer: OperationLayer| working().layer(layer);
    check_right("layer", plain).await;
    check_right("layer in a builder", |layer| {
        working().layer(ServiceBuilder::new().layer(layer))
    })
    .await;
    check_right("layer after a fallback service", |layer| {
        working().fallback_service(other()).layer(layer)
    })
    .await;
    check_right("layer around a nest", |layer| {
        other().nest("/api", working()).layer(layer)
    })
    .await;
    check_right("layer around a service", |layer| {
        let service = tower::service_fn(async |request| Ok::<_, Infallible>(work(request).await));
        Router::new().route_service("/work", service).layer(layer)
    })
    .await;
    check_right("layer around a fallback alone", |layer| {
        Router::new().fallback(work).layer(layer)
    })
    .await;
    check_right("layer after a fallback", |layer| {
        working().fallback(async || "nothing").layer(layer)
    })
    .await;
    check_right("layer after a merge", |layer| {
        working()
            .merge(other().fallback(async || "nothing"))
            .layer(layer)
    })
    .await;
    check_right("merged into another", |layer| {
        other().merge(working().layer(layer))
    })
    .await;
    check_right("around a router", |layer| {
        let service = ServiceBuilder::new()
            .layer(layer)
            .map_request(|request: http::Request<OperationRequestBody<Body>>| {
                request.map(Body::new)
            })
            .service(working());
        Router::new().fallback_service(service)
    })
    .await;
    check_right("routes beside route_layer", |layer| {
        working()
            .route_layer(layer.clone())
            .route_service(ROUTES, layer.routes())
    })
    .await;
    check_right("routes beside a method router", |layer| {
        let route = post(work).layer(layer.clone());
        let router = Router::new().route("/work", route);
        router.nest_service("/.operations", layer.routes())
    })
    .await;
    check_right("routes beside a handler", |layer| {
        use axum::handler::Handler;
        let router = Router::new().route("/work", any(work.layer(layer.clone())));
        router.route_service(ROUTES, layer.routes())
    })
    .await;
    check_right("routes before a fallback", |layer| {
        working()
            .layer(layer.clone())
            .merge(other().fallback(async || "nothing"))
            .route_service(ROUTES, layer.routes())
    })
    .await;
    check_right("routes beside a nest", |layer| {
        other()
            .nest("/api", working().layer(layer.clone()))
            .route_service(ROUTES, layer.routes())
    })
    .await;
}

/// Checks a mount like an application that starts.
async fn check_wrong(name: &str, mount: impl Fn(OperationLayer) -> Router) {
    let layer = memory().idempotency_keys(true);
    let app = app(&layer, mount(layer.clone()));
    let log = Log::start();
    let checked = app.operations.check_mount::<_, Body>(app.router.clone());
    let error = checked.await.expect_err(name).to_string();
    for word in [
        "/.operations/{id}",
        "Router::layer",
        "OperationLayer::routes",
    ] {
        assert!(error.contains(word), "{error}");
    }
    assert!(log.text().contains("ERROR"), "{}", log.text());
    assert!(log.text().contains(&error), "{}", log.text());
    let log = Log::start();
    for headers in [
        &[] as &[_],
        &[("prefer", "respond-async")],
        &[("accept", "text/html")],
        &[("idempotency-key", "k")],
    ] {
        let answer = app.ask(line(name), headers).await;
        let body = (answer.status.as_u16(), &*answer.body);
        assert_eq!(body, (200, r#"{"answer":42}"#), "{name}");
        assert_eq!(answer.header("vary"), "Prefer, Accept");
    }
    // The check has already logged the error.
    assert!(!log.text().contains("ERROR"), "{}", log.text());
    // A later check of a correct mount enables operations.
    let service = layer.routes();
    let checked = app.operations.check_mount::<_, Body>(service);
    checked.await.unwrap();
    assert_eq!(app.ask(line(name), &[]).await.status, 202, "{name}");
}

// Contract: 7.17
#[tokio::test(start_paused = true)]
async fn section_7_a_wrong_mount_is_logged_and_requests_stay_on_their_connection() {
    for (name, mount) in WRONG_MOUNTS {
        check_wrong(name, mount).await;
    }
}

type Mount = fn(OperationLayer) -> Router;

const WRONG_MOUNTS: [(&str, Mount); 6] = [
    ("route_layer", |layer| working().route_layer(layer)),
    ("a method router", |layer| {
        Router::new().route("/work", post(work).layer(layer))
    }),
    ("a fallback afterwards", |layer| {
        working().layer(layer).fallback(async || "nothing")
    }),
    ("a fallback service afterwards", |layer| {
        working().layer(layer).fallback_service(other())
    }),
    ("a merge afterwards", |layer| {
        working().layer(layer).merge(other())
    }),
    ("a nest", |layer| {
        other().nest("/api", working().layer(layer))
    }),
];

#[tokio::test(start_paused = true)]
async fn section_7_requests_of_clients_do_not_make_a_mount_right() {
    let layer = memory();
    let wrong = other().nest(
        "/api",
        working().fallback(async || "nothing").layer(layer.clone()),
    );
    let wrong = app(&layer, wrong);
    let checked = wrong
        .operations
        .check_mount::<_, Body>(wrong.router.clone());
    assert!(checked.await.is_err());
    for path in ["/api/.operations/unknown", "/.operations/unknown"] {
        assert_eq!(wrong.get(path).await.status, 404);
        let answer = wrong.ask("POST /api/work?ms=9000", &[]).await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_check_ends_although_nothing_answers() {
    let layer = memory();
    let silent = working()
        .route_layer(layer.clone())
        .fallback(std::future::pending::<()>);
    let never_ready = tower::limit::ConcurrencyLimit::new(working().layer(layer.clone()), 0);
    let start = tokio::time::Instant::now();
    let operations = layer.operations();
    assert!(operations.check_mount::<_, Body>(silent).await.is_err());
    assert_eq!(start.elapsed(), SECOND * 10);
    assert!(
        operations
            .check_mount::<_, Body>(never_ready)
            .await
            .is_err()
    );
    assert_eq!(start.elapsed(), SECOND * 20);
    // A slow answer counts as an answer.
    let slow = tower::ServiceBuilder::new()
        .map_future(|answer| async move {
            tokio::time::sleep(SECOND * 9).await;
            answer.await
        })
        .service(working().layer(layer));
    assert_eq!(operations.check_mount::<_, Body>(slow).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn section_7_addresses_that_are_never_requested_are_reported() {
    let layer = memory();
    let wrong = app(&layer, working().route_layer(layer.clone()));
    let log = Log::start();
    for _ in 0..10 {
        assert_eq!(wrong.ask("POST /work?ms=9000", &[]).await.status, 202);
    }
    assert!(!log.text().contains("ERROR"), "{}", log.text());
    // Clients may come back later, so this is not suspicious yet.
    tokio::time::sleep(SECOND * 60).await;
    for _ in 0..10 {
        assert_eq!(wrong.ask("POST /work?ms=9000", &[]).await.status, 202);
    }
    assert_eq!(log.text().matches("ERROR").count(), 1, "{}", log.text());
    assert!(
        log.text().contains("OperationLayer::routes"),
        "{}",
        log.text()
    );

    let layer = memory();
    let right = app(&layer, working().layer(layer.clone()));
    let log = Log::start();
    right.get("/.operations/unknown").await;
    for _ in 0..12 {
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(right.ask("POST /work?ms=9000", &[]).await.status, 202);
    }
    assert!(!log.text().contains("ERROR"), "{}", log.text());
}

#[tokio::test]
async fn section_7_a_plain_hyper_server_has_operations_from_the_first_request_on() {
    let layer = memory().wait(SECOND / 100);
    let service = layer.layer(tower::service_fn(
        async |request: http::Request<OperationRequestBody<hyper::body::Incoming>>| {
            Ok::<_, Infallible>(work(request.map(Body::new)).await)
        },
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(
                hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .into_owned(),
            );
        }
    });
    let client = reqwest::Client::new();
    let work = format!("http://{address}/work?ms=600000");
    let answer = client.post(work).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let path = answer.headers()["operation-location"].to_str().unwrap();
    let own = format!("http://{address}{path}");
    assert_eq!(client.get(&own).send().await.unwrap().status(), 200);
    assert_eq!(client.delete(&own).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_tonic_server_inside_keeps_its_streams_and_has_the_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .accept_http1(true)
            .layer(memory().wait(SECOND / 100))
            .add_service(reflection)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let connector = tower::service_fn(move |_: http::Uri| async move {
        TcpStream::connect(address).await.map(TokioIo::new)
    });
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = ServerReflectionClient::new(channel);
    let responses = client.server_reflection_info(ReceiverStream::new(receiver));
    let mut responses = responses.await.unwrap().into_inner();
    // Each message is answered while the request stream is still open.
    for _ in 0..3 {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        sender.send(request).await.unwrap();
        assert!(
            responses
                .next()
                .await
                .unwrap()
                .unwrap()
                .message_response
                .is_some()
        );
    }
    drop(sender);
    assert!(responses.next().await.is_none());
    let unknown = format!("http://{address}/.operations/unknown");
    let unknown = reqwest::get(unknown).await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert_eq!(
        unknown.headers()["content-type"],
        "application/problem+json"
    );
}
