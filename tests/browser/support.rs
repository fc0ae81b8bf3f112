//! The browsers of `test_support` do what the browser tests rely on.

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use test_support::browser::Browser;
use test_support::firefox::Firefox;
use thirtyfour::Key;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

const PAGE: &str = r#"<!doctype html><title>test</title><link rel="icon" href="/icon">
<meta http-equiv="Content-Security-Policy" content="default-src 'self'">
<button style="color: red">first</button><button>second</button>
<noscript><p id="without">no scripts</p></noscript>
<script src="/script"></script>"#;

const SCRIPT: &str = "document.body.append('scripted'); setTimeout(() => { document.title = 'later' }, 100);
document.addEventListener('visibilitychange', () => { document.title = document.visibilityState });";

async fn serve() -> String {
    let app = Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/icon", get(async || ""))
        .route(
            "/script",
            get(async || ([("content-type", "text/javascript")], SCRIPT)),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    url
}

#[tokio::test]
async fn the_browser_shows_pages_to_tests() {
    let url = serve().await;
    let browser = Browser::start().await;
    browser.open(&url).await;
    assert_eq!(browser.url().await, url);
    browser.until("document.title === 'later'").await;
    assert_eq!(browser.evaluate::<u32>("1 + 1").await, 2);
    assert_eq!(
        browser
            .evaluate::<Option<String>>("document.getElementById('without')")
            .await,
        None
    );
    // The browser complains about the inline style.
    let complaints = browser.complaints().await;
    assert!(
        complaints
            .iter()
            .any(|complaint| complaint.contains("Content Security Policy")),
        "{complaints:?}"
    );
    assert_eq!(complaints.len(), 1);
    assert!(browser.complaints().await.is_empty());

    browser.press(Key::Tab).await;
    browser.press(Key::Tab).await;
    assert_eq!(
        browser
            .evaluate::<String>("document.activeElement.textContent")
            .await,
        "second"
    );

    browser
        .prefer(&[
            ("prefers-color-scheme", "dark"),
            ("prefers-reduced-motion", "reduce"),
        ])
        .await;
    for preference in [
        "(prefers-color-scheme: dark)",
        "(prefers-reduced-motion: reduce)",
    ] {
        assert!(
            browser
                .evaluate::<bool>(&format!("matchMedia('{preference}').matches"))
                .await
        );
    }
    browser.resize(320, 640).await;
    browser.open(&url).await;
    assert_eq!(browser.evaluate::<u32>("screen.width").await, 320);
    let picture = browser.screenshot("browser").await;
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn the_browser_can_disable_scripts() {
    let url = serve().await;
    let browser = Browser::start().await;
    browser.allow_scripts(false).await;
    browser.open(&url).await;
    let text: String = browser
        .evaluate("document.getElementById('without').textContent")
        .await;
    assert_eq!(text, "no scripts");
    assert!(
        !browser
            .evaluate::<bool>("document.body.textContent.includes('scripted')")
            .await
    );
    browser.allow_scripts(true).await;
    browser.open(&url).await;
    browser.until("document.title === 'later'").await;
}

#[tokio::test]
async fn the_browser_can_disconnect_the_network() {
    let url = serve().await;
    let browser = Browser::start().await;
    browser.open(&url).await;
    let fetch = "fetch('/icon').then(response => response.ok, () => false)";
    assert!(browser.evaluate::<bool>(fetch).await);
    browser.online(false).await;
    assert!(!browser.evaluate::<bool>(fetch).await);
    browser.online(true).await;
    assert!(browser.evaluate::<bool>(fetch).await);
}

#[tokio::test]
async fn the_browser_shows_one_tab_and_hides_the_others() {
    let url = serve().await;
    let browser = Browser::start().await;
    let mut tabs = Vec::new();
    for is_kept_visible in [true, false, false] {
        let tab = browser.open_tab().await;
        if is_kept_visible {
            browser.keep_visible().await;
        }
        browser.open(&url).await;
        browser.until("document.title === 'later'").await;
        tabs.push(tab);
    }
    browser.until_title(&tabs[1], "hidden").await;
    browser.show(&tabs[1]).await;
    browser.until_title(&tabs[2], "hidden").await;
    browser.until_title(&tabs[1], "visible").await;
    assert_eq!(browser.title(&tabs[0]).await, "later");
}

#[tokio::test]
async fn the_browser_considers_other_hosts_insecure() {
    let url = serve().await;
    let browser = Browser::start().await;
    for (host, is_secure) in [("127.0.0.1", true), ("site.test", false)] {
        browser.open(&url.replace("127.0.0.1", host)).await;
        assert_eq!(browser.evaluate::<bool>("isSecureContext").await, is_secure);
    }
}

/// Serves a page whose parts come through a channel.
async fn serve_parts() -> (String, mpsc::Sender<&'static str>) {
    let (sender, parts) = mpsc::channel(1);
    let parts = ReceiverStream::new(parts).map(Ok::<_, Infallible>);
    let page = Arc::new(Mutex::new(Some(Html(Body::from_stream(parts)))));
    let page = move || ready(page.lock().unwrap().take().unwrap());
    let app = Router::new()
        .route("/", get(page))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url, sender)
}

#[tokio::test]
async fn the_browser_shows_a_page_before_its_end() {
    let (url, parts) = serve_parts().await;
    let browser = Browser::start_for_streams().await;
    parts
        .send("<!doctype html><title>begun</title>")
        .await
        .unwrap();
    browser.begin(&url).await;
    browser.until("document.title === 'begun'").await;
    parts.send("<p>more</p>").await.unwrap();
    browser.until("document.body?.textContent === 'more'").await;
    assert_eq!(
        browser.evaluate::<String>("document.readyState").await,
        "loading"
    );
    drop(parts);
    browser.until("document.readyState === 'complete'").await;
}

#[tokio::test]
async fn firefox_shows_a_page_before_its_end_as_the_browser_does() {
    let (url, parts) = serve_parts().await;
    let firefox = Firefox::start().await;
    parts
        .send("<!doctype html><title>begun</title>")
        .await
        .unwrap();
    firefox.begin(&url).await;
    firefox.until("document.title === 'begun'").await;
    parts.send("<p>more</p>").await.unwrap();
    firefox.until("document.body?.textContent === 'more'").await;
    assert_eq!(
        firefox.evaluate::<String>("document.readyState").await,
        "loading"
    );
    drop(parts);
    firefox.until("document.readyState === 'complete'").await;
}
