//! The examples as a user meets them: started as processes, and used over HTTP.
#![allow(clippy::unwrap_used)]


use test_support::example::{Example, binary, eventually, soon, until};
use std::process::{Command, Stdio};

#[tokio::test]
async fn quickstart() {
    let example = Example::start("quickstart");
    assert_eq!(
        example.get("/users/42").await,
        "Hello, User 42!\nYou have 7 messages.\n"
    );
}

#[tokio::test]
async fn hyper() {
    let example = Example::start("hyper");
    assert_eq!(
        example.post("/", "das ist ein Text").await,
        (200, "German\n".into())
    );
    assert_eq!(
        example.post("/", "this is a text").await,
        (200, "English\n".into())
    );
    assert_eq!(
        example.post("/", " ").await,
        (500, "no language found\n".into())
    );
}

/// Returns the number in the element with this id.
fn number(page: &str, id: &str) -> u64 {
    let (_, element) = page.split_once(&format!("id=\"{id}\">")).unwrap();
    element.split('<').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn dashboard() {
    let example = Example::start("dashboard");
    let page = example.get("/").await;
    for text in ["Hello, Ferris!", "3 on their way", "sunny somewhere"] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    assert_eq!(number(&page, "passes"), 2);
    assert!(
        number(&page, "elapsed") >= 400,
        "not before the slowest upstream answered"
    );

    let page = example.get("/?weather=fail").await;
    assert!(
        page.contains("not available") && page.contains("3 on their way"),
        "{page}"
    );

    let page = example.get("/?weather=hang").await;
    assert!(
        page.contains("takes too long") && page.contains("3 on their way"),
        "{page}"
    );

    let page = example.get("/?weather=depends").await;
    assert!(page.contains("sunny in Augsburg"), "{page}");
    assert_eq!(number(&page, "passes"), 3);
}

#[tokio::test]
async fn transaction() {
    let example = Example::start("transaction");
    assert_eq!(example.get("/").await, "orders:\naudit:\n");
    let order = example.post("/orders?item=tea", "").await;
    assert_eq!(order, (200, "tea for 3 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\naudit:\n"
    );
    let order = example.post("/audited-orders?item=cake", "").await;
    assert_eq!(order, (200, "cake for 4 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\n  cake, written by pass 2\n\
         audit:\n  cake, written by pass 1\n"
    );
}

#[tokio::test]
async fn library() {
    let example = Example::start("library");
    let page = example.get("/").await;
    assert!(
        page.contains("Book 1 by Author 2 (essay, paper)\n"),
        "{page}"
    );
    assert!(
        page.contains("Book 50 by Author 1 (novel, paper)\n"),
        "{page}"
    );
    assert!(
        page.ends_with("3 queries instead of 101, in 3 passes\n"),
        "{page}"
    );
}

#[tokio::test]
async fn upload() {
    let folder = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let uploads = folder.path().to_str().unwrap();
    let example = Example::start_with("upload", &[("UPLOADS", uploads)]);

    // Larger than the part that is kept for replay.
    let chunks =
        futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![0; 100_000])));
    let request = example
        .client
        .put(&example.url)
        .body(reqwest::Body::wrap_stream(chunks));
    let answer = request.send().await.unwrap().text().await.unwrap();
    // The output of `head -c 10000000 /dev/zero | sha256sum`.
    let digest = "f5e02aa71e67f41d79023a128ca35bad86cf7b6656967bfe0884b3a3c4325eaf";
    assert_eq!(answer, format!("10000000 bytes, SHA-256 {digest}\n"));
    let stored = std::fs::read(folder.path().join(digest)).unwrap();
    assert_eq!((stored.len(), files()), (10_000_000, 1));

    // A client that stops half-way leaves nothing behind.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = example
        .client
        .put(&example.url)
        .body(reqwest::Body::wrap_stream(body));
    let request = tokio::spawn(request.send());
    sender
        .send(Ok::<_, std::io::Error>(vec![1; 100_000]))
        .await
        .unwrap();
    until("the upload begins", async || files() == 2).await;
    request.abort();
    assert!(request.await.is_err());
    drop(sender);
    until("the partial file is removed", async || files() == 1).await;
}

#[tokio::test]
async fn upstream() {
    let example = Example::start("upstream");
    assert_eq!(
        example.get("/tea").await,
        "tea for 3 coins, 3 calls so far\n"
    );
    let requests = (0..100).map(|_| example.get("/cake"));
    for answer in futures_util::future::join_all(requests).await {
        assert_eq!(answer, "cake for 4 coins, 6 calls so far\n");
    }
}

#[tokio::test]
async fn chat() {
    let example = Example::start("chat");
    assert!(example.get("/").await.contains("<form method=\"post\""));
    let page = example.get("/rooms/lobby?seconds=0").await;
    assert!(page.contains("<p>nobody answered</p>"), "{page}");
    let (status, page) = example.post("/rooms/empty", "hello").await;
    assert_eq!(status, 200);
    assert!(page.contains("heard by 0"), "{page}");
    let (status, _) = example
        .post("/rooms/lobby", "long ".repeat(1000).leak())
        .await;
    assert_eq!(status, 413);

    // Sends until the room has a waiting client, however long that takes.
    let say = until("a room that is not empty", async || {
        let form = example
            .client
            .post(format!("{}/rooms/lobby", example.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body("text=%3Cb%3Ehello+%26+welcome%3C%2Fb%3E");
        let response = form.send().await;
        let page = response.unwrap().text().await.unwrap();
        let is_heard = page.contains("heard by 1");
        assert!(is_heard || page.contains("heard by 0"), "{page}");
        is_heard
    });
    let both = futures_util::future::join(example.get("/rooms/lobby?seconds=60"), say);
    let (page, ()) = soon(both).await;
    assert!(
        page.contains("<q>&lt;b&gt;hello &amp; welcome&lt;&#x2f;b&gt;</q>"),
        "{page}"
    );
}

#[tokio::test]
async fn operations() {
    let example = Example::start("operations");
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
    let example = Example::start_with("operations", &origin);
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
        let ended = Command::new(binary("operations"))
            .env("ADDR", "127.0.0.1:0")
            .env(variable, value)
            .output()
            .unwrap();
        assert!(!ended.status.success());
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.contains(&format!("`{value}`")), "{text}");
    }
}

#[tokio::test]
async fn tasks() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("tasks.db");
    let alone = Example::start_with("tasks", &[("DATABASE", database.to_str().unwrap())]);
    let report = format!("report 2026 for ada, by process {}\n", alone.process.id());
    assert_eq!(alone.get("/reports/2026").await, report);
    drop(alone);

    let role = |role| [("DATABASE", database.to_str().unwrap()), ("ROLE", role)];
    let web = Example::start_with("tasks", &role("web"));
    let mut worker = Command::new(binary("tasks"))
        .envs(role("worker"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let report = format!("report 2027 for ada, by process {}\n", worker.id());
    assert_eq!(web.get("/reports/2027").await, report);
    worker.kill().unwrap();
    worker.wait().unwrap();
}
