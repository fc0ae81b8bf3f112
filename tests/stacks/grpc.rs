//! A tonic server: unary calls in several passes, and unchanged streams.

use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower_promises::promise::Rejection;
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// Answers a check when a promise has settled.
struct PromisedHealth;

#[tonic::async_trait]
impl Health for PromisedHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let promises = request.extensions().get::<Promises>().unwrap().clone();
        let name = request.into_inner().service;
        let status: i32 = promises
            .result_or_try_submit(format!("status:{name}"), async move || {
                tokio::time::sleep(Duration::from_millis(1)).await;
                match name.as_str() {
                    "known" => Ok(ServingStatus::Serving as i32),
                    _ => Err("not in the registry"),
                }
            })
            .map_err(|error| match error {
                PromiseError::Failed { .. } => Status::not_found("unknown service"),
                error => Status::unavailable(error.to_string()),
            })?;
        let mut response = Response::new(HealthCheckResponse { status });
        let passes = promises.pass().to_string().parse().unwrap();
        response.metadata_mut().insert("passes", passes);
        Ok(response)
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let promises = request.extensions().get::<Promises>().unwrap();
        // The name differs in every pass, so no pass is the last.
        let _ = promises.submit(format!("{}", promises.pass()), async {});
        Err(Status::unavailable("pending"))
    }
}

async fn connect() -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Rejections become gRPC statuses.
    let layer = PromiseLayer::new().on_rejection(|rejection: Rejection| {
        let status = match rejection {
            Rejection::BodyTooLarge { .. } => Status::resource_exhausted("message too large"),
            Rejection::TimedOut { .. } => Status::deadline_exceeded("took too long"),
            _ => Status::internal("could not be completed"),
        };
        status.into_http::<tonic::body::Body>()
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    tokio::spawn(
        Server::builder()
            .layer(layer)
            .add_service(HealthServer::new(PromisedHealth))
            .add_service(reflection)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let connector = tower::service_fn(move |_: Uri| async move {
        TcpStream::connect(address).await.map(TokioIo::new)
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.unwrap()
}

#[tokio::test]
async fn a_unary_call_in_two_passes() {
    let mut client = HealthClient::new(connect().await);
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let response = client.check(request("known")).await.unwrap();
    assert_eq!(response.metadata().get("passes").unwrap(), "2");
    assert_eq!(response.into_inner().status(), ServingStatus::Serving);

    let status = client.check(request("unknown")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "unknown service")
    );
}

#[tokio::test]
async fn a_rejection_is_a_status() {
    let mut client = HealthClient::new(connect().await);
    let status = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "could not be completed")
    );
}

#[tokio::test]
async fn a_bidirectional_stream_passes_through() {
    let mut client = ServerReflectionClient::new(connect().await);
    let (sender, receiver) = mpsc::channel(1);
    let responses = client
        .server_reflection_info(ReceiverStream::new(receiver))
        .await;
    let mut responses = responses.unwrap().into_inner();
    // Each message is answered while the stream of requests is still open.
    for _ in 0..3 {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        sender.send(request).await.unwrap();
        let response = responses.next().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = response.message_response else {
            panic!("{response:?}");
        };
        assert!(
            list.service
                .iter()
                .any(|service| service.name == "grpc.health.v1.Health")
        );
    }
    drop(sender);
    assert!(responses.next().await.is_none());
    // The status is in the trailers. A stream that ends without trailers would be an error.
    assert!(responses.trailers().await.unwrap().is_some());
}
