//! Operations, section 6 of their contract: the pages in a real browser, with and without scripts, by mouse and by
//! keyboard, in light and dark mode.
#![allow(clippy::unwrap_used)]

mod tabs;

use http::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;
use test_support::site::{Proxy, Site};
use thirtyfour::Key;
use tower_promises_operations::OperationLayer;
use tower_promises_operations::page::Strings;

const MESSAGE: &str = "document.querySelector('[role=status]').textContent";

// Contract: 6.2
#[tokio::test]
async fn the_page_follows_the_work_and_ends_on_the_result() {
    let mut site = Site::start().await;
    let work = site.begin().await;
    let page: f64 = site.browser.evaluate("performance.timeOrigin").await;
    let bar = "document.querySelector('progress')";
    assert_eq!(
        site.browser
            .evaluate::<f64>(&format!("{bar}.position"))
            .await,
        -1.0
    );

    work.progress.set(42.9);
    work.progress.set_message("<b>row</b> 3");
    site.browser
        .until(&format!("{MESSAGE} === '<b>row</b> 3'"))
        .await;
    site.browser
        .until("document.title === '42% · Working on it'")
        .await;
    assert_eq!(
        site.browser.evaluate::<f64>(&format!("{bar}.value")).await,
        42.9
    );
    site.browser
        .until("document.querySelector('time').textContent !== '0:00'")
        .await;
    // The page was not loaded again for this.
    assert_eq!(
        site.browser.evaluate::<f64>("performance.timeOrigin").await,
        page
    );

    work.finish();
    site.see_result().await;
    assert_eq!(site.browser.complaints().await, [""; 0]);
    // The result replaces the page in the history, so the back button leads to the form.
    site.browser.driver().back().await.unwrap();
    site.browser.until("document.title === 'start'").await;
}

// Contract: 6.2
#[tokio::test]
async fn the_page_reloads_itself_without_scripts() {
    let mut site = Site::start().await;
    site.browser.allow_scripts(false).await;
    let work = site.begin().await;
    work.progress.set(50);
    work.progress.set_message("halfway");
    site.browser
        .until("document.title === '50% · Working on it'")
        .await;
    site.browser
        .until(&format!("{MESSAGE} === 'halfway'"))
        .await;
    let text: String = site.browser.evaluate("document.body.innerText").await;
    assert!(text.contains("reloads itself"), "{text}");
    site.browser.screenshot("operation-without-scripts").await;
    work.finish();
    site.see_result().await;
    assert_eq!(site.browser.complaints().await, [""; 0]);
}

// Contract: 6.2, 6.6
#[tokio::test]
async fn without_scripts_the_keyboard_stops_the_page_from_reloading_itself() {
    // No reload comes in between.
    let rarely = |layer: OperationLayer| layer.retry_after(Duration::from_secs(3600));
    let mut site = Site::start_with(Proxy::Transparent, rarely).await;
    site.browser.allow_scripts(false).await;
    let work = site.begin().await;
    let reloads = "document.querySelector('meta[http-equiv=refresh]') !== null";
    assert!(site.browser.evaluate::<bool>(reloads).await);
    site.browser.press(Key::Tab).await;
    site.browser.press(Key::Tab).await;
    let stop = "document.activeElement.matches('a[href=\"?reload=off\"]:focus-visible')";
    assert!(site.browser.evaluate::<bool>(stop).await);
    site.browser.press(Key::Enter).await;
    let stopped = "location.search === '?reload=off' && document.readyState === 'complete'";
    site.browser.until(stopped).await;
    assert!(!site.browser.evaluate::<bool>(reloads).await);
    site.browser.screenshot("operation-without-reloads").await;

    let reload = "document.activeElement.matches('a[href=\"\"]:focus-visible')";
    site.browser.press(Key::Tab).await;
    assert!(site.browser.evaluate::<bool>(reload).await);
    work.finish();
    site.browser.press(Key::Enter).await;
    site.see_result().await;
    assert_eq!(site.browser.complaints().await, [""; 0]);
}

