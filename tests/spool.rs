//! Bodies that go on in a temporary file.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use support::{Answer, Counter, Log, answer, get, post, promises, text, text_response};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio::task::spawn_blocking;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::{DEFAULT_MAX_SPOOL_BYTES, ReplayBody, ReplayError, Spool};
use tower_promises::{BoxError, PromiseLayer, Rejection};

/// What is written and read at a time.
const CHUNK: usize = 64 * 1024;

/// Bytes that show where they come from.
fn pattern(len: usize) -> Bytes {
    let bytes = (0..len as u64).map(|index| (index.wrapping_mul(0x9E37_79B9) >> 24) as u8);
    bytes.collect()
}

/// A body of `len` bytes in frames of at most `size`, with trailers.
fn upload(len: usize, size: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
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

fn temporary_directory() -> TempDir {
    TempDir::new().unwrap()
}

/// Reads all of it, says how many bytes there are, and fails if they are not those of the pattern.
async fn read<B>(mut body: ReplayBody<B>) -> Result<usize, BoxError>
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

/// Sends `body` to a handler that reads it, then needs a promise, and says how much it has read.
async fn ask<B>(layer: PromiseLayer, body: B) -> Answer
where
    B: Body<Error: Into<BoxError>>,
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

/// One thread for blocking work, so that what is given to it first is done first.
fn one_blocking_thread() -> Runtime {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1);
    builder.build().unwrap()
}

/// Keeps that thread busy until it is dropped.
struct SlowDisk(#[allow(dead_code)] mpsc::Sender<()>);

impl SlowDisk {
    fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        spawn_blocking(move || receiver.recv());
        Self(sender)
    }
}

/// Waits for all that the one thread has to do, and for what comes of that.
async fn disk_is_idle() {
    for _ in 0..3 {
        spawn_blocking(|| ()).await.unwrap();
    }
}

/// How many files in this directory the process has open, named or not.
#[cfg(target_os = "linux")]
fn open_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let paths = descriptors.map(|entry| entry.unwrap().path());
    let open = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|file| file.starts_with(directory))
    };
    paths.filter(open).collect()
}

fn file_names(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn a_large_body_is_read_in_two_passes() {
    let directory = temporary_directory();
    for size in [1000, 16 * 1024, CHUNK, 1_000_000, usize::MAX] {
        let layer = PromiseLayer::new()
            .max_body_bytes(64 * 1024)
            .spool_dir(directory.path());
        let answer = ask(layer, upload(10 << 20, size)).await;
        assert_eq!(answer.body, (10 << 20).to_string());
        assert_eq!((answer.status, answer.passes), (StatusCode::OK, 2));
    }
    assert_eq!(file_names(directory.path()), 0);
}

#[tokio::test]
async fn no_file_is_needed_as_long_as_memory_suffices() {
    let directory = temporary_directory();
    let layer = PromiseLayer::new()
        .max_body_bytes(100_000)
        .spool_dir(directory.path().join("missing"));
    let answer = ask(layer.clone(), post(pattern(100_000)).into_body()).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "100000"));
    let answer = ask(layer, post(pattern(100_001)).into_body()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn both_limits_may_be_reached_but_not_passed() {
    let log = Log::start();
    let directory = temporary_directory();
    let layer = PromiseLayer::new()
        .max_body_bytes(10_000)
        .spool_dir(directory.path())
        .max_spool_bytes(200_000);
    // The last frame of the second body is of one byte.
    let answer = ask(layer.clone(), upload(210_000, 10_000)).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "210000"));
    assert_eq!(log.text().matches("max_spool_bytes").count(), 0);
    let answer = ask(layer, upload(210_001, 10_000)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(matches!(
        answer.rejection,
        Some(Rejection::BodyTooLarge { limit: 210_000 })
    ));
    let log = log.text();
    assert!(log.contains("`PromiseLayer::max_spool_bytes`"), "{log}");
}

#[tokio::test]
async fn the_default_limit_of_the_file_is_64_mib() {
    let directory = temporary_directory();
    assert_eq!(DEFAULT_MAX_SPOOL_BYTES, 64 << 20);
    for (len, is_replayable) in [(64 << 20, true), ((64 << 20) + 1, false)] {
        let spool = Spool::new(directory.path());
        let body = ReplayBody::with_spool(Full::new(Bytes::from(vec![7; len])), 0, spool);
        let replay = body.replay();
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), len);
        assert_eq!(replay.is_replayable(), is_replayable);
    }
}

