//! Handles inside and outside of fragments, on this and other threads.

use crate::support::{SECOND, after, browser, html, open, pending, read, template, without_grace};
use http_body_util::BodyExt;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use test_support::{Counter, TestRequest, promises};
use tokio::time::Instant;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::Fragment;
use tower_promises::promise::PromiseResults;
use tower_promises::{BoxError, PromiseError, Promises};

#[tokio::test(start_paused = true)]
async fn a_handle_from_outside_counts_as_that_of_the_fragment() {
    let page = open(without_grace(), |promises| {
        let outside = promises.clone();
        let fragment = promises.fragment("captured", "…", move |_| {
            let first = after(&outside, "first", SECOND)?;
            let second = after(&outside, "second", SECOND)?;
            Ok::<_, PromiseError>(first + &*second)
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "firstsecond"))
    );
    assert_eq!(page.passes, 1);
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_an_outer_fragment_counts_as_that_of_the_inner_fragment() {
    let page = open(without_grace(), |promises| {
        let outer = promises.fragment("outer", "…", |promises| {
            let outer = promises.clone();
            let inner = promises.fragment("inner", "…", move |_| {
                let first = after(&outer, "first", SECOND)?;
                let second = after(&outer, "second", SECOND)?;
                Ok::<_, PromiseError>(first + &*second)
            });
            Ok::<_, PromiseError>(format!("outer {inner}"))
        });
        Ok(outer.to_string())
    })
    .await;
    let outer = format!("outer {}", pending(2, "…"));
    assert_eq!(
        page.text(),
        format!("{outer}{}", template(2, "firstsecond"))
    );
    assert_eq!(page.passes, 1);
}

#[tokio::test(start_paused = true)]
async fn the_current_promises_of_a_render_function_are_those_of_its_fragment() {
    let page = open(without_grace(), |promises| {
        let fragment = promises.fragment("current", "…", |_| {
            let promises = Promises::try_current()?;
            let first = after(&promises, "first", SECOND)?;
            let second = after(&Promises::try_current()?, "second", SECOND)?;
            Ok::<_, BoxError>(first + &*second)
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "firstsecond"))
    );
    assert!(Promises::current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_render_function_may_read_on_other_threads() {
    let page = open(without_grace(), |promises| {
        let fragment = promises.fragment("threads", "…", |promises| {
            let read = |name: &'static str| {
                let promises = promises.clone();
                thread::spawn(move || {
                    let read = || after(&Promises::current().unwrap(), name, SECOND);
                    promises.scope(read)
                })
            };
            let threads = ["a", "b", "c"].map(read);
            let values = threads.map(|thread| thread.join().unwrap());
            values.into_iter().collect::<Result<String, _>>()
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "abc"))
    );
    assert_eq!(page.passes, 1);
}

#[test]
fn fragments_can_be_tested_without_a_server() {
    fn page(promises: &Promises) -> (Fragment, Fragment) {
        let price = promises.fragment("price", "…", |promises| {
            let price: u32 = promises.result_or_submit("price", async || 1)?;
            Ok::<_, PromiseError>(format!("{price} €"))
        });
        let rest = promises.fragment("rest", "…", |promises| {
            let price = promises.result::<u32>("price")?;
            promises.result_or_submit(format!("rest {price}"), async || String::new())
        });
        (price, rest)
    }
    let promises = Promises::with_results(PromiseResults::new());
    let (price, rest) = page(&promises);
    assert!(price.is_pending() && rest.is_pending());
    assert_eq!(promises.keys(), ["price"]);
    assert!(!promises.will_discard());

    let promises = Promises::with_results(PromiseResults::new().value("price", 7_u32));
    let (price, rest) = page(&promises);
    assert_eq!(price.to_string(), "7 €");
    assert!(!price.is_pending() && rest.is_pending());
    assert_eq!(promises.keys(), ["price", "rest 7"]);

    let failed = PromiseResults::new().failed::<u32>("price", "no price");
    let promises = Promises::with_results(failed.timed_out::<String>("rest 7"));
    let (price, rest) = page(&promises);
    assert_eq!(format!("{price}{rest}"), "");
}

/// Sends a request to a handler whose handle is kept.
async fn keep(
    handler: impl Fn(&Promises) -> String + Clone,
) -> (
    Promises,
    Instant,
    http::Response<impl http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>>,
) {
    let kept = Arc::new(Mutex::new(None));
    let keeping = Arc::clone(&kept);
    let service = without_grace().layer(service_fn(move |request: TestRequest| {
        let promises = promises(&request);
        let page = handler(&promises);
        *keeping.lock().unwrap() = Some(promises);
        std::future::ready(Ok::<_, BoxError>(html(page)))
    }));
    let start = Instant::now();
    let response = service.oneshot(browser("/")).await.unwrap();
    let promises = kept.lock().unwrap().take().unwrap();
    (promises, start, response)
}

#[tokio::test(start_paused = true)]
async fn a_handle_creates_no_fragment_after_the_end() {
    let (promises, start, response) = keep(|promises| {
        let fragment = promises.fragment("a", "…", |promises| after(promises, "a", SECOND));
        fragment.to_string()
    })
    .await;
    let page = read(start, response).await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "a"))
    );

    let dropped = Counter::default();
    let guard = dropped.on_drop();
    let fragment = promises.fragment("late", "…", move |promises| {
        let _ = &guard;
        let error = after(promises, "a", SECOND).unwrap_err();
        assert!(matches!(error, PromiseError::Ended { .. }));
        Err::<String, _>(error)
    });
    assert!(!fragment.is_pending());
    assert_eq!((fragment.to_string().as_str(), dropped.get()), ("", 1));
    assert!(promises.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_an_earlier_pass_adds_no_fragment_to_a_page() {
    let first = Arc::new(Mutex::new(None));
    let keeping = Arc::clone(&first);
    let service = without_grace().layer(service_fn(move |request: TestRequest| {
        let promises = promises(&request);
        keeping
            .lock()
            .unwrap()
            .get_or_insert_with(|| promises.clone());
        let page = || {
            let title = after(&promises, "title", SECOND)?;
            let slow = promises.fragment("slow", "…", |it| after(it, "slow", 2 * SECOND));
            Ok::<_, BoxError>(html(format!("{title}{slow}")))
        };
        std::future::ready(page())
    }));
    let start = Instant::now();
    let response = service.oneshot(browser("/")).await.unwrap();
    let first = first.lock().unwrap().take().unwrap();
    let stale = first.fragment("stale", "stale", |promises| {
        promises.result::<String>("slow")
    });
    assert!(!stale.is_pending());
    let page = read(start, response).await;
    assert_eq!(
        page.text(),
        format!("title{}{}", pending(1, "…"), template(1, "slow"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_fragment_of_another_thread_that_is_ready_at_once_wakes_the_page() {
    let (promises, start, response) = keep(|promises| {
        let quick = promises.fragment("quick", "…", |it| after(it, "quick", SECOND));
        let slow = promises.fragment("slow", "…", |it| after(it, "slow", 9 * SECOND));
        format!("{quick}{slow}")
    })
    .await;
    let (is_reading, has_read) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    // Misses the promise, and is kept only after the promise has settled.
    let thread = thread::spawn(move || {
        let fragment = promises.fragment("other", "", move |promises| {
            let value = promises.result::<String>("quick");
            if value.is_err() {
                is_reading.send(()).unwrap();
                let _ = may_go_on.lock().unwrap().recv();
            }
            value
        });
        assert!(fragment.is_pending());
    });
    has_read.recv().unwrap();
    let mut body = Box::pin(response.into_body());
    let shell = format!("{}{}", pending(1, "…"), pending(2, "…"));
    for expected in [shell, template(1, "quick")] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expected);
    }
    {
        let mut next = spawn(body.frame());
        assert_pending!(next.poll());
        drop(go_on);
        thread.join().unwrap();
        assert!(next.is_woken());
        let frame = assert_ready!(next.poll()).unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), template(3, "quick"));
    }
    let last = body.collect().await.unwrap().to_bytes();
    assert_eq!(last, template(2, "slow"));
    assert_eq!(start.elapsed(), 9 * SECOND);
}