/// Checks that the result is a page that says that the operation was cancelled, and shows no error code.
async fn see_cancelled(site: &Site) {
    site.see_error(410, "Cancelled").await;
    let text: String = site.browser.evaluate("document.body.innerText").await;
    assert!(
        text.contains("The operation was cancelled before it was done."),
        "{text}"
    );
    assert!(!text.contains("410"), "{text}");
}

// Contract: 6.1, 6.3
#[tokio::test]
async fn the_mouse_cancels() {
    for scripts in [true, false] {
        let mut site = Site::start().await;
        site.browser.allow_scripts(scripts).await;
        let work = site.begin().await;
        site.click("form button").await;
        work.until_dropped().await;
        see_cancelled(&site).await;
    }
}

#[tokio::test]
async fn a_double_click_cancels_once() {
    let mut site = Site::start().await;
    let work = site.begin().await;
    let twice = "{
        const form = document.querySelector('form');
        const submits = [];
        form.addEventListener('submit', (event) => { submits.push(!event.defaultPrevented); });
        form.querySelector('button').click();
        form.querySelector('button').click();
        submits;
    }";
    // A second request would be answered with a conflict.
    assert_eq!(
        site.browser.evaluate::<Vec<bool>>(twice).await,
        [true, false]
    );
    work.until_dropped().await;
    see_cancelled(&site).await;
}

// Contract: 6.6
#[tokio::test]
async fn the_keyboard_cancels() {
    let mut site = Site::start().await;
    let work = site.begin().await;
    site.browser.press(Key::Tab).await;
    let focus = "document.activeElement.matches('form button:focus-visible')";
    assert!(site.browser.evaluate::<bool>(focus).await);
    let outline = "parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2";
    assert!(site.browser.evaluate::<bool>(outline).await);
    site.browser.screenshot("operation-focus").await;
    // The page changes, and the button keeps the focus.
    work.progress.set(1);
    site.browser
        .until("document.title === '1% · Working on it'")
        .await;
    assert!(site.browser.evaluate::<bool>(focus).await);
    site.browser.press(Key::Enter).await;
    work.until_dropped().await;
    see_cancelled(&site).await;
}

/// The lowest contrast between a text of the page and its background.
const CONTRAST: &str = r"(() => {
    const light = (color) => {
        const [r, g, b] = color.match(/[\d.]+/g).map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = light(getComputedStyle(document.querySelector('main')).backgroundColor);
    const texts = [...document.querySelectorAll('h1, p, span, time, button')];
    return Math.min(...texts.map((text) => light(getComputedStyle(text).color)).map((color) =>
        (Math.max(color, background) + 0.05) / (Math.min(color, background) + 0.05)));
})()";

// Contract: 6.6
#[tokio::test]
async fn the_pages_are_readable_in_light_and_dark_and_on_a_phone() {
    let mut site = Site::start().await;
    let work = site.begin().await;
    site.click("form button").await;
    work.until_dropped().await;
    see_cancelled(&site).await;
    let cancelled = site.browser.url().await;
    let unknown = format!("{}/.operations/unknown", site.url);
    let work = site.begin().await;
    work.progress.set(64);
    work.progress.set_message("a-very-long-word".repeat(20));
    site.browser
        .until("document.title === '64% · Working on it'")
        .await;
    let page = site.browser.url().await;
    for (subject, address) in [("page", page), ("error", unknown), ("cancelled", cancelled)] {
        site.browser.open(&address).await;
        let mut backgrounds = Vec::new();
        for scheme in ["light", "dark"] {
            site.browser
                .prefer(&[("prefers-color-scheme", scheme)])
                .await;
            let contrast: f64 = site.browser.evaluate(CONTRAST).await;
            assert!(contrast >= 4.5, "{contrast} in {scheme}");
            let background = "getComputedStyle(document.body).backgroundColor";
            backgrounds.push(site.browser.evaluate::<String>(background).await);
            for width in [320, 1024] {
                site.browser.resize(width, 640).await;
                let overflow = "document.documentElement.scrollWidth - innerWidth";
                assert!(site.browser.evaluate::<i32>(overflow).await <= 0);
                let picture = format!("operation-{subject}-{scheme}-{width}");
                site.browser.screenshot(&picture).await;
            }
        }
        assert_ne!(backgrounds[0], backgrounds[1]);
    }
}

