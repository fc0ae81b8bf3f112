//! The examples as a user meets them: started as processes, and used over HTTP.
#![allow(clippy::unwrap_used)]

mod tour;

use test_support::example::{Example, binary, soon, until};

#[tokio::test]
async fn quickstart() {
    let example = Example::start(binary("quickstart"));
    assert_eq!(
        example.get("/users/42").await,
        "Hello, User 42!\nYou have 7 messages.\n"
    );
}

#[tokio::test]
async fn hyper() {
    let example = Example::start(binary("hyper"));
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
    let example = Example::start(binary("dashboard"));
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
async fn upload() {
    let folder = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let uploads = folder.path().to_str().unwrap();
    let example = Example::start_with(binary("upload"), &[("UPLOADS", uploads)]);

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
    let example = Example::start(binary("upstream"));
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
    let example = Example::start(binary("chat"));
    assert!(example.get("/").await.contains("<form method=\"post\""));
    let page = example.get("/rooms/lobby?seconds=0").await;
    assert!(page.contains("<p>no message arrived</p>"), "{page}");
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
