//! The example `tour` in a browser without scripts.

use test_support::browser::Browser;
use test_support::example::{Example, binary, until};

/// The document in a frame of the tour.
fn frame(name: &str) -> String {
    format!("document.querySelector('iframe[name={name}]').contentDocument")
}

/// Waits for a text in a frame.
async fn see(browser: &Browser, name: &str, text: &str) {
    let found = format!("{}.body.innerText.includes('{text}')", frame(name));
    browser.until(&found).await;
}

/// Presses a button in a frame.
async fn press(browser: &Browser, name: &str, button: &str) {
    let buttons = format!("[...{}.querySelectorAll('button')]", frame(name));
    let button = format!("{buttons}.find(button => button.textContent === '{button}')");
    let press = format!("{button}.form.requestSubmit({button}) ?? null");
    browser.evaluate::<Option<()>>(&press).await;
}

#[tokio::test]
async fn the_tour_needs_no_scripts() {
    let example = Example::start(binary("tour"));
    let browser = Browser::start().await;
    browser.allow_scripts(false).await;
    browser.resize(1280, 900).await;
    browser.open(&example.url).await;

    for (name, text) in [
        ("passes-1", "Good morning, Ferris!"),
        ("batching-1", "Charlotte Brontë"),
        ("streaming-1", "12.90 €"),
        ("streaming-1", "Malty."),
        ("blocking-1", "5133"),
        ("task-1", "Invoice 2026 for order 7"),
    ] {
        see(&browser, name, text).await;
        see(&browser, name, "WHAT THE SERVER DID").await;
    }

    press(&browser, "operation-1", "Start the report").await;
    see(&browser, "operation-1", "5 passes, 4 promises").await;
    press(&browser, "durable-1", "Order").await;
    see(&browser, "durable-2", "Do you approve?").await;
    see(&browser, "durable-1", "Waiting for: approval").await;
    press(&browser, "durable-2", "Approve").await;
    see(&browser, "durable-2", "Order 1: approved").await;
    see(&browser, "durable-1", "receipt 1, parcel 1").await;
    press(&browser, "signal-2", "Say it").await;
    see(&browser, "signal-2", "Heard by 0.").await;
    press(&browser, "signal-1", "Wait for a greeting").await;
    until("a listener", async || {
        let say = example.client.post(format!("{}/signal/say", example.url));
        let say = say.header("content-type", "application/x-www-form-urlencoded");
        let said = say.body("text=Good+morning!").send().await.unwrap();
        said.text().await.unwrap().contains("Heard by 1.")
    })
    .await;
    see(&browser, "signal-1", "Good morning!").await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn the_tour_fits_on_a_phone_in_light_and_dark() {
    let example = Example::start(binary("tour"));
    let browser = Browser::start().await;
    let background = "getComputedStyle(document.body).backgroundColor";
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(&[("prefers-color-scheme", scheme)]).await;
        browser.resize(390, 844).await;
        browser.open(&example.url).await;
        see(&browser, "task-1", "Invoice 2026").await;
        browser.screenshot(&format!("tour-{scheme}")).await;
        let widths = "[document, ...[...document.querySelectorAll('iframe')].map(frame => frame.contentDocument)]
            .every(page => page.documentElement.scrollWidth <= page.defaultView.innerWidth)";
        assert!(browser.evaluate::<bool>(widths).await);
        backgrounds.push(browser.evaluate::<String>(background).await);
    }
    assert_ne!(backgrounds[0], backgrounds[1]);

    // The first stop of the keyboard is the first demo.
    browser.press(thirtyfour::Key::Tab).await;
    let stop: String = browser.evaluate("document.activeElement.hash").await;
    assert_eq!(stop, "#passes");
}
