//! Fragments that cannot be rendered, and time that is over.

use crate::support::{SECOND, after, open, pending, template, without_grace};
use std::time::Duration;
use test_support::{Counter, Log};
use tower_promises::fragment::{FragmentError, FragmentLayer};
use tower_promises::promise::OnTimeout;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

fn text(error: &FragmentError) -> String {
    format!("[{}]", error.name())
}

/// The times and frames after the page has begun.
fn later(page: &crate::support::Page) -> Vec<(u64, &str)> {
    let frames = page.frames.iter().skip(1);
    let frames = frames.map(|(time, text)| (time.as_secs(), text.as_str()));
    frames.collect()
}

#[tokio::test(start_paused = true)]
async fn an_error_and_a_panic_replace_only_their_own_fragments() {
    let log = Log::start();
    let layer = without_grace().on_error(text);
    let page = open(layer, |promises| {
        let failing = promises.fragment("failing", "…", |promises| {
            after(promises, "a", SECOND)?;
            Err::<String, BoxError>("no price".into())
        });
        let panicking = promises.fragment("panicking", "…", |promises| {
            after(promises, "b", 2 * SECOND)?;
            panic!("no\nstock");
            #[expect(unreachable_code, reason = "shows the type")]
            Ok::<String, PromiseError>(String::new())
        });
        let at_once = promises.fragment("at once", "…", |_| Err::<String, BoxError>("no".into()));
        let fine = promises.fragment("fine", "…", |promises| after(promises, "c", 3 * SECOND));
        Ok(format!("{failing}{panicking}{at_once}{fine}"))
    })
    .await;
    assert_eq!(
        page.frames[0].1,
        format!(
            "{}{}[at once]{}",
            pending(1, "…"),
            pending(2, "…"),
            pending(4, "…")
        )
    );
    assert_eq!(
        later(&page),
        [
            (1, &*template(1, "[failing]")),
            (2, &*template(2, "[panicking]")),
            (3, &*template(4, "c")),
        ]
    );
    let log = log.text();
    assert!(
        log.contains("a fragment failed fragment=\"failing\" error=no price"),
        "{log}"
    );
    assert!(
        log.contains("a fragment panicked fragment=\"panicking\" panic=\"no\\nstock\""),
        "{log}"
    );
    assert!(log.contains("fragment=\"at once\""), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_fragment_shows_nothing_by_default() {
    let page = open(without_grace(), |promises| {
        let failing = promises.fragment("failing", "…", |promises| {
            after(promises, "a", SECOND)?;
            Err::<String, BoxError>("no price".into())
        });
        Ok(format!("<p>{failing}</p>"))
    })
    .await;
    assert_eq!(
        page.text(),
        format!("<p>{}</p>{}", pending(1, "…"), template(1, ""))
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_on_error_shows_nothing() {
    let log = Log::start();
    let layer = without_grace().on_error(|_| panic!("no template"));
    let page = open(layer, |promises| {
        let failing = promises.fragment("failing", "…", |promises| {
            after(promises, "a", SECOND)?;
            Err::<String, BoxError>("no price".into())
        });
        let fine = promises.fragment("fine", "…", |promises| after(promises, "b", 2 * SECOND));
        Ok(format!("{failing}{fine}"))
    })
    .await;
    assert_eq!(
        later(&page),
        [(1, &*template(1, "")), (2, &*template(2, "b"))]
    );
    assert!(
        log.text()
            .contains("a function given to `on_error` panicked")
    );
}

/// Opens a page whose outer fragment ends with `end` after it has created an inner fragment that is pending for long.
async fn open_nested(
    end: fn(u8) -> Result<String, BoxError>,
    is_at_once: bool,
) -> (crate::support::Page, usize) {
    let rendered = Counter::default();
    let counted = rendered.clone();
    let page = open(without_grace().on_error(text), move |promises| {
        let counted = counted.clone();
        let outer = promises.fragment("outer", "…", move |promises| {
            if !is_at_once {
                after(promises, "outer", SECOND)?;
            }
            let counted = counted.clone();
            let inner = promises.fragment("inner", "…", move |promises| {
                let value = after(promises, "inner", 9 * SECOND);
                if value.is_ok() {
                    counted.add();
                }
                value
            });
            assert!(inner.is_pending());
            end(1)
        });
        let last = promises.fragment("last", "…", |promises| {
            after(promises, "last", 3 * SECOND)
        });
        Ok(format!("{outer}{last}"))
    })
    .await;
    (page, rendered.get())
}

#[tokio::test(start_paused = true)]
async fn fragments_inside_of_a_fragment_that_fails_are_dropped() {
    let ends: [fn(u8) -> Result<String, BoxError>; 2] =
        [|_| Err("no".into()), |number| panic!("no {number}")];
    for end in ends {
        let (page, rendered) = open_nested(end, false).await;
        assert_eq!(
            later(&page),
            [(1, &*template(1, "[outer]")), (3, &*template(2, "last"))]
        );
        assert_eq!(rendered, 0);

        let log = Log::start();
        let (page, rendered) = open_nested(end, true).await;
        assert_eq!(page.frames[0].1, format!("[outer]{}", pending(3, "…")));
        assert_eq!(later(&page), [(3, &*template(3, "last"))]);
        assert_eq!(rendered, 0);
        assert!(!log.text().contains("not in its page"), "{}", log.text());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_of_a_fragment_leaves_the_outer_fragment() {
    let page = open(without_grace().on_error(text), |promises| {
        let outer = promises.fragment("outer", "…", |promises| {
            let outer = after(promises, "outer", SECOND)?;
            let failing = promises.fragment("failing", "", |_| Err::<String, BoxError>("".into()));
            let panicking = promises.fragment("panicking", "", |promises| {
                after(promises, "panicking", SECOND)?;
                let empty: [u8; 0] = [];
                Ok::<_, PromiseError>(format!("{}", empty[promises.keys().len()]))
            });
            Ok::<_, PromiseError>(format!("{outer}{failing}{panicking}"))
        });
        Ok(outer.to_string())
    })
    .await;
    assert_eq!(
        later(&page),
        [
            (
                1,
                &*template(1, &format!("outer[failing]{}", pending(3, "")))
            ),
            (2, &*template(3, "[panicking]")),
        ]
    );
}

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

#[tokio::test(start_paused = true)]
async fn an_error_is_logged_once_for_a_request_with_several_passes() {
    let log = Log::start();
    let page = open(without_grace(), |promises| {
        let broken = promises.fragment("broken", "", |_| Err::<String, _>("no such template"));
        let title = after(promises, "title", SECOND)?;
        Ok(format!("{title}{broken}"))
    })
    .await;
    assert_eq!((page.text().as_str(), page.passes), ("title", 2));
    assert_eq!(log.text().matches("a fragment failed").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_all_fragments_with_one_name_are_logged() {
    let log = Log::start();
    open(without_grace(), |promises| {
        let rows: Vec<_> = (1..=6)
            .map(|row: u32| {
                let row = promises.fragment("row", "", move |promises| {
                    if row > 3 {
                        after(promises, "later", 2 * SECOND)?;
                    }
                    Err::<String, BoxError>(format!("row {row} is broken").into())
                });
                row.to_string()
            })
            .collect();
        let title = after(promises, "title", SECOND)?;
        Ok(title + &*rows.concat())
    })
    .await;
    for row in 1..=6 {
        let error = format!("row {row} is broken");
        assert_eq!(log.text().matches(&*error).count(), 1, "{error}");
    }
}
