//! Failing disks, and the files that remain on disks.

use futures_util::FutureExt;
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Waker};
use tempfile::TempDir;
use test_support::uploads::{
    CHUNK, SlowDisk, ask, disk_is_idle, file_names, one_blocking_thread, open_files, pattern, read,
    temporary_directory, upload,
};
use test_support::{Log, NoRejection, promises, text, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::{ReplayBody, ReplayError, Spool};
use tower_promises::{BoxError, PromiseLayer};

/// Checks the response to a request whose body cannot be written to `directory`.
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

    // Without promises the failure has no effect.
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
async fn a_missing_directory_rejects_the_request() {
    let directory = temporary_directory();
    let path = directory.path().to_owned();
    directory.close().unwrap();
    check_failure(&path, io::ErrorKind::NotFound).await;
}

#[tokio::test]
async fn a_path_that_is_not_a_directory_rejects_the_request() {
    let file = tempfile::NamedTempFile::new().unwrap();
    check_failure(file.path(), io::ErrorKind::NotADirectory).await;
    check_failure(&file.path().join("x"), io::ErrorKind::NotADirectory).await;
}

/// A file system with 256 KiB.
#[cfg(target_os = "linux")]
struct SmallDisk(TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// `None` if this process may not mount a file system.
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
        // Lazily, because a file may still be open.
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(self.0.path()).output();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_rejects_the_request() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("NOT TESTED: this process may not mount a small file system");
        return;
    };
    let directory = disk.0.path();
    check_failure(directory, io::ErrorKind::StorageFull).await;

    // A reader that has taken over before the disk is full gets the whole body, including the part in the file.
    let spool = Spool::new(directory);
    let mut first = ReplayBody::with_spool(upload(10 << 20, CHUNK), 0, spool);
    let second = first.replay();
    let third = first.replay();
    // Four chunks fit on the disk.
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
    // One error, then the end.
    let mut replay = replay;
    let frame = replay.frame().now_or_never().unwrap();
    let error = frame.unwrap().unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::SpoolFailed { .. })
    ));
    assert!(replay.frame().now_or_never().unwrap().is_none());
    assert!(replay.is_end_stream());
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
fn a_dropped_body_leaves_no_file() {
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

        // Dropped between two writes.
        let mut first = body();
        read_half(&mut first).await;
        disk_is_idle().await;
        assert_eq!(open_files(path).len(), 1);
        assert_eq!(file_names(path), 0);
        drop(first);
        disk_is_idle().await;
        assert_eq!(open_files(path).len(), 0);

        // Dropped while a write waits for the disk, with a file and without.
        for frames in [1, 2, 8] {
            let mut first = body();
            for _ in 1..frames {
                first.frame().await.unwrap().unwrap();
            }
            disk_is_idle().await;
            let mut next = Box::pin(first.frame());
            let disk = SlowDisk::start();
            assert!(futures_util::poll!(&mut next).is_ready());
            drop(next);
            drop(first);
            drop(disk);
            disk_is_idle().await;
            assert_eq!(open_files(path).len(), 0);
        }

        // Dropped between two reads, with a chunk that was read ahead.
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
fn a_client_that_disconnects_leaves_no_file() {
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

        // A new reader tries again.
        io::Write::write_all(&mut file, &pattern(4 * CHUNK)).unwrap();
        assert!(second.is_replayable());
        assert_eq!(read(second.replay()).await.unwrap(), 4 * CHUNK);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_published_response_may_continue_to_read_and_the_file_is_closed_at_its_end() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let layer = PromiseLayer::new()
            .max_body_bytes(CHUNK)
            .spool_dir(directory.path())
            .on_rejection(NoRejection);
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
