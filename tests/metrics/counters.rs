//! Metrics of events that have ended: passes, promises, durations and rejections, with their units and help texts.

use crate::fragments;
use futures_util::FutureExt;
use futures_util::future::join3;
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::collections::BTreeSet;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use test_support::described::{assert_is_conventional, described};
use test_support::recorded::{Recorded, ask_for, ask_for_job, families, held, is_of_promises};
use test_support::uploads::temporary_directory;
use test_support::{
    TestBody, TestRequest, ask, ask_async, get, post, promises, text, text_response,
};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::blocking::{BlockingPool, OnSaturation};
use tower_promises::body::ReplayBody;
use tower_promises::fragment::FragmentLayer;
use tower_promises::promise::{Rejection, Start};
use tower_promises::{BoxError, OrPending, PromiseLayer, Promises};
#[tokio::test]
async fn passes_are_counted_by_outcome() {
    let mut recorded = Recorded::start().await;
    ask(PromiseLayer::new(), |_| Ok(String::new()))
        .await
        .unwrap();
    assert_eq!(
        recorded.counters(),
        ["passes_total{outcome=\"published\"} 1"]
    );

    recorded.restart();
    ask_for(PromiseLayer::new(), async || ()).await;
    assert_eq!(
        recorded.counters(),
        [
            "passes_total{outcome=\"discarded\"} 1",
            "passes_total{outcome=\"published\"} 1",
            "promises_total{outcome=\"fulfilled\"} 1"
        ]
    );

    recorded.restart();
    let error = ask(PromiseLayer::new(), |_| Err("no luck".into())).await;
    assert!(error.is_err());
    assert_eq!(recorded.counters(), ["passes_total{outcome=\"failed\"} 1"]);

    recorded.restart();
    ask_for(PromiseLayer::new().max_passes(1), async || ()).await;
    assert_eq!(
        recorded.counters(),
        [
            "passes_total{outcome=\"rejected\"} 1",
            "rejections_total{kind=\"too_many_passes\"} 1"
        ]
    );

    recorded.restart();
    let waiting = ask_async(PromiseLayer::new(), async |_| pending().await);
    assert!(futures_util::poll!(Box::pin(waiting)).is_pending());
    assert_eq!(
        recorded.counters(),
        ["passes_total{outcome=\"abandoned\"} 1"]
    );
}

#[tokio::test]
async fn a_pass_that_panics_is_abandoned_and_leaves_no_gauge_behind() {
    let recorded = Recorded::start().await;
    for pass in [1, 2] {
        let handler = async move |promises: Promises| {
            let value = promises.result_or_submit("key", async || ());
            assert!(promises.pass() < pass, "no tea");
            value?;
            Ok(String::new())
        };
        let request = AssertUnwindSafe(ask_async(PromiseLayer::new(), handler));
        assert!(request.catch_unwind().await.is_err());
    }
    assert_eq!(
        recorded.counters(),
        [
            "passes_total{outcome=\"abandoned\"} 2",
            "passes_total{outcome=\"discarded\"} 1",
            "promises_total{outcome=\"fulfilled\"} 1"
        ]
    );
    recorded.is_idle().await;
}

#[tokio::test(start_paused = true)]
async fn promises_are_counted_by_outcome() {
    let recorded = Recorded::start().await;
    let pool = BlockingPool::builder()
        .max_running(1)
        .max_waiting(0)
        .build();
    let layer = PromiseLayer::new()
        .promise_timeout(Duration::from_secs(1))
        .blocking(pool);
    ask(layer, |promises| {
        if promises.pass() == 1 {
            promises.submit("kept", async {})?;
            promises.try_submit("broken", async { Err::<(), _>("no luck") })?;
            promises.submit("late", pending::<()>())?;
            promises.submit("bad", async { panic!("no tea") })?;
            // Never starts, and is therefore not counted.
            promises.submit("recalled", async {})?;
            promises.cancel("recalled");

            let (release, job) = held();
            promises.submit_blocking("first", job)?;
            promises.submit_blocking("second", || ())?;
            promises.submit("release", async { drop(release) })?;

            promises.submit("cancelled", pending::<()>())?;
            let this = promises.clone();
            let cancel = async move { assert!(this.cancel("cancelled")) };
            promises.submit("cancel", cancel)?;
        }
        promises.result::<()>("late").or_pending(()).ok();
        Ok(String::new())
    })
    .await
    .unwrap();
    assert_eq!(
        recorded.changes("promises_total"),
        [
            "promises_total{outcome=\"cancelled\"} 1",
            "promises_total{outcome=\"failed\"} 1",
            "promises_total{outcome=\"fulfilled\"} 4",
            "promises_total{outcome=\"panicked\"} 1",
            "promises_total{outcome=\"rejected\"} 1",
            "promises_total{outcome=\"timed_out\"} 1"
        ]
    );
    recorded.is_idle().await;
}

