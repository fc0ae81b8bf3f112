//! The example `tour`: its demos, and what it says about them.

use futures_util::future::join;
use reqwest::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use std::path::Path;
use test_support::example::{Example, binary, eventually, soon, until};

const DEMOS: [&str; 8] = [
    "passes",
    "batching",
    "streaming",
    "blocking",
    "operation",
    "durable",
    "signal",
    "task",
];

const FORM: &str = "application/x-www-form-urlencoded";

fn start() -> Example {
    Example::start(binary("tour"))
}

/// Sends a form.
fn post(example: &Example, path: &str, form: &'static str) -> RequestBuilder {
    let request = example.client.post(format!("{}{path}", example.url));
    request.header(CONTENT_TYPE, FORM).body(form)
}

/// Asserts that a page contains texts.
#[track_caller]
fn see(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "{text} is not in {page}");
    }
}

/// Removes the elements of a highlighted code.
fn plain(html: &str) -> String {
    let mut text = String::new();
    for (number, part) in html.split('<').enumerate() {
        match number {
            0 => text += part,
            _ => text += part.split_once('>').unwrap().1,
        }
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">");
    text.replace("&amp;", "&")
}

#[tokio::test]
async fn the_page_shows_the_code_that_runs() {
    let example = start();
    let page = example.get("/").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tour/demos");
    let modules = std::fs::read_to_string(folder.join("mod.rs")).unwrap();
    for demo in DEMOS {
        let (_, section) = page.split_once(&format!("<section id=\"{demo}\"")).unwrap();
        let (_, code) = section.split_once("<pre ").unwrap();
        let (_, code) = code.split_once("<code>").unwrap();
        let (code, _) = code.split_once("</code>").unwrap();
        see(code, &["<span class=\"k\">fn</span>"]);

        let source = std::fs::read_to_string(folder.join(format!("{demo}.rs"))).unwrap();
        let (_, shown) = source.split_once("// tour: begin\n").unwrap();
        let (shown, _) = shown.split_once("// tour: end\n").unwrap();
        assert_eq!(plain(code), shown.trim_end());
        let lines = shown.lines().count();
        assert!((15..=32).contains(&lines), "{lines} lines of {demo}");
        see(
            &modules,
            &[&format!("\nmod {demo};"), &format!("{demo}::router(stage)")],
        );
    }
    assert_eq!(page.matches("<section ").count(), DEMOS.len());
}

