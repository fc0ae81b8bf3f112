//! Spans of requests, passes and promises, as a subscriber of `tracing` receives them.


use std::future::pending;
use std::time::Duration;
use test_support::spans::SpanTree;
use test_support::{TestRequest, ask, ask_async, get, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::{BoxError, OrPending, PromiseError, PromiseLayer};
use tower_promises::promise::Start;
use tracing::{Instrument, info_span};

#[tokio::test]
async fn each_pass_and_each_promise_has_a_span_with_its_outcome() {
    let spans = SpanTree::record();
    ask(PromiseLayer::new(), |promises| {
        let name: Result<String, _> = promises.result_or_submit("name", async || "Ferris".into());
        let fault: Result<u8, _> =
            promises.result_or_try_submit("fault", async || Err::<u8, _>("no luck"));
        let (name, _) = (name.or_pending(String::new())?, fault.or_pending(0).ok());
        Ok(name)
    })
    .await
    .unwrap();

    assert_eq!(
        spans.text(),
        "promises passes=2 promises=2 outcome=published duration_ms=…
  pass pass=1 outcome=discarded duration_ms=…
    promise key=name pass=1 outcome=fulfilled duration_ms=…
    promise key=fault pass=1 outcome=failed duration_ms=…
  pass pass=2 outcome=published duration_ms=…
"
    );
}

#[tokio::test]
async fn a_request_without_promises_has_no_span() {
    let spans = SpanTree::record();
    ask(PromiseLayer::new(), |_| Ok("hello".into()))
        .await
        .unwrap();
    assert_eq!(spans.text(), "");
}

#[tokio::test]
async fn spans_of_promises_and_handlers_nest() {
    let spans = SpanTree::record();
    let request = info_span!("request");
    ask_async(PromiseLayer::new(), async |promises| {
        let handler = info_span!("handler");
        handler.in_scope(|| {
            let fetch = async || async { 7_u8 }.instrument(info_span!("query")).await;
            let value = promises.result_or_submit("a", fetch)?;
            Ok(value.to_string())
        })
    })
    .instrument(request)
    .await
    .unwrap();

    assert_eq!(
        spans.text(),
        "request
  handler
  promises passes=2 promises=1 outcome=published duration_ms=…
    pass pass=1 outcome=discarded duration_ms=…
      promise key=a pass=1 outcome=fulfilled duration_ms=…
        query
    pass pass=2 outcome=published duration_ms=…
      handler
"
    );
}

#[tokio::test]
async fn spans_of_an_inner_request_are_below_the_pass_that_made_it() {
    let spans = SpanTree::record();
    let part = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let value = promises(&request).result_or_submit("inner", async || 7_u8)?;
        Ok::<_, BoxError>(text_response(value.to_string()))
    }));
    ask_async(PromiseLayer::new(), async |promises| {
        promises.result_or_submit("outer", async || ())?;
        let mut request = get("/part");
        request.extensions_mut().insert(promises);
        let response = part.clone().oneshot(request).await?;
        Ok(test_support::text(response.into_body()).await)
    })
    .await
    .unwrap();
    assert_eq!(
        spans.text(),
        "promises passes=2 promises=1 outcome=published duration_ms=…
  pass pass=1 outcome=discarded duration_ms=…
    promise key=outer pass=1 outcome=fulfilled duration_ms=…
  pass pass=2 outcome=published duration_ms=…
    promises passes=2 promises=1 outcome=published duration_ms=…
      pass pass=1 outcome=discarded duration_ms=…
        promise key=inner pass=1 outcome=fulfilled duration_ms=…
      pass pass=2 outcome=published duration_ms=…
"
    );
}

#[tokio::test]
async fn a_blocking_promise_runs_in_its_span_too() {
    let spans = SpanTree::record();
    ask(PromiseLayer::new(), |promises| {
        let job = || info_span!("compute").in_scope(|| 7_u8);
        Ok(promises.result_or_submit_blocking("n", job)?.to_string())
    })
    .await
    .unwrap();
    assert!(
        spans
            .text()
            .contains("promise key=n pass=1 outcome=fulfilled duration_ms=…\n      compute\n"),
        "{}",
        spans.text()
    );
}

