//! The example as a user meets it: started as a process, and used over HTTP.

use std::process::Command;
use test_support::example::{Example, eventually};

#[tokio::test]
async fn operations() {
    let example = Example::start(env!("CARGO_BIN_EXE_operations"));
    assert!(
        example
            .get("/form")
            .await
            .contains("/work?ms=2500&amp;steps=5")
    );
    // Work without a pause becomes no operation within this wait, even on a busy machine.
    let quick = async |query: &str| {
        let url = format!("{}/work?ms=0{query}", example.url);
        let request = example.client.post(url).header("prefer", "wait=30");
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(quick("").await, (200, r#"{"answer":42}"#.into()));
    assert_eq!(quick("&fail=1").await.0, 422);
    assert_eq!(quick("&code=201").await.0, 201);

    let start = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 202);
        let location = &response.headers()["operation-location"];
        format!("{}{}", example.url, location.to_str().unwrap())
    };
    let ask = async |url: &str| example.client.get(url).send().await.unwrap();
    let result = async |url: &str| {
        let url = format!("{url}/result");
        eventually("the result", async || {
            let response = ask(&url).await;
            (response.status() != 202).then_some(response)
        })
        .await
    };
    let work = example
        .client
        .put(format!("{}/work?ms=1000&steps=4&code=202", example.url));
    let path = start(work).await;
    let events = ask(&format!("{path}/events")).await.text().await.unwrap();
    assert!(events.contains("\"progress\":50"), "{events}");
    assert!(events.contains("event: done"), "{events}");
    let response = result(&path).await;
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["asyncresult"]
        ),
        (200, &"202".parse().unwrap())
    );
    assert_eq!(response.text().await.unwrap(), r#"{"answer":42}"#);

    // Promises that block their threads report progress.
    let path = start(example.client.get(format!("{}/report", example.url))).await;
    let events = ask(&format!("{path}/events")).await.text().await.unwrap();
    assert!(events.contains("adding up the south"), "{events}");
    let page = result(&path).await.text().await.unwrap();
    assert!(page.contains("<tr><th>west<td>"), "{page}");

    let path = start(
        example
            .client
            .post(format!("{}/work?ms=60000", example.url)),
    )
    .await;
    let deleted = example.client.delete(&path).send().await.unwrap();
    assert!(deleted.text().await.unwrap().contains("\"Canceled\""));
    assert_eq!(ask(&format!("{path}/result")).await.status().as_u16(), 410);
}

#[tokio::test]
async fn operations_with_an_origin() {
    let origin = [("PUBLIC_ORIGIN", "https://example.com")];
    let example = Example::start_with(env!("CARGO_BIN_EXE_operations"), &origin);
    let url = format!("{}/work?ms=5000", example.url);
    let response = example.client.post(url).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    assert!(
        location.starts_with("https://example.com/.operations/"),
        "{location}"
    );
}

#[test]
fn operations_name_the_wrong_setting() {
    for (variable, value) in [("LEASE_MS", "soon"), ("STORE", "redis")] {
        let ended = Command::new(env!("CARGO_BIN_EXE_operations"))
            .env("ADDR", "127.0.0.1:0")
            .env(variable, value)
            .output()
            .unwrap();
        assert!(!ended.status.success());
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.contains(&format!("`{value}`")), "{text}");
    }
}
