//! Fragments inside of fragments.

use crate::support::{SECOND, after, open, pending, problems, template, without_grace};
use std::time::Duration;
use test_support::{Counter, Log};
use tower_promises::fragment::FragmentLayer;
use tower_promises::{PromiseError, Promises};

#[tokio::test(start_paused = true)]
async fn an_inner_fragment_follows_its_outer_fragment() {
    let page = open(without_grace(), |promises| {
        let outer = promises.fragment("outer", "…", |promises| {
            let inner = promises.fragment("inner", "<i>…</i>", |promises| {
                after(promises, "inner", 3 * SECOND)
            });
            let outer = after(promises, "outer", SECOND)?;
            Ok::<_, PromiseError>(format!("<p>{outer}</p>{inner}"))
        });
        Ok(outer.to_string())
    })
    .await;
    let frames: Vec<_> = page
        .frames
        .iter()
        .map(|(time, text)| (time.as_secs(), &**text))
        .collect();
    // The first call of the outer function has created an inner fragment that was not used.
    let outer = format!("<p>outer</p>{}", pending(3, "<i>…</i>"));
    assert_eq!(
        frames,
        [
            (0, &*pending(1, "…")),
            (1, &*template(1, &outer)),
            (3, &*template(3, "inner")),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn inner_fragments_of_a_fragment_that_is_rendered_again_are_not_rendered() {
    let counter = Counter::default();
    let counted = counter.clone();
    let page = open(without_grace(), move |promises| {
        let counted = counted.clone();
        let outer = promises.fragment("outer", "…", move |promises| {
            let counted = counted.clone();
            let inner = promises.fragment("inner", "", move |promises| {
                let inner = after(promises, "inner", SECOND)?;
                counted.add();
                Ok::<_, PromiseError>(inner)
            });
            let outer = after(promises, "outer", 5 * SECOND)?;
            Ok::<_, PromiseError>(format!("{outer}{inner}"))
        });
        Ok(outer.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "outerinner"))
    );
    assert_eq!(counter.get(), 1);
}

/// A fragment in a fragment in a fragment, each of which takes some time.
fn nest(promises: &Promises, depth: usize, time: Duration) -> String {
    let fragment = promises.fragment("level", "…", move |promises| {
        let level = after(promises, format!("level {depth}"), time)?;
        let inner = match depth {
            0 => String::new(),
            _ => nest(promises, depth - 1, time),
        };
        Ok::<_, PromiseError>(format!("<ul><li>{level}</li>{inner}</ul>"))
    });
    fragment.to_string()
}

#[tokio::test(start_paused = true)]
async fn nested_fragments_that_are_ready_soon_are_part_of_the_page() {
    for depth in [1, 2, 900] {
        let log = Log::start();
        let layer = FragmentLayer::new().grace(SECOND);
        let page = open(layer, move |promises| {
            let nest = nest(promises, depth, Duration::ZERO);
            Ok(format!("<body>{nest}</body>"))
        })
        .await;
        let opening: String = (0..=depth)
            .rev()
            .map(|depth| format!("<ul><li>level {depth}</li>"))
            .collect();
        let closing = "</ul>".repeat(depth + 1);
        assert_eq!(page.text(), format!("<body>{opening}{closing}</body>"));
        assert!(!page.head.headers.contains_key("incremental"));
        assert!(problems(&log).is_empty(), "{:?}", problems(&log));
    }
}

#[tokio::test(start_paused = true)]
async fn each_level_of_nested_fragments_is_sent_when_it_is_ready() {
    let page = open(without_grace(), |promises| Ok(nest(promises, 2, SECOND))).await;
    let frames: Vec<_> = page
        .frames
        .iter()
        .map(|(time, text)| (time.as_secs(), &**text))
        .collect();
    let level = |depth: usize, inner: &str| format!("<ul><li>level {depth}</li>{inner}</ul>");
    assert_eq!(
        frames,
        [
            (0, &*pending(1, "…")),
            (1, &*template(1, &level(2, &pending(2, "…")))),
            (2, &*template(2, &level(1, &pending(3, "…")))),
            (3, &*template(3, &level(0, ""))),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_inner_fragment_in_an_attribute_is_an_error() {
    for grace in [Duration::ZERO, SECOND, 5 * SECOND] {
        let log = Log::start();
        let page = open(FragmentLayer::new().grace(grace), |promises| {
            let outer = promises.fragment("outer", "", |promises| {
                let outer = after(promises, "outer", SECOND / 2)?;
                let inner =
                    promises.fragment("inner", "", |promises| after(promises, "inner", 2 * SECOND));
                let fine = promises.fragment("fine", "", |it| after(it, "fine", 2 * SECOND));
                Ok::<_, PromiseError>(format!("<a title='{inner}'>{outer}</a>{fine}"))
            });
            Ok(outer.to_string())
        })
        .await;
        let log = log.text();
        let expected = "cannot be in a tag, a comment or an element that contains only text";
        assert_eq!(
            log.matches(expected).count(),
            1,
            "{grace:?} {log} {}",
            page.text()
        );
        assert!(log.contains("fragment=\"inner\""), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_may_contain_a_fragment() {
    let page = open(without_grace(), |promises| {
        let inner = promises.fragment("inner", "…", |it| after(it, "inner", SECOND));
        let outer = promises.fragment("outer", inner.to_string(), |promises| {
            after(promises, "outer", 2 * SECOND)
        });
        Ok(format!("<p>{outer}</p>"))
    })
    .await;
    let shell = format!("<p>{}</p>", pending(2, &pending(1, "…")));
    let rest = [template(1, "inner"), template(2, "outer")].concat();
    assert_eq!(page.text(), shell + &*rest);
}
