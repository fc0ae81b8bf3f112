//! Bodies that exceed the memory limit and use a temporary file.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::pin::pin;
use test_support::uploads::{
    CHUNK, SlowDisk, ask, file_names, one_blocking_thread, pattern, read, temporary_directory,
    upload,
};
use test_support::{Counter, Log, post, promises, text, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::{ReplayBody, ReplayError, Spool};
use tower_promises::promise::Rejection;
use tower_promises::{BoxError, PromiseLayer};

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
async fn no_file_is_created_within_the_memory_limit() {
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
async fn both_limits_may_be_reached_but_not_exceeded() {
    let log = Log::start();
    let directory = temporary_directory();
    let layer = PromiseLayer::new()
        .max_body_bytes(10_000)
        .spool_dir(directory.path())
        .max_spool_bytes(200_000);
    // The last frame of the second body has one byte.
    let answer = ask(layer.clone(), upload(210_000, 10_000)).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "210000"));
    assert_eq!(log.text().matches("max_spool_bytes").count(), 0);
    let answer = ask(layer, upload(210_001, 10_000)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(matches!(
        answer.rejection,
        Some(Rejection::BodyTooLarge { limit: 210_000, .. })
    ));
    let log = log.text();
    assert!(log.contains("`PromiseLayer::max_spool_bytes`"), "{log}");
}

#[tokio::test]
async fn the_default_limit_of_the_file_is_64_mib() {
    let directory = temporary_directory();
    for (len, is_replayable) in [(64 << 20, true), ((64 << 20) + 1, false)] {
        let spool = Spool::new(directory.path());
        let body = ReplayBody::with_spool(Full::new(Bytes::from(vec![7; len])), 0, spool);
        let replay = body.replay();
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), len);
        assert_eq!(replay.is_replayable(), is_replayable);
    }
}

#[tokio::test]
async fn a_body_beyond_both_limits_is_accepted_without_promises() {
    let directory = temporary_directory();
    let spool = Spool::new(directory.path()).max_bytes(100_000);
    let body = ReplayBody::with_spool(upload(1 << 20, 10_000), 10_000, spool);
    let replay = body.replay();
    assert_eq!(read(body).await.unwrap(), 1 << 20);
    assert!(!replay.is_replayable());
    let error = read(replay).await.unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::TooLarge { limit: 110_000, .. })
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
async fn tiny_frames_are_merged_into_large_frames() {
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
fn a_reader_gets_a_frame_before_it_is_written_and_the_next_frame_afterwards() {
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
            // The frame is still in memory.
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

        // The same for a reader that waits for a read from the file.
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

#[test]
fn other_tasks_run_while_the_disk_is_slow() {
    let directory = temporary_directory();
    one_blocking_thread().block_on(async {
        let layer = PromiseLayer::new()
            .max_body_bytes(1000)
            .spool_dir(directory.path());
        let disk = SlowDisk::start();
        let mut large = pin!(ask(layer.clone(), upload(10 << 20, CHUNK)));
        for _ in 0..10 {
            assert!(futures_util::poll!(&mut large).is_pending());
            let small = upload(1000, 100);
            let answer = ask(layer.clone(), small).await;
            assert_eq!((answer.status, answer.passes), (StatusCode::OK, 2));
        }
        drop(disk);
        assert_eq!(large.await.body, (10 << 20).to_string());
    });
}
