//! Fragments that cannot be rendered.

use crate::support::{Page, SECOND, after, open, pending, template, without_grace};
use test_support::{Counter, Log};
use tower_promises::fragment::FragmentError;
use tower_promises::{BoxError, PromiseError};

/// What the page shows in place of a fragment that failed.
pub(crate) fn text(error: &FragmentError) -> String {
    format!("[{}]", error.name())
}

/// The times and frames after the page has begun.
pub(crate) fn later(page: &Page) -> Vec<(u64, &str)> {
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
async fn open_nested(end: fn(u8) -> Result<String, BoxError>, is_at_once: bool) -> (Page, usize) {
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
