//! Many pages in one browser, over HTTP/1.1.

use super::MESSAGE;
use test_support::site::{Proxy, Site, Work};
use thirtyfour::WindowHandle;

/// More than the number of connections that a browser opens to a site.
const TABS: usize = 8;

const AT_WORK: &str = "30% · Working on it";

/// Starts an operation in each of several new tabs.
async fn begin_all(site: &mut Site, visible: bool) -> Vec<(WindowHandle, Work)> {
    let mut pages = Vec::new();
    for _ in 0..TABS {
        let tab = site.browser.open_tab().await;
        if visible {
            site.browser.keep_visible().await;
        }
        pages.push((tab, site.begin().await));
    }
    pages
}

/// Opens an ordinary page of the site in a new tab, which stays open.
async fn assert_answers(site: &Site) {
    site.browser.open_tab().await;
    site.browser.open(&site.url).await;
    site.browser.until("document.title === 'start'").await;
}

/// Checks that each page follows its work and continues to the result, whether it is visible or hidden.
async fn assert_go_on(site: &Site, pages: Vec<(WindowHandle, Work)>) {
    for (tab, work) in &pages {
        work.progress.set(30);
        site.browser.until_title(tab, AT_WORK).await;
    }
    for (tab, work) in pages {
        work.finish();
        site.browser.until_title(&tab, "result").await;
    }
}

/// Checks the number of concurrent streams. Two pages have streams, and the server counts each stream until it notices
/// that the browser has closed it.
fn assert_few_at_a_time(site: &Site) {
    let most = site.streams.borrow().most;
    assert!((2..=4).contains(&most), "{most} at the same time");
}

// Contract: 5.6
#[tokio::test]
async fn a_hidden_page_has_no_stream_and_catches_up_when_it_is_shown() {
    let mut site = Site::start().await;
    let page = site.browser.driver().window().await.unwrap();
    let work = site.begin().await;
    site.until_streams(1).await;
    let loaded: f64 = site.browser.evaluate("performance.timeOrigin").await;

    let other = site.browser.open_tab().await;
    site.until_streams(0).await;
    // The title is visible in the list of tabs.
    work.progress.set(30);
    site.browser.until_title(&page, AT_WORK).await;
    assert_eq!(site.streams.borrow().open, 0);

    work.progress.set_message("while it was hidden");
    site.browser.show(&page).await;
    site.until_streams(1).await;
    site.browser
        .until(&format!("{MESSAGE} === 'while it was hidden'"))
        .await;
    let origin: f64 = site.browser.evaluate("performance.timeOrigin").await;
    assert_eq!(origin, loaded, "the page was not loaded again");

    site.browser.show(&other).await;
    site.until_streams(0).await;
    work.finish();
    site.browser.until_title(&page, "result").await;
    site.browser.show(&page).await;
    site.see_result().await;
    assert_eq!(site.browser.complaints().await, [""; 0]);
}

// Contract: 5.6
#[tokio::test]
async fn eight_tabs_leave_connections_for_the_site() {
    let mut site = Site::start().await;
    let pages = begin_all(&mut site, false).await;
    // The stream of the tab in front.
    site.until_streams(1).await;
    assert_answers(&site).await;
    site.until_streams(0).await;
    for (tab, _) in &pages {
        site.browser.show(tab).await;
        site.until_streams(1).await;
    }
    assert_go_on(&site, pages).await;
    assert_answers(&site).await;
}

#[tokio::test]
async fn eight_windows_side_by_side_leave_connections_for_the_site() {
    let mut site = Site::start().await;
    let pages = begin_all(&mut site, true).await;
    site.until_streams(2).await;
    assert_answers(&site).await;
    // The other pages poll.
    for (tab, work) in &pages {
        work.progress.set(20);
        site.browser.until_title(tab, "20% · Working on it").await;
    }
    assert_eq!(site.streams.borrow().open, 2);
    // A page that has ended passes its place to another page.
    let mut pages = pages.into_iter();
    for (tab, work) in pages.by_ref().take(TABS - 2) {
        work.finish();
        site.browser.until_title(&tab, "result").await;
        site.until_streams(2).await;
    }
    assert_go_on(&site, pages.collect()).await;
    site.until_streams(0).await;
    assert_few_at_a_time(&site);
}

#[tokio::test]
async fn a_page_that_is_closed_leaves_its_stream_to_another_one() {
    let mut site = Site::start().await;
    let pages = begin_all(&mut site, true).await;
    for (tab, _) in &pages[..TABS - 2] {
        site.until_streams(2).await;
        site.browser.show(tab).await;
        let driver = site.browser.driver().clone();
        driver.close_window().await.unwrap();
        site.browser.show(&pages[TABS - 1].0).await;
    }
    site.until_streams(2).await;
    assert_go_on(&site, pages.into_iter().skip(TABS - 2).collect()).await;
}

#[tokio::test]
async fn pages_of_an_insecure_origin_leave_connections_for_the_site() {
    let mut site = Site::start().await;
    // Without the Web Locks API, the pages cannot agree on the pages that have a stream.
    site.url = site.url.replace("127.0.0.1", "site.test");
    let pages = begin_all(&mut site, true).await;
    let locks = site.browser.evaluate::<String>("typeof navigator.locks");
    assert_eq!(locks.await, "undefined");
    assert_answers(&site).await;
    assert_go_on(&site, pages).await;
    assert_eq!(site.streams.borrow().most, 0);
    // The button works too.
    let work = site.begin().await;
    site.click("form button").await;
    work.until_dropped().await;
    super::see_cancelled(&site).await;
}

#[tokio::test]
async fn streams_that_do_not_come_through_leave_connections_for_the_site() {
    let mut site = Site::start_with(Proxy::KeepsEvents, |layer| layer).await;
    let pages = begin_all(&mut site, true).await;
    site.until_streams(2).await;
    assert_answers(&site).await;
    assert_go_on(&site, pages).await;
    assert_few_at_a_time(&site);
}
