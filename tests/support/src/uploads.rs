//! Code that the tests of temporary files share.

use crate::{Answer, Counter, answer, promises, text_response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use std::path::Path;
use std::sync::mpsc;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio::task::spawn_blocking;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::ReplayBody;
use tower_promises::{BoxError, PromiseLayer};

/// The size of a read or write.
pub const CHUNK: usize = 64 * 1024;

/// Returns bytes whose values depend on their positions.
pub fn pattern(len: usize) -> Bytes {
    let numbers = (0..=u32::MAX).map(|number| number.wrapping_mul(0x9E37_79B9));
    numbers
        .map(|number| number.to_be_bytes()[0])
        .take(len)
        .collect()
}

/// Returns a body of `len` bytes in frames of at most `size`, with trailers.
pub fn upload(len: usize, size: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    let mut rest = pattern(len);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        frames.push(Ok(Frame::data(rest.split_to(size.min(rest.len())))));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("abc"));
    frames.push(Ok(Frame::trailers(trailers)));
    StreamBody::new(stream::iter(frames))
}

pub fn temporary_directory() -> TempDir {
    TempDir::new().unwrap()
}

/// Reads a whole body and returns its size. Fails if the content differs from the pattern.
pub async fn read<B>(mut body: ReplayBody<B>) -> Result<usize, BoxError>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut data = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(frame) => data.extend_from_slice(&frame),
            Err(frame) => assert_eq!(frame.into_trailers().unwrap()["checksum"], "abc"),
        }
    }
    assert!(body.is_end_stream());
    assert!(data == pattern(data.len()), "{} bytes differ", data.len());
    Ok(data.len())
}

/// Sends `body` to a handler that reads it, then needs a promise, and answers with the number of bytes.
pub async fn ask<B>(layer: PromiseLayer, body: B) -> Answer
where
    B: Body<Error: Into<BoxError>> + Send + 'static,
{
    let passes = Counter::default();
    let service = layer.layer(service_fn(async |request: Request<ReplayBody<B>>| {
        passes.add();
        let promises = promises(&request);
        let len = read(request.into_body()).await?;
        promises.result_or_submit("x", async || ())?;
        Ok::<_, BoxError>(text_response(len.to_string()))
    }));
    let response = service.oneshot(Request::new(body)).await.unwrap();
    let mut answer = answer(response).await;
    answer.passes = passes.get();
    answer
}

/// Creates a runtime with one thread for blocking work, so that blocking work runs in order.
pub fn one_blocking_thread() -> Runtime {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1);
    builder.build().unwrap()
}

/// Keeps the blocking thread busy until it is dropped.
pub struct SlowDisk(#[allow(dead_code)] mpsc::Sender<()>);

impl SlowDisk {
    pub fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        spawn_blocking(move || receiver.recv());
        Self(sender)
    }
}

/// Waits until the blocking thread and the tasks that depend on it are idle.
pub async fn disk_is_idle() {
    for _ in 0..3 {
        spawn_blocking(|| ()).await.unwrap();
    }
}

/// Returns the files in this directory that the process has open, including unnamed ones.
#[cfg(target_os = "linux")]
pub fn open_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let paths = descriptors.map(|entry| entry.unwrap().path());
    let open = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|file| file.starts_with(directory))
    };
    paths.filter(open).collect()
}

pub fn file_names(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}