#[tokio::test]
async fn a_promise_that_starts_early_opens_the_spans_during_a_pass() {
    let spans = SpanTree::record();
    ask_async(PromiseLayer::new().start(Start::Eager), async |promises| {
        let value = promises.resolve("early", async || 1_u8).await?;
        info_span!("after").in_scope(|| ());
        Ok(value.to_string())
    })
    .await
    .unwrap();
    assert_eq!(
        spans.text(),
        "promises passes=1 promises=1 outcome=published duration_ms=…
  pass pass=1 outcome=published duration_ms=…
    promise key=early pass=1 outcome=fulfilled duration_ms=…
    after
"
    );
}

#[tokio::test(start_paused = true)]
async fn spans_record_timeouts_panics_and_drops() {
    let spans = SpanTree::record();
    let layer = PromiseLayer::new().promise_timeout(Duration::from_millis(1500));
    ask(layer.clone(), |promises| {
        let slow = promises.result_or_submit("slow", pending::<u8>);
        let bad = promises.result_or_submit("bad", async || -> u8 { panic!("boo") });
        if promises.pass() == 1 {
            slow?;
        }
        assert!(matches!(bad, Err(PromiseError::Panicked { .. })) || promises.pass() == 1);
        Ok(String::new())
    })
    .await
    .unwrap();
    let tree = spans.text_with_times();
    assert!(
        tree.contains("promise key=slow pass=1 outcome=timed_out duration_ms=1500.0"),
        "{tree}"
    );
    let spans = SpanTree::record();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        promises(&request).result_or_submit::<u8, _>("never", pending)?;
        Ok::<_, BoxError>(text_response(""))
    }));
    let outcome = tokio::time::timeout(Duration::from_secs(2), service.oneshot(get("/"))).await;
    assert!(outcome.is_err(), "the client has gone away");
    assert_eq!(
        spans.text_with_times(),
        "promises passes=1 promises=1 outcome=abandoned duration_ms=2000.0
  pass pass=1 outcome=discarded duration_ms=0.0
    promise key=never pass=1 outcome=cancelled duration_ms=2000.0
"
    );
}

#[tokio::test(start_paused = true)]
async fn values_of_a_promise_are_dropped_in_its_span() {
    struct Noisy(&'static str);

    impl Drop for Noisy {
        fn drop(&mut self) {
            info_span!("dropped", what = self.0).in_scope(|| ());
        }
    }

    let spans = SpanTree::record();
    let layer = PromiseLayer::new().promise_timeout(Duration::from_secs(1));
    let service = layer.layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        if promises.pass() == 1 {
            promises.submit("slow", async {
                let _noisy = Noisy("at the timeout");
                pending::<()>().await;
            })?;
        } else {
            promises.submit("never", async {
                let _noisy = Noisy("with the request");
                pending::<()>().await;
            })?;
        }
        Ok::<_, BoxError>(text_response(""))
    }));
    let outcome =
        tokio::time::timeout(Duration::from_millis(1500), service.oneshot(get("/"))).await;
    assert!(outcome.is_err(), "the client has gone away");
    assert_eq!(
        spans.text(),
        "promises passes=2 promises=2 outcome=abandoned duration_ms=…
  pass pass=1 outcome=discarded duration_ms=…
    promise key=slow pass=1 outcome=timed_out duration_ms=…
      dropped what=at the timeout
  pass pass=2 outcome=discarded duration_ms=…
    promise key=never pass=2 outcome=cancelled duration_ms=…
      dropped what=with the request
"
    );
}

#[tokio::test]
async fn the_span_of_a_rejected_request_records_the_rejection() {
    let spans = SpanTree::record();
    ask(PromiseLayer::new().max_passes(1), |promises| {
        Ok(promises.result_or_submit("a", async || 1_u8)?.to_string())
    })
    .await
    .unwrap();
    assert_eq!(spans.text(), "");

    let layer = PromiseLayer::new().max_passes(2);
    ask(layer, |promises| {
        let key = format!("a{}", promises.pass());
        Ok(promises.result_or_submit(key, async || 1_u8)?.to_string())
    })
    .await
    .unwrap();
    assert_eq!(
        spans.text(),
        "promises passes=2 promises=1 outcome=rejected duration_ms=…
  pass pass=1 outcome=discarded duration_ms=…
    promise key=a1 pass=1 outcome=fulfilled duration_ms=…
  pass pass=2 outcome=rejected duration_ms=…
"
    );
}
