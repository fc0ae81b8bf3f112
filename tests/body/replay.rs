//! The replayable body, by itself and in the passes of a request.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Mutex;
use test_support::{Counter, Log, NoRejection, answer, post, promises, text, text_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::{ReplayBody, ReplayError};
use tower_promises::promise::EmptyResponseForRejection;
use tower_promises::promise::Rejection;
use tower_promises::{BoxError, PromiseLayer};

fn frames<E>(
    frames: impl IntoIterator<Item = Result<Frame<Bytes>, E>>,
) -> impl Body<Data = Bytes, Error = E> {
    StreamBody::new(stream::iter(frames.into_iter().collect::<Vec<_>>()))
}

fn data<E>(data: &'static str) -> Result<Frame<Bytes>, E> {
    Ok(Frame::data(Bytes::from_static(data.as_bytes())))
}

fn trailers<E>() -> Result<Frame<Bytes>, E> {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("abc"));
    Ok(Frame::trailers(trailers))
}

#[tokio::test]
async fn pass_1_reads_a_part_and_pass_2_the_whole() {
    for frames_in_pass_1 in 0..=4 {
        let service = PromiseLayer::new().layer(service_fn(async |request: Request<_>| {
            let promises = promises(&request);
            let mut body: ReplayBody<_> = request.into_body();
            if promises.pass() == 1 {
                for _ in 0..frames_in_pass_1 {
                    body.frame().await.unwrap()?;
                }
            }
            promises.result_or_submit("x", async || ())?;
            let body = body.collect().await?;
            assert_eq!(body.trailers().unwrap()["checksum"], "abc");
            let text = String::from_utf8(body.to_bytes().to_vec())?;
            Ok::<_, BoxError>(text_response(text))
        }));
        let body = frames::<Infallible>([data("one "), data("two "), data("three"), trailers()]);
        let response = service.oneshot(Request::new(body)).await.unwrap();
        assert_eq!(text(response.into_body()).await, "one two three");
    }
}

#[tokio::test]
async fn the_first_frame_reaches_pass_1_before_the_body_ends() {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let (seen_sender, mut seen) = mpsc::channel(8);
    let service = PromiseLayer::new().layer(service_fn(move |request: Request<_>| {
        let seen = seen_sender.clone();
        async move {
            let promises = promises(&request);
            let mut body: ReplayBody<_> = request.into_body();
            while let Some(frame) = body.frame().await {
                seen.send((promises.pass(), frame?.into_data().unwrap()))
                    .await?;
                // Pass 1 stops after the first frame. Pass 2 gets that frame again and continues.
                promises.result_or_submit("x", async || ())?;
            }
            Ok::<_, BoxError>(text_response(""))
        }
    }));
    let body = StreamBody::new(ReceiverStream::new(receiver));
    let request = tokio::spawn(service.oneshot(Request::new(body)));
    sender.send(data("one")).await.unwrap();
    assert_eq!(seen.recv().await, Some((1, "one".into())));
    assert_eq!(seen.recv().await, Some((2, "one".into())));
    sender.send(data("two")).await.unwrap();
    assert_eq!(seen.recv().await, Some((2, "two".into())));
    drop(sender);
    request.await.unwrap().unwrap();
}

/// Posts a body of `size` bytes to a handler that reads the body and then requests a promise.
async fn upload(layer: PromiseLayer, size: usize) -> test_support::Answer {
    let service = layer.layer(service_fn(
        async |mut request: test_support::TestRequest| {
            let body = request.body_mut().collect().await?.to_bytes();
            promises(&request).result_or_submit("x", async || ())?;
            Ok::<_, BoxError>(text_response(body.len().to_string()))
        },
    ));
    answer(service.oneshot(post(vec![7; size])).await.unwrap()).await
}

