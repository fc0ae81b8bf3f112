//! The layers of this crate combined with those of tower-http in a `ServiceBuilder`, inside and outside of them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_http::normalize_path::NormalizePathLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;
use tower_promises::backend::Backend;
use tower_promises::body::ReplayBody;
use tower_promises::observe::ServerTimingLayer;
use tower_promises::operations::OperationLayer;
use tower_promises::promise::Rejection;
use tower_promises::promise::{EmptyResponseForRejection, ResponseForRejection};
use tower_promises::tasks::{TaskLayer, Tasks};
use tower_promises::{BoxError, PromiseLayer, Promises};

const MINUTE: Duration = Duration::from_secs(60);

/// The layers that many applications use.
macro_rules! usual_layers {
    ($builder:expr) => {
        $builder
            .layer(SetSensitiveHeadersLayer::new([http::header::AUTHORIZATION]))
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(TraceLayer::new_for_http())
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(ResponseBodyTimeoutLayer::new(MINUTE))
            // These layers have body types of their own, which hide the types of the inner layers.
            .layer(CatchPanicLayer::new())
            .layer(RequestDecompressionLayer::new())
            .layer(RequestBodyLimitLayer::new(1024))
            // These layers need a body that is `Default`.
            .layer(CorsLayer::permissive())
            .layer(TimeoutLayer::with_status_code(
                StatusCode::REQUEST_TIMEOUT,
                MINUTE,
            ))
            .layer(RequestBodyTimeoutLayer::new(MINUTE))
            .layer(SetResponseHeaderLayer::overriding(
                HeaderName::from_static("x-powered-by"),
                HeaderValue::from_static("promises"),
            ))
            .layer(CompressionLayer::new())
            .layer(NormalizePathLayer::trim_trailing_slash())
    };
}

/// Responds with the request body. If the promise layer is present, waits for a promise first.
async fn echo<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Error: Into<BoxError>>,
{
    let promises = request.extensions().get::<Promises>().cloned();
    let mut response = match request.into_body().collect().await {
        Ok(body) => Response::new(Full::from(body.to_bytes())),
        Err(error) => {
            let error: BoxError = error.into();
            Response::new(Full::from(error.to_string()))
        }
    };
    let kept = promises.is_none_or(|promises| promises.result_or_submit("x", async || ()).is_ok());
    if !kept {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

async fn check<S, R>(service: S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: std::fmt::Debug>,
    R: Body<Error: std::fmt::Debug>,
{
    let request = Request::post("/echo/").body(Full::from("hello")).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-powered-by"], "promises");
    assert_eq!(test_support::text(response.into_body()).await, "hello");
}

fn server_timing() -> ServerTimingLayer<fn(&http::request::Parts) -> bool> {
    ServerTimingLayer::new(|_| true)
}

fn tasks() -> TaskLayer {
    TaskLayer::new(Tasks::builder(Backend::memory()).build())
}

#[tokio::test]
async fn promises_inside() {
    let builder = usual_layers!(ServiceBuilder::new()).layer(PromiseLayer::new());
    check(builder.service(service_fn(echo))).await;
}

#[tokio::test]
async fn promises_outside() {
    let builder = ServiceBuilder::new()
        .layer(PromiseLayer::new())
        .layer(MapResponseBodyLayer::new(axum::body::Body::new));
    check(usual_layers!(builder).service(service_fn(echo))).await;
}

#[tokio::test]
async fn operations_inside() {
    let builder = usual_layers!(ServiceBuilder::new()).layer(OperationLayer::memory());
    check(builder.service(service_fn(echo))).await;
}

#[tokio::test]
async fn operations_outside() {
    let builder = usual_layers!(ServiceBuilder::new().layer(OperationLayer::memory()));
    check(builder.service(service_fn(echo))).await;
}

#[tokio::test]
async fn all_layers_of_the_crate_inside() {
    let builder = usual_layers!(ServiceBuilder::new())
        .layer(OperationLayer::memory())
        .layer(tasks())
        .layer(server_timing())
        .layer(PromiseLayer::new());
    check(builder.service(service_fn(echo))).await;
}

#[tokio::test]
async fn all_layers_of_the_crate_outside() {
    let builder = ServiceBuilder::new()
        .layer(OperationLayer::memory())
        .layer(tasks())
        .layer(server_timing())
        .layer(PromiseLayer::new())
        .layer(MapResponseBodyLayer::new(axum::body::Body::new));
    check(usual_layers!(builder).service(service_fn(echo))).await;
}

/// The body type of many hyper services.
type Boxed = BoxBody<Bytes, Box<dyn Error + Send + Sync>>;

async fn boxed<B>(request: Request<B>) -> Result<Response<Boxed>, Infallible> {
    let promises = test_support::promises(&request);
    let text = promises.result_or_submit("x", async || "kept");
    let text = text.unwrap_or("pending");
    let body = Full::from(text).map_err(|never| match never {});
    Ok(Response::new(body.boxed()))
}

/// Serves one connection in a spawned task, as hyper servers do, and returns the body that a client gets.
macro_rules! ask_server {
    ($service:expr) => {{
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TowerToHyperService::new($service);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let server = auto::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(stream), service).await
        });
        let response = reqwest::get(format!("http://{address}/")).await.unwrap();
        response.text().await.unwrap()
    }};
}

#[derive(Clone)]
struct Teapot;

impl<B: Default> ResponseForRejection<B> for Teapot {
    fn response_for_rejection(&self, _: Rejection) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    }
}

#[tokio::test]
async fn a_boxed_body_error_on_a_spawned_connection() {
    let empty = PromiseLayer::new().on_rejection(EmptyResponseForRejection);
    let own = PromiseLayer::new().on_rejection(Teapot);
    let inner = || service_fn(boxed::<ReplayBody<Incoming>>);
    assert_eq!(
        ask_server!(ServiceBuilder::new().layer(empty).service(inner())),
        "kept"
    );
    assert_eq!(
        ask_server!(ServiceBuilder::new().layer(own.clone()).service(inner())),
        "kept"
    );
    let operations = ServiceBuilder::new()
        .layer(OperationLayer::memory())
        .layer(own);
    assert_eq!(ask_server!(operations.service(service_fn(boxed))), "kept");
}
