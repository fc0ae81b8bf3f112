//! Pages that do not stream: the page is whole, without markers, or has no fragments.

use crate::support::{
    Page, SECOND, after, browser, html, open, open_with, pending, problems, read, template,
    without_grace,
};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use std::future::ready;
use test_support::{Counter, Log, TestBody, TestRequest, get, promises, text_response};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::FragmentLayer;
use tower_promises::promise::Rejection;
use tower_promises::{BoxError, PromiseLayer, Promises};

fn page(promises: &Promises) -> Result<String, BoxError> {
    let slow = promises.fragment("slow", "<i>…</i>", |promises| {
        let first = after(promises, "first", 2 * SECOND)?;
        after(promises, format!("{first} second"), SECOND)
    });
    let title = after(promises, "title", SECOND)?;
    Ok(format!("<p>{title}</p>{slow}"))
}

const WHOLE: &str = "<p>title</p>first second";

fn streamed() -> String {
    let shell = format!("<p>title</p>{}", pending(1, "<i>…</i>"));
    format!("{shell}{}", template(1, "first second"))
}

fn accepting(accept: &'static str) -> Request<TestBody> {
    let mut request = get("/");
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    request
}

fn assert_whole(page: &Page) {
    assert_eq!((page.text().as_str(), page.passes), (WHOLE, 3));
    assert_eq!(page.frames[0].0, 3 * SECOND);
    for name in ["incremental", "x-accel-buffering", "vary"] {
        assert!(!page.head.headers.contains_key(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_stream_get_the_whole_page() {
    let head = {
        let mut request = browser("/");
        *request.method_mut() = Method::HEAD;
        request
    };
    let old = {
        let mut request = browser("/");
        *request.version_mut() = Version::HTTP_10;
        request
    };
    let accepts = [
        "*/*",
        "text/*",
        "application/json",
        "text/html;q=0",
        "text/html; Q=0.000",
        "text/html ;level=1;q=0, */*",
        "text/htmlx, text",
        "",
    ];
    let requests = accepts.map(accepting).into_iter();
    let requests = requests.chain([get("/"), head, old]);
    for request in requests {
        let opened = open_with(without_grace(), request, |it| page(it).map(html));
        assert_whole(&opened.await);
    }
    let layer = without_grace().stream_when(|request| request.uri.query() != Some("whole"));
    let handler = |promises: &Promises| page(promises).map(html);
    assert_whole(&open_with(layer.clone(), browser("/?whole"), handler).await);
    assert_eq!(
        open_with(layer, browser("/"), handler).await.text(),
        streamed()
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_name_html_stream() {
    let accepts = [
        "text/html",
        "TEXT/HTML;q=0.1",
        "application/json, text/html ; charset=utf-8",
        "text/html;q=x",
    ];
    let mut two = accepting("application/json");
    two.headers_mut()
        .append(ACCEPT, HeaderValue::from_static("text/html"));
    let mut second = browser("/");
    *second.version_mut() = Version::HTTP_2;
    let mut post = browser("/");
    *post.method_mut() = Method::POST;
    for request in accepts
        .map(accepting)
        .into_iter()
        .chain([two, second, post])
    {
        let opened = open_with(without_grace(), request, |it| page(it).map(html)).await;
        assert_eq!((opened.text(), opened.passes), (streamed(), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_fragments_makes_the_page_whole() {
    let answer = test_support::ask(PromiseLayer::new(), page).await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), (WHOLE, 3));
}

#[tokio::test(start_paused = true)]
async fn responses_that_cannot_stream_become_whole() {
    let types = [
        "text/plain",
        "application/json",
        "application/xhtml+xml",
        "text/htmlx",
        "",
    ];
    let types = types.map(|it| (CONTENT_TYPE, it)).into_iter();
    for (name, value) in types.chain([(CONTENT_ENCODING, "gzip"), (CONTENT_ENCODING, "br")]) {
        let undone = Counter::default();
        let (counted, header) = (undone.clone(), name.clone());
        let opened = open_with(without_grace(), browser("/"), move |promises| {
            let counted = counted.clone();
            promises.on_discard(move || counted.add());
            let mut response = html(page(promises)?);
            response
                .headers_mut()
                .insert(&header, HeaderValue::from_static(value));
            Ok(response)
        })
        .await;
        // The title is missing in the first pass. The second one could stream, and decides that no later one does.
        assert_eq!(opened.text(), WHOLE, "{name} {value}");
        assert_eq!((opened.passes, undone.get()), (4, 3), "{name} {value}");
        assert!(!opened.head.headers.contains_key("incremental"));
    }
    for (name, value) in [
        (CONTENT_TYPE, "Text/HTML"),
        (CONTENT_TYPE, "text/html ; charset=utf-8"),
        (CONTENT_ENCODING, "identity"),
    ] {
        let opened = open_with(without_grace(), browser("/"), move |promises| {
            let mut response = html(page(promises)?);
            response
                .headers_mut()
                .insert(&name, HeaderValue::from_static(value));
            Ok(response)
        });
        assert_eq!(opened.await.text(), streamed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_without_a_place_for_fragments_drops_them_unpolled() {
    for status in [301, 302, 303, 307, 308, 204, 205, 304, 200, 404] {
        let (polled, dropped) = (Counter::default(), Counter::default());
        let counted = (polled.clone(), dropped.clone());
        let start = Instant::now();
        let opened = open_with(without_grace(), browser("/"), move |promises| {
            let counted = counted.clone();
            let guard = counted.1.on_drop();
            let fragment = promises.fragment("slow", "", move |promises| {
                let _ = &guard;
                let polled = counted.0.clone();
                promises.result_or_submit("slow", || async move { polled.add() })?;
                Ok::<_, BoxError>("slow")
            });
            assert!(fragment.is_pending());
            let body = if status < 300 || status == 304 || status == 404 {
                ""
            } else {
                "moved"
            };
            let mut response = html(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
                .headers_mut()
                .insert(LOCATION, HeaderValue::from_static("/x"));
            Ok(response)
        })
        .await;
        assert_eq!(opened.head.status, status);
        assert_eq!(
            (opened.passes, polled.get(), dropped.get()),
            (1, 0, 1),
            "{status}"
        );
        assert!(start.elapsed().is_zero());
        assert_eq!(opened.head.headers["location"], "/x");
        assert!(!opened.head.headers.contains_key("incremental"));
    }
}

#[tokio::test(start_paused = true)]
async fn publishing_publishes_fallbacks_or_streams() {
    let handler = |promises: &Promises| {
        promises.publish();
        let slow = promises.fragment("slow", "<i>…</i>", |it| after(it, "slow", SECOND));
        Ok(html(slow.to_string()))
    };
    let page = open_with(without_grace(), get("/"), handler).await;
    assert_eq!((page.text().as_str(), page.passes), ("<i>…</i>", 1));
    let page = open_with(without_grace(), browser("/"), handler).await;
    assert_eq!(page.text(), pending(1, "<i>…</i>") + &*template(1, "slow"));
}

#[tokio::test(start_paused = true)]
async fn a_page_with_fragments_may_stream_in_the_last_pass_only() {
    let once = |promises: &Promises| {
        let slow = promises.fragment("slow", "…", |it| after(it, "slow", SECOND));
        Ok(html(slow.to_string()))
    };
    let layer = |passes| without_grace().promises(PromiseLayer::new().max_passes(passes));
    for passes in [1, 2] {
        let page = open_with(layer(passes), browser("/"), once).await;
        assert_eq!(page.text(), pending(1, "…") + &*template(1, "slow"));
    }
    let opened = open_with(layer(2), browser("/"), |it| page(it).map(html)).await;
    assert_eq!((opened.head.status.as_u16(), opened.passes), (200, 2));

    let whole = open_with(layer(1), get("/"), once).await;
    let plain = |promises: &Promises| {
        let page = once(promises)?;
        Ok::<_, BoxError>(text_response(format!("{:?}", page.body())))
    };
    for rejected in [whole, open_with(layer(1), browser("/"), plain).await] {
        let rejection = rejected.head.extensions.get::<Rejection>();
        let Some(Rejection::TooManyPasses {
            limit: 1, pending, ..
        }) = rejection
        else {
            panic!("{rejection:?}");
        };
        assert_eq!(pending, &["slow"]);
        assert_eq!(rejected.head.status, 500);
    }
    let whole = open_with(layer(2), get("/"), once).await;
    assert_eq!((whole.text().as_str(), whole.passes), ("slow", 2));
    let whole = open_with(layer(2), browser("/"), plain).await;
    assert!(whole.text().contains("slow"), "{}", whole.text());
    assert_eq!(whole.passes, 2);
}

#[tokio::test(start_paused = true)]
async fn headers_that_contradict_streaming_are_removed() {
    let handler = |promises: &Promises| {
        let mut response = html(page(promises)?);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(9));
        headers.insert(ETAG, HeaderValue::from_static("\"etag\""));
        headers.insert("vary", HeaderValue::from_static("cookie"));
        headers.insert("x-mine", HeaderValue::from_static("mine"));
        Ok(response)
    };
    let log = Log::start();
    let page = open_with(without_grace(), browser("/"), handler).await;
    let headers = &page.head.headers;
    assert!(!headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(ETAG));
    assert_eq!(
        headers.get_all("vary").iter().collect::<Vec<_>>(),
        ["cookie", "accept"]
    );
    assert_eq!(headers["x-mine"], "mine");
    assert_eq!(headers["x-accel-buffering"], "no");
    let problems = problems(&log);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("header=\"content-length\""),
        "{problems:?}"
    );

    let log = Log::start();
    let page = open_with(without_grace(), get("/"), handler).await;
    assert_eq!(page.head.headers[ETAG], "\"etag\"");
    assert_eq!(log.text().matches("contradicts").count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_waits_for_fragments_beyond_the_limit() {
    for (limit, expected) in [(0, 0), (2, 2), (3, 3)] {
        let page = open(without_grace().max_fragments(limit), |promises| {
            let fragments = (0..3).map(|number| {
                let fragment = promises.fragment("fragment", "…", move |promises| {
                    let (name, time) = (format!("number {number}"), SECOND * (3 - number));
                    after(promises, name, time)
                });
                fragment.to_string()
            });
            Ok(fragments.collect())
        })
        .await;
        let text = page.text();
        assert!(
            (0..3).all(|number| text.contains(&format!("number {number}"))),
            "{text}"
        );
        assert_eq!(page.passes, if limit < 3 { 2 } else { 1 });
        // The third fragment takes one second, for which the page waits.
        let first = &page.frames[0];
        assert_eq!(first.1.matches("<?start").count(), expected, "{}", first.1);
        let waited = [3, 0, 1, 0][limit];
        assert_eq!(first.0, SECOND * waited);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_is_passed_on() {
    let dropped = Counter::default();
    let counted = dropped.clone();
    let service = without_grace().layer(service_fn(move |request: TestRequest| {
        let promises = promises(&request);
        let guard = counted.on_drop();
        let fragment = promises.fragment("slow", "", move |promises| {
            let _ = &guard;
            after(promises, "slow", SECOND)
        });
        assert!(fragment.is_pending());
        ready(Err::<Response<TestBody>, _>("no database"))
    }));
    let error = service.oneshot(browser("/")).await.unwrap_err();
    assert_eq!((error, dropped.get()), ("no database", 1));
}

#[tokio::test(start_paused = true)]
async fn a_response_without_fragments_is_unchanged() {
    let service = FragmentLayer::new().layer(service_fn(|_: TestRequest| {
        let mut response = html("<p>hello</p>");
        response
            .headers_mut()
            .insert(ETAG, HeaderValue::from_static("\"e\""));
        ready(Ok::<_, BoxError>(response))
    }));
    let start = Instant::now();
    let response = service.oneshot(browser("/")).await.unwrap();
    let body = response.body();
    assert_eq!(http_body::Body::size_hint(body).exact(), Some(12));
    assert!(!http_body::Body::is_end_stream(body));
    let page = read(start, response).await;
    assert_eq!(page.text(), "<p>hello</p>");
    assert_eq!(page.head.headers[ETAG], "\"e\"");
}