#[tokio::test]
async fn the_limit_may_be_reached_but_not_exceeded() {
    let log = Log::start();
    let layer = PromiseLayer::new().max_body_bytes(10_000);
    let answer = upload(layer.clone(), 10_000).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::OK, "10000")
    );

    let answer = upload(layer, 10_001).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.content_type, "application/problem+json");
    assert_eq!(
        answer.body,
        r#"{"type":"about:blank","title":"Payload Too Large","status":413,"detail":"The request body is too large."}"#
    );
    assert!(matches!(
        answer.rejection,
        Some(Rejection::BodyTooLarge { limit: 10_000, .. })
    ));
    let log = log.text();
    assert!(
        log.contains("raise `PromiseLayer::max_body_bytes`"),
        "{log}"
    );
}

#[tokio::test]
async fn the_default_limit_is_2_mib() {
    assert_eq!(upload(PromiseLayer::new(), 2 << 20).await.status, 200);
    assert_eq!(upload(PromiseLayer::new(), (2 << 20) + 1).await.status, 413);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_accepted_without_promises() {
    let service = PromiseLayer::new().max_body_bytes(1).layer(service_fn(
        async |request: test_support::TestRequest| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(text_response(body.len().to_string()))
        },
    ));
    let response = service.oneshot(post(vec![7; 10_000])).await.unwrap();
    assert_eq!(text(response.into_body()).await, "10000");
}

#[tokio::test]
async fn a_large_body_is_accepted_if_it_is_read_after_the_promise() {
    let service = PromiseLayer::new().max_body_bytes(1).layer(service_fn(
        async |request: test_support::TestRequest| {
            promises(&request).result_or_submit("x", async || ())?;
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(text_response(body.len().to_string()))
        },
    ));
    let response = service.oneshot(post(vec![7; 10_000])).await.unwrap();
    assert_eq!(text(response.into_body()).await, "10000");
}

#[tokio::test]
async fn a_body_that_outlives_its_pass_gets_an_error_and_pass_2_reads_all() {
    for frames_sent_before in [0, 1] {
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(8);
        let (error_sender, mut errors) = mpsc::channel::<BoxError>(1);
        let service = PromiseLayer::new().layer(service_fn(move |request: Request<_>| {
            let errors = error_sender.clone();
            let promises = promises(&request);
            let mut body: ReplayBody<_> = request.into_body();
            async move {
                if promises.pass() == 1 {
                    let (waiting_sender, waiting) = tokio::sync::oneshot::channel();
                    tokio::spawn(async move {
                        for _ in 0..frames_sent_before {
                            body.frame().await.unwrap().unwrap();
                        }
                        let mut next = pin!(body.frame());
                        assert!(futures_util::poll!(&mut next).is_pending());
                        waiting_sender.send(()).unwrap();
                        // The reader is woken although there is no new frame.
                        let error = next.await.unwrap().unwrap_err();
                        errors.send(error).await.unwrap();
                        assert!(body.frame().await.is_none());
                        assert!(body.is_end_stream());
                        assert_eq!(body.size_hint().exact(), Some(0));
                    });
                    waiting.await?;
                    promises.result_or_submit("x", async || ())?;
                    unreachable!();
                }
                let body = body.collect().await?.to_bytes();
                Ok::<_, BoxError>(text_response(String::from_utf8(body.to_vec())?))
            }
        }));
        let body = StreamBody::new(ReceiverStream::new(receiver));
        for _ in 0..frames_sent_before {
            sender.send(data("one ")).await.unwrap();
        }
        let request = tokio::spawn(service.oneshot(Request::new(body)));
        let error = errors.recv().await.unwrap();
        assert!(
            matches!(error.downcast_ref(), Some(ReplayError::Superseded)),
            "{error:?}"
        );
        for _ in frames_sent_before..2 {
            sender.send(data("one ")).await.unwrap();
        }
        drop(sender);
        let response = request.await.unwrap().unwrap();
        assert_eq!(text(response.into_body()).await, "one one ");
    }
}

