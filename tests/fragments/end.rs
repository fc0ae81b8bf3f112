//! The end of a page: clients that go away or read slowly, bodies that fail, trailers.

use crate::support::{
    Frames, SECOND, after, browser, html, html_of, pending, read, template, without_grace,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::{Counter, Log, TestRequest, promises};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_test::assert_pending;
use tokio_test::task::spawn;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::{FragmentBody, FragmentLayer};
use tower_promises::promise::Rejection;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// Counts what a request creates and drops.
#[derive(Clone, Default)]
struct Census {
    created: Counter,
    dropped: Counter,
    rendered: Counter,
    undone: Counter,
}

impl Census {
    fn guard(&self) -> test_support::DropGuard {
        self.created.add();
        self.dropped.on_drop()
    }

    /// Reads a promise that has a guard.
    fn read(
        &self,
        promises: &Promises,
        name: String,
        seconds: u32,
    ) -> Result<String, PromiseError> {
        promises.result_or_submit(name.clone(), || {
            let guard = self.guard();
            async move {
                let _guard = guard;
                sleep(SECOND * seconds).await;
                name
            }
        })
    }

    fn page(&self, promises: &Promises) -> Result<String, BoxError> {
        let undone = self.undone.clone();
        promises.on_discard(move || undone.add());
        let fragments = (1..=3).map(|number| {
            let (census, guard) = (self.clone(), self.guard());
            let fragment = promises.fragment("fragment", "…", move |promises| {
                let _ = &guard;
                census.rendered.add();
                let value = census.read(promises, format!("outer {number}"), number + 1)?;
                let (census, guard) = (census.clone(), census.guard());
                let inner = promises.fragment("inner", "…", move |promises| {
                    let _ = &guard;
                    census.rendered.add();
                    census.read(promises, format!("inner {number}"), 5)
                });
                Ok::<_, PromiseError>(format!("{value}{inner}"))
            });
            fragment.to_string()
        });
        let fragments: String = fragments.collect();
        let title = self.read(promises, "title".to_owned(), 1)?;
        Ok(format!("<body>{title}{fragments}</body>"))
    }
}

/// The response to a browser.
async fn answer(census: &Census) -> Response<impl Body<Data = Bytes, Error = Infallible> + use<>> {
    let census = census.clone();
    let service = FragmentLayer::new().layer(service_fn(move |request: TestRequest| {
        ready(census.page(&promises(&request)).map(html))
    }));
    service.oneshot(browser("/")).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_drops_everything_at_any_time() {
    for tenths in 0..100 {
        let census = Census::default();
        let watched = census.clone();
        let client = async {
            let mut body = Box::pin(answer(&watched).await.into_body());
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        };
        let is_over = timeout(SECOND * tenths / 10, client).await.is_ok();
        assert_eq!(is_over, tenths >= 90, "{tenths}");
        assert_eq!(census.created.get(), census.dropped.get(), "{tenths}");
        // Only the first pass was discarded.
        assert_eq!(census.undone.get(), 1, "{tenths}");
        let rendered = census.rendered.get();
        sleep(20 * SECOND).await;
        assert_eq!(census.rendered.get(), rendered);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_after_any_frame_drops_everything() {
    let mut frames = 0;
    loop {
        let (log, census) = (Log::start(), Census::default());
        let mut body = Box::pin(answer(&census).await.into_body());
        let mut is_over = false;
        for _ in 0..frames {
            is_over = body.frame().await.is_none();
        }
        assert_eq!(
            census.created.get() == census.dropped.get(),
            is_over || body.is_end_stream()
        );
        let is_abandoned = !is_over && !body.is_end_stream();
        drop(body);
        assert_eq!(
            census.created.get(),
            census.dropped.get(),
            "after {frames} frames"
        );
        // Only the first pass was discarded.
        assert_eq!(census.undone.get(), 1);
        let text = "dropped the pending fragments of a page";
        assert_eq!(log.text().contains(text), is_abandoned, "{}", log.text());
        if is_over {
            break;
        }
        frames += 1;
    }
    assert_eq!(
        frames, 8,
        "the page, three outer and three inner fragments, and the end"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_bounds_what_is_rendered() {
    const HTML: usize = 10_000;
    let rendered = Counter::default();
    let counted = rendered.clone();
    let layer = without_grace().max_buffered_bytes(5 * HTML);
    let service = layer.layer(service_fn(move |request: TestRequest| {
        let promises = promises(&request);
        let fragments = (0..100).map(|number| {
            let counted = counted.clone();
            let fragment = promises.fragment("fragment", "", move |promises| {
                after(promises, format!("{number}"), SECOND)?;
                counted.add();
                Ok::<_, PromiseError>("x".repeat(HTML))
            });
            fragment.to_string()
        });
        ready(Ok::<_, BoxError>(html(fragments.collect::<String>())))
    }));
    let mut body = Box::pin(service.oneshot(browser("/")).await.unwrap().into_body());
    body.frame().await.unwrap().unwrap();
    let mut frames = 0;
    while let Some(frame) = body.frame().await {
        let length = frame.unwrap().into_data().unwrap().len();
        assert!(length < 6 * HTML, "{length} bytes");
        frames += 1;
        assert_eq!(rendered.get(), (5 * frames).min(100));
        // The client takes long, and nothing is rendered meanwhile.
        sleep(9 * SECOND).await;
        assert_eq!(rendered.get(), (5 * frames).min(100));
    }
    assert_eq!(frames, 20);
}

#[tokio::test(start_paused = true)]
async fn the_grace_is_bounded_by_the_same_limit() {
    const HTML: usize = 10_000;
    let rendered = Counter::default();
    let counted = rendered.clone();
    let layer = FragmentLayer::new().max_buffered_bytes(5 * HTML);
    let service = layer.layer(service_fn(move |request: TestRequest| {
        let promises = promises(&request);
        let fragments = (0..100).map(|number| {
            let counted = counted.clone();
            let fragment = promises.fragment("fragment", "", move |promises| {
                promises.result_or_submit(format!("{number}"), async || ())?;
                counted.add();
                Ok::<_, PromiseError>("x".repeat(HTML))
            });
            fragment.to_string()
        });
        ready(Ok::<_, BoxError>(html(fragments.collect::<String>())))
    }));
    let response = service.oneshot(browser("/")).await.unwrap();
    assert_eq!(rendered.get(), 5);
    let page = read(Instant::now(), response).await;
    assert_eq!(page.text().matches('x').count(), 100 * HTML);
    assert_eq!(page.text().matches("<template").count(), 95);
}

type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// A layer for bodies that cannot be made of a rejection.
fn layer() -> FragmentLayer<fn(Rejection) -> Response<BoxBody>> {
    let promises = PromiseLayer::new();
    FragmentLayer::new().promises(promises.on_rejection(|rejection| panic!("{rejection}")))
}

/// The response to a browser, with a body that is made of the page.
async fn answer_with(
    census: &Census,
    make: impl Fn(String) -> BoxBody + Clone,
) -> Response<FragmentBody<BoxBody>> {
    let service = layer().layer(service_fn(|request: TestRequest| {
        let page = census.page(&promises(&request));
        ready(page.map(|page| html_of(make(page))))
    }));
    service.oneshot(browser("/")).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_ends_the_page_and_drops_its_fragments() {
    let census = Census::default();
    let response = answer_with(&census, |page| -> BoxBody {
        let (first, _) = page.split_at(page.len() / 2);
        let frames = [
            Ok(Frame::data(Bytes::from(first.to_owned()))),
            Err("disk full".into()),
        ];
        let rest = stream::once(async {
            sleep(3 * SECOND).await;
            Ok(Frame::data(Bytes::from("more")))
        });
        Box::pin(StreamBody::new(stream::iter(frames).chain(rest)))
    })
    .await;
    let mut body = Box::pin(response.into_body());
    assert!(body.frame().await.unwrap().is_ok());
    assert_ne!(census.created.get(), census.dropped.get());
    assert!(!body.is_end_stream());
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "disk full");
    assert_eq!(census.created.get(), census.dropped.get());
    assert!(body.is_end_stream() && body.frame().await.is_none());
    assert_eq!(census.rendered.get(), 6, "in two passes");
}

#[tokio::test(start_paused = true)]
async fn trailers_come_last() {
    let trailers = |name: &'static str| {
        let value = HeaderValue::from_static("value");
        Frame::trailers(HeaderMap::from_iter([(name.parse().unwrap(), value)]))
    };
    let census = Census::default();
    let response = answer_with(&census, move |page| -> BoxBody {
        let frames = [Frame::data(Bytes::from(page)), trailers("a"), trailers("b")];
        Box::pin(StreamBody::new(stream::iter(frames.map(Ok))))
    })
    .await;
    let mut body = Box::pin(response.into_body());
    let (mut kinds, mut last) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap();
        kinds.push(frame.is_trailers());
        assert_eq!(body.is_end_stream(), frame.is_trailers());
        last = frame.into_trailers().ok();
    }
    assert_eq!(
        kinds,
        [false, false, false, false, false, false, false, true]
    );
    assert_eq!(last.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_size_of_a_page_that_streams_is_unknown() {
    let census = Census::default();
    let body = answer(&census).await.into_body();
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (0, None)
    );
    assert!(!body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_body_takes_long_runs_its_promises_meanwhile() {
    let census = Census::default();
    let start = Instant::now();
    let response = answer_with(&census, |page| -> BoxBody {
        let (first, second) = page.split_at(20);
        let frames = [first.to_owned(), second.to_owned()];
        let frames = stream::iter(frames).then(|frame| async {
            sleep(6 * SECOND).await;
            Ok(Frame::data(Bytes::from(frame)))
        });
        Box::pin(StreamBody::new(frames))
    })
    .await;
    let mut body = Box::pin(response.into_body());
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        let text = frame.unwrap().into_data().unwrap();
        frames.push((start.elapsed().as_secs(), text.len()));
    }
    let times: Vec<_> = frames.iter().map(|it| it.0).collect();
    // The inner fragments are requested when the outer ones are rendered, after the page.
    assert_eq!(times, [7, 13, 13, 18]);
    assert_eq!(census.created.get(), census.dropped.get());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_another_task_feeds_from_promises_goes_on_while_a_fragment_is_ready() {
    let (feed, feeds) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let feeds = Arc::new(Mutex::new(Some(feeds)));
    let handle = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&handle);
    let service = layer()
        .grace(Duration::ZERO)
        .layer(service_fn(move |request: TestRequest| {
            let promises = promises(&request);
            let quick = promises.fragment("quick", "…", |it| after(it, "quick", SECOND));
            assert!(quick.is_pending());
            *kept.lock().unwrap() = Some(promises);
            let feeds = UnboundedReceiverStream::new(feeds.lock().unwrap().take().unwrap());
            let body: BoxBody = Box::pin(StreamBody::new(feeds));
            ready(Ok::<_, BoxError>(html_of(body)))
        }));
    let response = service.oneshot(browser("/")).await.unwrap();
    let promises: Promises = handle.lock().unwrap().take().unwrap();
    let body =
        tokio::spawn(async move { response.into_body().collect().await.unwrap().to_bytes() });
    // Now the fragment is ready, and the page is not.
    sleep(2 * SECOND).await;
    let value = promises.resolve("late", async || {
        sleep(SECOND).await;
        "late".to_owned()
    });
    let value = timeout(5 * SECOND, value)
        .await
        .expect("the promise runs")
        .unwrap();
    let page = value + &*pending(1, "…");
    feed.send(Ok(Frame::data(page.into()))).unwrap();
    drop(feed);
    let page = body.await.unwrap();
    assert_eq!(
        page,
        format!("late{}{}", pending(1, "…"), template(1, "quick"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_that_waits_is_not_woken_for_nothing() {
    let census = Census::default();
    let mut body = Box::pin(answer(&census).await.into_body());
    body.frame().await.unwrap().unwrap();
    let mut next = spawn(body.frame());
    assert_pending!(next.poll());
    assert_pending!(next.poll());
    assert!(!next.is_woken());
    drop(next);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"</body>"));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_many_frames_is_passed_on() {
    let service = without_grace().layer(service_fn(|request: TestRequest| {
        let fragment = promises(&request).fragment("slow", "…", |it| after(it, "slow", SECOND));
        let page = format!("<body>{fragment}</body>\n</html>\n");
        let bytes = page.into_bytes().into_iter();
        let frames = Frames(bytes.map(|byte| Bytes::from(vec![byte])).collect());
        ready(Ok::<_, BoxError>(html_of(frames)))
    }));
    let response = service.oneshot(browser("/")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected = format!(
        "<body>{}{}</body>\n</html>\n",
        pending(1, "…"),
        template(1, "slow")
    );
    assert_eq!(body, expected);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_fragments_ends_although_the_body_has_not_ended() {
    let dropped = Counter::default();
    let guarded = dropped.clone();
    let layer = layer().grace(Duration::ZERO).timeout(3 * SECOND);
    let service = layer.layer(service_fn(move |request: TestRequest| {
        let guarded = guarded.clone();
        let fragment = promises(&request).fragment("hangs", "…", move |promises| {
            promises.result_or_submit("hangs", || {
                let guard = guarded.on_drop();
                async move {
                    let _guard = guard;
                    std::future::pending::<String>().await
                }
            })
        });
        let page = Ok::<_, BoxError>(Frame::data(Bytes::from(fragment.to_string())));
        let body = StreamBody::new(stream::iter([page]).chain(stream::pending()));
        ready(Ok::<_, BoxError>(html_of(Box::pin(body) as BoxBody)))
    }));
    let response = service.oneshot(browser("/")).await.unwrap();
    let mut body = Box::pin(response.into_body());
    body.frame().await.unwrap().unwrap();
    for (seconds, count) in [(2, 0), (2, 1)] {
        assert!(timeout(SECOND * seconds, body.frame()).await.is_err());
        assert_eq!(dropped.get(), count);
    }
}

/// A server does not poll the body while its client does not read.
#[tokio::test(start_paused = true)]
async fn the_time_of_fragments_ends_although_the_client_does_not_read() {
    let census = Census::default();
    let layer = without_grace().timeout(5 * SECOND);
    let service = {
        let census = census.clone();
        layer.layer(service_fn(move |request: TestRequest| {
            let census = census.clone();
            let page = promises(&request).fragment("slow", "…", move |promises| {
                let slow = census.read(promises, "slow".to_owned(), 1000);
                slow.or_else(|error| match error {
                    PromiseError::TimedOut { .. } => Ok("late".to_owned()),
                    error => Err(error),
                })
            });
            ready(Ok::<_, BoxError>(html(page.to_string())))
        }))
    };
    let start = Instant::now();
    let response = service.oneshot(browser("/")).await.unwrap();
    sleep(4 * SECOND).await;
    assert_eq!(census.dropped.get(), 0);
    sleep(2 * SECOND).await;
    assert_eq!(census.dropped.get(), 1);
    // A client that reads later gets what the fragment shows without its promise.
    let page = read(start, response).await;
    assert_eq!(page.text(), pending(1, "…") + &*template(1, "late"));
}
