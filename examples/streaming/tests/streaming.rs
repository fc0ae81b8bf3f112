//! The example `streaming`: its pages as they arrive at a client.
#![allow(clippy::unwrap_used)]

use flate2::write::GzDecoder;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING};
use reqwest::{Response, StatusCode};
use std::io::Write;
use test_support::browser::Browser;
use test_support::example::{Example, soon};

/// The page in both template engines.
const PAGES: (&str, &str) = ("/tea", "/maud/tea");

fn start() -> Example {
    Example::start(env!("CARGO_BIN_EXE_streaming"))
}

/// Requests a page as a browser does.
async fn open(example: &Example, path: &str, encoding: &'static str) -> Response {
    let request = example.client.get(format!("{}{path}", example.url));
    let request = request
        .header(ACCEPT, "text/html")
        .header(ACCEPT_ENCODING, encoding);
    request.send().await.unwrap()
}

/// Whether a page has begun and has not ended.
fn is_part(page: &[u8]) -> bool {
    let page = String::from_utf8_lossy(page);
    page.contains("<h1>Assam, second flush</h1>") && !page.contains("</body>")
}

/// Puts fragments in their places, as a browser does.
fn place(page: &str) -> String {
    let mut page = page.to_owned();
    while let Some((before, rest)) = page.split_once("<template for=\"") {
        let (id, rest) = rest.split_once("\">").unwrap();
        let (output, rest) = rest.split_once("</template>\n").unwrap();
        let start = format!("<?start name=\"{id}\">");
        let (before, fallback) = before.split_once(&start).unwrap();
        let (_, after) = fallback.split_once("<?end>").unwrap();
        page = format!("{before}{output}{after}{rest}");
    }
    page
}

#[tokio::test]
async fn the_parts_of_a_page_are_those_of_the_whole_page() {
    let example = start();
    tokio::join!(compare(&example, PAGES.0), compare(&example, PAGES.1));
}

/// Opens a page in parts and whole.
async fn compare(example: &Example, path: &str) {
    let mut response = open(example, path, "identity").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["incremental"], "?1");
    assert!(!response.headers().contains_key("content-length"));
    let cookie = &response.headers()["set-cookie"];
    assert_eq!(cookie, "visits=1; Path=/; HttpOnly; SameSite=Lax");

    let (mut streamed, mut had_parts) = (Vec::new(), false);
    while let Some(part) = soon(response.chunk()).await.unwrap() {
        streamed.extend(part);
        had_parts |= is_part(&streamed);
    }
    assert!(had_parts, "the page arrives at its end");
    let streamed = String::from_utf8(streamed).unwrap();
    let script = "<script src=\"/fragments.js\" async></script>";
    assert_eq!(streamed.matches(script).count(), 1);
    // The fragment within the reviews follows them.
    let at = |text| {
        streamed
            .find(text)
            .unwrap_or_else(|| panic!("no {text} in {streamed}"))
    };
    assert!(at("Malty, strong") < at("Readers praise"));

    let response = open(example, &format!("{path}?whole"), "identity").await;
    let whole = soon(response.text()).await.unwrap();
    assert_eq!(place(&streamed.replace(script, "")), whole);
    for text in [
        "12.90 €",
        "Delivery:",
        "not available at the moment",
        "Our branches do not answer",
        "&lt;b&gt;anything",
        "Sidamo, washed",
    ] {
        assert!(whole.contains(text), "no {text} in {whole}");
    }
}

#[tokio::test]
async fn a_page_without_a_product_has_the_status_404() {
    let example = start();
    for path in ["/gold", "/gold?whole", "/maud/gold", "/tea%2F..%2Fcoffee"] {
        let response = open(&example, path, "identity").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        let page = soon(response.text()).await.unwrap();
        assert!(page.contains("<h1>We do not sell this</h1>"), "{page}");
    }
}

#[tokio::test]
async fn a_compressed_page_arrives_in_parts() {
    let example = start();
    tokio::join!(decompress(&example, PAGES.0), decompress(&example, PAGES.1));
}

/// Decompresses the parts of a page as they arrive.
async fn decompress(example: &Example, path: &str) {
    let mut response = open(example, path, "gzip").await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut page = GzDecoder::new(Vec::new());
    let mut had_parts = false;
    while let Some(part) = soon(response.chunk()).await.unwrap() {
        page.write_all(&part).unwrap();
        page.flush().unwrap();
        had_parts |= is_part(page.get_ref());
    }
    assert!(had_parts, "the page arrives at its end");
    let page = String::from_utf8(page.finish().unwrap()).unwrap();
    assert!(
        place(&page).contains("Our branches do not answer"),
        "{page}"
    );
}

#[tokio::test]
async fn a_browser_shows_the_page_in_parts() {
    let example = start();
    let browser = Browser::start_for_streams().await;
    browser.allow_scripts(false).await;
    browser.resize(760, 880).await;
    browser.begin(&format!("{}/tea", example.url)).await;
    browser
        .until("document.querySelector('.cards a') !== null")
        .await;
    browser.screenshot("streaming-begun").await;
    browser.until("document.readyState === 'complete'").await;
    browser.screenshot("streaming-ended").await;
    let skeletons = "document.querySelectorAll('.skeleton, template').length";
    assert_eq!(browser.evaluate::<u32>(skeletons).await, 0);
    assert_eq!(browser.complaints().await, [""; 0]);
}
