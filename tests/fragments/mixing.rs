//! Many pages at once.

use crate::support::{SECOND, after, browser, html, read, without_grace};
use futures_util::future::join_all;
use std::future::ready;
use std::time::Duration;
use test_support::{TestRequest, promises};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::{BoxError, PromiseError, Promises};

fn page(promises: &Promises, user: &str) -> Result<String, BoxError> {
    let number: u64 = user.parse()?;
    let time = move |index: u64| Duration::from_millis((number * 31 + index * 17) % 97 + 1);
    let fragments = (0..4).map(|index| {
        let user = user.to_owned();
        let fragment = promises.fragment(format!("part {index}"), "…", move |_| {
            let promises = Promises::try_current()?;
            let owned = user.clone();
            // The same names in all requests.
            let first: String =
                promises.result_or_submit(format!("first {index}"), || async move {
                    tokio::time::sleep(time(index)).await;
                    owned
                })?;
            let inner = promises.fragment("inner", "", move |promises| {
                let value = after(promises, format!("inner {index}"), SECOND)?;
                Ok::<_, PromiseError>(format!("{value} of {first}"))
            });
            Ok::<_, BoxError>(format!("{index} of {user}: {inner}"))
        });
        fragment.to_string()
    });
    let fragments: String = fragments.collect();
    let owned = user.to_owned();
    let name: String = promises.result_or_submit("name", || async move {
        tokio::time::sleep(time(9)).await;
        owned
    })?;
    Ok(format!("<h1>{name}</h1>{fragments}"))
}

#[tokio::test(start_paused = true)]
async fn pages_never_mix() {
    let service = without_grace().layer(service_fn(|request: TestRequest| {
        let user = request.uri().path()[1..].to_owned();
        ready(page(&promises(&request), &user).map(html))
    }));
    let pages = (0..1_000).map(|user| {
        let service = service.clone();
        async move {
            let start = Instant::now();
            let response = service.oneshot(browser(&format!("/{user}"))).await.unwrap();
            (user, read(start, response).await)
        }
    });
    for (user, page) in join_all(pages).await {
        let text = page.text();
        assert!(text.starts_with(&format!("<h1>{user}</h1>")), "{text}");
        // Each fragment is in the page, or follows it.
        for index in 0..4 {
            let part = format!("{index} of {user}: ");
            assert_eq!(text.matches(&part).count(), 1, "{text}");
            let inner = format!(">inner {index} of {user}</template>");
            assert_eq!(text.matches(&inner).count(), 1, "{text}");
        }
        assert_eq!(text.matches(" of ").count(), 8, "{text}");
    }
}