#[tokio::test]
async fn a_body_beyond_both_limits_is_no_matter_without_promises() {
    let directory = temporary_directory();
    let spool = Spool::new(directory.path()).max_bytes(100_000);
    let body = ReplayBody::with_spool(upload(1 << 20, 10_000), 10_000, spool);
    let replay = body.replay();
    assert_eq!(read(body).await.unwrap(), 1 << 20);
    assert!(!replay.is_replayable());
    let error = read(replay).await.unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::TooLarge { limit: 110_000 })
    ));
}

#[tokio::test]
async fn pass_1_reads_a_part_and_pass_2_the_whole() {
    let directory = temporary_directory();
    for frames_in_pass_1 in [0, 1, 3, 7, 8, 20] {
        let layer = PromiseLayer::new()
            .max_body_bytes(64 * 1024)
            .spool_dir(directory.path());
        let service = layer.layer(service_fn(async |request: Request<_>| {
            let promises = promises(&request);
            let mut body: ReplayBody<_> = request.into_body();
            if promises.pass() == 1 {
                for _ in 0..frames_in_pass_1 {
                    body.frame().await.unwrap()?;
                }
            }
            promises.result_or_submit("x", async || ())?;
            Ok::<_, BoxError>(text_response(read(body).await?.to_string()))
        }));
        let request = Request::new(upload(1 << 20, 30_000));
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(text(response.into_body()).await, (1 << 20).to_string());
    }
}

#[tokio::test]
async fn tiny_frames_come_back_as_large_ones() {
    let directory = temporary_directory();
    let spool = Spool::new(directory.path());
    let body = ReplayBody::with_spool(upload(1 << 20, 3), 0, spool);
    let replay = body.replay();
    assert_eq!(read(body).await.unwrap(), 1 << 20);
    let frames = replay.into_data_stream().count().await;
    assert!(frames < 40, "{frames} frames");
}

#[tokio::test]
async fn sizes_are_exact() {
    let directory = temporary_directory();
    let data = pattern(1 << 20);
    let spool = Spool::new(directory.path());
    let mut body = ReplayBody::with_spool(Full::new(data.clone()), 1000, spool);
    let replay = body.replay();
    assert_eq!(body.size_hint().exact(), Some(1 << 20));
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    let mut rest = 1 << 20;
    let mut replay = replay;
    while rest > 0 {
        assert_eq!(replay.size_hint().exact(), Some(rest));
        assert!(!replay.is_end_stream());
        let frame = replay.frame().await.unwrap().unwrap();
        rest -= frame.data_ref().unwrap().len() as u64;
    }
    assert_eq!(replay.size_hint().exact(), Some(0));
    assert!(replay.is_end_stream());
}

#[test]
fn a_frame_is_handed_on_before_it_is_written_and_the_next_one_only_then() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let taken = Counter::default();
        let counter = taken.clone();
        let frames = stream::iter(0..3).map(move |_| {
            counter.add();
            Ok::<_, Infallible>(Frame::data(pattern(CHUNK)))
        });
        let spool = Spool::new(directory.path());
        let mut body = ReplayBody::with_spool(StreamBody::new(frames), 0, spool);
        let disk = SlowDisk::start();
        let first = body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), pattern(CHUNK));
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(taken.get(), 1);
        drop(disk);
        body.frame().await.unwrap().unwrap();
        assert_eq!(taken.get(), 2);
    });
}

