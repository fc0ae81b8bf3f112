//! When the parts of a page are sent.

use crate::support::{
    SECOND, after, browser, html, open, open_with, pending, problems, read, template, without_grace,
};
use http::HeaderValue;
use http::header::{LOCATION, SET_COOKIE};
use std::future::ready;
use std::time::Duration;
use test_support::strict::Strict;
use test_support::{Counter, Log, TestRequest, promises};
use tokio::time::{Instant, sleep, timeout};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_promises::fragment::FragmentLayer;
use tower_promises::{BoxError, Promises};

#[tokio::test(start_paused = true)]
async fn a_page_begins_when_its_outside_is_known_and_its_fragments_follow() {
    let page = open(FragmentLayer::new(), |promises| {
        // Created before the title is read, so that their promises start with that of the title.
        let slow = promises.fragment("slow", "<i>…</i>", |promises| {
            after(promises, "slow", 5 * SECOND)
        });
        let fast = promises.fragment("fast", "", |promises| after(promises, "fast", 3 * SECOND));
        let title = after(promises, "title", SECOND)?;
        Ok(format!(
            "<html><body><h1>{title}</h1>{slow}{fast}</body></html>\n"
        ))
    })
    .await;
    let ms = |seconds: u32| SECOND * seconds;
    let grace = Duration::from_millis(10);
    assert_eq!(page.frames, [
        (ms(1) + grace, "<html><body><h1>title</h1><?start name=\"tp1\"><i>…</i><?end><?start name=\"tp2\"><?end>".to_owned()),
        (ms(3), "<template for=\"tp2\">fast</template>\n".to_owned()),
        (ms(5), "<template for=\"tp1\">slow</template>\n</body></html>\n".to_owned()),
    ]);
    assert_eq!(page.passes, 2);
    assert_eq!(page.head.headers["incremental"], "?1");
}

#[tokio::test(start_paused = true)]
async fn what_is_read_outside_decides_the_head() {
    let dropped = Counter::default();
    for (product, status) in [("tea", 200), ("gone", 404), ("moved", 302)] {
        let (log, counted) = (Log::start(), dropped.clone());
        let page = open_with(without_grace(), browser("/"), move |promises| {
            let guard = counted.on_drop();
            let price = promises.fragment("price", "…", move |promises| {
                let _ = &guard;
                after(promises, "price", 5 * SECOND)
            });
            let found = after(promises, product, SECOND)?;
            let mut response = match &*found {
                "gone" => html("not found"),
                _ => html(format!("<h1>{found}</h1>{price}")),
            };
            let headers = response.headers_mut();
            headers.append(SET_COOKIE, HeaderValue::from_str(&format!("last={found}"))?);
            if found == "moved" {
                headers.insert(LOCATION, HeaderValue::from_static("/new"));
            }
            *response.status_mut() = status.try_into()?;
            Ok(response)
        })
        .await;
        assert_eq!(page.head.status, status);
        assert_eq!(page.head.headers[SET_COOKIE], format!("last={product}"));
        assert_eq!(page.frames[0].0, SECOND);
        // The page that does not contain its fragment ends at once.
        let end = page.frames.last().unwrap().0;
        assert_eq!(end, SECOND * if status == 200 { 5 } else { 1 });
        assert_eq!(page.head.headers.contains_key("incremental"), status != 302);
        assert!(problems(&log).is_empty(), "{:?}", problems(&log));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_streams_holds_no_permit_of_the_inner_service() {
    let layer = ServiceBuilder::new()
        .layer(without_grace())
        .layer(ConcurrencyLimitLayer::new(1));
    let service = layer.service(service_fn(|request: TestRequest| {
        let fragment =
            promises(&request).fragment("slow", "…", |it| after(it, "slow", 9 * SECOND));
        ready(Ok::<_, BoxError>(html(fragment.to_string())))
    }));
    let start = Instant::now();
    let first = service.clone().oneshot(browser("/")).await.unwrap();
    // The client reads nothing of the first page.
    sleep(SECOND).await;
    let second = timeout(SECOND, service.oneshot(browser("/"))).await;
    let second = second.expect("the second page begins").unwrap();
    for response in [second, first] {
        let text = read(start, response).await.text();
        assert_eq!(text, pending(1, "…") + &*template(1, "slow"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_is_polled_ready_before_each_call() {
    let calls = Counter::default();
    let handler = |promises: &Promises| {
        let slow = promises.fragment("slow", "…", |it| after(it, "slow", 3 * SECOND));
        let title = after(promises, "title", SECOND)?;
        Ok(html(format!("{title}{slow}")))
    };
    let mut service = without_grace().layer(Strict::new(handler, &calls));
    for requests in 1..4 {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(browser("/"))
            .await
            .unwrap();
        let text = read(Instant::now(), response).await.text();
        assert_eq!(
            text,
            format!("title{}{}", pending(1, "…"), template(1, "slow"))
        );
        assert_eq!(calls.get(), 2 * requests);
    }
}
