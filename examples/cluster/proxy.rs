//! A proxy that gives each request to the next instance.
//!
//! Where an instance closes the connection without an answer, as it does when it ends, the request goes to the next
//! instance, if that is safe: where nothing of the request was sent, or where the method is idempotent (RFC 9110,
//! section 9.2.2) and the body is small enough to be kept.

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

/// The largest body that is kept to be sent again.
const MAX_KEPT_BYTES: u64 = 64 * 1024;

/// How long an instance may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A request on its way to an instance.
struct Outgoing {
    next: Request<Body>,
    /// What the same request is made of once more.
    kept: Option<(Parts, Bytes)>,
}

impl Outgoing {
    /// Reads the body, if the request may be sent again.
    async fn new(request: Request<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = request.into_parts();
        // Of a body of unknown length the proxy keeps nothing.
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

/// Why there is no answer.
struct Failed {
    error: BoxError,
    /// The request, where sending it again is safe.
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
    // It ends with the response, or when the client goes away.
    tokio::spawn(connection);
    match sender.try_send_request(request).await {
        Ok(response) => Ok(response.map(BodyExt::boxed)),
        Err(mut error) => {
            // A request that comes back was not sent.
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
    /// The answer of the first instance that gives one. Each instance is asked at most once.
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

    /// All instances, beginning with the one whose turn it is.
    fn addresses_from_next(&self) -> impl Iterator<Item = &String> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len().max(1);
        let (before, from) = self.addresses.split_at(turn);
        from.iter().chain(before)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        Ok(self.forward(request).await.unwrap_or_else(|_| {
            let mut response = Response::new(full("no instance has answered\n".into()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            // So that a browser does not get stuck here.
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
                // The client has gone away.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    tokio::select! {
        ended = accept => ended,
        () = parent_gone() => Ok(()),
    }
}