#[tokio::test]
async fn an_error_of_the_body_replays_as_the_same_error() {
    let errors = Mutex::new(Vec::new());
    let service = PromiseLayer::new().layer(service_fn(async |request: Request<_>| {
        let promises = promises(&request);
        let mut body: ReplayBody<_> = request.into_body();
        assert_eq!(body.frame().await.unwrap()?.into_data().unwrap(), "one");
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(body.frame().await.is_none());
        // The text is the same as without the layer.
        assert_eq!(error.to_string(), "connection reset");
        errors
            .lock()
            .unwrap()
            .push(error.source().unwrap().to_string());
        promises.result_or_submit("x", async || ())?;
        Ok::<_, BoxError>(text_response(""))
    }));
    let body = frames(
        [data("one"), Err("connection reset"), data("never")]
            .map(|frame| frame.map_err(std::io::Error::other)),
    );
    service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!(
        *errors.lock().unwrap(),
        ["connection reset", "connection reset"]
    );
}

/// Reads to the end, skips errors, and returns the errors.
async fn errors_of<B>(mut body: ReplayBody<B>) -> Vec<BoxError>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut errors = Vec::new();
    while let Some(frame) = body.frame().await {
        errors.extend(frame.err());
        assert!(errors.len() < 3, "the error comes again and again");
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    errors
}

#[tokio::test]
async fn a_refused_reader_gets_one_error_and_then_the_end() {
    let superseded = ReplayBody::new(Full::new(Bytes::from("data")));
    let newer = superseded.replay();
    newer.collect().await.unwrap();
    let errors = errors_of(superseded).await;
    assert!(matches!(
        errors[0].downcast_ref(),
        Some(ReplayError::Superseded)
    ));

    let present = ReplayBody::with_max_bytes(frames::<Infallible>([data("too large")]), 3);
    let too_large = present.replay();
    present.collect().await.unwrap();
    let errors = errors_of(too_large).await;
    assert!(matches!(
        errors[0].downcast_ref(),
        Some(ReplayError::TooLarge { limit: 3, .. })
    ));

    // A replay that was created before the request was answered.
    let layer = PromiseLayer::new().on_rejection(EmptyResponseForRejection);
    let service = layer.layer(service_fn(async |request: test_support::TestRequest| {
        let replay = request.body().replay();
        request.into_body().collect().await?;
        Ok::<_, BoxError>(http::Response::new(replay))
    }));
    let released = service.oneshot(post("data")).await.unwrap().into_body();
    let errors = errors_of(released).await;
    assert!(matches!(
        errors[0].downcast_ref(),
        Some(ReplayError::Released)
    ));
}

const KIB: usize = 1024;

/// A limit of 1 MiB, and a body with this size hint that comes in frames of 32 KiB.
fn sized(length: usize) -> ReplayBody<impl Body<Data = Bytes, Error = Infallible>> {
    let frame = |()| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; 32 * KIB])));
    let sized = Sized {
        body: frames([(); 33].map(frame)),
        length: length as u64,
    };
    ReplayBody::with_max_bytes(sized, KIB * KIB)
}

/// Keeping more would take memory without use.
#[tokio::test]
async fn the_beginning_of_a_body_whose_size_hint_exceeds_the_limit_is_kept() {
    for (length, frames_kept) in [(KIB * KIB, 32), (KIB * KIB + 1, 2)] {
        let mut first = sized(length);
        let second = first.replay();
        for read in 1..=33 {
            first.frame().await.unwrap().unwrap();
            let is_kept = read <= frames_kept;
            assert_eq!(second.is_replayable(), is_kept, "{read} of {length}");
            let kept = format!("{first:?}");
            assert_eq!(kept.contains("kept_bytes: 0"), !is_kept, "{kept}");
        }
        // The present reader is not affected.
        assert!(first.frame().await.is_none());
        let error = errors_of(second).await.remove(0);
        let limit = KIB * KIB;
        assert!(
            matches!(error.downcast_ref(), Some(ReplayError::TooLarge { limit: it, .. }) if *it == limit)
        );
    }
}

#[tokio::test]
async fn the_beginning_of_a_large_body_is_read_again() {
    let mut first = sized(33 * 32 * KIB);
    let second = first.replay();
    first.frame().await.unwrap().unwrap();
    let whole = second.collect().await.unwrap().to_bytes();
    assert_eq!(whole.len(), 33 * 32 * KIB);
}

/// A body with an exact size hint.
struct Sized<B> {
    body: B,
    length: u64,
}

