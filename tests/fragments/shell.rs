//! The part of a page that is sent first: markers, the places of fragments, closing tags.

use crate::support::{
    Frames, Page, SECOND, after, browser, html_of, open, open_with, pending, problems, start,
    template, without_grace,
};
use std::time::Duration;
use test_support::Log;
use tower_promises::PromiseError;
use tower_promises::fragment::FragmentLayer;

const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_fragment_that_is_ready_has_no_marker() {
    let page = open(FragmentLayer::new(), |promises| {
        let title = after(promises, "title", SECOND)?;
        let fragment = promises.fragment("title", "…", |it| after(it, "title", SECOND));
        let constant = promises.fragment("constant", "…", |_| Ok::<_, PromiseError>("&lt;"));
        assert!(!fragment.is_pending() && !constant.is_pending());
        Ok(format!("<h1>{title}</h1>{fragment}{constant}"))
    })
    .await;
    assert_eq!(
        page.frames,
        [(SECOND, "<h1>title</h1>title&lt;".to_owned())]
    );
    for name in ["incremental", "x-accel-buffering", "vary"] {
        assert!(!page.head.headers.contains_key(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fragment_that_is_ready_within_the_grace_is_part_of_the_page() {
    let page = open(FragmentLayer::new(), |promises| {
        let soon = promises.fragment("soon", "<b>…</b>", |it| {
            after(it, "soon", 5 * MILLISECOND)
        });
        let chain = promises.fragment("chain", "", |promises| {
            after(promises, "first", 4 * MILLISECOND)?;
            after(promises, "second", 4 * MILLISECOND)
        });
        Ok(format!("<body><p>{soon}</p>{chain}</body>"))
    })
    .await;
    let text = "<body><p>soon</p>second</body>".to_owned();
    assert_eq!(page.text(), text);
    assert_eq!(page.frames[0].0, 8 * MILLISECOND);
    assert!(!page.head.headers.contains_key("incremental"));
    assert_eq!(page.head.headers["vary"], "accept");
}

/// A promise that uses up the cooperative budget in each poll leaves none to the timer of the grace.
#[tokio::test(start_paused = true)]
async fn the_grace_ends_beside_a_promise_that_is_always_ready() {
    const STEPS: usize = 100_000;
    // Advances the paused clock although the runtime is never idle.
    tokio::spawn(tokio::time::advance(20 * MILLISECOND));
    let page = open(FragmentLayer::new(), |promises| {
        let fragment = promises.fragment("busy", "…", |promises| {
            promises.result_or_submit("busy", async || {
                for _ in 0..STEPS {
                    tokio::task::consume_budget().await;
                }
                "done".to_owned()
            })
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(page.text(), pending(1, "…") + &*template(1, "done"));
}

#[tokio::test(start_paused = true)]
async fn the_grace_ends() {
    let page = open(FragmentLayer::new().grace(20 * MILLISECOND), |promises| {
        let fragments = [10, 19, 21, 30].map(|time: u32| {
            let fragment = promises.fragment("fragment", "…", move |promises| {
                after(promises, format!("after {time}"), MILLISECOND * time)
            });
            fragment.to_string()
        });
        Ok(fragments.join("|"))
    })
    .await;
    let shell = format!("after 10|after 19|{}|{}", pending(3, "…"), pending(4, "…"));
    assert_eq!(
        page.frames,
        [
            (20 * MILLISECOND, shell),
            (21 * MILLISECOND, template(3, "after 21")),
            (30 * MILLISECOND, template(4, "after 30")),
        ]
    );
}

/// Opens a page with a fragment that follows, and one that becomes part of the page.
async fn place(before: &'static str, after_it: &'static str) -> (Page, Log) {
    let log = Log::start();
    let page = open(FragmentLayer::new(), move |promises| {
        let soon = promises.fragment("soon", "", |it| after(it, "soon", MILLISECOND));
        let slow = promises.fragment("slow", "", |it| after(it, "slow", SECOND));
        Ok(format!("{before}{soon}{slow}{after_it}"))
    })
    .await;
    (page, log)
}

#[tokio::test(start_paused = true)]
async fn fragments_may_be_wherever_an_element_may_be() {
    let places = [
        ("", ""),
        ("<!DOCTYPE html><html><body>", "</body></html>"),
        ("<table><tr>", "</tr></table>"),
        ("<table>", "</table>"),
        ("<ul>", "</ul>"),
        ("<select>", "</select>"),
        ("<p title='>' data-x=\"<script>\">", "</p>"),
        ("<script>if (a < b) { \"</p>\" }</script>", ""),
        ("<script src='x'></script ><STYLE>a > b {}</sTyLe>", ""),
        ("<title>&lt;<!-- </title>", ""),
        ("<textarea></div></textarea>", ""),
        ("<!-- a -- b > c <p -->", ""),
        ("<!--><p>", ""),
        ("<!---><p>", ""),
        ("<!-- a --!><p>", ""),
        ("<!--[if !IE]><!--><p>", ""),
        ("<?xml version='1.0'?>", ""),
        ("<![CDATA[ it's ]]>", ""),
        ("a < b, 1 <2 </ it's > </3 it's >", ""),
        ("<p class=it's title=Bob's>", ""),
        ("<p 'a b' = 'c>d' / >", ""),
        ("<p title = \">\">", ""),
        ("<svg><title/><script href='x'/></svg>", ""),
        ("<scripted>", "</scripted>"),
        ("<script>'</scripture>'</script>", ""),
        ("<a-very-long-name-of-an-element title='>'>", ""),
        ("<br/><input disabled><", ""),
        ("<>", ""),
    ];
    for (before, behind) in places {
        let (page, log) = place(before, behind).await;
        let shell = format!("{before}soon{}{behind}", pending(2, ""));
        let text = page.text().replace(&template(2, "slow"), "");
        assert_eq!(text, shell);
        assert!(problems(&log).is_empty(), "{before} {:?}", problems(&log));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fragment_where_no_element_can_be_is_an_error() {
    let places = [
        ("<p title=\"", "\">"),
        ("<p title='", "'>"),
        ("<p ", ">"),
        ("<p title=", ">"),
        ("<!-- ", " -->"),
        ("<textarea>", "</textarea>"),
        ("<title>", "</title>"),
        ("<TITLE lang=en>", "</TITLE>"),
        ("<script>", "</script>"),
        ("<script>'</scripture>", "'</script>"),
        ("<style>", "</style>"),
        ("<noscript>", "</noscript>"),
        ("<iframe>", "</iframe>"),
    ];
    for (before, behind) in places {
        let (page, log) = place(before, behind).await;
        let shell = format!("{before}{}{}{behind}", pending(1, ""), pending(2, ""));
        assert!(page.text().starts_with(&shell), "{}", page.text());
        // Sent in any case, because the log can be wrong about a page that is not valid.
        assert!(
            page.text().contains(&template(1, "soon")),
            "{}",
            page.text()
        );
        let problems = problems(&log);
        assert_eq!(problems.len(), 2, "{before} {problems:?}");
        for (problem, name) in problems.iter().zip(["soon", "slow"]) {
            let text = "cannot be in a tag, a comment or an element that contains only text";
            let name = format!("fragment={name:?}");
            assert!(
                problem.contains("ERROR") && problem.contains(text),
                "{problem}"
            );
            assert!(problem.contains(&name), "{problem}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_that_are_not_in_their_page_or_twice_are_reported() {
    let log = Log::start();
    let page = open(without_grace(), |promises| {
        let left_out = promises.fragment("left out", "", |it| after(it, "a", SECOND));
        let escaped = promises.fragment("escaped", "", |it| after(it, "b", SECOND));
        let twice = promises.fragment("twice", "", |it| after(it, "c", SECOND));
        let _ = left_out;
        Ok(format!(
            "{}{twice}{twice}",
            escaped.to_string().replace('<', "&lt;")
        ))
    })
    .await;
    assert!(page.text().contains(&template(3, "c")));
    let problems = problems(&log);
    let texts = [
        ("left out", "is not in its page"),
        ("escaped", "is not in its page"),
        ("twice", "is in its page more than once"),
    ];
    assert_eq!(problems.len(), texts.len(), "{problems:?}");
    for (problem, (name, text)) in problems.iter().zip(texts) {
        assert!(problem.contains(&format!("fragment={name:?}")), "{problem}");
        assert!(
            problem.contains("WARN") && problem.contains(text),
            "{problem}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn closing_tags_at_the_end_follow_the_fragments() {
    let ends = [
        ("", "</body></html>"),
        ("", "</body>"),
        ("", "</html>"),
        ("", "</BODY>\n  </HTML> \r\n"),
        ("</body", ""),
        ("</html>", "</body>"),
        ("</body></html><!-- generated -->", ""),
        ("<p>", ""),
        ("</bod", ""),
        ("</body><", ""),
        ("</body></html>", "</body></html>"),
        ("</p>", "</body>"),
    ];
    for (shown, held) in ends {
        let page = open(without_grace(), move |promises| {
            let fragment = promises.fragment("slow", "", |it| after(it, "slow", SECOND));
            Ok(format!("{fragment}{shown}{held}"))
        })
        .await;
        let expected = format!("{}{shown}{}{held}", pending(1, ""), template(1, "slow"));
        assert_eq!(page.text(), expected);
    }
}

/// White space after a closing tag is held back with the tag, up to a limit.
#[tokio::test(start_paused = true)]
async fn a_page_that_ends_with_much_white_space_is_not_held_back() {
    for (length, is_held) in [(1000, true), (2000, false), (20_000, false)] {
        let end = format!("</body>{}", " ".repeat(length));
        for size in [1, 600, usize::MAX] {
            let shell = pending(1, "");
            let mut frames = vec![&*shell];
            let mut rest = &*end;
            while !rest.is_empty() {
                let (frame, others) = rest.split_at(size.min(rest.len()));
                frames.push(frame);
                rest = others;
            }
            let page = open_with(without_grace(), browser("/"), |promises| {
                // The first frame contains the fragment.
                let fragment = promises.fragment("slow", "", |it| after(it, "slow", SECOND));
                assert!(fragment.is_pending());
                Ok(html_of(Frames::of(&frames)))
            })
            .await;
            let template = template(1, "slow");
            let expected = match is_held {
                true => format!("{shell}{template}{end}"),
                false => format!("{shell}{end}{template}"),
            };
            assert!(page.text() == expected, "{length} in frames of {size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn text_that_looks_like_a_marker_changes_nothing() {
    let looks = [
        start(0),
        start(7),
        "<?start name=\"tp1x\">".to_owned(),
        "<?start name=\"tp\">".to_owned(),
        "<?start name=\"tp99999999999\">".to_owned(),
        "<?start name='tp1'>".to_owned(),
        "<?start><?end><?end>".to_owned(),
    ];
    for look in looks {
        let text = look.clone();
        let page = open(FragmentLayer::new(), move |promises| {
            let soon = promises.fragment("soon", "…", |it| after(it, "soon", MILLISECOND));
            Ok(format!("{text}{soon}{text}"))
        })
        .await;
        assert_eq!(page.text(), format!("{look}soon{look}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_script_is_added_only_to_pages_that_stream() {
    let open = |time: Duration| {
        let layer = FragmentLayer::new().script("/a.js?b=1&c=\"><script>");
        open(layer, move |promises| {
            let fragment = promises.fragment("slow", "…", move |it| after(it, "slow", time));
            Ok(format!("<body>{fragment}</body>"))
        })
    };
    let tag = r#"<script src="/a.js?b=1&amp;c=&quot;>&lt;script>" async></script>"#;
    let page = open(SECOND).await;
    let shell = format!("<body>{}{tag}", pending(1, "…"));
    assert_eq!(
        page.text(),
        format!("{shell}{}</body>", template(1, "slow"))
    );
    assert_eq!(open(MILLISECOND).await.text(), "<body>slow</body>");
}
