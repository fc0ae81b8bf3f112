//! Warnings with advice: the conditions under which they are logged.

use http::StatusCode;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use test_support::{Log, TestRequest, ask, ask_async, get, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::loader::Loader;
use tower_promises::promise::{OnTimeout, Start};
use tower_promises::{BoxError, OrPending, PromiseLayer, Promises};

#[tokio::test]
async fn a_value_that_is_never_read_is_warned_of() {
    let log = Log::start();
    ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 1 {
            promises.submit("wasted", async { 1_u8 })?;
            promises.submit("used", async { 1_u8 })?;
            // Submitted for its side effect.
            promises.submit("sent", async {})?;
        }
        promises.result::<u8>("used")?;
        Ok(String::new())
    })
    .await
    .unwrap();
    let warning = warning(&log, "never read");
    assert!(warning.contains("[\"wasted\"]"), "{warning}");
}

#[tokio::test]
async fn a_value_that_a_part_of_the_request_reads_is_not_warned_of() {
    let log = Log::start();
    let part = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let value: u8 = promises(&request).result("shared")?;
        Ok::<_, BoxError>(text_response(value.to_string()))
    }));
    let answer = ask_async(PromiseLayer::new(), async |promises| {
        if promises.pass() == 1 {
            promises.submit("shared", async { 7_u8 })?;
            return Ok(String::new());
        }
        let mut request = get("/part");
        request.extensions_mut().insert(promises);
        let response = part.clone().oneshot(request).await?;
        Ok(test_support::text(response.into_body()).await)
    });
    assert_eq!(answer.await.unwrap().body, "7");
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn values_unread_because_of_an_error_cause_no_warning() {
    let log = Log::start();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let mut response = text_response("");
        if promises.pass() == 1 {
            promises.submit("unread", async { 1_u8 })?;
        }
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        Ok::<_, BoxError>(response)
    }));
    service.oneshot(get("/")).await.unwrap();
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn cancelled_and_dropped_promises_cause_no_warning() {
    let log = Log::start();
    ask_async(PromiseLayer::new().start(Start::Eager), async |promises| {
        promises.submit("cancelled", async { 1_u8 })?;
        promises.cancel("cancelled");
        promises.submit("dropped", pending::<u8>())?;
        tokio::task::yield_now().await;
        promises.publish();
        Ok(String::new())
    })
    .await
    .unwrap();
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn a_pending_error_of_a_promise_that_runs_is_warned_of_too() {
    let log = Log::start();
    ask_async(PromiseLayer::new().start(Start::Eager), async |promises| {
        let price = promises.result_or_submit("price", pending::<u8>);
        tokio::task::yield_now().await;
        promises.publish();
        Ok(price.unwrap_or_default().to_string())
    })
    .await
    .unwrap();
    let warning = warning(&log, "pending when they were read");
    assert!(warning.contains("[\"price\"]"), "{warning}");
}

#[tokio::test]
async fn keys_that_differ_in_every_pass_are_warned_of_once() {
    let log = Log::start();
    ask(PromiseLayer::new().max_passes(5), |promises| {
        let key = format!("now:{}", promises.pass());
        Ok(promises.result_or_submit(key, async || 1_u8)?.to_string())
    })
    .await
    .unwrap();
    let warning = warning(&log, "asks for others");
    assert!(
        warning.contains("[\"now:1\"]") && warning.contains("[\"now:2\"]"),
        "{warning}"
    );
}

#[tokio::test]
async fn a_chain_of_promises_causes_no_warning() {
    let log = Log::start();
    let answer = ask(PromiseLayer::new(), |promises| {
        let user: u8 = promises.result_or_submit("user", async || 1)?;
        let group: u8 = promises.result_or_submit(format!("group:{user}"), async || 2)?;
        let rights: u8 = promises.result_or_submit(format!("rights:{group}"), async || 3)?;
        Ok(rights.to_string())
    })
    .await
    .unwrap();
    assert_eq!(answer.passes, 4);
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn values_read_late_or_by_other_methods_cause_no_warning() {
    let log = Log::start();
    let answer = ask_async(PromiseLayer::new(), async |promises| {
        let first: Result<u8, _> = promises.result_or_submit("first", async || 1);
        if promises.pass() == 1 {
            promises.submit("late", async { 2_u8 })?;
            promises.submit("awaited", async { 3_u8 })?;
            promises.try_submit("broken", async { Err::<u8, _>("no luck") })?;
            let this = promises.clone();
            let reader = || async move { this.resolve("shared", async || 4_u8).await };
            promises
                .result_or_try_submit("reader", reader)
                .or_pending(0)?;
        }
        let next: Result<u8, _> =
            promises.result_or_submit(format!("after {}", first?), async || 5);
        let again: u8 = promises.result_or_submit(format!("after {}", next?), async || 6)?;
        // Read in the last pass only, and without `result`.
        assert!(promises.result::<u8>("broken").is_err());
        let late: u8 = promises.result("late")?;
        let awaited = promises.resolve("awaited", async || 0_u8).await?;
        let read: u8 = promises.result("reader")?;
        Ok((again + late + awaited + read).to_string())
    })
    .await
    .unwrap();
    assert_eq!((&*answer.body, answer.passes), ("15", 4));
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn keys_that_are_submitted_again_cause_no_warning() {
    let log = Log::start();
    let answer = ask(PromiseLayer::new(), |promises| {
        if promises.pass() < 4 {
            // Submitted again under the same name in each pass.
            promises.reset("call");
        }
        let pass = promises.pass();
        let value: usize = promises.result_or_submit("call", async move || pass)?;
        Ok(value.to_string())
    })
    .await
    .unwrap();
    assert_eq!((&*answer.body, answer.passes), ("3", 4));
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn loading_row_after_row_causes_no_warning() {
    struct Parents;

    impl Loader for Parents {
        type Key = u32;
        type Value = u32;
        type Error = Infallible;

        async fn load(&self, keys: &[u32]) -> Result<HashMap<u32, u32>, Infallible> {
            Ok(keys.iter().map(|key| (*key, key / 2)).collect())
        }
    }

    let log = Log::start();
    let parents = Arc::new(Parents);
    let answer = ask(PromiseLayer::new(), |promises| {
        let mut row = 9;
        while row > 1 {
            row = promises.load(&parents, row)?.unwrap();
        }
        Ok(row.to_string())
    })
    .await
    .unwrap();
    assert_eq!((&*answer.body, answer.passes), ("1", 4));
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn speculative_promises_cause_no_warning() {
    let log = Log::start();
    ask(PromiseLayer::new(), |promises| {
        let is_sale = promises.result_or_submit("is sale", async || false);
        // Only needed if there is a sale, which is unknown in the first pass.
        if is_sale.or_pending(true)? {
            let discount = promises.result_or_submit("discount", async || 10_u8);
            return Ok(discount.or_pending(0)?.to_string());
        }
        Ok(String::new())
    })
    .await
    .unwrap();
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test]
async fn promises_for_their_effect_cause_no_warning_about_keys() {
    let log = Log::start();
    ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 1 {
            promises.submit("sent", async {})?;
            return Ok(String::new());
        }
        let value: u8 = promises.result_or_submit("value", async || 1)?;
        Ok(value.to_string())
    })
    .await
    .unwrap();
    assert!(!log.text().contains("WARN"), "{}", log.text());

    ask(PromiseLayer::new(), |promises| {
        match promises.pass() {
            1 => promises.submit("wasted", async { 1_u8 })?,
            2 => promises.submit("sent", async {})?,
            _ => {}
        }
        Ok(String::new())
    })
    .await
    .unwrap();
    warning(&log, "never read");
    assert_eq!(log.text().matches("WARN").count(), 1, "{}", log.text());
}

/// Publishes a redirect while a promise is pending, and leaves a value unread.
#[tokio::test]
async fn warnings_treat_a_redirect_as_a_success() {
    let log = Log::start();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        if promises.pass() == 1 {
            promises.submit("unread", async { 1_u8 })?;
        } else {
            promises.publish();
            assert!(promises.result_or_submit("price", async || 9_u8).is_err());
        }
        let mut response = text_response("");
        *response.status_mut() = StatusCode::SEE_OTHER;
        Ok::<_, BoxError>(response)
    }));
    service.oneshot(get("/")).await.unwrap();
    let log = log.text();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(warnings[0].contains("never read") && warnings[0].contains("[\"unread\"]"));
    assert!(warnings[1].contains("pending when they were read"), "{log}");
}

