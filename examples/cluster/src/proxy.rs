//! A proxy that distributes requests over the instances in turn.
//!
//! If an instance closes the connection without an answer, as it does when it ends, the request is sent to the next
//! instance if that is safe: if no part of the request was sent, or if the method is idempotent (RFC 9110, section
//! 9.2.2) and the body is small enough to be kept.

use crate::parent_gone;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower_promises::BoxError;

type Body = BoxBody<Bytes, hyper::Error>;

/// The largest body that is kept for another attempt.
const MAX_KEPT_BYTES: u64 = 64 * 1024;

/// The timeout for connecting to an instance.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A request that is sent to an instance.
struct Outgoing {
    next: Request<Body>,
    /// The parts for sending the same request again.
    kept: Option<(Parts, Bytes)>,
}

impl Outgoing {
    /// Reads the body if the request can be sent again.
    async fn new(request: Request<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = request.into_parts();
        // A body of unknown length is not kept.
        let is_small = body
            .size_hint()
            .upper()
            .is_some_and(|size| size <= MAX_KEPT_BYTES);
        if !parts.method.is_idempotent() || !is_small {
            return Ok(Self {
                next: Request::from_parts(parts, body.boxed()),
                kept: None,
            });
        }
        let bytes = body.collect().await?.to_bytes();
        Ok(Self {
            next: request_of(&parts, &bytes),
            kept: Some((parts, bytes)),
        })
    }
}

fn request_of(parts: &Parts, bytes: &Bytes) -> Request<Body> {
    Request::from_parts(parts.clone(), full(bytes.clone()))
}

fn full(bytes: Bytes) -> Body {
    Full::from(bytes).map_err(|never| match never {}).boxed()
}

/// Error of sending a request.
struct Failed {
    error: BoxError,
    /// The request, if sending it again is safe.
    again: Option<Request<Body>>,
}

/// Sends a request on a connection of its own.
async fn send(
    address: &str,
    request: Request<Body>,
    kept: Option<&(Parts, Bytes)>,
) -> Result<Response<Body>, Failed> {
    let connected = async {
        let stream = timeout(CONNECT_TIME, TcpStream::connect(address)).await??;
        let connected = http1::handshake(TokioIo::new(stream)).await?;
        Ok::<_, BoxError>(connected)
    };
    let (mut sender, connection) = match connected.await {
        Ok(connected) => connected,
        Err(error) => {
            let again = Some(request);
            return Err(Failed { error, again });
        }
    };
    // Ends with the response, or when the client disconnects.
    tokio::spawn(connection);
    match sender.try_send_request(request).await {
        Ok(response) => Ok(response.map(BodyExt::boxed)),
        Err(mut error) => {
            // hyper only returns requests that were not sent.
            let unsent = error.take_message();
            let again = unsent.or_else(|| kept.map(|(parts, bytes)| request_of(parts, bytes)));
            let error = error.into_error().into();
            Err(Failed { error, again })
        }
    }
}

struct Instances {
    addresses: Vec<String>,
    next: AtomicUsize,
}

impl Instances {
    /// Returns the first answer. Each instance is tried at most once.
    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let Outgoing { mut next, kept } = Outgoing::new(request).await?;
        let mut last = BoxError::from("there are no instances");
        for address in self.addresses_from_next() {
            let Failed { error, again } = match send(address, next, kept.as_ref()).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            log!("proxy: no answer from {address}: {error}");
            last = error;
            let Some(again) = again else { break };
            next = again;
        }
        Err(last)
    }

    /// Returns all instances, starting with the next in turn.
    fn addresses_from_next(&self) -> impl Iterator<Item = &String> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len().max(1);
        let (before, from) = self.addresses.split_at(turn);
        from.iter().chain(before)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        Ok(self.forward(request).await.unwrap_or_else(|_| {
            let mut response = Response::new(full("no instance has answered\n".into()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            // Without the refresh, a browser would stay on the error page.
            let home = HeaderValue::from_static("2; url=/");
            response.headers_mut().insert(header::REFRESH, home);
            response
        }))
    }
}

pub(crate) async fn run(addresses: Vec<String>) -> Result<(), BoxError> {
    let instances = Arc::new(Instances {
        addresses,
        next: AtomicUsize::new(0),
    });
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    println!("listening on {}", listener.local_addr()?);
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await?;
            let instances = instances.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let instances = instances.clone();
                    async move { instances.answer(request).await }
                });
                let server = hyper::server::conn::http1::Builder::new();
                // Fails if the client has disconnected.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    tokio::select! {
        ended = accept => ended,
        () = parent_gone() => Ok(()),
    }
}
