//! Measures the memory of an upload of 1 GiB that a promise reads with `submit_body`.
//!
//! Start it with `cargo bench -p benches --bench upload`.
//!
//! A client sends over a socket as fast as the server reads. The bench prints the peak resident memory of the process
//! before and after the upload, and the duration. `UPLOAD_MIB` sets another size.
#![allow(clippy::unwrap_used, missing_docs)]

use axum::Router;
use axum::routing::put;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use std::time::Instant;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

async fn size(promises: Promises) -> Result<String, PromiseError> {
    let size = promises.result_or_try_submit_body("size", async |mut body| {
        let mut size = 0_u64;
        while let Some(frame) = body.frame().await {
            size += frame?.data_ref().map_or(0, Bytes::len) as u64;
        }
        Ok::<_, BoxError>(size)
    })?;
    Ok(size.to_string())
}

/// The peak resident memory so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[tokio::main]
async fn main() {
    let mebibytes = std::env::var("UPLOAD_MIB").ok();
    let mebibytes = mebibytes
        .and_then(|size| size.parse().ok())
        .unwrap_or(1024_u64);

    let app = Router::new()
        .route("/", put(size))
        .layer(PromiseLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client = reqwest::Client::new();
    let upload = async |chunks: u64| {
        let chunk = Bytes::from(vec![7; 64 * 1024]);
        let chunks = stream::iter((0..chunks).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
        let request = client.put(&url).body(reqwest::Body::wrap_stream(chunks));
        request.send().await.unwrap().text().await.unwrap()
    };

    upload(16).await;
    let (before, start) = (peak(), Instant::now());
    let size = upload(mebibytes * 16).await;
    let (after, elapsed) = (peak(), start.elapsed());
    assert_eq!(size, (mebibytes << 20).to_string());
    println!("upload of {mebibytes} MiB, read by a promise in {elapsed:.1?}");
    println!("peak memory: {before} KiB before, {after} KiB after");
}
