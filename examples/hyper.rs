//! The layer around a plain function on a hyper server, without axum.
//!
//! Start it with `cargo run --example hyper`.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::time::Duration;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_promises::body::ReplayBody;
use tower_promises::{BoxError, PromiseLayer, Promises};

/// A slow service that detects the language of a text.
async fn detect_language(text: String) -> Result<&'static str, BoxError> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    match text.split_whitespace().next() {
        None => Err("there is no text".into()),
        Some("der" | "die" | "das") => Ok("German"),
        Some(_) => Ok("English"),
    }
}

/// The layer discards the error of the first pass, `Err(Pending)`. It returns an error of the second pass.
async fn handle(request: Request<ReplayBody<Incoming>>) -> Result<Response<Full<Bytes>>, BoxError> {
    let promises = request.extensions().get::<Promises>().cloned();
    let promises = promises.ok_or("PromiseLayer is missing")?;

    // The second pass reads the same body again.
    let body = request.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let language = promises.result_or_try_submit("language", || detect_language(text));
    match language {
        Ok(language) => Ok(text_response(StatusCode::OK, format!("{language}\n"))),
        Err(error) if error.is_pending() => Err(error.into()),
        Err(error) => Ok(text_response(error.status(), "no language found\n".into())),
    }
}

fn text_response(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer(PromiseLayer::new().promise_timeout(Duration::from_secs(5)))
        .service_fn(handle);

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  curl -d 'das ist ein Text' http://{address}/");
    println!("  curl -d 'this is a text' http://{address}/");
    println!("  curl -i -d ' ' http://{address}/       # a promise that fails");

    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("connection failed: {error}");
            }
        });
    }
}
