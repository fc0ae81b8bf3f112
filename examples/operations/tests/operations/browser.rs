//! The pages of the example in a real browser.

use test_support::browser::Browser;
use test_support::example::Example;
use thirtyfour::By;

#[tokio::test]
async fn the_example_works_with_and_without_scripts() {
    for scripts in [true, false] {
        let example = Example::start(env!("CARGO_BIN_EXE_operations"));
        let browser = Browser::start().await;
        browser.allow_scripts(scripts).await;
        let follow = async |selector| {
            let element = browser.driver().find(By::Css(selector)).await;
            element.unwrap().click().await.unwrap();
        };
        let text = "document.body.innerText";

        browser.open(&format!("{}/", example.url)).await;
        follow("a[href='/form']").await;
        follow("button").await;
        browser.until(&format!("{text}.includes('of 5')")).await;
        browser.screenshot(&format!("example-form-{scripts}")).await;
        browser
            .until(&format!("{text}.includes('{{\"answer\":42}}')"))
            .await;

        browser.open(&format!("{}/", example.url)).await;
        follow("a[href='/report']").await;
        browser
            .until(&format!("{text}.includes('adding up the south')"))
            .await;
        browser
            .screenshot(&format!("example-report-{scripts}"))
            .await;
        browser.until("document.title === 'Report'").await;
        assert!(browser.evaluate::<String>(text).await.contains("west"));
        browser
            .screenshot(&format!("example-result-{scripts}"))
            .await;

        browser.open(&format!("{}/report", example.url)).await;
        browser.until("document.title !== ''").await;
        follow("form button").await;
        browser.until("document.title === 'Cancelled'").await;
    }
}