impl<B: Body + Unpin> Body for Sized<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        pin!(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[tokio::test]
async fn a_length_limit_error_keeps_its_type() {
    let first = ReplayBody::new(Limited::new(Full::new(Bytes::from("too much")), 3));
    let second = first.replay();
    for body in [first, second] {
        let error = body.collect().await.unwrap_err();
        assert!(error.is::<LengthLimitError>(), "{error:?}");
    }
}

#[tokio::test]
async fn an_empty_body_is_dropped_at_once_and_ends() {
    struct Empty(#[allow(dead_code)] test_support::DropGuard);

    impl Body for Empty {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            unreachable!("an empty body need not be polled")
        }

        fn is_end_stream(&self) -> bool {
            true
        }
    }

    let dropped = Counter::default();
    let body = ReplayBody::new(Empty(dropped.on_drop()));
    assert_eq!(dropped.get(), 1);
    assert!(body.is_end_stream() && body.is_replayable());
    assert_eq!(body.size_hint().exact(), Some(0));
    let replay = body.replay();
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
    assert!(replay.collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn size_hints_are_those_of_the_original() {
    let mut body = ReplayBody::new(Full::new(Bytes::from("hello")));
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    let replay = body.replay();
    body.frame().await.unwrap().unwrap();
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.is_end_stream());
    assert_eq!(replay.size_hint().exact(), Some(5));
    assert!(!replay.is_end_stream());

    let body = ReplayBody::new(frames::<Infallible>([data("hello")]));
    assert_eq!(body.size_hint().upper(), SizeHint::default().upper());
}

#[tokio::test]
async fn a_body_that_cannot_be_replayed_does_not_look_empty() {
    let mut body = ReplayBody::with_max_bytes(Full::new(Bytes::from("hello")), 2);
    body.frame().await.unwrap().unwrap();
    let replay = body.replay();
    assert!(!replay.is_replayable());
    assert!(!replay.is_end_stream());
    assert_eq!(replay.size_hint().exact(), None);
    let error = replay.collect().await.unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(ReplayError::TooLarge { limit: 2, .. })
    ));
}

