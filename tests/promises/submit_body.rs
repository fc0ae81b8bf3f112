//! Promises that read the body of the request.

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::sync::Mutex;
use test_support::{Answer, Counter, TestRequest, answer, post, promises, text_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::{ReplayBody, ReplayError, RequestBody};
use tower_promises::promise::SubmitError;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

async fn size(body: RequestBody) -> Result<usize, BoxError> {
    Ok(body.collect().await?.to_bytes().len())
}

async fn send<B>(
    layer: PromiseLayer,
    request: Request<B>,
    handler: impl AsyncFn(Promises, ReplayBody<B>) -> Result<String, BoxError>,
) -> Answer
where
    B: Body<Error: Into<BoxError>> + Send + 'static,
{
    let passes = Counter::default();
    let service = layer.layer(service_fn(async |request: Request<ReplayBody<B>>| {
        passes.add();
        let promises = promises(&request);
        handler(promises, request.into_body())
            .await
            .map(text_response)
    }));
    let mut answer = answer(service.oneshot(request).await.unwrap()).await;
    answer.passes = passes.get();
    answer
}

#[tokio::test]
async fn a_promise_reads_the_body_and_later_passes_see_an_empty_one() {
    // No byte of the body has to be kept.
    let layer = PromiseLayer::new().max_body_bytes(0);
    let answer = send(layer, post(vec![7; 100_000]), async |promises, body| {
        match promises.pass() {
            1 => promises.try_submit_body("size", size)?,
            _ => assert!(body.is_end_stream() && body.size_hint().exact() == Some(0)),
        }
        assert!(body.is_end_stream() || promises.pass() == 1);
        Ok(promises.result::<usize>("size")?.to_string())
    });
    let answer = answer.await;
    assert_eq!((answer.body.as_str(), answer.passes), ("100000", 2));
}

#[tokio::test]
async fn result_or_submit_reads_the_body_once() {
    let calls = Counter::default();
    let answer = send(PromiseLayer::new(), post("hello"), async |promises, _| {
        let read = promises.result_or_try_submit_body("size", |body| {
            calls.add();
            size(body)
        })?;
        // The closure is not called again in a further pass.
        promises.result_or_submit("other", async || ())?;
        Ok(read.to_string())
    });
    let answer = answer.await;
    assert_eq!(
        (answer.body.as_str(), answer.passes, calls.get()),
        ("5", 3, 1)
    );
}

#[tokio::test]
async fn a_promise_gets_the_whole_body_even_if_a_part_was_read() {
    for (limit, expected) in [
        (100, "10"),
        (
            4,
            "promise `size` comes too late: too much of the request body has been read",
        ),
    ] {
        let frames =
            ["hello", "world"].map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from(data))));
        let request = Request::new(StreamBody::new(stream::iter(frames)));
        let layer = PromiseLayer::new().max_body_bytes(limit);
        let answer = send(layer, request, async |promises, mut body| {
            if promises.pass() == 1 {
                assert_eq!(body.frame().await.unwrap()?.into_data().unwrap(), "hello");
                if let Err(error) = promises.try_submit_body("size", size) {
                    return Ok(error.to_string());
                }
                // The promise has taken over the body.
                let error = body.frame().await.unwrap().unwrap_err();
                assert!(matches!(
                    error.downcast_ref(),
                    Some(ReplayError::Superseded)
                ));
            }
            Ok(promises.result::<usize>("size")?.to_string())
        });
        assert_eq!(answer.await.body, expected);
    }
}

#[tokio::test]
async fn only_one_promise_gets_the_body() {
    let answer = send(PromiseLayer::new(), post("hello"), async |promises, _| {
        if promises.pass() == 1 {
            promises.try_submit_body("first", size)?;
            // The same name shares the promise. Another name gets an error.
            promises.try_submit_body("first", size)?;
            let error = promises.try_submit_body("second", size).unwrap_err();
            assert!(matches!(error, SubmitError::BodyTaken { .. }), "{error:?}");
        }
        let first: usize = promises.result("first")?;
        let error = promises.try_submit_body("first", size).unwrap_err();
        assert!(
            matches!(error, SubmitError::AlreadyResolved { .. }),
            "{error:?}"
        );
        let late = promises
            .result_or_try_submit_body("late", size)
            .unwrap_err();
        assert!(matches!(late, PromiseError::Rejected { .. }), "{late:?}");
        Ok(first.to_string())
    });
    assert_eq!(answer.await.body, "5");
}

#[tokio::test]
async fn an_empty_body_and_a_handle_without_a_request_are_accepted() {
    let answer = send(PromiseLayer::new(), post(""), async |promises, _| {
        Ok(promises
            .result_or_try_submit_body("size", size)?
            .to_string())
    });
    assert_eq!(answer.await.body, "0");

    let promises = Promises::with_results(tower_promises::promise::PromiseResults::new());
    promises
        .submit_body("size", async |body| size(body).await.ok())
        .unwrap();
    assert_eq!(promises.keys(), ["size"]);
}