#[tokio::test]
async fn pages_have_a_strict_policy_and_no_scripts() {
    let example = start();
    let mut paths = vec!["/", "/style.css", "/signal/say", "/operation", "/durable"];
    paths.extend(["/passes", "/batching", "/durable/mail", "/nowhere"]);
    for path in paths {
        let response = example.client.get(format!("{}{path}", example.url));
        let response = response.send().await.unwrap();
        let policy = response.headers()[CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(policy.starts_with("default-src 'self'; base-uri 'none'"));
        let is_found = response.status() == StatusCode::OK;
        assert_eq!(is_found, path != "/nowhere", "{path}");
        let page = response.text().await.unwrap();
        assert!(
            !page.contains("<script") && !page.contains("style="),
            "{page}"
        );
    }
    let long = post(&example, "/signal/say", "text=x").body("text=".repeat(1000));
    let refused = long.send().await.unwrap().status();
    assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn passes() {
    let page = start().get("/passes").await;
    see(&page, &["Good morning, Ferris!", "7 new messages", "sunny"]);
    see(&page, &["<p>2 passes, 3 promises, "]);
    see(&page, &["pass <b>1</b> <small>discarded</small>"]);
    see(&page, &["promise <b>mail</b></th>"]);
    see(&page, &["pass <b>2</b> <small>published</small>"]);
}

#[tokio::test]
async fn batching() {
    let page = start().get("/batching").await;
    see(&page, &["<td>Emma</td><td>Jane Austen</td>"]);
    see(
        &page,
        &["<p>2 passes, 1 promise, ", "WHERE id IN [1, 2, 3, 4]"],
    );
    assert_eq!(page.matches("SELECT").count(), 1);
}

#[tokio::test]
async fn streaming() {
    let example = start();
    let request = example.client.get(format!("{}/streaming", example.url));
    let mut response = request.header(ACCEPT, "text/html").send().await.unwrap();
    let (mut page, mut had_begun) = (String::new(), false);
    while let Some(part) = soon(response.chunk()).await.unwrap() {
        page += std::str::from_utf8(&part).unwrap();
        had_begun |= page.contains("Assam") && !page.contains("12.90");
    }
    assert!(had_begun, "the page arrives at its end");
    see(&page, &["<b>12.90 €</b>", "Malty.", "<template for="]);
    see(&page, &["fragment <b>price</b>", "fragment <b>reviews</b>"]);
    see(&page, &["<p>2 passes, 3 promises, "]);

    // A client of another kind gets the whole page.
    let page = example.get("/streaming").await;
    see(&page, &["Assam", "<b>12.90 €</b>", "Malty."]);
    assert!(!page.contains("<template"), "{page}");
    see(&example.get("/fragments.js").await, &["htmlFor"]);
}

#[tokio::test]
async fn blocking() {
    let page = start().get("/blocking").await;
    for (limit, count) in [
        (20_000, 2262),
        (30_000, 3245),
        (40_000, 4203),
        (50_000, 5133),
    ] {
        see(&page, &[&format!("<td>below {limit}</td><td>{count}</td>")]);
    }
    see(&page, &["<p>2 passes, 4 promises, "]);
}

/// Starts an operation. Returns its address.
async fn begin(example: &Example, path: &str, form: &'static str) -> String {
    let request = post(example, path, form).header("prefer", "respond-async");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["operation-location"].to_str().unwrap();
    format!("{}{location}", example.url)
}

/// Waits until an operation has ended. Returns its status.
async fn ended(example: &Example, operation: &str) -> String {
    eventually("the end of the operation", async || {
        let document = example.client.get(operation).send().await.unwrap();
        let document: Value = document.json().await.unwrap();
        // An operation that has ended is removed by the request that would cancel it.
        let status = document["status"].as_str().unwrap_or("Removed").to_owned();
        (!["NotStarted", "Running"].contains(&&*status)).then_some(status)
    })
    .await
}

async fn result(example: &Example, operation: &str) -> String {
    let result = example.client.get(format!("{operation}/result")).send();
    result.await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn operation() {
    let example = start();
    see(&example.get("/operation").await, &["Start the report"]);
    let report = begin(&example, "/operation/report", "").await;
    // Cancels a report before it ends, however slow this machine is.
    until("a report is cancelled", async || {
        let report = begin(&example, "/operation/report", "").await;
        example.client.delete(&report).send().await.unwrap();
        ended(&example, &report).await == "Canceled"
    })
    .await;
    assert_eq!(ended(&example, &report).await, "Succeeded");
    let page = result(&example, &report).await;
    see(&page, &["<h1>Sales</h1>", "<td>west</td>"]);
    see(&page, &["<p>5 passes, 4 promises, "]);
}

/// Waits for the mail about an order, and answers it.
async fn answer(example: &Example, number: usize, form: &'static str) {
    let question = format!("Order {number} over 42.00 €");
    until("the mail", async || {
        example.get("/durable/mail").await.contains(&question)
    })
    .await;
    let answer = post(example, &format!("/durable/mail/{number}"), form);
    assert_eq!(answer.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn durable() {
    let example = start();
    see(&example.get("/durable/mail").await, &["No mail yet"]);
    let order = begin(&example, "/durable/order", "dies=true").await;
    answer(&example, 1, "granted=true").await;
    see(&example.get("/durable/mail").await, &["Order 1: approved"]);
    assert_eq!(ended(&example, &order).await, "Succeeded");
    let page = result(&example, &order).await;
    see(&page, &["<p>receipt 1, parcel 1</p>"]);
    for once in [
        "the provider charges the card",
        "the worker dies before it has the answer",
    ] {
        assert_eq!(page.matches(once).count(), 1, "{once} in {page}");
    }
    see(
        &page,
        &["the provider knows the key: it repeats its answer"],
    );
    see(&page, &["run <b>1</b>", "run <b>2</b>", "run <b>3</b>"]);
    see(&page, &["promise <b>charge</b> <small>not settled</small>"]);

    let order = begin(&example, "/durable/order", "").await;
    answer(&example, 2, "granted=false").await;
    assert_eq!(ended(&example, &order).await, "Succeeded");
    see(&result(&example, &order).await, &["receipt 2 is refunded"]);
    let unknown = post(&example, "/durable/mail/7", "granted=true");
    let status = unknown.send().await.unwrap().status();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn signal() {
    let example = start();
    see(&example.get("/signal").await, &["Wait for a greeting"]);
    // Speaks until there is a listener, however long that takes.
    let say = until("a listener", async || {
        let said = post(&example, "/signal/say", "text=%3Cb%3EHello").send();
        let page = said.await.unwrap().text().await.unwrap();
        page.contains("Heard by 1")
    });
    let both = join(example.get("/signal/wait"), say);
    let (page, ()) = soon(both).await;
    see(
        &page,
        &["<h1>&lt;b>Hello</h1>", "promise <b>greeting</b></th>"],
    );
}

#[tokio::test]
async fn task() {
    let page = start().get("/task").await;
    see(&page, &["<h1>Invoice 2026 for order 7</h1>"]);
    see(&page, &["attempt <b>1</b>", "attempt <b>2</b>"]);
    see(&page, &["conflict: another clerk", "written into the book"]);
    see(&page, &["<p>2 passes, 1 promise, "]);
}
