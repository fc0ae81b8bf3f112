//! A proxy that gives each request to the next instance, and to another one if that does not answer.

use crate::parent_gone;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tower_promises::BoxError;

type Body = BoxBody<Bytes, hyper::Error>;

struct Instances {
    addresses: Vec<String>,
    next: AtomicUsize,
}

impl Instances {
    /// Connects to the next instance that is there.
    async fn connect(&self) -> Result<TcpStream, BoxError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for turn in 0..self.addresses.len() {
            let address = &self.addresses[(next + turn) % self.addresses.len()];
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or("there are no instances".into(), BoxError::from))
    }

    /// A request that an instance has seen is not sent again: it may not be safe to do so.
    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        // It ends with the response, or when the client goes away.
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?.map(BodyExt::boxed))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        Ok(self.forward(request).await.unwrap_or_else(|error| {
            let text = Full::from(format!("no instance has answered: {error}\n"));
            let mut response = Response::new(text.map_err(|never| match never {}).boxed());
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