#[tokio::test]
async fn the_client_can_send_only_as_fast_as_the_promise_reads() {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let (step_sender, step) = mpsc::channel::<()>(1);
    let step = Mutex::new(Some(step));
    let request = Request::new(StreamBody::new(ReceiverStream::new(receiver)));
    let answer = send(PromiseLayer::new(), request, async |promises, _| {
        let read = promises.result_or_try_submit_body("size", |mut body| {
            let mut step = step.lock().unwrap().take().unwrap();
            async move {
                let mut size = 0;
                while let (Some(()), Some(frame)) = (step.recv().await, body.frame().await) {
                    size += frame?.data_ref().map_or(0, Bytes::len);
                }
                Ok::<_, BoxError>(size)
            }
        })?;
        Ok(read.to_string())
    });
    let client = async {
        for round in 0..10 {
            sender
                .send(Ok(Frame::data(Bytes::from("hello"))))
                .await
                .unwrap();
            // The channel has room for one frame, which stays there until the promise polls for it.
            tokio::task::yield_now().await;
            assert_eq!(sender.capacity(), 0, "round {round}");
            step_sender.send(()).await.unwrap();
        }
        drop((sender, step_sender));
    };
    let (answer, ()) = futures_util::future::join(answer, client).await;
    assert_eq!(answer.body, "50");
}

#[tokio::test]
async fn an_error_of_the_body_goes_to_the_promise() {
    let frames = [
        Ok(Frame::data(Bytes::from("hello"))),
        Err(std::io::Error::other("reset")),
    ];
    let request = Request::new(StreamBody::new(stream::iter(frames)));
    let answer = send(
        PromiseLayer::new(),
        request,
        async |promises, _| match promises.result_or_try_submit_body("size", size) {
            Err(PromiseError::Failed { error, .. }) => Ok(error.source().unwrap().to_string()),
            read => Ok(read?.to_string()),
        },
    );
    assert_eq!(answer.await.body, "reset");
}

#[tokio::test]
async fn a_cancelled_promise_drops_the_body() {
    struct Guarded(Full<Bytes>, #[allow(dead_code)] test_support::DropGuard);

    impl Body for Guarded {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }
    }

    let dropped = Counter::default();
    let request = Request::new(Guarded(Full::from("hello"), dropped.on_drop()));
    let answer = send(PromiseLayer::new(), request, async |promises, body| {
        drop(body);
        promises.try_submit_body("size", size)?;
        assert!(promises.cancel("size"));
        Ok("cancelled".to_owned())
    });
    assert_eq!(answer.await.body, "cancelled");
    assert_eq!(dropped.get(), 1);
}

#[tokio::test]
async fn the_closure_may_use_the_handle() {
    let answer = send(PromiseLayer::new(), post("hello"), async |promises, _| {
        let read = promises.result_or_try_submit_body("size", |body| {
            assert!(promises.keys().is_empty());
            let _ = promises.submit("other", async {});
            size(body)
        })?;
        Ok(read.to_string())
    });
    assert_eq!(answer.await.body, "5");
}

#[tokio::test]
async fn a_body_that_is_refused_to_a_promise_is_not_lost() {
    let layer = PromiseLayer::new().max_body_bytes(4);
    let answer = send(layer, post("hello"), async |promises, body| {
        let read = body.collect().await?.to_bytes();
        for _ in 0..2 {
            let error = promises.try_submit_body("size", size).unwrap_err();
            assert!(matches!(error, SubmitError::BodyRead { .. }), "{error:?}");
        }
        promises.result_or_submit("other", async || ())?;
        Ok(read.len().to_string())
    });
    // A rejection is better than a second pass with an empty body.
    assert_eq!(answer.await.status, 413);
}

#[tokio::test]
async fn no_reader_can_take_over_the_body_of_a_promise() {
    let answer = send(
        PromiseLayer::new(),
        post("hello"),
        async |promises, body| {
            if promises.pass() == 1 {
                promises.try_submit_body("size", size)?;
                assert!(!body.is_replayable());
                let error = body.replay().collect().await.unwrap_err();
                assert!(
                    matches!(error.downcast_ref(), Some(ReplayError::Superseded)),
                    "{error:?}"
                );
            }
            Ok(promises.result::<usize>("size")?.to_string())
        },
    );
    assert_eq!(answer.await.body, "5");
}

#[tokio::test]
async fn one_call_submits_a_promise_that_reads_the_body_and_reads_its_result() {
    let answer = send(PromiseLayer::new(), post("hello"), async |promises, _| {
        let size = promises.result_or_submit_body("size", async |body: RequestBody| {
            body.collect().await.map_or(0, |body| body.to_bytes().len())
        })?;
        Ok(size.to_string())
    });
    let answer = answer.await;
    assert_eq!((answer.body.as_str(), answer.passes), ("5", 2));
}

/// The last poll of the only running promise submits a promise, which still belongs to the pass of the body.
#[tokio::test]
async fn a_promise_that_another_one_submits_at_its_end_reads_the_body_of_its_pass() {
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let body = request.into_body();
        if promises.pass() == 1 {
            promises
                .submit("first", async move {
                    let promises = Promises::current().unwrap();
                    let read = async move { body.collect().await.unwrap().to_bytes().len() };
                    promises.submit("second", read).unwrap();
                })
                .unwrap();
        }
        let length = promises.result::<usize>("second");
        Ok::<_, Infallible>(text_response(format!("{length:?}")))
    }));
    let response = service.oneshot(post("a body")).await.unwrap();
    assert_eq!(answer(response).await.body, "Ok(6)");
}
