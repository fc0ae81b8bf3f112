//! What else needs the promises of a fragment, and when they are dropped.

use crate::support::{
    SECOND, after, browser, html, open, pending, problems, read, template, without_grace,
};
use std::sync::{Arc, Mutex};
use test_support::{Counter, Log, TestRequest, promises};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::{BoxError, PromiseError, Promises};

#[tokio::test(start_paused = true)]
async fn a_promise_needed_outside_holds_back_the_page_and_is_shared_with_fragments() {
    let counter = Counter::default();
    let counted = counter.clone();
    let page = open(without_grace(), move |promises| {
        let read = |promises: &Promises, counted: &Counter| {
            let counted = counted.clone();
            promises.result_or_submit("shared", move || async move {
                counted.add();
                sleep(2 * SECOND).await;
                "shared".to_owned()
            })
        };
        let counted_inside = counted.clone();
        let first = promises.fragment("first", "…", move |it| read(it, &counted_inside));
        let counted_inside = counted.clone();
        let second = promises.fragment("second", "…", move |it| read(it, &counted_inside));
        let title = after(promises, "title", SECOND)?;
        let outside = read(promises, &counted)?;
        Ok(format!("{title}{outside}{first}{second}"))
    })
    .await;
    assert_eq!(page.text(), "titlesharedsharedshared");
    assert_eq!((page.frames[0].0, counter.get()), (2 * SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn two_fragments_share_a_promise() {
    let page = open(without_grace(), |promises| {
        let both = ["first", "second"].map(|name| {
            promises
                .fragment(name, "…", |it| after(it, "shared", SECOND))
                .to_string()
        });
        Ok(both.concat())
    })
    .await;
    let shell = [pending(1, "…"), pending(2, "…")].concat();
    let rest = [template(1, "shared"), template(2, "shared")].concat();
    assert_eq!(
        page.frames.iter().map(|it| &*it.1).collect::<Vec<_>>(),
        [shell, rest]
    );
}

#[tokio::test(start_paused = true)]
async fn a_promise_of_a_fragment_survives_a_waiter_that_gives_up() {
    let (starts, ends) = (Counter::default(), Counter::default());
    let (started, ended) = (starts.clone(), ends.clone());
    let service = without_grace().layer(service_fn(move |request: TestRequest| {
        let (started, ended) = (started.clone(), ended.clone());
        async move {
            let promises = promises(&request);
            let work = move |started: &Counter, ended: &Counter| {
                let (started, guard) = (started.clone(), ended.on_drop());
                move || async move {
                    let _guard = guard;
                    started.add();
                    sleep(3 * SECOND).await;
                    "value".to_owned()
                }
            };
            let inside = (started.clone(), ended.clone());
            let fragment = promises.fragment("fragment", "…", move |promises| {
                promises.result_or_submit("shared", work(&inside.0, &inside.1))
            });
            let waiting = promises.resolve("shared", work(&started, &ended));
            assert!(timeout(SECOND, waiting).await.is_err());
            Ok::<_, BoxError>(html(fragment.to_string()))
        }
    }));
    let (start, response) = (Instant::now(), service.oneshot(browser("/")).await.unwrap());
    assert_eq!(
        ends.get(),
        1,
        "only the future that was not needed is dropped"
    );
    let page = read(start, response).await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "value"))
    );
    assert_eq!((page.frames[1].0, starts.get()), (3 * SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn promises_of_fragments_that_a_later_pass_does_not_have_neither_hold_back_nor_outlive_the_page()
 {
    let log = Log::start();
    let dropped = Counter::default();
    let counted = dropped.clone();
    let page = open(without_grace(), move |promises| {
        if promises.pass() == 1 {
            let counted = counted.clone();
            let only = promises.fragment("only in the first pass", "", move |promises| {
                let guard = counted.on_drop();
                promises.result_or_submit("unwanted", || async move {
                    let _guard = guard;
                    std::future::pending::<String>().await
                })
            });
            assert!(only.is_pending());
        }
        let title = after(promises, "title", SECOND)?;
        let other = promises.fragment("other", "…", |it| after(it, "other", SECOND));
        Ok(format!("{title}{other}"))
    })
    .await;
    assert_eq!(
        page.text(),
        format!("title{}{}", pending(1, "…"), template(1, "other"))
    );
    assert_eq!(page.frames[1].0, 2 * SECOND);
    assert_eq!(dropped.get(), 1);
    assert!(problems(&log).is_empty(), "{:?}", problems(&log));
}

#[tokio::test(start_paused = true)]
async fn a_fragment_of_a_discarded_pass_gives_no_advice() {
    let log = Log::start();
    let page = open(without_grace(), |promises| {
        if promises.pass() == 1 {
            let only = promises.fragment("first pass", "", |it| after(it, "quick", SECOND / 2));
            assert!(only.is_pending());
        }
        after(promises, "title", SECOND).map_err(Into::into)
    })
    .await;
    assert_eq!(page.text(), "title");
    assert!(problems(&log).is_empty(), "{:?}", problems(&log));
}

#[tokio::test(start_paused = true)]
async fn promises_that_are_removed_while_a_fragment_waits_are_requested_again() {
    let handle = Arc::new(Mutex::new(None));
    let keeping = Arc::clone(&handle);
    let starts = Counter::default();
    let started = starts.clone();
    let page = tokio::spawn(async move {
        open(without_grace(), move |promises| {
            *keeping.lock().unwrap() = Some(promises.clone());
            let started = started.clone();
            let names = ["cancelled", "reset", "kept"];
            let fragments = names.map(|name| {
                let started = started.clone();
                let fragment = promises.fragment(name, "", move |promises| {
                    let started = started.clone();
                    let value = promises.result_or_submit(name, move || async move {
                        started.add();
                        sleep(5 * SECOND).await;
                        "value".to_owned()
                    });
                    match value {
                        Err(PromiseError::Cancelled { .. }) => Ok("cancelled".to_owned()),
                        value => value,
                    }
                });
                fragment.to_string()
            });
            Ok(fragments.concat())
        })
        .await
    });
    sleep(SECOND).await;
    let promises: Promises = handle.lock().unwrap().take().unwrap();
    assert!(promises.cancel("cancelled") && promises.reset("reset"));
    sleep(SECOND).await;
    assert!(!promises.clear("kept"));
    let page = page.await.unwrap();
    let frames: Vec<_> = page
        .frames
        .iter()
        .map(|it| (it.0.as_secs(), &*it.1))
        .collect();
    assert_eq!(
        frames[1..],
        [
            (1, &*template(1, "cancelled")),
            (5, &*template(3, "value")),
            (6, &*template(2, "value")),
        ]
    );
    assert_eq!(starts.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn publishing_drops_pending_promises_that_no_fragment_needs() {
    let dropped = Counter::default();
    let counted = dropped.clone();
    let at = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&at);
    let start = Instant::now();
    let page = open(without_grace(), move |promises| {
        let (guard, noted) = (counted.on_drop(), Arc::clone(&noted));
        let outside = promises.result_or_submit("outside", || async move {
            let _guard = guard;
            *noted.lock().unwrap() = Some(Instant::now());
            sleep(SECOND).await;
        });
        assert!(outside.is_err());
        let shared = after(promises, "shared", 2 * SECOND);
        assert!(shared.is_err());
        let fragment = promises.fragment("inside", "…", |it| after(it, "shared", 2 * SECOND));
        promises.publish();
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "shared"))
    );
    assert_eq!((page.frames[1].0, page.passes), (2 * SECOND, 1));
    assert_eq!(dropped.get(), 1);
    assert_eq!(
        at.lock().unwrap().map(|at| at - start),
        None,
        "dropped without being polled"
    );
}