#[tokio::test]
async fn a_promise_may_read_the_body_of_its_pass_within_the_limit() {
    for (limit, status) in [(5, 200), (4, 413)] {
        let layer = PromiseLayer::new().max_body_bytes(limit);
        let service = layer.layer(service_fn(async |request: test_support::TestRequest| {
            let promises = promises(&request);
            let body = request.into_body();
            let read: usize = match promises.pass() {
                1 => {
                    promises.submit("read", async {
                        body.collect().await.unwrap().to_bytes().len()
                    })?;
                    return Ok(text_response(""));
                }
                _ => promises.result("read")?,
            };
            let again = body.collect().await?.to_bytes().len();
            Ok::<_, BoxError>(text_response(format!("{read} {again}")))
        }));
        let answer = answer(service.oneshot(post("hello")).await.unwrap()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.body == "5 5", status == 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_with_a_body_that_cannot_be_replayed_is_rejected_as_a_timeout() {
    let layer = PromiseLayer::new()
        .max_body_bytes(4)
        .timeout(std::time::Duration::from_secs(1))
        .on_timeout(tower_promises::promise::OnTimeout::FinalPass);
    let service = layer.layer(service_fn(async |request: test_support::TestRequest| {
        let promises = promises(&request);
        request.into_body().collect().await?;
        promises.resolve("x", std::future::pending::<()>).await?;
        Ok::<_, BoxError>(text_response(""))
    }));
    let answer = answer(service.oneshot(post("hello")).await.unwrap()).await;
    assert_eq!(answer.status, 503);
}

#[test]
fn a_waker_may_use_the_body() {
    struct Curious(ReplayBody<Never>, Counter);
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            std::task::Poll::Pending
        }
    }

    impl std::task::Wake for Curious {
        fn wake(self: std::sync::Arc<Self>) {
            assert!(self.0.is_replayable());
            self.1.add();
        }
    }

    let woken = Counter::default();
    let mut first = ReplayBody::new(Never);
    let mut second = first.replay();
    let waker = std::sync::Arc::new(Curious(first.replay(), woken.clone())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(
        std::pin::Pin::new(&mut first)
            .poll_frame(&mut cx)
            .is_pending()
    );
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(
        std::pin::Pin::new(&mut second)
            .poll_frame(&mut cx)
            .is_pending()
    );
    assert_eq!(woken.get(), 1);
}

#[tokio::test]
async fn large_frames_are_not_copied() {
    let original = Bytes::from(vec![7; 100_000]);
    let first = ReplayBody::new(Full::new(original.clone()));
    let second = first.replay();
    for mut body in [first, second] {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr(), original.as_ptr());
    }
}

#[tokio::test]
async fn a_replay_created_before_the_first_attempt_serves_a_retry() {
    use tower::retry::{Policy, Retry};

    #[derive(Clone)]
    struct Attempts(usize);

    impl<R> Policy<test_support::TestRequest, R, BoxError> for Attempts {
        type Future = std::future::Ready<()>;

        fn retry(
            &mut self,
            request: &mut test_support::TestRequest,
            result: &mut Result<R, BoxError>,
        ) -> Option<Self::Future> {
            let again = result.is_err() && self.0 > 0 && request.body().is_replayable();
            self.0 = self.0.saturating_sub(1);
            again.then(|| std::future::ready(()))
        }

        fn clone_request(
            &mut self,
            request: &test_support::TestRequest,
        ) -> Option<test_support::TestRequest> {
            Some(Request::new(request.body().replay()))
        }
    }

    let calls = Counter::default();
    let inner = service_fn(|request: test_support::TestRequest| {
        calls.add();
        let succeeds = calls.get() == 3;
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            if succeeds {
                Ok(body)
            } else {
                Err(BoxError::from("not yet"))
            }
        }
    });
    let service = Retry::new(Attempts(5), inner);
    let request = Request::new(ReplayBody::new(Full::new(Bytes::from("hello"))));
    assert_eq!(service.oneshot(request).await.unwrap(), "hello");
    assert_eq!(calls.get(), 3);
}

#[tokio::test]
async fn a_published_response_may_continue_to_read_and_nothing_is_kept() {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let alive = Counter::default();
    let layer = PromiseLayer::new().on_rejection(NoRejection);
    let service = layer.layer(service_fn(async |request: Request<_>| {
        promises(&request).result_or_submit("x", async || ())?;
        let mut body: ReplayBody<_> = request.into_body();
        body.frame().await.unwrap()?;
        // The response echoes the rest of the body.
        Ok::<_, BoxError>(http::Response::new(body))
    }));
    let body = StreamBody::new(ReceiverStream::new(receiver));
    sender.send(data("first")).await.unwrap();
    let response = service.oneshot(Request::new(body)).await.unwrap();
    let mut echo = response.into_body().into_data_stream();
    for _ in 0..100 {
        let owner = Tracked(vec![0; 4096], alive.on_drop());
        sender
            .send(Ok(Frame::data(Bytes::from_owner(owner))))
            .await
            .unwrap();
        assert_eq!(echo.next().await.unwrap().unwrap().len(), 4096);
    }
    assert_eq!(alive.get(), 100, "each frame is dropped after its echo");
}

struct Tracked(Vec<u8>, #[allow(dead_code)] test_support::DropGuard);

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[tokio::test]
async fn tiny_frames_do_not_keep_large_buffers_alive() {
    let released = Counter::default();
    // A few bytes of a large read buffer, as from a server.
    let tiny = (0..10_000_usize).map(|_| {
        let buffer = Bytes::from_owner(Tracked(vec![7; 8192], released.on_drop()));
        Ok::<_, Infallible>(Frame::data(buffer.slice(..3)))
    });
    let mut body = ReplayBody::new(StreamBody::new(stream::iter(tiny)));
    let replay = body.replay();
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    assert!(
        released.get() >= 9_999,
        "{} of 10000 buffers were released",
        released.get()
    );
    assert_eq!(replay.collect().await.unwrap().to_bytes(), vec![7; 30_000]);
}