#[tokio::test]
async fn nothing_moves_with_reduced_motion() {
    let mut site = Site::start().await;
    let _work = site.begin().await;
    let animations = "document.getAnimations().length";
    assert_eq!(site.browser.evaluate::<usize>(animations).await, 1);
    site.browser
        .prefer(&[("prefers-reduced-motion", "reduce")])
        .await;
    assert_eq!(site.browser.evaluate::<usize>(animations).await, 0);
}

// Contract: 6.6
#[tokio::test]
async fn a_screen_reader_gets_names_and_values() {
    let mut site = Site::start().await;
    let work = site.begin().await;
    work.progress.set(25);
    work.progress.set_message("reading");
    site.browser
        .until("document.title === '25% · Working on it'")
        .await;
    let devtools = site.browser.driver().cdp();
    let tree = devtools.send_raw("Accessibility.getFullAXTree", json!({}));
    let tree = tree.await.unwrap();
    let nodes: Vec<_> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            (
                &node["role"]["value"],
                &node["name"]["value"],
                &node["value"]["value"],
            )
        })
        .map(|node| json!(node))
        .collect();
    for node in [
        json!(["heading", "Working on it", null]),
        json!(["progressbar", "Working on it", 25]),
        json!(["button", "Cancel", null]),
    ] {
        assert!(nodes.contains(&node), "{node} is missing in {nodes:?}");
    }
    // Changes soon after the first change are not read out.
    site.browser
        .until("document.querySelector('[role=status]').ariaLive === 'off'")
        .await;
}

#[tokio::test]
async fn the_page_polls_if_events_do_not_arrive() {
    for proxy in [Proxy::RefusesEvents, Proxy::KeepsEvents] {
        let mut site = Site::start_with(proxy, |layer| layer).await;
        let work = site.begin().await;
        let page: f64 = site.browser.evaluate("performance.timeOrigin").await;
        work.progress.set(30);
        work.progress.set_message("reading");
        site.browser
            .until("document.title === '30% · Working on it'")
            .await;
        site.browser
            .until(&format!("{MESSAGE} === 'reading'"))
            .await;
        // The page was not loaded again.
        assert_eq!(
            site.browser.evaluate::<f64>("performance.timeOrigin").await,
            page
        );
        work.finish();
        site.see_result().await;
    }
}

#[tokio::test]
async fn the_page_outlasts_an_interruption() {
    let mut site = Site::start_with(Proxy::RefusesEvents, |layer| layer).await;
    let work = site.begin().await;
    site.browser.online(false).await;
    let note = "document.getElementById('connection').textContent";
    site.browser
        .until(&format!("{note}.includes('interrupted')"))
        .await;
    work.progress.set(30);
    site.browser.online(true).await;
    site.browser
        .until("document.title === '30% · Working on it'")
        .await;
    assert_eq!(site.browser.evaluate::<String>(note).await, "");
    work.finish();
    site.see_result().await;
}

#[tokio::test]
async fn a_result_to_download_leaves_a_page_that_says_so() {
    let mut site = Site::start().await;
    let work = site.begin().await;
    let attachment = [("content-disposition", "attachment; filename=report.csv")];
    work.finish_with((attachment, "a;b"));
    site.browser.until("document.title === 'Done'").await;
    let link = "document.querySelector('a').checkVisibility()";
    assert!(site.browser.evaluate::<bool>(link).await);
    let rest =
        "document.querySelector('progress').checkVisibility() || document.querySelector('form')";
    assert_eq!(site.browser.evaluate::<Option<bool>>(rest).await, None);
    site.browser.screenshot("operation-done").await;
}

