//! Limits of time, of calls and of bytes.

use crate::failures::{later, text};
use crate::support::{SECOND, after, open, pending, template, without_grace};
use std::time::Duration;
use test_support::{Counter, Log};
use tower_promises::fragment::{FragmentError, FragmentLayer};
use tower_promises::promise::OnTimeout;
use tower_promises::{PromiseError, PromiseLayer, Promises};

#[tokio::test(start_paused = true)]
async fn fragments_that_are_pending_when_the_time_is_over_decide_what_to_show() {
    let log = Log::start();
    let layer = without_grace().timeout(5 * SECOND).on_error(text);
    let page = open(layer, |promises| {
        let decides = promises.fragment("decides", "…", |promises| {
            match after(promises, "hangs", 9 * SECOND) {
                Err(PromiseError::TimedOut { .. }) => Ok("late".to_owned()),
                other => other,
            }
        });
        let fails = promises.fragment("fails", "…", |promises| after(promises, "hangs", SECOND));
        let chain = promises.fragment("chain", "…", |promises| {
            if after(promises, "hangs", SECOND).is_err_and(|error| !error.is_pending()) {
                // Times out at once.
                return after(promises, "too late", SECOND);
            }
            Ok(String::new())
        });
        let fine = promises.fragment("fine", "…", |promises| after(promises, "fine", SECOND));
        Ok(format!("{decides}{fails}{chain}{fine}"))
    })
    .await;
    let last = [
        template(1, "late"),
        template(2, "[fails]"),
        template(3, "[chain]"),
    ]
    .concat();
    assert_eq!(later(&page), [(1, &*template(4, "fine")), (5, &*last)]);
    let log = log.text();
    let names = r#"fragments=["decides", "fails", "chain"]"#;
    assert!(
        log.contains("fragments were still pending") && log.contains(names),
        "{log}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_the_whole_request_also_ends_its_page() {
    let promises = PromiseLayer::new().timeout(4 * SECOND);
    let page = open(without_grace().promises(promises), |promises| {
        let title = after(promises, "title", 3 * SECOND)?;
        let slow = promises.fragment("slow", "…", |promises| {
            Ok::<_, PromiseError>(match after(promises, "slow", 9 * SECOND) {
                Err(error @ PromiseError::Pending { .. }) => return Err(error),
                Err(error) => error.to_string(),
                Ok(value) => value,
            })
        });
        Ok(format!("{title}{slow}"))
    })
    .await;
    assert_eq!(page.frames[0].0, 3 * SECOND);
    assert_eq!(
        later(&page),
        [(4, &*template(1, "promise `slow` timed out"))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_promise_timeout_ends_a_fragment() {
    let promises = PromiseLayer::new().promise_timeout(2 * SECOND);
    let page = open(without_grace().promises(promises), |promises| {
        let slow = promises.fragment("slow", "…", |promises| {
            match after(promises, "slow", 9 * SECOND) {
                Err(PromiseError::TimedOut { .. }) => after(promises, "instead", SECOND),
                other => other,
            }
        });
        Ok(slow.to_string())
    })
    .await;
    assert_eq!(later(&page), [(3, &*template(1, "instead"))]);
}

/// Requests another promise each time.
fn endless(promises: &Promises) -> Result<String, PromiseError> {
    let name = format!("promise {}", promises.keys().len());
    promises.result_or_submit(name, async || String::new())
}

#[tokio::test(start_paused = true)]
async fn a_fragment_that_always_requests_another_promise_fails() {
    for (max_passes, renders) in [(16, 16), (3, 3), (2, 2), (1, 2)] {
        let log = Log::start();
        let (counter, promises) = (
            Counter::default(),
            PromiseLayer::new().max_passes(max_passes),
        );
        let counted = counter.clone();
        let layer = without_grace()
            .promises(promises)
            .on_error(FragmentError::to_string);
        let page = open(layer, move |promises| {
            let counted = counted.clone();
            let endless = promises.fragment("endless", "…", move |promises| {
                counted.add();
                endless(promises)
            });
            Ok(endless.to_string())
        })
        .await;
        let text = format!(
            "fragment `endless` requested another promise in each of {renders} calls of its render function"
        );
        assert!(page.text().contains(&text), "{}", page.text());
        assert_eq!(counter.get(), renders);
        assert!(log.text().contains("derive names from the request"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_chain_of_fragments_ends_with_the_limit_of_promises() {
    fn link(promises: &Promises, depth: usize) -> Result<String, PromiseError> {
        after(promises, format!("link {depth}"), SECOND)?;
        let next = promises.fragment("next", "", move |promises| link(promises, depth + 1));
        Ok(next.to_string())
    }
    let promises = PromiseLayer::new().max_promises(20);
    let layer = without_grace()
        .promises(promises)
        .on_error(|_| "end".to_owned());
    let page = open(layer, |promises| {
        let first = promises.fragment("first", "", |promises| link(promises, 1));
        Ok(first.to_string())
    })
    .await;
    let (time, last) = page.frames.last().unwrap();
    assert_eq!((time.as_secs(), last.as_str()), (20, &*template(20, "end")));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_no_bytes_renders_one_fragment_at_a_time() {
    for layer in [
        without_grace(),
        FragmentLayer::new().grace(Duration::from_secs(1)),
    ] {
        let page = open(layer.max_buffered_bytes(0), |promises| {
            let fragments = (0..3).map(|number| {
                promises.fragment("fragment", "", move |promises| {
                    after(
                        promises,
                        format!("number {number}"),
                        Duration::from_millis(1),
                    )
                })
            });
            Ok(fragments.map(|it| it.to_string()).collect())
        })
        .await;
        let text = page.text();
        assert!(
            (0..3).all(|number| text.contains(&format!("number {number}"))),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn any_time_is_allowed() {
    let open = async |layer: FragmentLayer| {
        let page = open(layer, |promises| {
            let slow = promises.fragment("slow", "…", |promises| {
                match after(promises, "slow", SECOND) {
                    Err(PromiseError::TimedOut { .. }) => Ok("late".to_owned()),
                    slow => slow,
                }
            });
            Ok(slow.to_string())
        });
        page.await.text()
    };
    let streamed = pending(1, "…") + &*template(1, "slow");
    assert_eq!(open(without_grace().timeout(Duration::MAX)).await, streamed);
    assert_eq!(
        open(FragmentLayer::new().grace(Duration::MAX)).await,
        "slow"
    );
    assert_eq!(open(without_grace().timeout(Duration::ZERO)).await, "late");
    assert_eq!(
        open(FragmentLayer::new().timeout(Duration::ZERO)).await,
        "late"
    );
    let promises = PromiseLayer::new().timeout(Duration::MAX);
    assert_eq!(open(without_grace().promises(promises)).await, streamed);
}

#[tokio::test(start_paused = true)]
async fn the_final_pass_of_a_request_that_has_timed_out_is_whole() {
    let promises = PromiseLayer::new()
        .timeout(3 * SECOND)
        .on_timeout(OnTimeout::FinalPass);
    let page = open(
        without_grace().promises(promises).on_error(text),
        |promises| {
            let done = promises.fragment("done", "…", |it| after(it, "done", SECOND));
            let slow = promises.fragment("slow", "…", |it| after(it, "slow", 9 * SECOND));
            let late = promises.fragment("late", "…", |promises| {
                let title = after(promises, "title", 9 * SECOND);
                match title {
                    Err(PromiseError::TimedOut { .. }) => after(promises, "new", SECOND),
                    title => title,
                }
            });
            let title = match after(promises, "title", 9 * SECOND) {
                Err(PromiseError::TimedOut { .. }) => "?".to_owned(),
                title => title?,
            };
            Ok(format!("{title}{done}{slow}{late}"))
        },
    )
    .await;
    assert_eq!(page.frames, [(3 * SECOND, "?done[slow][late]".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_fragment_that_removes_its_promise_each_time_fails() {
    for is_after_reading in [false, true] {
        let counter = Counter::default();
        let counted = counter.clone();
        let page = open(
            without_grace().on_error(FragmentError::to_string),
            move |promises| {
                let counted = counted.clone();
                let fragment = promises.fragment("removes", "…", move |promises| {
                    counted.add();
                    if !is_after_reading {
                        promises.reset("value");
                    }
                    let value = promises.result_or_submit("value", async || String::new());
                    if is_after_reading {
                        promises.reset("value");
                    }
                    value
                });
                Ok(fragment.to_string())
            },
        )
        .await;
        assert!(
            page.text().contains("in each of 16 calls"),
            "{}",
            page.text()
        );
        assert_eq!(counter.get(), 16);
    }
}