#[test]
fn a_reader_that_waits_for_the_disk_is_superseded() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let spool = Spool::new(directory.path());
        let mut first = ReplayBody::with_spool(upload(1 << 20, CHUNK), 0, spool);
        let mut second = first.replay();
        let third = first.replay();

        let disk = SlowDisk::start();
        first.frame().await.unwrap().unwrap();
        let error = {
            let mut waiting = pin!(first.frame());
            assert!(futures_util::poll!(&mut waiting).is_pending());
            // It is still in memory.
            second.frame().await.unwrap().unwrap();
            waiting.await.unwrap().unwrap_err()
        };
        assert!(matches!(
            error.downcast_ref(),
            Some(ReplayError::Superseded)
        ));
        drop(disk);
        while let Some(frame) = second.frame().await {
            frame.unwrap();
        }

        // The same for one that waits for what it has to read.
        let mut second = third;
        let mut third = second.replay();
        let disk = SlowDisk::start();
        let error = {
            let mut waiting = pin!(second.frame());
            assert!(futures_util::poll!(&mut waiting).is_pending());
            assert!(third.frame().now_or_never().is_none());
            waiting.await.unwrap().unwrap_err()
        };
        assert!(matches!(
            error.downcast_ref(),
            Some(ReplayError::Superseded)
        ));
        drop(disk);
        assert_eq!(read(third).await.unwrap(), 1 << 20);
    });
}

#[test]
fn a_superseded_reader_of_a_pass_gets_an_error_and_pass_2_reads_all() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let (error_sender, errors) = tokio::sync::mpsc::channel::<BoxError>(1);
        let errors = tokio::sync::Mutex::new(errors);
        let layer = PromiseLayer::new()
            .max_body_bytes(1000)
            .spool_dir(directory.path());
        let service = layer.layer(service_fn(async |request: Request<_>| {
            let promises = promises(&request);
            let mut body: ReplayBody<_> = request.into_body();
            if promises.pass() == 1 {
                let errors = error_sender.clone();
                let disk = SlowDisk::start();
                body.frame().await.unwrap()?;
                let (waiting_sender, waiting) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    let mut next = pin!(body.frame());
                    assert!(futures_util::poll!(&mut next).is_pending());
                    waiting_sender.send(()).unwrap();
                    let error = next.await.unwrap().unwrap_err();
                    errors.send(error).await.unwrap();
                    drop(disk);
                });
                waiting.await?;
            } else {
                let error = errors.lock().await.recv().await.unwrap();
                assert!(matches!(
                    error.downcast_ref(),
                    Some(ReplayError::Superseded)
                ));
                return Ok(text_response(read(body).await?.to_string()));
            }
            promises.result_or_submit("x", async || ())?;
            Ok::<_, BoxError>(text_response(""))
        }));
        let request = Request::new(upload(1 << 20, CHUNK));
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(text(response.into_body()).await, (1 << 20).to_string());
    });
}

/// What a request gets whose body cannot be written to `directory`.
async fn check_failure(directory: &Path, kind: io::ErrorKind) {
    let log = Log::start();
    let layer = PromiseLayer::new()
        .max_body_bytes(1000)
        .spool_dir(directory);
    let answer = ask(layer.clone(), upload(10 << 20, 50_000)).await;
    assert_eq!(answer.passes, 1);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.content_type, "application/problem+json");
    assert_eq!(
        answer.body,
        r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The request cannot be processed at the moment."}"#
    );
    let rejection = answer.rejection.unwrap();
    let source = rejection.source().unwrap().downcast_ref::<io::Error>();
    assert_eq!(source.unwrap().kind(), kind);
    let log = log.text();
    assert!(log.contains(directory.to_str().unwrap()), "{log}");
    assert!(log.contains(&source.unwrap().to_string()), "{log}");
    assert!(log.contains("ERROR"), "{log}");

    // Without promises it does not matter.
    let service = layer.layer(service_fn(async |request: Request<_>| {
        let len = read(request.into_body()).await?;
        Ok::<_, BoxError>(text_response(len.to_string()))
    }));
    let request = Request::new(upload(10 << 20, 50_000));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(text(response.into_body()).await, (10 << 20).to_string());

    let body = ReplayBody::with_spool(upload(10 << 20, 50_000), 0, Spool::new(directory));
    let replay = body.replay();
    assert_eq!(read(body).await.unwrap(), 10 << 20);
    assert!(!replay.is_replayable() && !replay.is_end_stream());
    let error = read(replay).await.unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::SpoolFailed { .. })
    ));
    let source = error.source().unwrap().downcast_ref::<io::Error>();
    assert_eq!(source.unwrap().kind(), kind);
}

