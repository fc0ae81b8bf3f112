//! Pages whose body comes in parts, which may end anywhere.

use crate::support::{
    Frames, Page, SECOND, after, browser, html_of, open_with, pending, problems, template,
};
use proptest::prelude::*;
use std::time::Duration;
use test_support::Log;
use tower_promises::fragment::FragmentLayer;
use tower_promises::{PromiseError, Promises};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Sends these frames. Markers are written as `{1}`, for a fragment that becomes part of the page, `{2}`, for one with
/// an inner fragment, and `{3}`, for one that follows.
async fn open_frames(frames: Vec<String>) -> (Page, Vec<String>) {
    let log = Log::start();
    let handler = move |promises: &Promises| {
        let soon = promises.fragment("soon", "<i>…</i>", |it| after(it, "soon", MILLISECOND));
        let outer = promises.fragment("outer", "<b title='>'>…</b>", |promises| {
            let outer = after(promises, "outer", MILLISECOND)?;
            let inner = promises.fragment("inner", "…", |it| after(it, "inner", MILLISECOND));
            Ok::<_, PromiseError>(format!("<p>{outer}</p>{inner}"))
        });
        let slow = promises.fragment("slow", "", |it| after(it, "slow", SECOND));
        let _ = (soon, outer, slow);
        let frames: Vec<_> = frames.iter().map(String::as_str).collect();
        Ok(html_of(Frames::of(&frames)))
    };
    let page = open_with(FragmentLayer::new(), browser("/"), handler).await;
    (page, messages(&log))
}

/// The warnings and errors without their times.
fn messages(log: &Log) -> Vec<String> {
    let problems = problems(log);
    let messages = problems
        .iter()
        .map(|line| line.split_once(' ').unwrap().1.to_owned());
    messages.collect()
}

/// Parts of pages, which together need not be valid.
const PARTS: [&str; 36] = [
    "{1}",
    "{2}",
    "{3}",
    "text ",
    "<p>",
    "</p>",
    "<p title=\"",
    "\">",
    "'",
    "=",
    ">",
    "<",
    "</",
    "<!",
    "<!-",
    "<!--",
    "-",
    "-->",
    "--!>",
    "<script>",
    "</script",
    "</scripture>",
    "<title/>",
    "</body>",
    "</html>",
    " \n",
    "<?",
    "?>",
    "<?start name=\"tp",
    "<?start name=\"tp99\">",
    "<?end>",
    "\">",
    "<a b=c>",
    "é€",
    "&lt;",
    "<textarea>",
];

fn page_of(parts: &[usize]) -> String {
    let page: String = parts.iter().map(|part| PARTS[*part]).collect();
    let page = page.replace("{1}", &pending(1, "<i>…</i>"));
    let page = page.replace("{2}", &pending(2, "<b title='>'>…</b>"));
    page.replace("{3}", &pending(3, ""))
}

fn split(page: &str, at: &[prop::sample::Index]) -> Vec<String> {
    let mut at: Vec<_> = at.iter().map(|at| at.index(page.len() + 1)).collect();
    at.sort_unstable();
    let mut frames = Vec::new();
    let mut rest = page;
    let mut passed = 0;
    for at in at {
        if page.is_char_boundary(at) {
            let (frame, behind) = rest.split_at(at - passed);
            frames.push(frame.to_owned());
            (rest, passed) = (behind, at);
        }
    }
    frames.push(rest.to_owned());
    frames
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_page_does_not_depend_on_its_frames(
        parts in prop::collection::vec(0..PARTS.len(), 0..25),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let page = page_of(&parts);
        let (whole, whole_log) = run(open_frames(vec![page.clone()]));
        let (parts, log) = run(open_frames(split(&page, &at)));
        prop_assert_eq!(parts.text(), whole.text());
        prop_assert_eq!(log, whole_log);
    }
}

#[test]
fn a_page_does_not_depend_on_where_it_is_split_in_two() {
    let page = format!(
        "<!DOCTYPE html><html><head><title>A < B</title><script>\"</p>\"</script></head><body class='a>b'>\
         <!-- {} --><p>{}</p><table>{}</table>{}\n</body>\n</html>\n",
        pending(3, ""),
        pending(1, "<i>…</i>"),
        pending(2, "<b title='>'>…</b>"),
        pending(3, "")
    );
    let expected = page.replace(&pending(1, "<i>…</i>"), "soon");
    let expected = expected.replace(&pending(2, "<b title='>'>…</b>"), "<p>outer</p>inner");
    let (shell, end) = expected.split_at(expected.find("</body>").unwrap());
    let expected = format!("{shell}{}{end}", template(3, "slow"));
    for at in (0..=page.len()).filter(|at| page.is_char_boundary(*at)) {
        let (first, second) = page.split_at(at);
        let (page, log) = run(open_frames(vec![first.to_owned(), second.to_owned()]));
        assert_eq!(page.text(), expected, "split at {at}");
        assert!(log.is_empty(), "{log:?}");
    }
}
