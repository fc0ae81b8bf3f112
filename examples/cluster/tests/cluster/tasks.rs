//! The page of tasks in the example `cluster`: its schedule, its dead letters and its webhooks.

use super::complete;
use test_support::example::{Example, eventually};

/// Waits until a page contains all texts, and returns the page.
async fn see(example: &Example, path: &str, texts: &[&str]) -> String {
    eventually(&format!("{texts:?} at {path}"), async || {
        let page = example.get(path).await;
        let has_all = texts.iter().all(|text| page.contains(text));
        has_all.then_some(page)
    })
    .await
}

/// Returns the value of a field of the first form of a page.
fn field<'a>(page: &'a str, name: &str) -> &'a str {
    let start = format!("name=\"{name}\" value=\"");
    let (_, rest) = page.split_once(&start).unwrap();
    rest.split('"').next().unwrap()
}

#[tokio::test]
async fn the_page_shows_the_schedule_and_sends_a_dead_letter_again() {
    let example = Example::start(env!("CARGO_BIN_EXE_cluster"));
    complete(&example, None).await;
    let schedule = ["<bdi>tally</bdi>", "*/10 * * * * *", "state succeeded"];
    see(&example, "/tasks", &schedule).await;

    assert_eq!(example.post("/partner?away=true", "").await.0, 200);
    assert_eq!(example.post("/synchronise?account=7", "").await.0, 200);
    let letter = ["the partner does not answer", "<bdi>visitor</bdi>"];
    let letters = see(&example, "/tasks?view=dead-letters", &letter).await;
    see(&example, "/", &["synchronise.ended: synchronise dead"]).await;
    let id = field(&letters, "id");
    let view = format!("/tasks?view=task&id={id}");
    see(&example, &view, &["{&quot;account&quot;:7}"]).await;

    assert_eq!(example.post("/partner?away=false", "").await.0, 200);
    let form = format!(
        "id={id}&token={}&action=send_again",
        field(&letters, "token")
    );
    let request = example
        .client
        .post(format!("{}/tasks?view=dead-letters", example.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form);
    // The client follows the redirect.
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let page = answer.text().await.unwrap();
    assert!(page.contains("The dead letter was sent again."), "{page}");
    see(
        &example,
        &view,
        &["state succeeded", "account 7 is up to date"],
    )
    .await;
    see(&example, "/", &["synchronise.ended: synchronise succeeded"]).await;
}