#[tokio::test]
async fn a_directory_that_has_vanished() {
    let directory = temporary_directory();
    let path = directory.path().to_owned();
    directory.close().unwrap();
    check_failure(&path, io::ErrorKind::NotFound).await;
}

#[tokio::test]
async fn a_directory_that_is_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    check_failure(file.path(), io::ErrorKind::NotADirectory).await;
    check_failure(&file.path().join("x"), io::ErrorKind::NotADirectory).await;
}

/// A file system of 256 KiB.
#[cfg(target_os = "linux")]
struct SmallDisk(TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// `None` if this process may not mount one.
    fn mount() -> Option<Self> {
        let directory = temporary_directory();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]);
        let is_mounted = mount.arg(directory.path()).output();
        is_mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(directory))
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, should a file be open yet.
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(self.0.path()).output();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("NOT TESTED: this process may not mount a small file system");
        return;
    };
    let directory = disk.0.path();
    check_failure(directory, io::ErrorKind::StorageFull).await;

    // A reader that has taken over before the disk is full gets everything, from the file as well.
    let spool = Spool::new(directory);
    let mut first = ReplayBody::with_spool(upload(10 << 20, CHUNK), 0, spool);
    let second = first.replay();
    let third = first.replay();
    // The fourth chunk has to share the disk with nothing, the fifth finds no room.
    for _ in 0..5 {
        first.frame().await.unwrap().unwrap();
    }
    assert_eq!(read(second).await.unwrap(), 10 << 20);
    assert!(!third.is_replayable());
}

#[test]
fn without_a_runtime_only_replay_ends() {
    let directory = temporary_directory();
    let spool = Spool::new(directory.path());
    let mut body = ReplayBody::with_spool(Full::new(pattern(CHUNK)), 0, spool);
    let replay = body.replay();
    let mut cx = Context::from_waker(Waker::noop());
    let frame = pin!(body.frame()).poll_unpin(&mut cx);
    assert!(matches!(frame, std::task::Poll::Ready(Some(Ok(_)))));
    assert!(!replay.is_replayable());
    let error = replay.collect().now_or_never().unwrap().unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::SpoolFailed { .. })
    ));
}

#[test]
fn a_runtime_that_has_ended_is_an_error_and_no_deadlock() {
    let directory = temporary_directory();
    let runtime = one_blocking_thread();
    let spool = Spool::new(directory.path());
    let body = ReplayBody::with_spool(upload(3 * CHUNK, CHUNK), 0, spool);
    let replay = body.replay();
    assert_eq!(runtime.block_on(read(body)).unwrap(), 3 * CHUNK);
    drop(runtime);
    let other = one_blocking_thread();
    let error = other.block_on(read(replay.replay())).unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::SpoolFailed { .. })
    ));
}