#[tokio::test(start_paused = true)]
async fn durations_cover_only_passes_and_promises() {
    let recorded = Recorded::start().await;
    ask_async(PromiseLayer::new(), async |promises| {
        sleep(Duration::from_millis(1500 * promises.pass() as u64)).await;
        let nap = async || sleep(Duration::from_secs(60)).await;
        promises.result_or_submit("nap", nap)?;
        Ok(String::new())
    })
    .await
    .unwrap();
    assert_eq!(
        recorded.changes("_seconds_sum"),
        [
            "pass_duration_seconds_sum{outcome=\"discarded\"} 1.5",
            "pass_duration_seconds_sum{outcome=\"published\"} 3",
            "promise_duration_seconds_sum{outcome=\"fulfilled\"} 60"
        ]
    );
    assert_eq!(
        recorded.changes("_seconds_count"),
        [
            "pass_duration_seconds_count{outcome=\"discarded\"} 1",
            "pass_duration_seconds_count{outcome=\"published\"} 1",
            "promise_duration_seconds_count{outcome=\"fulfilled\"} 1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn abandoned_passes_and_promises_are_timed_until_the_client_leaves() {
    let recorded = Recorded::start().await;
    let layer = PromiseLayer::new().start(Start::Eager);
    let request = ask_async(layer, async |promises| {
        sleep(Duration::from_secs(1)).await;
        promises.submit("never", pending::<()>())?;
        pending().await
    });
    let outcome = tokio::time::timeout(Duration::from_secs(4), request).await;
    assert!(outcome.is_err());
    assert_eq!(
        recorded.changes("_seconds_sum"),
        [
            "pass_duration_seconds_sum{outcome=\"abandoned\"} 4",
            "promise_duration_seconds_sum{outcome=\"cancelled\"} 3"
        ]
    );
    recorded.is_idle().await;
}
/// Rejects a request of 200,000 bytes. The handler reads the whole body, then submits `count` promises.
async fn reject(layer: PromiseLayer, count: usize) -> Rejection {
    let service = layer.layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        request.into_body().collect().await?;
        for index in 0..count {
            let never = promises.result_or_submit(index.to_string(), pending::<()>);
            never.or_pending(())?;
        }
        Ok::<_, BoxError>(text_response(""))
    }));
    let response = service.oneshot(post(vec![b'x'; 200_000])).await.unwrap();
    response.extensions().get::<Rejection>().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn rejections_are_counted_by_kind() {
    let mut recorded = Recorded::start().await;
    let missing = temporary_directory().path().join("missing");
    let layer = PromiseLayer::new;
    for (layer, count, kind) in [
        (layer().max_body_bytes(1000), 1, "body_too_large"),
        (
            layer().max_body_bytes(1000).spool_dir(missing),
            1,
            "spool_failed",
        ),
        (layer().timeout(Duration::from_secs(1)), 1, "timed_out"),
        (layer().max_passes(1), 1, "too_many_passes"),
        (layer().max_promises(1), 2, "too_many_promises"),
    ] {
        recorded.restart();
        let rejection = reject(layer, count).await;
        assert_eq!(
            recorded.changes("rejections_total"),
            [format!("rejections_total{{kind=\"{kind}\"}} 1")],
            "{rejection:?}"
        );
    }
    recorded.is_idle().await;
}

#[tokio::test]
async fn a_saturated_pool_is_a_kind_of_rejection_too() {
    let recorded = Recorded::start().await;
    let pool = BlockingPool::builder()
        .max_running(1)
        .max_waiting(0)
        .on_saturation(OnSaturation::Reject)
        .build();
    let layer = PromiseLayer::new().blocking(pool);
    let (release, job) = held();
    let running = tokio::spawn(ask_for_job(layer.clone(), job));
    recorded.shows("blocking_jobs_in_flight", 1.0).await;
    ask_for_job(layer, || ()).await;
    assert_eq!(
        recorded.counters(),
        [
            "passes_total{outcome=\"discarded\"} 2",
            "promises_total{outcome=\"rejected\"} 1",
            "rejections_total{kind=\"saturated\"} 1"
        ]
    );
    drop(release);
    running.await.unwrap();
    recorded.is_idle().await;
}

