//! The pages of the examples in a real browser.

use test_support::browser::Browser;
use test_support::example::Example;
use thirtyfour::Key;

#[tokio::test]
async fn the_page_of_the_cluster_keeps_the_focus_when_it_changes() {
    let cluster = Example::start(env!("CARGO_BIN_EXE_cluster"));
    let browser = Browser::start().await;
    browser.open(&cluster.url).await;
    for _ in 0..3 {
        browser.press(Key::Tab).await;
    }
    let focus = "document.activeElement.getAttribute('aria-label')";
    assert_eq!(browser.evaluate::<String>(focus).await, "Kill web-2");
    let instance = "document.getElementById('instance').innerText";
    let before: String = browser.evaluate(instance).await;
    browser.until(&format!("{instance} !== '{before}'")).await;
    assert_eq!(browser.evaluate::<String>(focus).await, "Kill web-2");

    let old = browser.evaluate::<String>("document.getElementById('web-2').cells[1].innerText");
    let old = old.await;
    browser.press(Key::Enter).await;
    let other = format!(
        "![null, '', '{old}'].includes(document.getElementById('web-2')?.cells[1].innerText ?? null)"
    );
    browser.until(&other).await;
}