#[tokio::test]
async fn a_placeholder_for_one_reader_does_not_silence_the_next_warning() {
    let log = Log::start();
    ask(PromiseLayer::new(), |promises| {
        promises.publish();
        let header = promises
            .result_or_submit("price", async || 9_u8)
            .or_pending(0)?;
        let footer: u8 = promises.result("price").unwrap_or_default();
        Ok((header + footer).to_string())
    })
    .await
    .unwrap();
    warning(&log, "pending when they were read");
}

#[tokio::test]
async fn a_pending_error_that_is_ignored_is_warned_of() {
    let handler = |promises: &Promises| {
        promises.publish();
        promises.result_or_submit("price", async || 9_u8)
    };
    let log = Log::start();
    ask(PromiseLayer::new(), move |promises| {
        Ok(handler(promises).unwrap_or_default().to_string())
    })
    .await
    .unwrap();
    let warning = warning(&log, "pending when they were read");
    assert!(warning.contains("[\"price\"]"), "{warning}");

    let log = Log::start();
    let layer = PromiseLayer::new();
    ask(layer, move |promises| {
        Ok(handler(promises).or_pending(0)?.to_string())
    })
    .await
    .unwrap();
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_reads_a_pending_one_is_warned_of() {
    let log = Log::start();
    let layer = PromiseLayer::new().promise_timeout(Duration::from_millis(1));
    ask(layer, |promises| {
        let slow = promises.result_or_submit("slow", pending::<u8>);
        let this = promises.clone();
        let read = || async move { this.result::<u8>("slow") };
        let outer = promises.result_or_try_submit("outer", read);
        Ok(format!(
            "{:?} {:?}",
            slow.or_pending(0),
            outer.or_pending(0)
        ))
    })
    .await
    .unwrap();
    let warning = warning(&log, "await `resolve`");
    assert!(warning.contains("outer"), "{warning}");
}

/// Returns the only warning of the log, which must contain `text`.
fn warning(log: &Log, text: &str) -> String {
    let log = log.text();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("tower_promises"))
        .collect();
    let matching: Vec<_> = warnings.iter().filter(|line| line.contains(text)).collect();
    assert_eq!(matching.len(), 1, "{log}");
    (**matching[0]).to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_the_final_pass_requests_is_not_warned_of() {
    let log = Log::start();
    let layer = PromiseLayer::new()
        .timeout(Duration::from_secs(1))
        .on_timeout(OnTimeout::FinalPass);
    let answer = ask(layer, |promises| {
        let slow = promises.result_or_submit("slow", pending::<u8>);
        if slow.is_err_and(|error| error.is_pending()) {
            return Ok(String::new());
        }
        let late = promises.result_or_submit("late", async || 1_u8);
        Ok(late.unwrap_err().to_string())
    });
    assert_eq!(answer.await.unwrap().body, "promise `late` timed out");
    assert!(!log.text().contains("never read"), "{}", log.text());
}