#[tokio::test]
async fn labels_contain_no_input_of_a_client() {
    let recorded = Recorded::start().await;
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let path = request.uri().path().to_owned();
        let error = path.clone();
        promises.result_or_try_submit(path, async || Err::<(), _>(error))?;
        Ok::<_, BoxError>(text_response(""))
    }));
    let error = service.oneshot(get("/sesame")).await.unwrap_err();
    assert!(error.to_string().contains("sesame"));
    assert_eq!(
        recorded.counters(),
        [
            "passes_total{outcome=\"discarded\"} 1",
            "passes_total{outcome=\"failed\"} 1",
            "promises_total{outcome=\"failed\"} 1"
        ]
    );
    assert!(!recorded.handle.render().contains("sesame"));
}

#[tokio::test]
async fn every_metric_has_a_matching_kind_a_unit_and_a_help_text() {
    let recorded = Recorded::start().await;
    let mut described = described(tower_promises::observe::metrics::describe);
    described.retain(|name, _| is_of_promises(name));
    for (name, description) in &described {
        assert_is_conventional(name, description);
    }
    let names: Vec<_> = described.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "tower_promises_blocking_jobs_in_flight",
            "tower_promises_blocking_queue_depth",
            "tower_promises_fragment_duration_seconds",
            "tower_promises_fragments_total",
            "tower_promises_page_duration_seconds",
            "tower_promises_pass_duration_seconds",
            "tower_promises_passes_total",
            "tower_promises_promise_duration_seconds",
            "tower_promises_promises_in_flight",
            "tower_promises_promises_total",
            "tower_promises_rejections_total",
            "tower_promises_replay_bytes",
            "tower_promises_requests_in_flight",
            "tower_promises_shell_duration_seconds"
        ]
    );

    // Every metric that is used has a description of the matching kind.
    tower_promises::observe::metrics::describe();
    ask_for_job(PromiseLayer::new().max_passes(1), || ()).await;
    let one_at_a_time =
        PromiseLayer::new().blocking(BlockingPool::builder().max_running(1).build());
    let (release, job) = held();
    let client = async {
        recorded.shows("blocking_queue_depth", 1.0).await;
        drop(release);
    };
    let first = ask_for_job(one_at_a_time.clone(), job);
    join3(first, ask_for_job(one_at_a_time, || ()), client).await;
    let read_again = ReplayBody::new(TestBody::from("x"));
    read_again.replay().collect().await.unwrap();
    tokio::time::pause();
    text(fragments::open(FragmentLayer::new(), &[2]).await).await;
    tokio::time::resume();
    let text = recorded.handle.render();
    for (name, (kind, _, help)) in &described {
        // Prometheus exports a histogram without buckets as a summary.
        let kind = kind.replace("histogram", "summary");
        for line in [
            format!("# HELP {name} {help}\n"),
            format!("# TYPE {name} {kind}\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }
    let families = families(&text).into_keys();
    let families = families.filter(|name| is_of_promises(name));
    assert_eq!(families.count(), described.len());
}

#[test]
fn described_metrics_exist_before_the_first_request() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, tower_promises::observe::metrics::describe);
    let text = recorder.handle().render();
    let series = text.lines().filter(|line| line.starts_with("tower_"));
    let series: BTreeSet<_> = series.filter(|line| is_of_promises(line)).collect();
    let mut wanted = BTreeSet::new();
    for (name, label, values) in [
        (
            "passes_total",
            "outcome",
            "published failed discarded rejected abandoned",
        ),
        (
            "promises_total",
            "outcome",
            "fulfilled failed timed_out panicked cancelled rejected",
        ),
        (
            "fragments_total",
            "outcome",
            "rendered failed timed_out abandoned",
        ),
        (
            "rejections_total",
            "kind",
            "body_too_large spool_failed timed_out too_many_passes too_many_promises saturated",
        ),
    ] {
        for value in values.split(' ') {
            wanted.insert(format!("tower_promises_{name}{{{label}=\"{value}\"}} 0"));
        }
    }
    for gauge in test_support::recorded::GAUGES {
        wanted.insert(format!("tower_promises_{gauge} 0"));
    }
    let wanted: BTreeSet<_> = wanted.iter().map(String::as_str).collect();
    assert_eq!(series, wanted);
}
