//! The pages of an order in a real browser, while instances are killed.

use crate::Checkout;
use test_support::browser::Browser;

const TEXT: &str = "document.body.innerText";

async fn the_browser_sees_the_order_through(scripts: bool) {
    let checkout = Checkout::start("sqlite").await;
    let browser = Browser::start().await;
    browser.open(&checkout.example.url).await;
    let kill = "document.querySelector('[name=kill]').value = 'charge'";
    browser.evaluate::<String>(kill).await;
    if !scripts {
        browser.allow_scripts(false).await;
    }
    let order = "document.querySelector('form').requestSubmit() ?? null";
    browser.evaluate::<Option<()>>(order).await;
    let waits = format!("{TEXT}.includes('Waiting for: approval')");
    browser.until(&waits).await;

    let mode = if scripts { "with" } else { "without" };
    browser.resize(390, 700).await;
    browser
        .screenshot(&format!("checkout-{mode}-scripts"))
        .await;
    checkout.post("/kill/web-1", "").await;
    checkout.post("/mail/0", "granted=yes").await;
    // Without scripts, the page reloads itself less and less often, so the reader reloads it.
    let packs = format!(
        "{TEXT}.includes('Waiting for: packing')
            || ({scripts} || performance.now() < 500 || (window.isLeft ??= (location.reload(), true)), false)"
    );
    browser.until(&packs).await;
    let receipt = format!("{TEXT}.includes('Shipped: Tea, parcel 1')");
    browser.until(&receipt).await;
    let charges = checkout.ledger().await;
    let charges = charges.iter().filter(|(service, _)| service == "charge");
    assert_eq!(charges.count(), 1);
}

#[tokio::test]
async fn the_browser_sees_the_order_through_with_scripts() {
    the_browser_sees_the_order_through(true).await;
}

#[tokio::test]
async fn the_browser_sees_the_order_through_without_scripts() {
    the_browser_sees_the_order_through(false).await;
}
