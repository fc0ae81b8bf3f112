//! `Passes` in the extensions of responses, and the `Server-Timing` header derived from them.

use http::request::Parts;
use http::{HeaderMap, Request, Response};
use std::future::pending;
use std::time::Duration;
use test_support::{TestBody, TestRequest, get, promises, text_response};
use tokio::time::sleep;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_promises::observe::ServerTimingLayer;
use tower_promises::promise::{OnTimeout, Rejection};
use tower_promises::promise::{Passes, PromiseOutcome};
use tower_promises::{BoxError, OrPending, PromiseLayer, Promises};

#[tokio::test(start_paused = true)]
async fn passes_contain_names_and_durations() {
    let response = send(PromiseLayer::new().timings(true), |promises| {
        let fast = promises.result_or_try_submit("fast", async || {
            sleep(Duration::from_secs(1)).await;
            Err::<(), _>("no luck")
        });
        promises.result_or_submit("slow", async || sleep(Duration::from_secs(3)).await)?;
        assert!(fast.is_err());
        promises.result_or_submit("more", async || sleep(Duration::from_secs(2)).await)?;
        Ok(())
    })
    .await;

    let passes = response.extensions().get::<Passes>().unwrap();
    assert_eq!(passes.count(), 2 + 1);
    let starts: Vec<_> = passes.passes().iter().map(|pass| pass.start()).collect();
    assert_eq!(starts, [0, 3, 5].map(Duration::from_secs));
    assert!(passes.passes().iter().all(|pass| pass.duration().is_zero()));

    let promises: Vec<_> = passes
        .promises()
        .iter()
        .map(|promise| {
            (
                promise.key().as_str(),
                promise.pass(),
                promise.start().as_secs(),
                promise.duration().as_secs(),
                promise.outcome(),
            )
        })
        .collect();
    assert_eq!(
        promises,
        [
            ("fast", 1, 0, 1, PromiseOutcome::Failed),
            ("slow", 1, 0, 3, PromiseOutcome::Fulfilled),
            ("more", 2, 3, 2, PromiseOutcome::Fulfilled),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_handler_that_waits_is_its_pass() {
    let layer = PromiseLayer::new().timings(true);
    let service = layer.layer(service_fn(async |request: TestRequest| {
        sleep(Duration::from_millis(20)).await;
        let nap = async || sleep(Duration::from_millis(7)).await;
        promises(&request).resolve("a", nap).await?;
        Ok::<_, BoxError>(text_response(""))
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    let passes = response.extensions().get::<Passes>().unwrap();
    assert_eq!(passes.count(), 1);
    assert_eq!(passes.passes()[0].duration(), Duration::from_millis(27));
    assert_eq!(passes.promises()[0].start(), Duration::from_millis(20));
    assert_eq!(passes.promises()[0].duration(), Duration::from_millis(7));
}

#[tokio::test]
async fn a_response_of_a_single_pass_without_promises_is_unchanged() {
    let response = send(PromiseLayer::new().timings(true), |_| Ok(())).await;
    assert!(response.extensions().get::<Passes>().is_none());
    assert!(response.extensions().is_empty());
}

#[tokio::test]
async fn a_layer_that_no_layer_asks_for_timings_records_none() {
    let response = send(PromiseLayer::new(), |promises| {
        Ok(promises.result_or_submit("a", async || ())?)
    })
    .await;
    assert!(response.extensions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_has_passes_and_its_stopped_promises_are_cancelled() {
    let layer = PromiseLayer::new().timings(true);
    let layer = layer.timeout(Duration::from_secs(4));
    let response = send(layer, |promises| {
        promises.result_or_submit("never", pending::<()>)?;
        Ok(())
    })
    .await;
    assert!(response.extensions().get::<Rejection>().is_some());
    let passes = response.extensions().get::<Passes>().unwrap();
    assert_eq!(passes.count(), 1);
    let promise = &passes.promises()[0];
    assert_eq!(promise.outcome(), PromiseOutcome::Cancelled);
    assert_eq!(promise.duration(), Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_final_pass_counts() {
    let layer = PromiseLayer::new()
        .timings(true)
        .timeout(Duration::from_secs(4))
        .on_timeout(OnTimeout::FinalPass);
    let response = send(layer, |promises| {
        match promises.result_or_submit("never", pending::<()>) {
            Err(error) if error.is_pending() => Err(error.into()),
            _ => Ok(()),
        }
    })
    .await;
    let passes = response.extensions().get::<Passes>().unwrap();
    assert_eq!(passes.count(), 2);
    assert_eq!(passes.promises()[0].outcome(), PromiseOutcome::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn the_header_has_the_passes_and_the_promises() {
    let headers = headers(ServerTimingLayer::new(|_| true), |promises| {
        let user = promises.result_or_submit("user:7", async || {
            sleep(Duration::from_micros(53_120)).await;
        });
        let query = promises.result_or_try_submit("say \"hi\" \\ (ü, 😀)\r\nX: y", async || {
            sleep(Duration::from_millis(2)).await;
            Err::<(), _>("no luck")
        });
        let _ = (user.or_pending(()), query.or_pending(()));
        Ok(())
    })
    .await;
    // The paused clock has a resolution of milliseconds.
    assert_eq!(
        headers["server-timing"].to_str().unwrap(),
        "pass-1;dur=0.000, pass-2;dur=0.000, \
         say__hi____________X__y;desc=\"say \\\"hi\\\" \\\\ (?, ?)??X: y (failed)\";dur=2.000, \
         user_7;desc=\"user:7\";dur=54.000"
    );
}

#[tokio::test]
async fn the_header_is_added_only_if_the_filter_allows_it() {
    let layer = ServerTimingLayer::new(|request| request.headers.contains_key("x-staff"));
    let headers = headers(layer, |promises| {
        Ok(promises.result_or_submit("a", async || ())?)
    })
    .await;
    assert!(headers.get("server-timing").is_none());
}

#[tokio::test]
async fn without_entries_there_is_no_header() {
    let headers = headers(
        ServerTimingLayer::new(|_| true).max_entries(0),
        |promises| Ok(promises.result_or_submit("a", async || ())?),
    )
    .await;
    assert!(headers.get("server-timing").is_none());
}

#[tokio::test]
async fn without_promises_there_is_no_header() {
    let headers = headers(ServerTimingLayer::new(|_| true), |_| Ok(())).await;
    assert!(headers.get("server-timing").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_slowest_of_many_promises_are_shown() {
    let layer = ServerTimingLayer::new(|_| true).max_entries(3);
    let headers = headers(layer, |promises| {
        for n in 0..100_u64 {
            // The order of the names differs from the order of the durations.
            let duration = Duration::from_millis((n * 37) % 100);
            let promise = promises.result_or_submit(format!("p{n}"), move || sleep(duration));
            promise.or_pending(())?;
        }
        Ok(())
    })
    .await;
    let header = headers["server-timing"].to_str().unwrap();
    let shown: Vec<_> = header.split(", ").skip(2).collect();
    assert_eq!(
        shown,
        [
            "p81;desc=\"p81\";dur=97.000",
            "p54;desc=\"p54\";dur=98.000",
            "p27;desc=\"p27\";dur=99.000"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_slowest_of_many_passes_are_shown() {
    let service = ServiceBuilder::new()
        .layer(ServerTimingLayer::new(|_| true).max_entries(3))
        .layer(PromiseLayer::new().max_passes(1000))
        .service_fn(async |request: TestRequest| {
            let promises = promises(&request);
            let pass = promises.pass() as u64;
            sleep(Duration::from_millis((pass * 37) % 100)).await;
            for n in 1..100 {
                promises.result_or_submit(format!("p{n}"), async || ())?;
            }
            Ok::<_, BoxError>(text_response(""))
        });
    let response = service.oneshot(get("/")).await.unwrap();
    let header = response.headers()["server-timing"].to_str().unwrap();
    let shown: Vec<_> = header.split(", ").take(3).collect();
    assert_eq!(
        shown,
        [
            "pass-27;dur=99.000",
            "pass-54;dur=98.000",
            "pass-81;dur=97.000"
        ]
    );
    assert_eq!(header.split(", ").count(), 3 + 3);
}

#[tokio::test(start_paused = true)]
async fn an_entry_has_a_maximum_length() {
    let layer = ServerTimingLayer::new(|_| true).max_entries(1);
    let headers = headers(layer, |promises| {
        let key = "\"".repeat(1000);
        let promise = promises.result_or_try_submit(key, async || {
            sleep(Duration::from_secs(24 * 60 * 60)).await;
            Err::<(), _>("no luck")
        });
        let _ = promise.or_pending(());
        Ok(())
    })
    .await;
    let header = headers["server-timing"].to_str().unwrap();
    let entry = header.split(", ").nth(1).unwrap();
    assert!(
        entry.ends_with("\\\" (failed)\";dur=86400000.000"),
        "{entry}"
    );
    assert!((220..=250).contains(&entry.len()), "{}", entry.len());
}

/// Creates the maximum number of promises, with names in which each character is escaped to two, and many passes.
async fn largest(timing: ServerTimingLayer<fn(&Parts) -> bool>) -> String {
    let service = ServiceBuilder::new()
        .layer(timing)
        .layer(PromiseLayer::new().max_passes(100))
        .service_fn(async |request: TestRequest| {
            let promises = promises(&request);
            sleep(Duration::from_secs(1)).await;
            for n in 0..1000_u64 {
                let name = format!("{n}{}", "\"".repeat(100));
                let promise =
                    promises.result_or_submit(name, move || sleep(Duration::from_secs(n)));
                promise.or_pending(())?;
            }
            for n in 1..20 {
                promises.result_or_submit(format!("chain{n}"), async || ())?;
            }
            Ok::<_, BoxError>(text_response(""))
        });
    let response = service.oneshot(get("/")).await.unwrap();
    let header = response.headers().get("server-timing");
    header.map_or_else(String::new, |it| it.to_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn the_header_fits_the_limits_of_proxies() {
    // Half of the limit of nginx for all response headers together.
    const MAX_BYTES: usize = 2048;
    let header = largest(ServerTimingLayer::new(|_| true)).await;
    assert!(header.len() <= MAX_BYTES, "{}", header.len());
    // Another entry would not fit.
    assert!(header.len() + 250 > MAX_BYTES, "{}", header.len());

    // All passes, followed by the slowest promises, in their order.
    let entries = header.split(", ");
    let names: Vec<_> = entries.map(|it| it.split(';').next().unwrap()).collect();
    let passes: Vec<_> = (1..=20).map(|pass| format!("pass-{pass}")).collect();
    assert_eq!(names[..20], passes);
    let numbers = names[20..]
        .iter()
        .map(|it| it.trim_end_matches('_').parse());
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().unwrap();
    assert!(numbers.len() > 3, "{header}");
    let first = 1000 - numbers.len() as u64;
    assert_eq!(numbers, Vec::from_iter(first..1000));
}

#[tokio::test(start_paused = true)]
async fn the_size_of_the_header_can_be_set() {
    let layer = || ServerTimingLayer::new((|_| true) as fn(&Parts) -> bool).max_entries(10_000);
    let header = largest(layer().max_bytes(1_000_000)).await;
    assert_eq!(header.split(", ").count(), 20 + 1000 + 19);
    let header = largest(layer().max_bytes(19)).await;
    assert_eq!(header, "pass-1;dur=1000.000");
    let header = largest(layer().max_bytes(18)).await;
    assert_eq!(header, "");
    for max_bytes in [20, 300, 1000, 16_384, 8192] {
        let header = largest(layer().max_bytes(max_bytes)).await;
        assert!(header.len() <= max_bytes, "{header}");
    }
}

#[tokio::test]
async fn long_names_are_truncated_and_empty_names_are_shown() {
    let headers = headers(ServerTimingLayer::new(|_| true), |promises| {
        let long = promises.result_or_submit("x".repeat(10_000), async || ());
        let empty = promises.result_or_submit("", async || ());
        long.or_pending(())?;
        empty.or_pending(())?;
        Ok(())
    })
    .await;
    let header = headers["server-timing"].to_str().unwrap();
    let x = "x".repeat(64);
    assert!(
        header.contains(&format!("{x};desc=\"{x}\";dur=")),
        "{header}"
    );
    assert!(header.contains(", _;desc=\"\";dur="), "{header}");
}

#[tokio::test]
async fn an_existing_header_stays() {
    let service = ServiceBuilder::new()
        .layer(ServerTimingLayer::new(|_| true))
        .layer(PromiseLayer::new())
        .service_fn(async |request: TestRequest| {
            promises(&request).result_or_submit("a", async || ())?;
            let mut response = text_response("");
            let theirs = "db;dur=3".parse().unwrap();
            response.headers_mut().insert("server-timing", theirs);
            Ok::<_, BoxError>(response)
        });
    let response = service.oneshot(get("/")).await.unwrap();
    let values: Vec<_> = response.headers().get_all("server-timing").iter().collect();
    assert_eq!(values[0], "db;dur=3");
    assert!(values[1].to_str().unwrap().starts_with("pass-1;dur="));
}

async fn headers(
    timing: ServerTimingLayer<impl Fn(&Parts) -> bool + Clone>,
    handler: impl Fn(&Promises) -> Result<(), BoxError>,
) -> HeaderMap {
    let service = ServiceBuilder::new()
        .layer(timing)
        .layer(PromiseLayer::new())
        .service_fn(|request: TestRequest| {
            std::future::ready(handler(&promises(&request)).map(|()| text_response("")))
        });
    let request: Request<TestBody> = get("/");
    service.oneshot(request).await.unwrap().headers().clone()
}

async fn send(
    layer: PromiseLayer,
    handler: impl Fn(&Promises) -> Result<(), BoxError>,
) -> Response<TestBody> {
    let service = layer.layer(service_fn(|request: TestRequest| {
        std::future::ready(handler(&promises(&request)).map(|()| text_response("")))
    }));
    service.oneshot(get("/")).await.unwrap()
}
