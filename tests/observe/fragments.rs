//! Spans and events of pages that stream.

use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt;
use std::future::ready;
use std::time::Duration;
use test_support::spans::SpanTree;
use test_support::{Log, TestBody, TestRequest, get, promises, text, text_response};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::{FragmentBody, FragmentLayer};
use tower_promises::{BoxError, PromiseError, Promises};
use tracing::info_span;

const SECOND: Duration = Duration::from_secs(1);

/// Opens a page. Its fragments follow.
async fn open(
    layer: FragmentLayer,
    page: impl Fn(&Promises) -> String + Clone,
) -> FragmentBody<TestBody> {
    let service = layer
        .grace(Duration::ZERO)
        .layer(service_fn(|request: TestRequest| {
            let mut response = text_response(page(&promises(&request)));
            let html = HeaderValue::from_static("text/html");
            response.headers_mut().insert(CONTENT_TYPE, html);
            ready(Ok::<_, BoxError>(response))
        }));
    let mut request = get("/");
    let html = HeaderValue::from_static("text/html");
    request.headers_mut().insert(ACCEPT, html);
    service.oneshot(request).await.unwrap().into_body()
}

fn after(promises: &Promises, name: &'static str, time: Duration) -> Result<String, PromiseError> {
    promises.result_or_submit(name, move || async move {
        sleep(time).await;
        name.to_owned()
    })
}

fn page(promises: &Promises) -> String {
    let price = promises.fragment("price", "", |promises| {
        let first = after(promises, "first", SECOND)?;
        let second = after(promises, "second", SECOND)?;
        let _span = info_span!("template").entered();
        Ok::<_, PromiseError>(first + &*second)
    });
    let failing = promises.fragment("failing", "", |promises| {
        after(promises, "first", SECOND)?;
        Err::<String, BoxError>("no luck".into())
    });
    format!("{price}{failing}")
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_render_function_has_a_span_with_its_time() {
    let spans = SpanTree::record();
    text(open(FragmentLayer::new(), page).await).await;
    assert_eq!(
        spans.text(),
        "promises passes=1 promises=2 outcome=published duration_ms=…
  pass pass=1 outcome=published duration_ms=…
    promise key=first pass=1 outcome=fulfilled duration_ms=…
    fragment name=price since_request_ms=1000.0
    fragment name=failing since_request_ms=1000.0
    promise key=second pass=1 outcome=fulfilled duration_ms=…
    fragment name=price since_request_ms=2000.0
      template
"
    );
    let text = spans.text_with_times();
    assert!(text.contains("duration_ms=2000.0"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_each_fragment_is_an_event() {
    let log = Log::start();
    text(open(FragmentLayer::new(), page).await).await;
    let log = log.text();
    for event in [
        "a fragment failed fragment=\"failing\" error=no luck",
        "a fragment was rendered fragment=\"failing\" outcome=Failed",
        "a fragment was rendered fragment=\"price\" outcome=Rendered",
    ] {
        assert_eq!(log.matches(event).count(), 1, "{event}: {log}");
    }
    // The spans say which request it is.
    assert!(log.lines().all(|line| line.contains("promises")), "{log}");
}

#[tokio::test(start_paused = true)]
async fn fragments_of_a_client_that_goes_away_and_late_fragments_are_events() {
    let log = Log::start();
    let layer = FragmentLayer::new().timeout(SECOND / 2);
    text(open(layer, page).await).await;
    let log_of_late = log.text();
    for event in [
        "fragments were still pending when the time for the page was over",
        "fragments=[\"price\", \"failing\"]",
        "fragment=\"price\" outcome=Failed",
    ] {
        assert!(log_of_late.contains(event), "{event}: {log_of_late}");
    }

    let (log, spans) = (Log::start(), SpanTree::record());
    let mut body = open(FragmentLayer::new(), page).await;
    body.frame().await.unwrap().unwrap();
    drop(body);
    let log = log.text();
    let event = "dropped the pending fragments of a page that the client does not read to its end";
    assert!(
        log.contains(event) && log.contains("fragments=[\"price\", \"failing\"]"),
        "{log}"
    );
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    let spans = spans.text();
    assert!(
        spans.starts_with("promises passes=1 promises=1 outcome=abandoned"),
        "{spans}"
    );
    assert!(
        spans.contains("promise key=first pass=1 outcome=cancelled"),
        "{spans}"
    );
}