#[cfg(target_os = "linux")]
#[test]
fn a_body_that_is_dropped_leaves_nothing() {
    let directory = temporary_directory();
    let path = directory.path();
    one_blocking_thread().block_on(async {
        let body = || {
            let spool = Spool::new(path);
            ReplayBody::with_spool(upload(1 << 20, CHUNK), 0, spool)
        };
        let read_half = async |body: &mut ReplayBody<_>| {
            for _ in 0..8 {
                body.frame().await.unwrap().unwrap();
            }
        };

        // While it is written.
        let mut first = body();
        read_half(&mut first).await;
        disk_is_idle().await;
        assert_eq!(open_files(path).len(), 1);
        assert_eq!(file_names(path), 0);
        drop(first);
        disk_is_idle().await;
        assert_eq!(open_files(path).len(), 0);

        // While a write waits for the disk, with a file and without.
        for frames in [1, 2, 8] {
            let mut first = body();
            for _ in 1..frames {
                first.frame().await.unwrap().unwrap();
            }
            disk_is_idle().await;
            // It is asked for only once the last write has been noticed.
            let mut next = Box::pin(first.frame());
            let disk = SlowDisk::start();
            assert!(futures_util::poll!(&mut next).is_ready());
            drop(next);
            drop(first);
            drop(disk);
            disk_is_idle().await;
            assert_eq!(open_files(path).len(), 0);
        }

        // While it is read, with a chunk that was read ahead and nobody has asked for.
        let mut first = body();
        let mut second = first.replay();
        read_half(&mut first).await;
        first.frame().await.unwrap().unwrap();
        second.frame().await.unwrap().unwrap();
        disk_is_idle().await;
        assert_eq!(open_files(path).len(), 1);
        drop((first, second));
        disk_is_idle().await;
        assert_eq!(open_files(path).len(), 0);
        assert_eq!(file_names(path), 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let layer = PromiseLayer::new()
            .max_body_bytes(1000)
            .spool_dir(directory.path());
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let service = layer.layer(service_fn(async |request: Request<_>| {
            let len = read(request.into_body()).await?;
            Ok::<_, BoxError>(text_response(len.to_string()))
        }));
        let body = StreamBody::new(receiver);
        let request = tokio::spawn(service.oneshot(Request::new(body)));
        for _ in 0..5 {
            let frame = Ok::<_, Infallible>(Frame::data(pattern(CHUNK)));
            sender.send(frame).await.unwrap();
        }
        disk_is_idle().await;
        assert_eq!(open_files(directory.path()).len(), 1);
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        disk_is_idle().await;
        assert_eq!(open_files(directory.path()).len(), 0);
        assert_eq!(file_names(directory.path()), 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_read_is_an_error_of_the_pass() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let spool = Spool::new(directory.path());
        let body = ReplayBody::with_spool(upload(4 * CHUNK, CHUNK), 0, spool);
        let mut second = body.replay();
        assert_eq!(read(body).await.unwrap(), 4 * CHUNK);

        let file = open_files(directory.path()).remove(0);
        let mut file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(CHUNK as u64).unwrap();
        second.frame().await.unwrap().unwrap();
        let error = second.frame().await.unwrap().unwrap_err();
        let source = error.source().unwrap().downcast_ref::<io::Error>();
        assert_eq!(source.unwrap().kind(), io::ErrorKind::UnexpectedEof);
        assert!(second.frame().await.is_none());
        assert!(second.is_end_stream());
        assert_eq!(second.size_hint().exact(), Some(0));

        // The next pass tries again.
        io::Write::write_all(&mut file, &pattern(4 * CHUNK)).unwrap();
        assert!(second.is_replayable());
        assert_eq!(read(second.replay()).await.unwrap(), 4 * CHUNK);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_published_response_may_go_on_reading_and_the_file_is_closed_behind_it() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let layer = PromiseLayer::new()
            .max_body_bytes(CHUNK)
            .spool_dir(directory.path())
            .on_rejection(|rejection| panic!("{rejection}"));
        let service = layer.layer(service_fn(async |request: Request<_>| {
            let promises = promises(&request);
            let mut body: ReplayBody<_> = request.into_body();
            if promises.pass() == 1 {
                for _ in 0..8 {
                    body.frame().await.unwrap()?;
                }
            }
            promises.result_or_submit("x", async || ())?;
            Ok::<_, BoxError>(http::Response::new(body))
        }));
        let request = Request::new(upload(1 << 20, CHUNK));
        let mut echo = service.oneshot(request).await.unwrap().into_body();
        let mut data = Vec::new();
        for _ in 0..12 {
            let frame = echo.frame().await.unwrap().unwrap();
            data.extend_from_slice(&frame.into_data().unwrap());
        }
        disk_is_idle().await;
        assert_eq!(open_files(directory.path()).len(), 0);
        let rest = echo.collect().await.unwrap();
        assert_eq!(rest.trailers().unwrap()["checksum"], "abc");
        data.extend_from_slice(&rest.to_bytes());
        assert!(data == pattern(1 << 20));
    });
}

#[test]
fn the_runtime_serves_others_while_the_disk_is_slow() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let layer = PromiseLayer::new()
            .max_body_bytes(1000)
            .spool_dir(directory.path());
        let disk = SlowDisk::start();
        let mut large = pin!(ask(layer.clone(), upload(10 << 20, CHUNK)));
        for _ in 0..10 {
            assert!(futures_util::poll!(&mut large).is_pending());
            let small = get("/").map(|_| upload(1000, 100)).into_body();
            let answer = ask(layer.clone(), small).await;
            assert_eq!((answer.status, answer.passes), (StatusCode::OK, 2));
        }
        drop(disk);
        assert_eq!(large.await.body, (10 << 20).to_string());
    });
}
