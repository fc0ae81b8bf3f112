//! Metrics of pages that stream.

use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt;
use std::future::ready;
use std::time::Duration;
use test_support::recorded::Recorded;
use test_support::{TestBody, TestRequest, get, promises, text, text_response};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::{FragmentBody, FragmentLayer};
use tower_promises::{BoxError, Promises};

const SECOND: Duration = Duration::from_secs(1);

/// Opens a page with a fragment for each of these numbers of seconds.
pub(crate) async fn open(layer: FragmentLayer, seconds: &'static [u32]) -> FragmentBody<TestBody> {
    let fragment = |promises: &Promises, seconds: u32| {
        let fragment = promises.fragment("fragment", "", move |promises| {
            let waited =
                promises.result_or_submit(format!("{seconds}"), || sleep(SECOND * seconds));
            waited.map_err(BoxError::from)?;
            match seconds {
                3 => Err("no luck".into()),
                _ => Ok::<_, BoxError>("rendered"),
            }
        });
        fragment.to_string()
    };
    let service = layer.layer(service_fn(move |request: TestRequest| {
        let promises = promises(&request);
        let page = || {
            let fragments: String = seconds.iter().map(|it| fragment(&promises, *it)).collect();
            promises.result_or_submit("title", || sleep(SECOND))?;
            let mut response = text_response(fragments);
            let html = HeaderValue::from_static("text/html");
            response.headers_mut().insert(CONTENT_TYPE, html);
            Ok::<_, BoxError>(response)
        };
        ready(page())
    }));
    let mut request = get("/");
    let html = HeaderValue::from_static("text/html");
    request.headers_mut().insert(ACCEPT, html);
    service.oneshot(request).await.unwrap().into_body()
}

fn fragments(recorded: &Recorded) -> Vec<String> {
    let counters = recorded.counters().into_iter();
    counters.filter(|it| it.starts_with("fragments")).collect()
}

#[tokio::test(start_paused = true)]
async fn fragments_and_pages_are_counted_and_timed() {
    let mut recorded = Recorded::start().await;
    let layer = || FragmentLayer::new().grace(Duration::ZERO);
    text(open(layer(), &[2, 3, 5]).await).await;
    assert_eq!(
        fragments(&recorded),
        [
            "fragments_total{outcome=\"failed\"} 1",
            "fragments_total{outcome=\"rendered\"} 2",
        ]
    );
    assert_eq!(
        recorded.changes("_seconds_sum"),
        [
            "fragment_duration_seconds_sum{outcome=\"failed\"} 3",
            "fragment_duration_seconds_sum{outcome=\"rendered\"} 7",
            "page_duration_seconds_sum 5",
            "promise_duration_seconds_sum{outcome=\"fulfilled\"} 11",
            "shell_duration_seconds_sum 1",
        ]
    );

    recorded.restart();
    text(open(layer().timeout(4 * SECOND), &[2, 9]).await).await;
    // The render function does not decide on the timeout, so its error is a failure.
    assert_eq!(
        fragments(&recorded),
        [
            "fragments_total{outcome=\"failed\"} 1",
            "fragments_total{outcome=\"rendered\"} 1",
        ]
    );

    recorded.restart();
    let mut body = open(layer(), &[2, 4, 5]).await;
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    assert_eq!(
        fragments(&recorded),
        [
            "fragments_total{outcome=\"abandoned\"} 2",
            "fragments_total{outcome=\"rendered\"} 1",
        ]
    );

    recorded.restart();
    // A page without pending fragments is not one of these pages.
    text(open(layer(), &[]).await).await;
    assert_eq!(fragments(&recorded), Vec::<String>::new());
    let durations = recorded.changes("_seconds_count");
    assert!(
        !durations
            .iter()
            .any(|it| it.contains("shell") || it.contains("page")),
        "{durations:?}"
    );
    recorded.is_idle().await;
}
