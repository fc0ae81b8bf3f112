use super::{ErrorContext, PageContext, PageLinks, Strings, asset, render, render_error};
use crate::OperationStatus;
use http::StatusCode;
use std::time::Duration;

const HOSTILE: &str = r#"<script>"&'</script>"#;
const HARMLESS: &str = "&lt;script&gt;&quot;&amp;&#39;&lt;/script&gt;";

fn context(strings: &Strings) -> PageContext<'_> {
    PageContext {
        status: OperationStatus::Running,
        progress: Some(42.9),
        message: Some("row 3"),
        waiting_for: vec!["approval", "night"],
        elapsed: Duration::from_secs(3723),
        links: PageLinks {
            own: "/o/1",
            events: "/o/1/events",
            result: "/o/1/result",
            cancel: "/o/1/cancel",
            assets: "/o/assets",
        },
        cancel_token: "secret",
        can_cancel: true,
        refresh: Duration::from_millis(1500),
        reload: Some(Duration::from_millis(59_500)),
        strings,
    }
}

#[test]
fn shows_how_far_it_is() {
    let strings = Strings::default();
    let page = render(&context(&strings));
    for part in [
        r#"<html lang="en" dir="ltr">"#,
        "<title>42% · Working on it</title>",
        r#"<noscript><meta http-equiv="refresh" content="60"></noscript>"#,
        r#"<a href="">Reload</a><a href="?reload=off">Do not reload by itself</a>"#,
        r#"role="status" dir="auto">row 3</p>"#,
        r#"<p id="waiting" dir="auto">Waiting for: approval, night</p>"#,
        r#"<progress max="100" aria-labelledby="heading" value="42.9">"#,
        r#"<time id="elapsed">1:02:03</time>"#,
        r#"<form method="post" action="/o/1/cancel">"#,
        r#"<input type="hidden" name="token" value="secret">"#,
        r#"<p id="result" hidden>"#,
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
}

#[test]
fn shows_that_it_does_not_know_how_far_it_is() {
    let strings = Strings::default();
    let mut context = context(&strings);
    context.progress = None;
    context.message = None;
    context.waiting_for = Vec::new();
    context.can_cancel = false;
    context.status = OperationStatus::NotStarted;
    let page = render(&context);
    assert!(page.contains("<title>Waiting to start</title>"));
    assert!(page.contains(r#"<progress max="100" aria-labelledby="heading">"#));
    assert!(page.contains(r#"<p id="waiting" dir="auto"></p>"#));
    assert!(!page.contains("<form"));
}

#[test]
fn does_not_reload_itself_if_the_reader_does_not_want_it() {
    let strings = Strings::default();
    let mut context = context(&strings);
    context.reload = None;
    let page = render(&context);
    for part in ["http-equiv", "reloads itself", "reload=off"] {
        assert!(!page.contains(part), "{part} is left in {page}");
    }
    assert!(page.contains(r#"<a href="">Reload</a>"#), "{page}");
}

#[test]
fn an_ended_operation_does_not_wait_for_anything() {
    let strings = Strings::default();
    for (status, heading) in [
        (OperationStatus::Succeeded, "Done"),
        (OperationStatus::Failed, "That did not work"),
        (OperationStatus::Cancelled, "Cancelled"),
    ] {
        let mut context = context(&strings);
        context.status = status;
        context.waiting_for = Vec::new();
        let page = render(&context);
        assert!(page.contains(&format!("<title>{heading}</title>")));
        assert!(page.contains(r#"<p id="result"><a href="/o/1/result">"#));
        for part in ["<progress", "<form", "<script", "noscript", "data-"] {
            assert!(!page.contains(part), "{part} is left in {page}");
        }
    }
}

#[test]
fn nothing_gets_out_of_its_place() {
    let strings = Strings::new(HOSTILE)
        .running(HOSTILE)
        .percent(HOSTILE)
        .waiting_for("{names}")
        .title(HOSTILE)
        .elapsed(HOSTILE)
        .cancel(HOSTILE)
        .result(HOSTILE)
        .reloads(HOSTILE)
        .reload(HOSTILE)
        .stop_reloading(HOSTILE)
        .gone(HOSTILE)
        .gone_text(HOSTILE)
        .retry_seconds(HOSTILE)
        .error_status(HOSTILE);
    let mut context = context(&strings);
    context.message = Some(HOSTILE);
    context.waiting_for = vec![HOSTILE];
    context.cancel_token = HOSTILE;
    context.links = PageLinks {
        own: HOSTILE,
        events: HOSTILE,
        result: HOSTILE,
        cancel: HOSTILE,
        assets: HOSTILE,
    };
    let page = render(&context);
    assert!(!page.contains(HOSTILE));
    // Language, title, three files, heading, message, promise, percent, label, note, two links to reload, form, token,
    // button, link twice; and in the data two links, a heading and two patterns.
    assert_eq!(page.matches(HARMLESS).count(), 18 + 5);

    let error = render_error(&ErrorContext {
        status: StatusCode::GONE,
        is_cancelled: false,
        retry_after: Some(Duration::ZERO),
        assets: HOSTILE,
        strings: &strings,
    });
    assert!(!error.contains(HOSTILE));
    // Language, title, two files, heading, text, hint, status.
    assert_eq!(error.matches(HARMLESS).count(), 8);
}

#[test]
fn everything_can_be_translated() {
    let strings = Strings::new("ar")
        .right_to_left(true)
        .percent("٪{percent}")
        .waiting_for("في انتظار: {names}");
    let page = render(&context(&strings));
    assert!(page.contains(r#"<html lang="ar" dir="rtl">"#));
    assert!(page.contains(r#"aria-hidden="true">٪42</span>"#));
    assert!(page.contains(r#"<p id="waiting" dir="auto">في انتظار: approval, night</p>"#));
}

#[test]
fn errors_are_said_in_plain_words() {
    let strings = Strings::default();
    let page = |status, retry_after| {
        render_error(&ErrorContext {
            status,
            is_cancelled: false,
            retry_after,
            assets: "/o/assets",
            strings: &strings,
        })
    };
    for (status, heading) in [
        (StatusCode::NOT_FOUND, "There is nothing here"),
        (StatusCode::CONFLICT, "That is not possible now"),
        (StatusCode::GONE, "There is no result any more"),
        (StatusCode::TOO_MANY_REQUESTS, "Too much at once"),
        (StatusCode::SERVICE_UNAVAILABLE, "Very busy at the moment"),
        (
            StatusCode::METHOD_NOT_ALLOWED,
            "That request was not accepted",
        ),
        (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong"),
    ] {
        let page = page(status, None);
        assert!(page.contains(&format!("<h1>{heading}</h1>")), "{page}");
        assert!(page.contains(&format!("Error {}", status.as_u16())));
        assert!(!page.contains("Try again in"));
    }
    for (delay, text) in [
        (Duration::from_millis(1), "Try again in 1 s."),
        (Duration::from_secs(119), "Try again in 119 s."),
        (Duration::from_secs(121), "Try again in 3 min."),
        (Duration::MAX, "Try again in "),
    ] {
        assert!(page(StatusCode::SERVICE_UNAVAILABLE, Some(delay)).contains(text));
    }
}

#[test]
fn the_files_of_a_page_are_to_be_had() {
    let strings = Strings::default();
    let page = render(&context(&strings));
    let files: Vec<_> = page
        .split('"')
        .filter_map(|part| part.strip_prefix("/o/assets/"))
        .collect();
    let types: Vec<_> = files
        .iter()
        .filter_map(|file| asset(file))
        .map(|asset| asset.content_type)
        .collect();
    assert_eq!(
        types,
        [
            "image/svg+xml",
            "text/css; charset=utf-8",
            "text/javascript; charset=utf-8"
        ]
    );
}