#[tokio::test]
async fn the_page_shows_a_cancel_by_another_client() {
    for proxy in [Proxy::Transparent, Proxy::RefusesEvents] {
        let mut site = Site::start_with(proxy, |layer| layer).await;
        let work = site.begin().await;
        let client = reqwest::Client::new();
        let deleted = client
            .delete(site.browser.url().await)
            .send()
            .await
            .unwrap();
        assert_eq!(deleted.status(), StatusCode::OK);
        work.until_dropped().await;
        see_cancelled(&site).await;
    }
}

// Contract: 4.9
#[tokio::test]
async fn the_button_disappears_from_an_open_page_when_the_work_refuses_to_be_cancelled() {
    for proxy in [Proxy::Transparent, Proxy::RefusesEvents] {
        let durable =
            |layer: OperationLayer| layer.durable(|request| request.method == Method::POST);
        let mut site = Site::start_with(proxy, durable).await;
        let work = site.begin().await;
        let page: f64 = site.browser.evaluate("performance.timeOrigin").await;
        let has_button = "document.querySelector('form button')?.checkVisibility() ?? false";
        assert!(site.browser.evaluate::<bool>(has_button).await);
        work.run.as_ref().unwrap().refuse_cancel().await;
        site.browser
            .until("document.querySelector('form, button') === null")
            .await;
        work.progress.set(30);
        site.browser
            .until("document.title === '30% · Working on it'")
            .await;
        let origin: f64 = site.browser.evaluate("performance.timeOrigin").await;
        assert_eq!(origin, page, "the page was not loaded again");
        work.finish();
        site.see_result().await;
    }
}

// Contract: 6.5
#[tokio::test]
async fn errors_are_pages_too() {
    let configure = |layer: OperationLayer| {
        layer
            .max_running_per_principal(1)
            .max_running(2)
            .principal(|request| request.uri.query().map(Into::into))
    };
    let mut site = Site::start_with(Proxy::Transparent, configure).await;
    site.browser
        .open(&format!("{}/.operations/unknown", site.url))
        .await;
    site.see_error(404, "There is nothing here").await;

    // One request reaches the limit of its principal, two requests reach the limit of the server.
    let client = reqwest::Client::new();
    let mut works = Vec::new();
    for (working, asking, status, heading) in [
        ("a", "a", 429, "Too much at once"),
        ("b", "c", 503, "Very busy at the moment"),
    ] {
        let request = client.post(format!("{}/work?{working}", site.url));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::ACCEPTED);
        works.push(site.works.recv().await.unwrap());
        site.browser.open(&format!("{}/?{asking}", site.url)).await;
        site.click("button").await;
        site.see_error(status, heading).await;
        let text: String = site.browser.evaluate("document.body.innerText").await;
        assert!(text.contains("Try again in 1 s."), "{text}");
        let picture = format!("operation-error-{status}");
        site.browser.screenshot(&picture).await;
    }
}

#[tokio::test]
async fn the_page_speaks_other_languages() {
    let arabic = Strings::new("ar")
        .right_to_left(true)
        .running("Working on it")
        .percent("٪{percent}")
        .cancel("إلغاء")
        .cancelling("جارٍ الإلغاء");
    let mut site = Site::start_with(Proxy::Transparent, |layer| layer.strings(arabic)).await;
    let work = site.begin().await;
    work.progress.set(7);
    site.browser
        .until("document.title === '٪7 · Working on it'")
        .await;
    assert_eq!(site.browser.evaluate::<String>("document.dir").await, "rtl");
    site.browser.screenshot("operation-right-to-left").await;
    work.finish();
    site.see_result().await;
}
